"""Runs of grids for the tests of the report, made up: every number in them is known."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd

SEQUENCES = {"sequential_ab": ["food", "automotive"], "sequential_ba": ["automotive", "food"], "combined": ["both"]}
FORGOTTEN = {"food": {0.0: 1.64, 0.05: 0.56, 0.25: 0.03}, "automotive": {0.0: 0.67, 0.05: 0.35, 0.25: -0.02}}
LEARNED = {"food": 4.6, "automotive": 5.05}
UNLEARNED = {"food": 6.6, "automotive": 5.9}
STAGE_TOKENS = 150_016
COST = {
    "needs": "samples",
    "extra_weights": 1.0,
    "extra_rows": 0.25,
    "extra_flops": 1 / 3,
    "budget": "adds",
    "growth": 0.5,
    "run_flops": 0.0,
}
CONFIG = {
    "source": "sample",
    "corpora": {"food": {"min_score": 42.0, "words": ["egg"], "languages": ["en"], "val_share": 0.05}},
    "baselines": {"sequential_ab": [{"mixture": {"food": 1.0}, "tokens": None}]},
    "interleaving_ratios": [0.0, 0.05],
    "interventions": {"none": {"kind": "none"}, "pull": {"kind": "l2_sp", "parameters": {"strength": 10.0}}},
    "models": {"small": {"context": 64}},
    "seeds": [0, 1],
    "tokenizer": {"vocab_size": 2048},
    "stage": {
        "tokens": 150_000,
        "batch": 8,
        "betas": [0.9, 0.95],
        "weight_decay": 0.1,
        "clip": 1.0,
        "learning_rate": 0.006,
        "warmup": 0.05,
        "decay": 0.3,
        "floor": 0.05,
        "schedule": "wsd",
        "optimizer_at_switch": "reset",
        "precision": "fp32",
        "interleaving": "replace",
        "evaluation": {"sequences": 64, "marks": 8, "monitors": True, "probes": 40},
    },
}
COORDINATES = ["cell", "baseline", "model", "interleaving_ratio", "intervention", "intervention_kind"]
COORDINATES += ["intervention_config", "seed", "status", "reason", "stage_key"]


def final_losses(baseline: str, ratio: float | None, shift: float) -> dict[str, float]:
    if ratio is None:
        return {"food": 4.75 + shift, "automotive": 5.1 + shift}
    first, last = SEQUENCES[baseline]
    kept = LEARNED[first] + FORGOTTEN[first][ratio] * (1 + shift)
    return {first: kept, last: LEARNED[last] + 0.3 * ratio + shift}


def probes(x: str, seed: int) -> dict[str, float]:
    """Numbers were known at both seeds, names at none."""
    known = {"probe_facts": 40.0, "probe_accuracy_learned": 0.75, "probe_accuracy": 0.5 + seed / 20}
    known |= {"probe_accuracy_lost": 0.25 - seed / 20, "probe_margin_lost": 0.3, "probe_counts": 1.0}
    unknown = {"probe_facts": 40.0, "probe_accuracy_learned": 0.25, "probe_accuracy": 0.2, "probe_counts": 0.0}
    found = {f"{name}/{x}/number/memorised": value for name, value in known.items()}
    return found | {f"{name}/{x}/entity/memorised": value for name, value in unknown.items()}


def row(cell: str, baseline: str, model: str, ratio: float | None, intervention: str | None, seed: int) -> dict:
    shift = 0.06 * math.sin(7 * seed + 3 * (ratio or 0))
    final = final_losses(baseline, ratio, shift)
    metrics = {f"final_loss/{x}": loss for x, loss in final.items()} | {"average_loss": sum(final.values()) / 2}
    if ratio is not None:
        first, last = SEQUENCES[baseline]
        metrics |= {f"learned_loss/{first}": LEARNED[first], f"learned_loss/{last}": final[last]}
        metrics[f"forgetting/{first}"] = final[first] - LEARNED[first]
        metrics[f"fraction_lost/{first}"] = metrics[f"forgetting/{first}"] / (UNLEARNED[first] - LEARNED[first])
        metrics |= probes(first, seed)
        metrics |= {f"gap_to_combined/{x}": loss - final_losses("combined", None, 0)[x] for x, loss in final.items()}
    return {
        "cell": cell,
        "baseline": baseline,
        "model": model,
        "interleaving_ratio": ratio,
        "intervention": intervention,
        "intervention_kind": intervention,
        "intervention_config": None if intervention is None else json.dumps({"kind": intervention}),
        "seed": seed,
        "status": "finished",
        "reason": None,
        "stage_key": f"key-{cell}",
        "mfu": 0.25,
        **metrics,
        "tokens_per_second": 20_000.0,
        "train_seconds": 15.25,
        "tokens": 2.0 * STAGE_TOKENS,
    }


def curve(result: dict) -> list[dict]:
    """Marks dense after each switch; what a stage does not train on drifts to its final loss."""
    rows, sequence = [], SEQUENCES[result["baseline"]]
    length = 2 * STAGE_TOKENS // len(sequence)
    for stage, trained in enumerate(sequence):
        for mark in [0, *np.geomspace(512, length, 14).astype(int)]:
            progress = math.log1p(mark / 2000) / math.log1p(length / 2000)
            for x in LEARNED:
                if stage == len(sequence) - 1:
                    start = 7.6 if stage == 0 else LEARNED[x] if sequence[0] == x else UNLEARNED[x]
                    end = result[f"final_loss/{x}"]
                else:
                    start, end = 7.6, LEARNED[x] if trained == x else UNLEARNED[x]
                loss = start + (end - start) * progress + 0.03 * math.sin(mark + result["seed"]) * (1 - progress)
                tokens = stage * length + int(mark)
                point = {"cell": result["cell"], "stage": stage, "step": tokens // 512, "tokens": tokens}
                rows.append(point | {"seconds": tokens / 2e4, "name": f"loss/{x}", "value": loss})
                rows.append(rows[-1] | {"name": f"bpb/{x}", "value": loss / 3})
            if stage:
                rows += [point | {"seconds": tokens / 2e4, **gauge} for gauge in gauges(result, trained, progress)]
    return rows + relearned(result, sequence)


def drifting(result: dict, threshold: float | None) -> list[dict]:
    """A curve whose last stage reads drift each tenth: 1 nat at its end. Past the threshold it began anew."""
    points = curve(result)
    tokens = STAGE_TOKENS * np.arange(1, 11) / 10
    readings = dict(zip(tokens.astype(int).tolist(), (tokens / STAGE_TOKENS).tolist(), strict=True))
    fired = [t for t, drift in readings.items() if threshold is not None and drift > threshold]
    prefix, until = ("spent/", fired[0]) if fired else ("", STAGE_TOKENS)
    for t, drift in readings.items():
        at = {"cell": result["cell"], "stage": 1, "step": t // 512, "tokens": STAGE_TOKENS + t, "seconds": 1.0}
        named = {"drift": drift} | ({} if threshold is None else {"drift_threshold": threshold})
        points += [at | {"name": prefix + name, "value": value} for name, value in named.items() if t <= until]
    own = [p for p in points if fired and p["stage"] == 1 and p["name"].startswith("loss/")]
    return points + [p | {"name": "spent/" + p["name"]} for p in own if p["tokens"] <= STAGE_TOKENS + until]


def drifting_rows() -> tuple[list[dict], list[dict]]:
    """A grid, and the points of its curves, in which `cut` fires at half a nat and .8, `late` never, `watch` reads."""
    rows, points = [r for r in grid_rows() if r["baseline"] != "sequential_ba"], []
    for r in rows:
        points += curve(r)
    for name, thresholds in (("cut", (0.5, 0.8)), ("late", (1.5, 1.5)), ("watch", (None, None))):
        for seed, threshold in enumerate(thresholds):
            like = row(f"{name}-{seed}", "sequential_ab", "small", 0.0, name, seed)
            rows.append(like | {"growth": 0.58 * (name == "cut"), "extra_flops": 0.25 * (name == "cut")})
            points += drifting(rows[-1], threshold)
    return rows, points


def gauges(result: dict, trained: str, progress: float) -> list[dict]:
    """KL that tells of forgetting, a distance that tells of it backwards, and CKA of two layers."""
    (lost,) = [result[f"forgetting/{x}"] for x in LEARNED if x != trained]
    values = {"kl_self": lost * progress, f"kl/{trained}": lost * progress**2, "weight_distance": -lost * progress}
    values |= {f"cka_self/{layer}": 1 - 0.1 * layer * progress for layer in (1, 2)}
    values |= {f"cka/{trained}/{layer}": 1 - 0.2 * layer * progress for layer in (1, 2)}
    return [{"name": name, "value": value} for name, value in values.items()]


def relearned(result: dict, sequence: list[str]) -> list[dict]:
    """A branch of three marks that comes back to what was learned of the first corpus."""
    if len(sequence) < 2:
        return []
    x, start = sequence[0], 2 * STAGE_TOKENS
    points = zip((0, 5_120, 10_240), np.linspace(result[f"final_loss/{x}"], LEARNED[x], 3), strict=True)
    at = {"cell": result["cell"], "stage": 2, "seconds": 1.0, "name": f"relearning/{x}/loss/{x}"}
    return [at | {"tokens": start + tokens, "step": tokens // 512, "value": float(loss)} for tokens, loss in points]


def grid_rows(model: str = "small", interventions: tuple[str, ...] = ("none",)) -> list[dict]:
    rows = []
    for baseline in SEQUENCES:
        free = [(r, i) for r in (0.0, 0.05, 0.25) for i in interventions] if baseline != "combined" else [(None, None)]
        for ratio, intervention in free:
            for seed in (0, 1):
                cell = "-".join(str(part) for part in (baseline, model, ratio, intervention, seed))
                rows.append(row(cell, baseline, model, ratio, intervention, seed))
    return rows


def write_run(
    folder: Path,
    rows: list[dict],
    name: str = "quickstart",
    waiting: tuple[str, ...] = (),
    points: list[dict] | None = None,
) -> Path:
    cells = [
        {name: r[name] for name in ("cell", "baseline", "interleaving_ratio", "intervention")}
        | {"stages": ["a", "b"][: len(SEQUENCES[r["baseline"]])] if r["intervention"] else []}
        for r in rows
    ]
    root = {"id": "a", "parent": None, "name": "food", "model": "small", "seed": 0, "tokens": STAGE_TOKENS}
    root |= {"cells": 6, "flops": 1}
    child = root | {"id": "b", "parent": "a", "name": "automotive after food r=0.05", "cells": 1}
    plan = {
        "name": name,
        "description": "Food, then cars.",
        "corpora": ["food", "automotive"],
        "tokens": 14 * STAGE_TOKENS,
        "tokens_without_sharing": 28 * STAGE_TOKENS,
        "flops": 3_100_000_000_000,
        "cells": len(cells) + len(waiting),
        "cell_list": cells + [{"cell": cell, "baseline": "sequential_ab", "stages": []} for cell in waiting],
        "stages": 2,
        "stage_list": [root, child],
        "models": {"small": {"parameters": 238_080}},
        "costs": {label: COST for label in ["pull", *(r["intervention"] for r in rows)] if label},
        "config": CONFIG | {"name": name},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan))
    columns = list(dict.fromkeys(column for r in rows for column in r)) or COORDINATES
    pd.DataFrame(rows, columns=columns).to_parquet(folder / "results.parquet")
    points = points or [point for r in rows if r["status"] == "finished" for point in curve(r)]
    names = ["cell", "stage", "step", "tokens", "seconds", "name", "value"]
    pd.DataFrame(points, columns=names).to_parquet(folder / "curves.parquet")
    return folder


def many_rows(arms: int = 20) -> list[dict]:
    """A grid with many arms beside none, each with a loss and a forgetting of its own."""
    rows = grid_rows()
    for i in range(arms):
        for seed in (0, 1):
            like = row(f"arm{i}-{seed}", "sequential_ab", "small", 0.0, f"arm_{i}", seed)
            like |= {"forgetting/food": 1.6 - 0.08 * i + 0.02 * seed}
            rows.append(like | {"final_loss/automotive": 5.05 + 0.05 * (i % 7) + 0.01 * seed})
    return rows


HOSTILE = "</script><script>document.title='taken'</script><b>=cmd()\u202e|'x'!A0"


def hostile_rows() -> list[dict]:
    rows = grid_rows(HOSTILE, ("none", HOSTILE))
    rows[0] |= {"status": "failed", "reason": HOSTILE, "cell": HOSTILE}
    return rows


class Text(HTMLParser):
    """What a browser would take from a page: elements by tag, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: dict[str, list[dict]] = {}
        self.words: list[str] = []
        self.inside: str | None = None
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.setdefault(tag, []).append(dict(attrs))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = None

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.words.append(data)
