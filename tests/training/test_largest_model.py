"""The largest model trains on a machine without a GPU."""

import json
import subprocess
import sys

import pytest
import yaml

from benchmarks.tokens import write_tokens


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_236m_does_three_steps_in_under_12_gb(tmp_path):
    data = write_tokens(tmp_path, 32768)
    config = {
        "storage": str(tmp_path),
        "tokens": data.root.name,
        "model": "236m",
        "mixture": {"food": 1},
        "stage": {
            "tokens": 3 * 1024,
            "batch": 1,
            "learning_rate": 1e-3,
            "evaluation": {"sequences": 1, "marks": 1},
        },
        "threads": 2,
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "lethe.train", str(tmp_path / "train.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "step 3/3" in done.stdout
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "runs" / "stages").glob("*/stage.json"))
    assert record["peak_bytes"] < 12e9
    print(f"peak {record['peak_bytes'] / 1e9:.2f} GB, {record['seconds']}")
