"""From curves to results: one row a cell, written by the driver alone."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grid.cells import Cell
from grid.costs import cell_costs, flops_share
from grid.queue import Outcome
from grid.spec import Grid
from lethe.devices import peak_flops
from lethe.evaluation.history import History, StageCurve
from lethe.evaluation.intervals import Interval, mean_interval
from lethe.evaluation.metrics import metrics
from lethe.files import whole
from lethe.model.cost import flops_per_token
from lethe.progress import aligned
from lethe.training.stage import Stage
from lethe.training.store import CURVE, StageStore

RELEARNING = "relearning"
NEVER_ACTED = ("growth", "extra_flops", "run_flops", "extra_rows")  # 0 of what waited for a trigger in vain
CELL_CURVE = pa.schema([("cell", pa.string()), ("stage", pa.int64()), *CURVE])


class Results:
    """The measured cells of a grid, read from the stage store."""

    def __init__(
        self, grid: Grid, cells: list[Cell], store: StageStore, keys: Mapping[str, str], measured: str
    ) -> None:
        self.grid, self.cells, self.store, self.keys, self.measured = grid, cells, store, keys, measured
        self._curves: dict[str, pa.Table] = {}

    def row(self, cell: Cell, outcome: Outcome) -> dict[str, Any]:
        """The cell's coordinates, how it ended, and its metrics (null unless it is finished)."""
        intervention = cell.stages[-1].intervention if cell.intervention else None
        row: dict[str, Any] = {
            "cell": cell.name,
            "baseline": cell.baseline,
            "model": cell.model,
            "interleaving_ratio": cell.ratio,
            "intervention": cell.intervention,
            "intervention_kind": intervention.kind if intervention else None,
            "intervention_config": json.dumps(intervention.parameters, sort_keys=True) if intervention else None,
            "seed": cell.seed,
            "status": outcome.status,
            "reason": outcome.reason,
            "stage_key": self.keys[cell.stages[-1].identity],
        } | cell_costs(self.grid, cell)
        return row | self._spent(cell) | self._metrics(cell) if outcome.status == "finished" else row

    def curve(self, cell: Cell) -> pa.Table:
        """The cell's curve, schema CELL_CURVE; tokens count over the whole sequence.

        Of a branch that learns a corpus X again there are the losses, in nats and bits: stage indices after the last,
        tokens that count on from the end of the sequence, and names of their own, `relearning/X/loss/Y`.
        """
        tables, before = [], 0
        for i, stage in enumerate(cell.stages):
            tables.append(_curve_in(cell, i, self._curve(stage), before))
            before += stage.trained_tokens
        for i, stage in enumerate(cell.branches, start=len(cell.stages)):
            (corpus,) = stage.mixture
            tables.append(_curve_in(cell, i, self._curve(stage), before, f"{RELEARNING}/{corpus}/"))
        return pa.concat_tables(tables)

    def curve_so_far(self, cell: Cell) -> pa.Table:
        """The first rows of `curve` for a cell that is being trained: up to the last checkpoint.

        None of a stage that may begin anew, for then its points change their names.
        """
        tables, before = [CELL_CURVE.empty_table()], 0
        for i, stage in enumerate(cell.stages):
            key = self.keys[stage.identity]
            table = self.store.curve(key, self.measured)
            running = table is None and not stage.intervention.may_begin_anew
            if running:
                table = self.store.curve_so_far(key, self.measured)
            if table is not None:
                tables.append(_curve_in(cell, i, table, before))
            if running or table is None:
                break
            before += stage.trained_tokens
        return pa.concat_tables(tables)

    def write(self, outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
        """Write `results.parquet` and `curves.parquet`; returns the rows."""
        rows = [self.row(cell, outcomes[cell.name]) for cell in self.cells]
        names = list(dict.fromkeys(name for row in rows for name in row))
        texts = {"cell", "baseline", "model", "intervention", "intervention_kind", "intervention_config"}
        texts |= {"status", "reason", "stage_key", "needs", "budget"}
        schema = [(n, pa.string() if n in texts else pa.int64() if n == "seed" else pa.float64()) for n in names]
        _replace(self.grid.folder / "results.parquet", pa.Table.from_pylist(rows, pa.schema(schema)))
        curves = [self.curve(cell) for cell in self.cells if outcomes[cell.name].status == "finished"]
        _replace(self.grid.folder / "curves.parquet", pa.concat_tables([CELL_CURVE.empty_table(), *curves]))
        return rows

    def _metrics(self, cell: Cell) -> dict[str, float | None]:
        alike = [other for other in self.cells if (other.model, other.seed) == (cell.model, cell.seed)]
        roots = {other.stages[0].identity: other.stages[0] for other in alike}
        measured = [root for root in roots.values() if self.store.has(self.keys[root.identity], self.measured)]
        history = History(
            stages=[self._measured(stage) for stage in cell.stages],
            roots=[self._measured(root) for root in measured],
            branches={corpus: self._measured(stage) for stage in cell.branches for corpus in stage.mixture},
        )
        return metrics(history, list(self.grid.corpora))

    def _spent(self, cell: Cell) -> dict[str, float]:
        """Tokens spent before stages began anew; and what an intervention costs that waited for it in vain: nothing."""
        records = [self.store.record(self.keys[stage.identity]) or {} for stage in cell.stages]
        steps = [record.get("spent_steps", 0) for record in records]
        spent = sum(n * stage.tokens_per_step for n, stage in zip(steps, cell.stages, strict=True))
        waited = [record["intervention"] for record in records if "cut" in record.get("intervention", {})]
        in_vain = waited and all(found["cut"] is None for found in waited)
        return {"spent_tokens": float(spent)} | (dict.fromkeys(NEVER_ACTED, 0.0) if in_vain else {})

    def _measured(self, stage: Stage) -> StageCurve:
        record = self.store.finished(self.keys[stage.identity])
        made = record["made_with"]
        peak = peak_flops(made["processor"], stage.recipe.precision)
        plain = flops_per_token(stage.model, record["vocab_size"])
        return replace(
            measured(stage, self._curve(stage)),
            flops_per_token=plain * flops_share(stage, record["vocab_size"]),
            peak_flops=None if peak is None else peak * made["ranks"],
        )

    def _curve(self, stage: Stage) -> pa.Table:
        key = self.keys[stage.identity]
        if key not in self._curves:
            table = self.store.curve(key, self.measured)
            assert table is not None, f"{key} is finished but has no curve"
            self._curves[key] = table
        return self._curves[key]


def measured(stage: Stage, curve: pa.Table) -> StageCurve:
    """A stage as its curve (schema CURVE) tells of it."""
    names, values = curve["name"].to_numpy(zero_copy_only=False), curve["value"].to_numpy()
    tokens, seconds = curve["tokens"].to_numpy(), curve["seconds"].to_numpy()
    points = {str(n): np.stack([tokens[names == n], values[names == n]], axis=1) for n in np.unique(names)}
    return StageCurve(stage.mixture, stage.trained_tokens, float(seconds[-1]), points)


def _curve_in(cell: Cell, i: int, table: pa.Table, before: int, prefix: str = "") -> pa.Table:
    """A stage's curve as the `i`-th of a cell that has seen `before` tokens; with a prefix only its losses."""
    if prefix:
        losses = [name.startswith(("loss/", "bpb/")) for name in table["name"].to_pylist()]
        table = table.filter(pa.array(losses))
    columns = dict(zip(table.column_names, table.columns, strict=True))
    columns["tokens"] = pa.array(table["tokens"].to_numpy() + before)
    columns["name"] = pa.array([prefix + name for name in table["name"].to_pylist()], pa.string())
    own = {"cell": pa.array([cell.name] * len(table)), "stage": pa.array([i] * len(table))}
    return pa.table(own | columns, schema=CELL_CURVE)


def _replace(path: Path, table: pa.Table) -> None:
    with whole(path) as temporary:
        pq.write_table(table, temporary)


def forgetting_table(rows: list[dict[str, Any]], corpora: list[str]) -> str:
    """Forgetting by baseline, model, ratio and intervention, for the terminal: means over seeds, with intervals."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["status"] == "finished":
            point = (row["baseline"], row["model"], row["interleaving_ratio"], row["intervention"])
            groups.setdefault(point, []).append(row)
    header = ["baseline", "model", "ratio", "intervention", "seeds"]
    lost = " (lost)" * any(row.get(f"fraction_lost/{c}") is not None for row in rows for c in corpora)
    header += [f"forgetting {c}{lost}" for c in corpora] + [f"final loss {c}" for c in corpora]
    lines = [header]
    for (baseline, model, ratio, intervention), group in groups.items():
        line = [baseline, model, "" if ratio is None else f"{ratio:g}", intervention or "", str(len(group))]
        line += [_forgotten(group, corpus) for corpus in corpora]
        line += ["" if (loss := _mean(group, f"final_loss/{c}")) is None else f"{loss.mean:.3f}" for c in corpora]
        lines.append(line)
    return "\n".join(aligned(lines) + _about_intervals({len(group) for group in groups.values()}))


def _forgotten(group: list[dict[str, Any]], corpus: str) -> str:
    lost, share = _mean(group, f"forgetting/{corpus}"), _mean(group, f"fraction_lost/{corpus}")
    if lost is None:
        return ""
    interval = "" if lost.half is None else f" ±{lost.half:.3f}"
    return f"{lost.mean:+.3f}{interval}" + ("" if share is None else f" ({share.mean:.0%})")


def _mean(group: list[dict[str, Any]], name: str) -> Interval | None:
    return mean_interval(row.get(name) for row in group)


def _about_intervals(seeds: set[int]) -> list[str]:
    lines = ["±: half the 95 % interval of the mean over seeds (Student's t)"] if seeds - {1} else []
    return lines + (["one seed: there is no interval"] if 1 in seeds else [])
