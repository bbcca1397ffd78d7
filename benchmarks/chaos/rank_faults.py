"""What goes wrong with a cell that several ranks train, or that other many go on with."""

import json
import signal
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.chaos.faults import fault
from benchmarks.chaos.lab import TWO_RANKS, Lab, Program, lines, results, signal_to

RANK = "ray::RayTrainWorker"
STOOD_STILL = 120  # seconds: 15 until the others give up, and new processes, which a busy machine takes its time for
TOLERANCE = 1e-4  # nats; of a final loss, where the same gradients are summed in another order: 5e-8 were seen


def as_undisturbed(lab: Lab, storage: Path) -> None:
    verdict = lab.compare(storage, lab.calm_ranks)
    assert not verdict.differences, verdict.differences


def in_training(lab: Lab, name: str, *overrides: str, **environment: str) -> tuple[Path, Program]:
    """Two ranks that have passed a checkpoint or more."""
    lab.calm_ranks  # noqa: B018 - made before the clock runs
    storage = lab.fresh(name)
    program = lab.start(storage, *TWO_RANKS, *overrides, **environment)
    assert program.wait_for(lambda: steps(storage) > 50), program.text
    return storage, program


def steps(storage: Path) -> int:
    return len(list(lines(storage / "trace.txt")))


def frozen(lab: Lab, which: int) -> None:
    storage, program = in_training(lab, f"rank{which}", "stage.frozen_after=15")
    signal_to(program.named(RANK)[which], signal.SIGSTOP)
    since, trained = time.monotonic(), steps(storage)
    assert program.wait_for(lambda: steps(storage) > trained + 50), program.text
    assert time.monotonic() - since < STOOD_STILL, f"it stood still for {time.monotonic() - since:.0f} s"
    assert program.end() == 0, program.text
    as_undisturbed(lab, storage)


@fault
def a_rank_frozen(lab: Lab) -> None:
    frozen(lab, 0)


@fault
def the_other_rank_frozen(lab: Lab) -> None:
    frozen(lab, 1)


@fault
def a_rank_killed(lab: Lab) -> None:
    storage, program = in_training(lab, "rank-killed")
    signal_to(program.named(RANK)[1], signal.SIGKILL)
    assert program.end() == 0, program.text
    as_undisturbed(lab, storage)


@fault
def a_rank_that_raises(lab: Lab) -> None:
    """In one of the cells; the other is trained to its end, and later this one too."""
    records = [json.loads(path.read_text()) for path in (lab.calm_ranks / "runs" / "stages").glob("*/stage.json")]
    (key,) = (record["key"] for record in records if len(record["stage"]["mixture"]) > 1)
    storage = lab.fresh("raises")
    program = lab.start(storage, *TWO_RANKS, CHAOS_RAISE=f"1:50:{key}")
    assert program.end() == 1, program.text
    statuses = {row["baseline"]: (row["status"], row["reason"]) for row in results(storage)}
    assert statuses["sequential_ab"] == ("finished", None), statuses
    status, reason = statuses["combined"]
    assert status == "failed", statuses
    for word in ("ValueError", "was told to raise", "rank 1"):
        assert word in reason, f"no {word!r} in {reason!r}"
    told = [line for line in program.text.splitlines() if "was told to raise" in line]
    assert len(told) <= 2, told  # as it ends, and in the list at the end
    assert "Traceback" not in program.text, program.text
    lab.finish(storage, *TWO_RANKS)
    as_undisturbed(lab, storage)


@fault
def one_rank_goes_on_where_two_were(lab: Lab) -> None:
    """The same rows for every slot of a stage, whoever reads them; the losses of two ranks to a tolerance."""
    rows = lab.root / "rows.txt"
    rows.unlink(missing_ok=True)
    storage, program = in_training(lab, "fewer", CHAOS_ROWS=str(rows))
    program.kill()
    lab.finish(storage, *TWO_RANKS[1:], CHAOS_ROWS=str(rows))
    read, worlds = defaultdict(set), defaultdict(set)
    for stage, slot, world, digest in map(str.split, lines(rows)):
        read[stage, slot].add(digest)
        worlds[stage].add(world)
    assert {"1", "2"} in worlds.values(), worlds
    assert all(len(digests) == 1 for digests in read.values()), "a slot was filled with other rows"
    for row, calm in zip(results(storage), results(lab.calm_ranks), strict=True):
        for name in ("final_loss/food", "final_loss/automotive"):
            apart = abs(row[name] - calm[name])
            assert apart < TOLERANCE, f"{row['cell']}: {name} is {apart:g} apart"
