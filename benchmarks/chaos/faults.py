"""What else goes wrong with a grid, one function a fault; each raises AssertionError where the grid does not cope."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.chaos.kills import PROCESSES
from benchmarks.chaos.lab import (
    CELLS,
    STAGES,
    Lab,
    Program,
    Verdict,
    lost_steps,
    results,
    signal_to,
    wait_for_cells,
    weights,
)
from lethe.training.store import VERSION

Fault = Callable[[Lab], Path | None]
FAULTS: dict[str, Fault] = {}
SECONDS_TO_STOP = 10


def fault(function: Fault) -> Fault:
    """A fault takes the lab; it returns a storage that must be as the undisturbed one."""
    FAULTS[function.__name__] = function
    return function


def under_way(lab: Lab, name: str, *overrides: str, **environment: str) -> tuple[Path, Program]:
    """A grid that has finished one of its cells."""
    storage = lab.fresh(name)
    program = lab.start(storage, *overrides, **environment)
    wait_for_cells(program)
    return storage, program


def stop(lab: Lab, name: str, number: signal.Signals, code: int, times: int = 1) -> Path:
    storage, program = under_way(lab, name)
    for _ in range(times):
        if number == signal.SIGINT:
            os.killpg(program.process.pid, number)  # as a terminal does: to the whole group
        else:
            signal_to(program.process.pid, number)
        time.sleep(0.3)
    stopped = time.monotonic()
    program.process.wait(60)
    took = time.monotonic() - stopped
    assert program.leaves_nothing(20), f"processes are left: {program.family()}"
    assert program.end() == code, program.text
    assert took < SECONDS_TO_STOP, f"it took {took:.0f} s to stop"
    assert "the same command goes on from here" in program.text
    assert "Traceback" not in program.text, program.text
    lab.finish(storage)
    return storage


@fault
def ctrl_c(lab: Lab) -> Path:
    return stop(lab, "ctrl_c", signal.SIGINT, 130)


@fault
def ctrl_c_twice(lab: Lab) -> Path:
    return stop(lab, "ctrl_c_twice", signal.SIGINT, 130, times=2)


@fault
def sigterm(lab: Lab) -> Path:
    return stop(lab, "sigterm", signal.SIGTERM, 143)


@fault
def worker_killed_while_it_saves(lab: Lab) -> Path:
    storage = lab.fresh("saving")
    program = lab.start(storage)
    partial = storage / "runs" / "stages"
    assert program.wait_for(
        lambda: any(partial.glob("*/partial/*/.state.json.*")) or any(partial.glob("*/.stage.json.*"))
    )
    for pid in program.named(*PROCESSES["worker"]):
        signal_to(pid, signal.SIGKILL)
    assert program.end() == 0, program.text
    return storage


@fault
def worker_frozen(lab: Lab) -> Path:
    storage, program = under_way(lab, "frozen", "stage.frozen_after=15")
    frozen = program.named(*PROCESSES["worker"])[0]
    signal_to(frozen, signal.SIGSTOP)
    assert program.end() == 0, program.text
    assert "gave no sign of life" in program.text
    return storage


def at_a_write(kind: str, n: int) -> Fault:
    def function(lab: Lab) -> Path:
        storage = lab.fresh(f"{kind}{n}")
        count = storage / "count"
        count.mkdir()
        lab.finish(storage, CHAOS_REPLACE=f"{kind}:{n}:/stages/", CHAOS_COUNT=str(count))
        assert len(list(count.iterdir())) > n
        return storage

    return function


FAULTS |= {f"killed_at_write_{n}": at_a_write("kill", n) for n in (1, 2, 7, 20, 33)}
FAULTS |= {
    "input_output_error_at_a_write": at_a_write("EIO", 12),
    "disk_full_at_a_write": at_a_write("ENOSPC", 15),
    "quota_exceeded_at_a_write": at_a_write("EDQUOT", 9),
    "read_only_at_a_write": at_a_write("EROFS", 18),
    "too_many_open_files_at_a_write": at_a_write("EMFILE", 5),
}


@fault
def disk_full_for_the_report(lab: Lab) -> Path:
    storage = lab.fresh("report")
    count = storage / "count"
    count.mkdir()
    program = lab.start(storage, CHAOS_REPLACE="ENOSPC:1:report.html", CHAOS_COUNT=str(count))
    assert program.end() == 2, program.text
    assert str(storage / "runs" / "grid" / "report.html") in program.text.splitlines()[-1], program.text
    assert "Traceback" not in program.text, program.text
    assert "nothing is trained" in lab.finish(storage)
    return storage


@fault
def loss_not_a_number(lab: Lab) -> None:
    storage = lab.fresh("wild")
    for word in ("diverged", "nothing is trained"):
        program = lab.start(storage, "stage.learning_rate=1e30")
        assert program.end() == 1, program.text
        assert word in program.text
    rows = pq.read_table(storage / "runs" / "grid" / "results.parquet").to_pylist()
    assert {row["status"] for row in rows} == {"diverged"}
    assert all("is not a number at step " in row["reason"] for row in rows), rows
    assert all("to try it again, delete" in row["reason"] for row in rows), rows


@fault
def out_of_memory(lab: Lab) -> Path:
    storage = lab.fresh("memory")
    program = lab.start(storage, RAY_memory_usage_threshold="0.01", RAY_memory_monitor_refresh_ms="100")
    assert program.end() == 1, program.text
    rows = pq.read_table(storage / "runs" / "grid" / "results.parquet").to_pylist()
    assert {row["status"] for row in rows} == {"failed"}
    assert all("out of memory" in row["reason"] for row in rows), rows
    assert program.text.count("lost: its process, or one beside it, was killed") >= 3 * CELLS, program.text
    lab.finish(storage)
    return storage


@fault
def a_second_driver(lab: Lab) -> Path:
    storage, program = under_way(lab, "second")
    second = subprocess.run(program.process.args, capture_output=True, text=True, check=False, timeout=60)  # type: ignore[call-overload]
    assert second.returncode == 2, second.stdout + second.stderr
    assert f"another program runs this grid ({socket.gethostname()}, pid {program.process.pid})" in second.stderr
    assert program.end() == 0, program.text
    return storage


@fault
def two_grids_that_share_stages(lab: Lab) -> None:
    storage = lab.fresh("shared")
    other = lab.start(storage, "name=other")
    time.sleep(1)
    lab.finish(storage)
    assert other.end() == 0, other.text
    assert weights(storage) == weights(lab.calm)
    lines = (storage / "trace.txt").read_text().splitlines()
    assert len(lines) == len(set(lines)) == len((lab.calm / "trace.txt").read_text().splitlines())


def at_another_time(lab: Lab, ahead: float) -> Path:
    storage, program = under_way(lab, f"clock{ahead:g}")
    program.kill()
    lab.finish(storage, CHAOS_CLOCK=str(ahead))
    return storage


FAULTS["clock_a_day_ahead"] = lambda lab: at_another_time(lab, 86_400)
FAULTS["clock_an_hour_behind"] = lambda lab: at_another_time(lab, -3_600)


def copy_of_calm(lab: Lab, name: str) -> Path:
    storage = lab.fresh(name)
    shutil.copytree(lab.calm / "runs", storage / "runs")
    shutil.copy(lab.calm / "mlflow.db", storage)
    return storage


@fault
def a_stage_deleted(lab: Lab) -> Path:
    storage = copy_of_calm(lab, "deleted")
    shutil.rmtree(next((storage / "runs" / "stages").glob("*/")))
    assert f"training 1 of {STAGES} stages" in lab.finish(storage)
    return storage


@fault
def a_file_of_a_stage_deleted(lab: Lab) -> Path:
    storage = copy_of_calm(lab, "file")
    next((storage / "runs" / "stages").glob("*/model.safetensors")).unlink()
    assert f"training 1 of {STAGES} stages" in lab.finish(storage)
    return storage


@fault
def a_curve_cut(lab: Lab) -> Path:
    storage = copy_of_calm(lab, "curve")
    curve = next((storage / "runs" / "stages").glob("*/curves/*.parquet"))
    curve.write_bytes(curve.read_bytes()[:-100])
    assert f"training 1 of {STAGES} stages" in lab.finish(storage)
    return storage


@fault
def a_ratio_added(lab: Lab) -> None:
    storage = copy_of_calm(lab, "ratio")
    before = {path: path.stat().st_mtime_ns for path in storage.rglob("model.safetensors")}
    text = lab.finish(storage, "interleaving_ratios=[0, 0.25, 0.5]")
    assert f"training 2 of {STAGES + 2} stages for 2 of {CELLS + 2} cells" in text
    assert {path: path.stat().st_mtime_ns for path in before} == before


@fault
def a_comment_edited(lab: Lab) -> Path:
    storage = copy_of_calm(lab, "comment")
    lab.write_config(storage, "# another comment")
    assert "nothing is trained" in lab.finish(storage)
    return storage


def on_data_of_its_own(lab: Lab, name: str) -> Path:
    storage = lab.fresh(name)
    (storage / "data").unlink()
    shutil.copytree(lab.calm / "data", storage / "data")
    return storage


@fault
def a_token_shard_cut(lab: Lab) -> Path:
    storage = on_data_of_its_own(lab, "shard")
    shard = sorted((storage / "data" / "tokens").rglob("train*.bin"))[0]
    os.truncate(shard, shard.stat().st_size // 2)
    lab.finish(storage)
    return storage


def a_mapped_shard(lab: Lab, name: str, change: Callable[[Path], None]) -> tuple[Path, int]:
    """Something is done to a shard that the cells have mapped; whichever fail must name it, and later it is made anew.

    Returns the storage, and how many cells failed.
    """
    storage = on_data_of_its_own(lab, name)
    program = lab.start(storage)
    wait_for_cells(program)
    shard = next((storage / "data" / "tokens").glob("*/automotive/train*.bin"))
    change(shard)
    code = program.end()
    bad = [row for row in results(storage) if row["status"] != "finished"]
    assert code == int(bool(bad)), program.text
    assert "Traceback" not in program.text, program.text
    for row in bad:
        assert row["status"] == "failed", row
        assert str(shard) in row["reason"], row["reason"]
    lab.finish(storage)
    return storage, len(bad)


@fault
def a_mapped_shard_cut(lab: Lab) -> Path:
    storage, failed = a_mapped_shard(lab, "mapped", lambda shard: os.truncate(shard, 4096))
    assert failed, "nobody has read beyond the end"
    return storage


@fault
def a_mapped_shard_replaced(lab: Lab) -> Path:
    """Who has mapped it reads on in the old one, and who has not must see that it is another."""

    def replace(shard: Path) -> None:
        other = shard.with_name("other")
        other.write_bytes(bytes(shard.stat().st_size + 2))
        other.replace(shard)

    return a_mapped_shard(lab, "replaced", replace)[0]


@fault
def files_that_are_seen_late(lab: Lab) -> Path:
    """As on NFS, where a client goes on for seconds with what it has found in a folder before."""
    storage = lab.fresh("late")
    (storage / "written").mkdir()
    lab.finish(storage, CHAOS_LATE=f"10:{storage / 'written'}")
    return storage


# What the first release wrote into stage.json, by which a later one must know a finished stage.
RECORD_OF_VERSION_1 = (
    "data",
    "files",
    "intervention",
    "key",
    "made_with",
    "peak_bytes",
    "seconds",
    "spent_steps",
    "stage",
    "tokens_folder",
    "unigram_counts",
    "version",
    "vocab_size",
)


def rewritten(storage: Path, **changes: object) -> None:
    """The records of all stages as the first release wrote them, but for the changes."""
    for path in (storage / "runs" / "stages").glob("*/stage.json"):
        record = json.loads(path.read_text())
        first = {name: record[name] for name in RECORD_OF_VERSION_1} | {"version": 1} | changes
        path.write_text(json.dumps(first))


@fault
def stages_of_the_first_release(lab: Lab) -> Path:
    storage = copy_of_calm(lab, "first")
    rewritten(storage)
    assert "nothing is trained" in lab.finish(storage)
    return storage


@fault
def stages_of_a_later_release(lab: Lab) -> Path:
    """They are refused, and nothing is written over them."""
    storage = copy_of_calm(lab, "later")
    rewritten(storage, version=VERSION + 1)
    before = {path: path.stat().st_mtime_ns for path in (storage / "runs" / "stages").rglob("*") if path.is_file()}
    program = lab.start(storage)
    assert program.end() == 2, program.text
    assert f"stage.json: version: found {VERSION + 1}; allowed: up to {VERSION}" in program.text
    assert "Traceback" not in program.text
    assert {path: path.stat().st_mtime_ns for path in before} == before
    rewritten(storage)
    lab.finish(storage)
    return storage


def suffer(name: str, lab: Lab) -> tuple[Verdict, int]:
    """Let a fault happen; what was wrong, and the most steps that were trained again."""
    try:
        storage = FAULTS[name](lab)
    except Exception as error:  # noqa: BLE001 - the other faults are still to be made
        return Verdict([str(error)[-2000:] or repr(error)]), 0
    finally:
        lab.kill_all()
    return (lab.compare(storage), lost_steps(storage)) if storage else (Verdict(), 0)
