"""Pages in FineWeb's row form, and two toy domains to tell apart."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lethe.corpora.domains import CorpusConfig
from lethe.corpora.schema import FINEWEB

_TEXT = "the people of town said that it was there again on a long and quiet day"
GLUE = _TEXT.split()


class Toy:
    """Texts about soup, cars and news, and the corpora `soup` and `car`, to which the first two clearly belong."""

    soup, car, news = ("onion", "soup", "ladle"), ("engine", "gearbox", "tyre"), ("council", "vote", "mayor")

    def __init__(self) -> None:
        common = {"min_score": 50, "min_distinct_words": 2, "min_characters": 20, "max_characters": 5000}
        self.corpora = {
            "soup": CorpusConfig(description="soups", words=self.soup, url_words=("soup",), val_share=0.2, **common),
            "car": CorpusConfig(description="cars", words=self.car, val_share=0.2, **common),
        }

    def text(self, words: tuple[str, ...], number: int, length: int = 60) -> str:
        """A text no other number has, of which every fourth word is one of `words`."""
        mixed = [
            words[i // 4 % len(words)] if i % 4 == 0 else GLUE[(i * 7 + number) % len(GLUE)] for i in range(length)
        ]
        return f"Page number {number} begins here. " + " ".join(mixed)

    def unlike(self, words: tuple[str, ...], number: int) -> str:
        """A text that is like no other number's, of which every fourth word is one of `words`."""
        rng = random.Random(number)
        return " ".join(
            words[i // 4 % len(words)] if i % 4 == 0 else "".join(rng.choices("aeioulnrst", k=5)) for i in range(60)
        )

    def page(self, text: str | None, number: int = 0, **fields: Any) -> dict[str, Any]:
        return {
            "text": text,
            "id": f"<urn:uuid:{number}>",
            "dump": "CC-TEST",
            "url": f"https://www.site{number}.example/page",
            "date": None,
            "file_path": None,
            "language": "en",
            "language_score": 0.9,
            "token_count": 50,
        } | fields

    def pages(self, words: tuple[str, ...], numbers: range) -> list[dict[str, Any]]:
        return [self.page(self.text(words, number), number) for number in numbers]

    def table(self, rows: list[dict[str, Any]]) -> pa.Table:
        return pa.Table.from_pylist(rows, FINEWEB)

    def write(self, path: Path, rows: list[dict[str, Any]]) -> Path:
        """Write a file of row groups of ten."""
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(self.table(rows), path, row_group_size=10)
        return path


@pytest.fixture(scope="session")
def toy() -> Toy:
    return Toy()
