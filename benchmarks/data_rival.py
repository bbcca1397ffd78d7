"""datatrove filtering pages by the rule of two domains, run by the Python of its own environment.

A line of JSON in, a line of JSON out. In: `{"source": FILE, "folder": FOLDER, "domains": {NAME: CONFIG}}`; out: the
CPU-seconds. FOLDER gets what is kept, as Parquet with the columns id and corpus among others. The rule is that of
lethe.corpora.score and select, a page at a time: what sets and regular expressions of Python do best.
"""

import json
import re
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

BYTES = 5000
TOKEN = re.compile(rb"[a-z0-9_]+")


class Words:
    """A list of words and phrases."""

    def __init__(self, words: list[str]) -> None:
        self.single: dict[bytes, str] = {}
        self.phrases: dict[bytes, dict[tuple[bytes, ...], str]] = {}
        for word in words:
            *before, last = word.encode().split(b" ")
            for form in ((*before, last + end) for end in (b"", b"s", b"es")):
                if before:
                    self.phrases.setdefault(form[0], {})[form] = word
                else:
                    self.single.setdefault(form[0], word)
        self.first = self.single.keys() | self.phrases.keys()

    def count(self, tokens: list[bytes]) -> tuple[int, int]:
        """Hits, and different words."""
        if self.first.isdisjoint(tokens):
            return 0, 0
        hits, found, inside = 0, set(), 0
        for i, token in enumerate(tokens):
            if token in self.first:
                forms = [form for form in self.phrases.get(token, ()) if tuple(tokens[i : i + len(form)]) == form]
                word = self.single.get(token)
                if word:
                    found.add(word)
                if forms:
                    found.add(self.phrases[token][max(forms, key=len)])
                if i >= inside and (forms or word):
                    hits += 1
                inside = max([inside, *(i + len(form) for form in forms)])
        return hits, len(found)


class Domain:
    """The rule of one domain."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.words, self.against = Words(config["words"]), Words(config["against"])
        either = "|".join(word.replace(" ", "[^a-z0-9]?") for word in config["url_words"])
        self.url = re.compile(rf"(?i)(?:[^a-z](?:{either})|(?:{either})(?:[^a-z]|$))")

    def score(self, tokens: list[bytes], size: int, url: str) -> tuple[float, bool]:
        """The score, and whether it and the different words suffice."""
        config = self.config
        hits, distinct = self.words.count(tokens)
        against, _ = self.against.count(tokens)
        score = 1000 * (hits - against) / max(size / 6, 1) + config["distinct_bonus"] * min(distinct, 10)
        if score + 2 * config["url_bonus"] >= config["min_score"]:
            score += config["url_bonus"] * min(len(self.url.findall(url)), 2)
        return score, score >= config["min_score"] and distinct >= config["min_distinct_words"]

    def is_fit(self, text: str, metadata: dict[str, Any]) -> bool:
        """Whether language, length and form are good enough."""
        config = self.config
        if not config["min_characters"] <= len(text) <= config["max_characters"]:
            return False
        if metadata["language"] not in config["languages"] or metadata["language_score"] < config["min_language_score"]:
            return False
        lines = [line for line in map(str.strip, text.splitlines()) if line]
        return 1 - len(set(lines)) / max(len(lines), 1) <= config["max_repeated_lines"]


def main() -> None:
    """Answer until the input ends."""
    from datatrove.pipeline.filters import LambdaFilter
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter
    from loguru import logger

    logger.remove()
    for line in sys.stdin:
        job = json.loads(line)
        domains = {name: Domain(config) for name, config in job["domains"].items()}
        source = Path(job["source"])
        reader = ParquetReader(str(source.parent), glob_pattern=source.name)
        keep = LambdaFilter(partial(_corpus, domains=domains))
        writer = ParquetWriter(job["folder"], expand_metadata=True)
        start = time.process_time()
        for _ in writer.run(keep.run(reader.run())):
            pass
        writer.close()
        print(json.dumps({"seconds": time.process_time() - start}), flush=True)


def _corpus(document: Any, domains: dict[str, Domain]) -> bool:
    """Whether a page belongs to one domain; its metadata get the name."""
    beginning = document.text.encode()[:BYTES]
    tokens, url = TOKEN.findall(beginning.lower()), document.metadata["url"] or ""
    scores = {name: domain.score(tokens, len(beginning), url) for name, domain in domains.items()}
    for name, (score, enough) in scores.items():
        rival = max([0.0, *(other for key, (other, _) in scores.items() if key != name)])
        if enough and score >= 2 * rival and domains[name].is_fit(document.text, document.metadata):
            document.metadata["corpus"] = name
            return True
    return False


if __name__ == "__main__":
    main()
