"""Invented web sites, and what FineWeb records of a page on one of them."""

import random
import re
import uuid
from typing import Any, NamedTuple

from lethe.corpora.sample.library import host_words, planted
from lethe.corpora.sample.pages import Page

SEED = 0
CHARACTERS_PER_TOKEN = 4.2  # English under GPT-2's tokenizer, roughly
CRAWLS = (
    ("CC-MAIN-2023-50", "2023-12"),
    ("CC-MAIN-2024-10", "2024-03"),
    ("CC-MAIN-2024-18", "2024-04"),
    ("CC-MAIN-2024-26", "2024-06"),
    ("CC-MAIN-2024-38", "2024-09"),
)
PATHS = (
    "/{section}/{slug}-{number}",
    "/{year}/{month:02}/{slug}-{number}/",
    "/{slug}-{number}.html",
    "/{section}/{number}/{slug}",
    "/index.php?page={section}&id={number}",
)
MENUS = ("", "", "Home | About | Contact", "Home > {section}", "Menu Search Newsletter")
FOOTERS = (
    "",
    "",
    "Copyright {host}. All rights reserved.",
    "Share this page Print this page",
    "Older posts Newer posts",
)


class Site(NamedTuple):
    """A web site: host, the form of its paths, and the boilerplate around its texts."""

    host: str
    path: str
    menu: str
    footer: str


def sites_of(domain: str, count: int, rng: random.Random) -> list[Site]:
    """`count` sites of a domain, the largest first."""
    halves = host_words(domain)
    names = [(first, second) for first in halves["first"] for second in halves["second"]]
    return [_site(_host(*name, rng), rng) for name in rng.sample(names, count)]


def portals(rng: random.Random) -> list[Site]:
    """Sites that hold pages of every domain."""
    return [_site(host, rng) for host in planted()["portals"]]


def choose_site(sites: list[Site], rng: random.Random) -> Site:
    """A site, its chance falling with its place: few sites hold tens of pages, most only a few."""
    return rng.choices(sites, [1 / (place + 8) for place in range(len(sites))])[0]


def framed(page: Page, site: Site) -> Page:
    """The page with its site's menu and footer around the text."""
    menu, footer = (part.format(section=page.section, host=site.host) for part in (site.menu, site.footer))
    return page._replace(text="\n".join(part for part in (menu, page.text, footer) if part))


def row(page: Page, site: Site, number: int) -> dict[str, Any]:
    """FineWeb's record of a page; `number` is its own in the whole sample."""
    rng = random.Random(f"{SEED}/row/{number}")
    dump, month = rng.choice(CRAWLS)
    segment, warc = rng.randrange(10**12, 10**13), rng.randrange(900)
    return {
        "text": page.text,
        "id": f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'lethe-sample/{SEED}/{number}')}>",
        "dump": dump,
        "url": _url(page, site, number, rng),
        "date": _date(month, rng),
        "file_path": f"s3://commoncrawl/crawl-data/{dump}/segments/{segment}.{rng.randrange(99)}/warc/{warc:05}.warc.gz",
        "language": page.language,
        "language_score": round(rng.uniform(0.88, 0.99), 4),
        "token_count": round(len(page.text) / CHARACTERS_PER_TOKEN),
    }


def _date(month: str, rng: random.Random) -> str:
    day, hour, minute, second = rng.randint(1, 28), rng.randrange(24), rng.randrange(60), rng.randrange(60)
    return f"{month}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"


def _host(first: str, second: str, rng: random.Random) -> str:
    return rng.choice(["", "www.", "www.", "blog."]) + first + rng.choice(["", "-"]) + second + ".example"


def _site(host: str, rng: random.Random) -> Site:
    return Site(host, rng.choice(PATHS), rng.choice(MENUS), rng.choice(FOOTERS))


def _url(page: Page, site: Site, number: int, rng: random.Random) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", page.title.lower()).strip("-")[:60].rstrip("-")
    path = site.path.format(
        section=page.section, slug=slug, number=number, year=rng.randint(2009, 2023), month=rng.randint(1, 12)
    )
    return f"https://{site.host}{path}"
