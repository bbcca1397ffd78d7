"""How a grid's arms read a text that changes its subject half-way: `python -m benchmarks.half RUN_FOLDER`.

Rows are made of held-out windows: the first half of the context from one corpus of the baseline, the second from the
other, in both orders. The token first seen after the change is left out of both halves. What comes before is read as
in a row of one corpus alone; the second half's tokens are read once more at the same places of such a row, and the
price of the change is the difference. Both orders count alike in it, and both halves of both in the mean.

The oracle knows the change: of each column it has the better of the first stage's model and plain training's last, by
seed. All are nats per token, means over seeds; ± is half a 95 % interval (Student), of differences paired by seed.
Cells that are not finished yet are left out.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lethe.config import UserError
from lethe.evaluation.intervals import Interval, mean_interval, paired_difference
from lethe.model.cost import rows_evaluated_at_once
from lethe.program import run_program
from lethe.tokens.shards import TokenData
from lethe.training.store import StageStore

if TYPE_CHECKING:
    from torch import nn

Pair = tuple[str, str]  # the corpora, as they are learned
Seeds = dict[int, np.ndarray]  # what `measure` gives, by seed


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER", help="runs/NAME of a grid")
    parser.add_argument("--baseline", default="sequential_ab", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--sequences", type=int, default=128, metavar="N", help="rows, at most; default: %(default)s")
    given = parser.parse_args(argv)
    if given.sequences < 1:
        raise UserError(f"--sequences: found {given.sequences}; allowed: 1 or more")
    path = given.run / "plan.json"
    if not path.is_file():
        raise UserError(f"RUN_FOLDER: found {given.run}, where there is no plan.json; allowed: a grid's runs/NAME")
    plan = json.loads(path.read_text())
    pair, store = corpora_of(plan, given.baseline), StageStore(given.run.resolve().parent / "stages")
    for model in plan["models"]:
        cells = cells_of(plan, given.baseline, model)
        finished = [cell for cell in cells if store.record(cell["keys"][-1])]
        print(f"{model}: {len(finished)} of {len(cells)} cells are finished", end="\n\n")
        if finished:
            print(table(pair, *measured(finished, pair, store, given.sequences)), end="\n\n")
    return 0


def corpora_of(plan: Mapping[str, Any], baseline: str) -> Pair:
    """The two corpora of a baseline; UserError for one that is not two stages of a corpus each."""
    pairs = {}
    for name, parts in plan["config"]["baselines"].items():
        corpora = [corpus for part in parts for corpus in part["mixture"]]
        if len(parts) == len(corpora) == len(set(corpora)) == 2:
            pairs[name] = (corpora[0], corpora[1])
    if baseline not in pairs:
        raise UserError(f"--baseline: found {baseline!r}; allowed, of two stages of a corpus each: {', '.join(pairs)}")
    return pairs[baseline]


def cells_of(plan: Mapping[str, Any], baseline: str, model: str) -> list[dict[str, Any]]:
    """The cells of a baseline and a model, each with its `arm`, whether that is `plain`, and its stages' `keys`."""
    keys = {stage["id"]: stage["key"] for stage in plan["stage_list"]}
    kinds = {label: each["kind"] for label, each in plan["config"]["interventions"].items()}
    cells = []
    for cell in plan["cell_list"]:
        if (cell["baseline"], cell["model"]) == (baseline, model):
            label, ratio = cell["intervention"], cell["interleaving_ratio"]
            arm = label if ratio == 0 else f"{label}, ratio {ratio:g}"
            own = {"arm": arm, "plain": ratio == 0 and kinds[label] == "none"}
            cells.append(cell | own | {"keys": [keys[stage] for stage in cell["stages"]]})
    return cells


def measured(
    cells: Sequence[Mapping[str, Any]], pair: Pair, store: StageStore, sequences: int
) -> tuple[dict[str, Seeds], Seeds]:
    """What `measure` gives of each arm of these finished cells, and of their first stage; and the oracle."""
    import torch

    from lethe.training.load import load_model

    torch.set_num_threads(1)  # as in a grid's trial: beside other programs, threads that wait for each other cost more
    data, context = opened(cells[0]["keys"][-1], store)
    windows = read_windows(data, pair, context, sequences)
    at_once = rows_evaluated_at_once(context, data.vocab_size)
    known: dict[str, np.ndarray] = {}  # arms share the first stage, and may share the last
    for key in [key for cell in cells for key in cell["keys"]]:
        if key not in known:
            known[key] = measure(load_model(store, key), windows, at_once)
    arms: dict[str, Seeds] = {}
    for cell in cells:
        arms.setdefault(cell["arm"], {})[cell["seed"]] = known[cell["keys"][-1]]
    first = {cell["seed"]: known[cell["keys"][0]] for cell in cells}
    plain = {cell["seed"]: known[cell["keys"][-1]] for cell in cells if cell["plain"]}
    oracle = {seed: np.minimum(values, first[seed]) for seed, values in plain.items()}
    return arms | {f"the model of {pair[0]}": first}, oracle


def opened(key: str, store: StageStore) -> tuple[TokenData, int]:
    """The tokens that a finished stage was trained and measured on, and its model's context."""
    record = store.record(key)
    assert record is not None, f"{key} is not finished"
    data = TokenData(store.root.parent.parent / "data" / "tokens" / record["tokens_folder"])
    return data, record["stage"]["model"]["context"]


def read_windows(data: TokenData, pair: Pair, context: int, sequences: int) -> tuple[np.ndarray, np.ndarray]:
    """The held-out windows of both corpora, those of a grid's marks, as many of each: int64 [n, context + 1]."""
    from lethe.evaluation.losses import held_out_rows

    splits = [data.split(corpus, "val") for corpus in pair]
    n = min(sequences, *(split.windows(context) for split in splits))
    first, later = (held_out_rows(split, context, n) for split in splits)
    return first, later


def measure(model: "nn.Module", windows: tuple[np.ndarray, np.ndarray], at_once: int) -> np.ndarray:
    """Mean losses, nats per token, float64 [2, 3]; the model is taken to a GPU if there is one.

    Of the change from the first corpus to the later, and of the change back: the first half, the second, and the second
    half's tokens after text of their own corpus. `windows` are int64 [n, context + 1] each, read `at_once` rows a time.
    """
    import torch

    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    values = []
    for before, after in (windows, windows[::-1]):
        half = (before.shape[1] - 1) // 2
        changing = np.concatenate([before[:, :half], after[:, half:]], axis=1)
        _, unchanged = halves(model, after, at_once)
        values.append([*halves(model, changing, at_once), unchanged])
    return np.array(values)


def halves(model: "nn.Module", rows: np.ndarray, at_once: int) -> tuple[float, float]:
    """Mean loss, nats per token, of the tokens before the middle of `rows` and of those after it.

    `rows` is int64 [n, context + 1]. The token in the middle, context // 2, counts in neither, nor does the first.
    """
    import torch
    from torch.nn import functional as F

    device, losses = next(model.parameters()).device, []
    with torch.no_grad():
        for chunk in torch.from_numpy(rows).to(device).split(at_once):
            logits, targets = model(chunk[:, :-1]).float(), chunk[:, 1:]
            nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            losses.append(nats.view(targets.shape).double().cpu())
    found, half = torch.cat(losses).numpy(), (rows.shape[1] - 1) // 2  # of token t + 1 in column t
    return float(found[:, : half - 1].mean()), float(found[:, half:].mean())


def table(pair: Pair, arms: dict[str, Seeds], oracle: Seeds) -> str:
    """In Markdown; a row for each arm, and for the oracle the last."""
    heads = ["arm", "seeds"]
    for first, then in (pair, pair[::-1]):
        heads += [f"{first}, then {then}: first half", "second half", f"second half, all {then}"]
    heads += ["mean", "mean - oracle", "price of the change"]
    rows = [heads, ["---"] * len(heads)]
    for arm, seeds in (arms | {"oracle": oracle}).items():
        each = [mean_interval(values[i, j] for values in seeds.values()) for i in range(2) for j in range(3)]
        price = mean_interval((values[:, 1] - values[:, 2]).mean() for values in seeds.values())
        behind = paired_difference(_means(seeds), _means(oracle)) if seeds is not oracle else None
        shown = [_shown(interval) for interval in (*each, mean_interval(_means(seeds).values()))]
        rows.append([arm, str(len(seeds)), *shown, _shown(behind, "+"), _shown(price, "+")])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _means(seeds: Seeds) -> dict[Any, float | None]:
    return {seed: float(values[:, :2].mean()) for seed, values in seeds.items()}


def _shown(interval: Interval | None, sign: str = "") -> str:
    """With one seed there is no interval, and without any nothing."""
    if interval is None:
        return ""
    return f"{interval.mean:{sign}.3f}" + ("" if interval.half is None else f" ±{interval.half:.3f}")


if __name__ == "__main__":
    run_program(main)
