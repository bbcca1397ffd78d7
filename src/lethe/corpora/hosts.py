"""The site that an address lies on: its host, and the registrable domain by the public suffix list.

The list ships with the package `publicsuffixlist` and is never fetched. Its rules are looked up here, not by the
package, which takes three times as long for each host; the tests compare the two.
"""

import re
from functools import cache
from typing import NamedTuple

import numpy as np
import publicsuffixlist
import pyarrow as pa
import pyarrow.compute as pc

LIST_VERSION: str = publicsuffixlist.__version__
PLAIN = r"^[a-z0-9_-]+(?:\.[a-z0-9_-]+)*$"  # most authorities are a host and nothing else
AUTHORITY = re.compile(
    r"(?:[^?#\\]*@)?(?P<host>\[[0-9a-f:.]+\]|[^?#\\:@\[\]]+?)\.?(?::[0-9]*)?(?:[?#\\].*)?", re.DOTALL
)
DIGITS = frozenset("0123456789")
MAX_HOST, MAX_LABEL = 253, 63  # characters (RFC 1035, section 2.3.4)


class Sites(NamedTuple):
    """For each address: host and registrable domain, string; null where there is none."""

    host: pa.Array
    registrable_domain: pa.Array


def sites(urls: pa.Array) -> Sites:
    """The sites of addresses (string, valid UTF-8).

    The host is in lower case, without user, port, last dot and `www.`, and in its ASCII form (`xn--...`) where it is
    international. It is null for an address that is null, is not http or https, or names no possible host. The
    registrable domain is the public suffix with one label more ("bbc.co.uk", "me.github.io"); it is null for an IP
    address and for a host that is itself a public suffix. `www.` stays where it is the registrable domain's own label
    ("www.gov.uk").
    """
    has_site, authorities = _authorities(urls)
    codes = authorities.dictionary_encode()
    full = _hosts(codes.dictionary)
    domains = _domains(full)
    is_long = pc.and_(pc.starts_with(full, "www."), pc.fill_null(pc.not_equal(full, domains), True))
    short = pc.if_else(is_long, pc.utf8_slice_codeunits(full, 4), full)
    rows = np.full(len(urls), -1)
    rows[has_site] = codes.indices.to_numpy()
    indices = pa.array(rows, mask=rows < 0)
    return Sites(short.take(indices), domains.take(indices))


def _authorities(urls: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Which rows are http(s)://SOMETHING, bool (rows,), and that something up to the next slash, in lower case."""
    parts = pc.split_pattern(urls, "/", max_splits=3)  # scheme, nothing, authority, the rest
    values, ends = parts.values, parts.offsets.to_numpy()
    enough = np.flatnonzero(np.diff(ends) >= 3)
    first = ends[:-1][enough]
    scheme = pc.ascii_lower(pc.ascii_trim_whitespace(values.take(pa.array(first))))
    is_web = pc.is_in(scheme, pa.array(["http:", "https:"])).to_numpy(zero_copy_only=False)
    is_web &= pc.equal(values.take(pa.array(first + 1)), "").to_numpy(zero_copy_only=False)
    result = np.zeros(len(urls), bool)
    result[enough[is_web]] = True
    return result, pc.ascii_lower(values.take(pa.array(first[is_web] + 2)))


def _hosts(authorities: pa.Array) -> pa.Array:
    """The host in each authority, null where there is none; Python looks only at those that are not plain."""
    plain = pc.and_(
        pc.match_substring_regex(authorities, PLAIN), pc.less_equal(pc.binary_length(authorities), MAX_LABEL)
    ).to_numpy(zero_copy_only=False)
    odd = np.flatnonzero(~plain)
    if not len(odd):
        return authorities
    found = pa.array([_host(text) for text in authorities.take(pa.array(odd)).to_pylist()], pa.string())
    return pc.replace_with_mask(authorities, pa.array(~plain), found)


def _host(authority: str) -> str | None:
    match = AUTHORITY.fullmatch(authority.strip())
    if match is None:
        return None
    host = match["host"]
    if host.startswith("[") or len(host) > MAX_HOST:
        return host if len(host) <= MAX_HOST else None
    try:
        host = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return None
    fits = len(host) <= MAX_HOST and all(len(label) <= MAX_LABEL for label in host.split("."))
    return host if fits and re.fullmatch(PLAIN, host) else None


def _domains(hosts: pa.Array) -> pa.Array:
    """The registrable domain of each host; Python looks only at those for which the last two labels do not tell it."""
    labels = pc.split_pattern(hosts, ".", max_splits=2, reverse=True)
    values, ends = labels.values, labels.offsets.to_numpy()
    some = np.flatnonzero(np.diff(ends) >= 2)
    last = values.take(pa.array(ends[1:][some] - 1))
    last_two = pc.binary_join_element_wise(values.take(pa.array(ends[1:][some] - 2)), last, ".")
    rules = _rules()
    odd = pc.or_(pc.is_in(last_two, rules.ends), pc.is_in(last, rules.wild_ends))
    odd = pc.or_(odd, pc.or_(pc.ascii_is_decimal(last), pc.ends_with(last, "]")))
    plain = np.zeros(len(hosts), bool)
    plain[some] = ~odd.to_numpy(zero_copy_only=False)
    others = [registrable_domain(host) for host in hosts.filter(pa.array(~plain)).to_pylist()]
    nulls = pa.nulls(len(hosts), pa.string())
    result = pc.replace_with_mask(nulls, pa.array(plain), last_two.filter(pc.invert(odd)))
    return pc.replace_with_mask(result, pa.array(~plain), pa.array(others, pa.string()))


class _Rules(NamedTuple):
    exact: frozenset[str]
    wild: frozenset[str]  # "kawasaki.jp" for "*.kawasaki.jp"
    exceptions: frozenset[str]
    ends: pa.Array  # the last two labels of each rule that has so many
    wild_ends: pa.Array  # of "*.X" where X is one label


@cache
def _rules() -> _Rules:
    with open(publicsuffixlist.PSLFILE, encoding="utf-8") as file:  # noqa: PTH123 - the package names it as text
        lines = [line.split()[0] for line in file if line.strip() and not line.startswith("//")]
    rules = [line if line.isascii() else line.encode("idna").decode("ascii") for line in lines]
    wild = frozenset(rule[2:] for rule in rules if rule.startswith("*."))
    exceptions = frozenset(rule[1:] for rule in rules if rule.startswith("!"))
    exact = (
        frozenset(rule for rule in rules if rule[0] not in "*!") | wild
    )  # *.X declares X, as the list's tests have it
    ends = sorted({".".join(rule.rsplit(".", 2)[-2:]) for rule in exact | exceptions if "." in rule})
    wild_ends = sorted(name for name in wild if "." not in name)
    return _Rules(exact, wild, exceptions, pa.array(ends), pa.array(wild_ends, pa.string()))


def registrable_domain(host: str | None) -> str | None:
    """The shortest tail of a host (lower case, ASCII) that is longer than its public suffix; None if there is none.

    The algorithm of https://publicsuffix.org/list: the longest rule wins, an exception wins over all, and a top-level
    domain that the list does not know counts as a suffix. A host whose last label is a number, or in brackets, is an
    IP address (WHATWG URL, "ends in a number checker") and has none.
    """
    if not host or host[-1] == "]" or (host[-1] in DIGITS and host.rpartition(".")[2].isdigit()):
        return None
    exact, wild, exceptions = _rules()[:3]
    longer, name = None, host
    while True:  # the longest public tail comes first
        parent = name.partition(".")[2]
        if name in exact or not parent or (parent in wild and name not in exceptions):
            return longer
        longer, name = name, parent
