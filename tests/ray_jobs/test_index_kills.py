"""The whole index killed at random moments: the end is that of an undisturbed run."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kills import GRID, MARKS, Victim, kill_again_and_again

from lethe.corpora.schema import FINEWEB

pytestmark = MARKS

FILES, ROWS = 60, 20_000


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with pages in many files, and so in many units; no text is read, so there is none to speak of."""
    storage = tmp_path_factory.mktemp("kills")
    (storage / "pages").mkdir()
    for file in range(FILES):
        numbers = range(file * ROWS, (file + 1) * ROWS)
        columns = {
            "text": ["Nothing."] * ROWS,
            "id": [f"<urn:uuid:{i}>" for i in numbers],
            "dump": ["CC-TEST"] * ROWS,
            "url": [f"https://www.site{i % 997}.example{i % 89}.co.uk/{i}" for i in numbers],
            "language": ["en"] * ROWS,
            "language_score": [0.9] * ROWS,
            "token_count": [i % 1000 for i in numbers],
        }
        fields = [field for field in FINEWEB if field.name in columns]
        pq.write_table(pa.table(columns, pa.schema(fields)), storage / "pages" / f"{file:03}.parquet")
    (storage / "grid.yaml").write_text(GRID)
    return storage


def test_killed_again_and_again_the_files_are_the_same(storage: Path) -> None:
    victim = Victim("index", storage, ("data/index",), r"data/index/\w+/\w+/manifest\.json", FILES)
    kill_again_and_again(victim, seed=1)
    output, _ = victim.run()
    assert f"{FILES * ROWS:,} rows" in output
