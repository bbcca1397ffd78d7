import socket
from pathlib import Path
from urllib.parse import urlsplit

import publicsuffixlist
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from publicsuffixlist import PublicSuffixList

from lethe.corpora.hosts import _rules, registrable_domain, sites

LIBRARY = PublicSuffixList()
RULES = [
    line.split()[0]
    for line in Path(publicsuffixlist.PSLFILE).read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("//")
]
LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=8).map(lambda label: "x" + label)
SUFFIX = st.sampled_from(RULES).map(lambda rule: rule.lstrip("!*.").encode("idna").decode())
HOST = st.tuples(st.sampled_from(["", "www.", "a.b.", "www.a."]), LABEL, SUFFIX).map(lambda p: f"{p[0]}{p[1]}.{p[2]}")


def site(url: str | None) -> tuple[str | None, str | None]:
    host, domain = sites(pa.array([url], pa.string()))
    return host[0].as_py(), domain[0].as_py()


def test_every_rule_is_applied_as_the_library_applies_it() -> None:
    tails = {rule.lstrip("!*.").encode("idna").decode() for rule in RULES}
    hosts = [before + tail for tail in tails for before in ("", "a.", "b.a.", "c.b.a.", "www.")]
    assert len(hosts) > 40_000
    expected = [LIBRARY.privatesuffix(host) for host in hosts]
    assert [registrable_domain(host) for host in hosts] == expected
    assert sites(pa.array([f"http://{host}/" for host in hosts])).registrable_domain.to_pylist() == expected


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["http://", "https://", "HTTPS://", " http://"]),
            st.sampled_from(["", "me@", "me:secret@"]),
            HOST,
            st.sampled_from(["", ".", ":80", ".:8080", ":"]),
            st.sampled_from(["", "/", "/a/b?c=d#e", "?q=http://other.example/", "#top", "/@x", "/" + "long" * 2000]),
        ),
        max_size=6,
    )
)
def test_a_host_is_what_urllib_finds_and_its_domain_what_the_library_says(parts: list[tuple[str, ...]]) -> None:
    urls = [scheme + user + host.upper() + port + rest for scheme, user, host, port, rest in parts]
    found = sites(pa.array(urls, pa.string()))
    for url, host, domain in zip(urls, found.host.to_pylist(), found.registrable_domain.to_pylist(), strict=True):
        expected = (urlsplit(url.strip()).hostname or "").rstrip(".")
        assert domain == LIBRARY.privatesuffix(expected)
        assert host == (expected if expected == domain else expected.removeprefix("www."))


@given(st.lists(st.none() | st.text() | st.text().map(lambda text: "http://" + text), max_size=8))
def test_any_text_has_a_site_or_none_whatever_stands_beside_it(urls: list[str | None]) -> None:
    found = sites(pa.array(urls, pa.string()))
    pairs = list(zip(found.host.to_pylist(), found.registrable_domain.to_pylist(), strict=True))
    assert pairs == [site(url) for url in urls]
    for host, domain in pairs:
        assert domain is None or host is not None
        assert host is None or (host.isascii() and host == host.lower() and not set(host) & set("/?#@\\ "))


@pytest.mark.parametrize(
    ("url", "host", "domain"),
    [
        ("https://www.bbc.co.uk/news", "bbc.co.uk", "bbc.co.uk"),
        ("http://me.github.io/", "me.github.io", "me.github.io"),
        ("https://www.gov.uk/tax", "www.gov.uk", "www.gov.uk"),
        ("https://www.com/", "www.com", "www.com"),
        ("https://bücher.example/", "xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("https://食狮.公司.cn/", "xn--85x722f.xn--55qx5d.cn", "xn--85x722f.xn--55qx5d.cn"),
        ("https://city.kobe.jp/", "city.kobe.jp", "city.kobe.jp"),
        ("https://user:pass@Example.COM:8080/x", "example.com", "example.com"),
        ("http://example.com./", "example.com", "example.com"),
        ("http://good.example\\@evil.example/", "good.example", "good.example"),
        ("http://my_shop.example.com/", "my_shop.example.com", "example.com"),
        ("http://192.168.0.1:80/", "192.168.0.1", None),
        ("http://[2001:db8::1]:80/", "[2001:db8::1]", None),
        ("http://localhost/", "localhost", None),
        ("http://co.uk/", "co.uk", None),
        ("http://a.unknowntopleveldomain/", "a.unknowntopleveldomain", "a.unknowntopleveldomain"),
        ("http://" + "a." * 120 + "com/", "a." * 120 + "com", "a.com"),
        ("http://" + "a" * 64 + ".com/", None, None),
        ("http://" + "ü" * 300 + ".com/", None, None),
        ("http://" + "a" * 8192, None, None),
        ("https://example.com/" + "x" * 8192, "example.com", "example.com"),
        ("http://a..b.com/", None, None),
        ("http://exa mple.com/", None, None),
        ("http://%65xample.com/", None, None),
        ("http://:80/", None, None),
        ("http:///path", None, None),
        ("http://", None, None),
        ("http:/example.com/", None, None),
        ("javascript:alert(1)//example.com/", None, None),
        ("javascript://example.com/%0aalert(1)", None, None),
        ("mailto:me@example.com", None, None),
        ("ftp://example.com/", None, None),
        ("//example.com/", None, None),
        ("example.com/page", None, None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_odd_addresses(url: str | None, host: str | None, domain: str | None) -> None:
    assert site(url) == (host, domain)


def test_the_list_is_never_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    _rules.cache_clear()
    assert site("https://a.b.co.uk/") == ("a.b.co.uk", "b.co.uk")
