"""What the self-check trains: the cells of its grid, and a few that no grid can express."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock, Timeout

from grid.cells import Cell, expand
from grid.self_check_assertions import AB, COMBINED, MIXED, MORE, SHUFFLED
from grid.spec import Axes, Grid
from grid.tree import Tree
from lethe.config import UserError
from lethe.files import fingerprint, sha256, whole, write_json
from lethe.progress import say
from lethe.tokens.meta import SPLITS, Shard, Split, read_meta
from lethe.tokens.shards import TokenData
from lethe.tokens.tokenizer import EOS_ID
from lethe.training.mixture import permute
from lethe.training.stage import Stage
from lethe.training.store import StageStore

if TYPE_CHECKING:
    from grid.trial import Setup

OTHER_SEED = 1000  # added to a seed: another one, whose noise is its own


class IncompleteError(Exception):
    """Some stages could not be trained to their end; says which, and why."""


class Arms(Tree):
    """The cells of the self-check's grid, and those arms of `self_check_assertions.Seed` that no grid has.

    Raises UserError for more than one model; a grid of other than two corpora has no sequential_ab.
    """

    def __init__(self, grid: Grid) -> None:
        if len(grid.models) != 1:
            raise UserError(f"models: found {', '.join(grid.models)}; allowed: one model")
        super().__init__(grid)
        self.a, self.b = grid.corpora
        self.shuffled = f"shuffled_{self.b}"
        self.cells = [new for cell in self.cells for new in self._with_others(cell)]
        self.stages = {i: stage for cell in self.cells for i, stage in cell.needed.items()}

    def _with_others(self, cell: Cell) -> Iterator[Cell]:
        if arm_of(cell) == AB:
            first, last = cell.stages
            again = last.altered(mixture={self.a: 1.0}, parent=last)
            yield replace(cell, branches=(again,))
            yield _another(cell, MORE, first, last.altered(mixture={self.a: 1.0}))
            yield _another(cell, SHUFFLED, first, last.altered(mixture={self.shuffled: 1.0}))
            return
        yield cell
        if arm_of(cell) == COMBINED:
            (stage,) = cell.stages
            mixture = self._interleaved(stage.mixture[self.a])
            yield _another(cell, MIXED, stage.altered(mixture=mixture, seed=cell.seed + OTHER_SEED))

    def _interleaved(self, ratio: float) -> dict[str, float]:
        """The mixture that the grid's interleaving makes of B at a ratio of A."""
        axes = Axes(baselines=(AB,), interventions=("none",))
        cell, *_ = expand(self.grid.model_copy(update={"interleaving_ratios": (ratio,), "grids": (axes,)}))
        return cell.stages[-1].mixture

    def at(self, seed: int) -> dict[str, Cell]:
        """The cells of a seed by arm."""
        return {arm_of(cell): cell for cell in self.cells if cell.seed == seed}

    @property
    def exact(self) -> dict[str, Cell]:
        """The same of the seed at which ends are compared bit for bit."""
        (seed,) = (cell.seed for cell in self.cells if cell.intervention == "frozen")
        return self.at(seed)


def arm_of(cell: Cell) -> str:
    """`sequential_ab`, `sequential_ab 0.05`, `sequential_ab lr_03`: the baseline, and behind it what acts."""
    ratio = f"{cell.ratio:g}" if cell.ratio else None
    label = cell.intervention if cell.intervention != "none" else None
    return " ".join(part for part in (cell.baseline, ratio, label) if part)


def _another(cell: Cell, baseline: str, *stages: Stage) -> Cell:
    return replace(cell, name=f"{baseline}-{cell.model}-s{cell.seed}", baseline=baseline, stages=stages)


def with_shuffled(data: TokenData, arms: Arms) -> TokenData:
    """The token shards with one corpus more: the first tokens of B, as many as are read, in random order.

    Made once, beside the others; the corpora themselves are links.
    """
    model, sequences = next(iter(arms.grid.models.values())), arms.grid.stage.evaluation.sequences
    windows = {"train": arms.reads[arms.shuffled, model.context], "val": sequences}
    most = {split: n * model.context + 1 for split, n in windows.items()}
    about = {"tokens": data.root.name, "corpus": arms.b, "most": most}
    root = data.root.with_name(f"self-check-{fingerprint(about, 8)}")
    root.mkdir(exist_ok=True)
    with FileLock(root / "lock"):
        for corpus in data.corpora:
            if not (root / corpus).is_dir():
                (root / corpus).symlink_to(Path("..") / data.root.name / corpus, target_is_directory=True)
        if not (root / arms.shuffled / "meta.json").is_file():
            _shuffle(data, arms.b, root / arms.shuffled, most)
    return TokenData(root)


def _shuffle(data: TokenData, corpus: str, folder: Path, most: dict[str, int]) -> None:
    meta, splits = read_meta(data.root / corpus), {}
    for name in SPLITS:
        tokens, path = min(data.split(corpus, name).tokens, most[name]), folder / f"{name}-00000.bin"
        ids = data.split(corpus, name).read(np.zeros(1, np.int64), tokens - 1)[0]
        ids = ids[permute(np.arange(tokens), tokens, f"{corpus}/{name}/shuffled")]
        with whole(path) as temporary:
            ids.astype(meta.ids).tofile(temporary)
        counts = {"tokens": tokens, "documents": int(np.count_nonzero(ids == EOS_ID))}
        shard = Shard(name=path.name, sha256=sha256(path), **counts)
        splits[name] = Split(bytes=int(data.byte_lengths[ids].sum()), shards=[shard], **counts)
    about = {"corpus": folder.name, "corpus_fingerprint": fingerprint(most, 8), "splits": splits}
    write_json(folder / "meta.json", meta.model_copy(update=about).model_dump())


@dataclass(frozen=True)
class Trained:
    """The stages of the self-check, finished; `again` is a store in which a few of them were trained once more."""

    arms: Arms
    setup: "Setup"
    again: StageStore


def train(grid: Grid, data: TokenData) -> Trained:
    """Train what is missing, in parallel under Ray, and two stages once more, in this process.

    Raises UserError for data that cannot serve and where another self-check is at it, IncompleteError where a stage
    diverges or fails.
    """
    from grid.driver import check_budgets, make_setup

    arms = Arms(grid)
    check_budgets(Tree(grid), data)
    data = with_shuffled(data, arms)
    check_budgets(arms, data)
    grid.folder.mkdir(parents=True, exist_ok=True)
    with _alone(grid.folder):
        trained = Trained(arms, make_setup(arms, data), StageStore(grid.folder / "again" / "stages"))
        _train(trained)
        _train_again(trained)
    return trained


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{folder}: another self-check runs; wait for it, or give storage=ANOTHER") from None
    try:
        yield
    finally:
        lock.release()


def _train(trained: Trained) -> None:
    from grid.cluster import ensure_ray
    from grid.progress import Progress
    from grid.search import train_cells

    arms, setup = trained.arms, trained.setup
    missing = {identity for identity, stage in arms.stages.items() if not setup.job(stage).is_finished}
    pending = [cell for cell in arms.cells if cell.needed.keys() & missing]
    if not pending:
        say(f"all {len(arms.stages)} stages are finished already; nothing is trained")
        return
    say(f"training {len(missing)} of {len(arms.stages)} stages")
    ensure_ray()
    with Progress(arms, missing) as progress:
        ends = train_cells(pending, missing, setup, progress, lambda name, outcome: None)
    if bad := [f"{name}: {end.status}: {end.reason}" for name, end in ends.items() if end.status != "finished"]:
        raise IncompleteError("\n".join(bad))


def _train_again(trained: Trained) -> None:
    from lethe.training.loop import run_stage
    from lethe.worker import Worker

    for stage in trained.arms.exact[AB].stages:
        run_stage(replace(trained.setup.job(stage), store=trained.again), Worker())
