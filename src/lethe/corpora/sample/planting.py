"""Plants in a dataset what real crawls hold and a pipeline may trip over."""

import random
import re

from lethe.corpora.sample.dataset import Dataset
from lethe.corpora.sample.library import DOMAINS, planted, words
from lethe.corpora.sample.pages import Page, write_page
from lethe.corpora.sample.sites import choose_site
from lethe.corpora.sample.voice import Voice, capitalised

COPIES = {"food": 40, "automotive": 40, "other": 20}  # exact ones, and as many near ones
WITHOUT_URL = {"food": 4, "automotive": 4, "other": 2}
NOT_ENGLISH = 24
MIXED = 40
MIXED_HALF = 500  # characters at least
EMPTY = 6
HUGE = 1_000_000  # characters at least
WORDS_PER_SWAP = 60  # a swap changes at most five 5-grams, so the Jaccard similarity stays over .8


def plant(dataset: Dataset) -> None:
    """Add every planted page to a dataset of ordinary ones, and record their ids."""
    dataset.planted.update(_plant_copies(dataset, dataset.rng("copies")))
    dataset.planted["null_url"] = _plant_without_url(dataset, dataset.rng("null url"))
    dataset.planted["mixed"] = [_plant_mixed(dataset, dataset.rng(f"mixed/{n}")) for n in range(MIXED)]
    dataset.planted["not_english"] = [_plant_foreign(dataset, dataset.rng(f"foreign/{n}")) for n in range(NOT_ENGLISH)]
    dataset.planted["empty_text"] = [_plant_empty(dataset, dataset.rng(f"empty/{n}")) for n in range(EMPTY)]
    dataset.planted["huge"] = [_plant_huge(dataset, dataset.rng("huge"))]
    dataset.planted["end_token"] = [_plant_end_token(dataset, dataset.rng("end token"))]


def _plant_copies(dataset: Dataset, rng: random.Random) -> dict[str, list[list[str]]]:
    """Pairs of ids, original and copy, of exact and of near duplicates."""
    exact, near = [], []
    for domain in DOMAINS:
        ids = rng.sample(dataset.pages[domain], len(dataset.pages[domain]))
        for original in ids[: COPIES[domain]]:
            exact.append([original, _add_copy(dataset, domain, original, dataset.texts[original], rng)])
        edited = ((original, _edited(dataset.texts[original], rng)) for original in ids[COPIES[domain] :])
        pairs = ((original, page) for original, page in edited if page)
        for (original, page), _ in zip(pairs, range(COPIES[domain]), strict=False):
            near.append([original, _add_copy(dataset, domain, original, page, rng)])
    return {"exact_duplicates": exact, "near_duplicates": near}


def _add_copy(dataset: Dataset, domain: str, original: str, page: Page, rng: random.Random) -> str:
    url = dataset.rows[original]["url"]
    elsewhere = [site for site in dataset.sites[domain] if f"//{site.host}/" not in url]
    return dataset.add(domain, page, choose_site(elsewhere, rng))


def _edited(page: Page, rng: random.Random) -> Page | None:
    """The page with a few words swapped; None where it is too short or has too few words that can be."""
    swaps = planted()["swaps"]
    parts = re.split(r"(\W+)", page.text)
    places = [place for place, part in enumerate(parts) if part in swaps]
    wanted = len(page.text.split()) // WORDS_PER_SWAP
    if not 2 <= wanted <= len(places):
        return None
    for place in rng.sample(places, wanted):
        parts[place] = swaps[parts[place]]
    return page._replace(text="".join(parts))


def _plant_without_url(dataset: Dataset, rng: random.Random) -> list[str]:
    ids = [dataset.add(domain, *dataset.write(domain, rng)) for domain in DOMAINS for _ in range(WITHOUT_URL[domain])]
    for id_ in ids:
        dataset.rows[id_]["url"] = None
    return ids


def _plant_mixed(dataset: Dataset, rng: random.Random) -> str:
    """A page of which one half is about food and the other about cars."""
    title = capitalised(Voice(words(), rng).speak(rng.choice(planted()["mixed_titles"])))
    halves = [_first_lines(write_page(domain, rng).text) for domain in ("food", "automotive")]
    page = Page("en", "weekend", title, "\n".join([title, *rng.sample(halves, 2)]))
    return dataset.add("mixed", page, choose_site(dataset.portals, rng))


def _first_lines(text: str) -> str:
    """As many whole lines as make a half of a mixed page."""
    lines, length = [], 0
    for line in text.splitlines():
        if length < MIXED_HALF:
            lines.append(line)
            length += len(line)
    return "\n".join(lines)


def _plant_foreign(dataset: Dataset, rng: random.Random) -> str:
    return dataset.add("not_english", write_page("foreign", rng), choose_site(dataset.portals, rng))


def _plant_empty(dataset: Dataset, rng: random.Random) -> str:
    page, site = dataset.write("other", rng)
    return dataset.add("empty", page._replace(text=""), site)


def _plant_huge(dataset: Dataset, rng: random.Random) -> str:
    """A page of one megabyte: a whole archive in one."""
    page, site = dataset.write("other", rng)
    texts, length = [page.text], len(page.text)
    while length < HUGE:
        texts.append(write_page("other", rng).text)
        length += len(texts[-1])
    return dataset.add("other", page._replace(text="\n".join(texts)), site)


def _plant_end_token(dataset: Dataset, rng: random.Random) -> str:
    """A food page that holds the literal text of the project's end token."""
    page, site = dataset.write("food", rng)
    lines = page.text.splitlines()
    lines.insert(len(lines) // 2, planted()["end_token_sentence"])
    return dataset.add("food", page._replace(text="\n".join(lines)), site)
