"""The whole sample as rows, and what is true of it."""

import random
from dataclasses import dataclass, field
from typing import Any

from lethe.corpora.sample.library import DOMAINS
from lethe.corpora.sample.pages import Page, write_page
from lethe.corpora.sample.sites import SEED, Site, choose_site, framed, portals, row, sites_of

PAGES = {"food": 1700, "automotive": 1700, "other": 3400}
SITES = {"food": 120, "automotive": 120, "other": 170}
PORTAL_SHARE = 0.05

Row = dict[str, Any]


@dataclass
class Dataset:
    """What the sample holds so far.

    `pages` has under each label the ids of its pages, every id under one label; `planted` the ids (or pairs of ids,
    the original first) of what is there to trip a pipeline.
    """

    sites: dict[str, list[Site]]
    portals: list[Site]
    rows: dict[str, Row] = field(default_factory=dict)
    texts: dict[str, Page] = field(default_factory=dict)
    pages: dict[str, list[str]] = field(default_factory=dict)
    planted: dict[str, list[Any]] = field(default_factory=dict)

    def rng(self, purpose: str) -> random.Random:
        """A generator of random numbers of its own for each purpose."""
        return random.Random(f"{SEED}/{purpose}")

    def add(self, label: str, page: Page, site: Site) -> str:
        """Add a page under its label; returns its id."""
        new = row(page, site, len(self.rows))
        self.rows[new["id"]] = new
        self.texts[new["id"]] = page
        self.pages.setdefault(label, []).append(new["id"])
        return new["id"]

    def write(self, domain: str, rng: random.Random) -> tuple[Page, Site]:
        """A new page of a domain, and the site that it is written for."""
        sites = self.portals if rng.random() < PORTAL_SHARE else self.sites[domain]
        site = choose_site(sites, rng)
        return framed(write_page(domain, rng), site), site


def plain_dataset() -> Dataset:
    """The sample's ordinary pages, before anything is planted."""
    rng = random.Random(f"{SEED}/sites")
    dataset = Dataset({domain: sites_of(domain, SITES[domain], rng) for domain in DOMAINS}, portals(rng))
    for domain in DOMAINS:
        for number in range(PAGES[domain]):
            dataset.add(domain, *dataset.write(domain, dataset.rng(f"{domain}/{number}")))
    return dataset
