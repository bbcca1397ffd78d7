import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from grid.report import forgetting_by_ratio, half_width, learning_against_forgetting, loss_curves, write_report
from lethe.config import UserError

SEQUENCES = {"sequential_ab": ["food", "automotive"], "sequential_ba": ["automotive", "food"], "combined": ["both"]}
FORGOTTEN = {"food": {0.0: 1.64, 0.05: 0.56, 0.25: 0.03}, "automotive": {0.0: 0.67, 0.05: 0.35, 0.25: -0.02}}
LEARNED = {"food": 4.6, "automotive": 5.05}
UNLEARNED = {"food": 6.6, "automotive": 5.9}
STAGE_TOKENS = 150_016
COORDINATES = ["cell", "baseline", "model", "interleaving_ratio", "intervention", "intervention_kind"]
COORDINATES += ["intervention_config", "seed", "status", "reason", "stage_key"]


def final_losses(baseline: str, ratio: float | None, shift: float) -> dict[str, float]:
    if ratio is None:
        return {"food": 4.75 + shift, "automotive": 5.1 + shift}
    first, last = SEQUENCES[baseline]
    kept = LEARNED[first] + FORGOTTEN[first][ratio] * (1 + shift)
    return {first: kept, last: LEARNED[last] + 0.3 * ratio + shift}


def row(cell: str, baseline: str, model: str, ratio: float | None, intervention: str | None, seed: int) -> dict:
    shift = 0.06 * math.sin(7 * seed + 3 * (ratio or 0))
    final = final_losses(baseline, ratio, shift)
    metrics = {f"final_loss/{x}": loss for x, loss in final.items()} | {"average_loss": sum(final.values()) / 2}
    if ratio is not None:
        first, last = SEQUENCES[baseline]
        metrics |= {f"learned_loss/{first}": LEARNED[first], f"learned_loss/{last}": final[last]}
        metrics[f"forgetting/{first}"] = final[first] - LEARNED[first]
        metrics[f"fraction_lost/{first}"] = metrics[f"forgetting/{first}"] / (UNLEARNED[first] - LEARNED[first])
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
    return rows


def grid_rows(model: str = "small", interventions: tuple[str, ...] = ("none",)) -> list[dict]:
    rows = []
    for baseline in SEQUENCES:
        free = [(r, i) for r in (0.0, 0.05, 0.25) for i in interventions] if baseline != "combined" else [(None, None)]
        for ratio, intervention in free:
            for seed in (0, 1):
                cell = "-".join(str(part) for part in (baseline, model, ratio, intervention, seed))
                rows.append(row(cell, baseline, model, ratio, intervention, seed))
    return rows


def write_run(folder: Path, rows: list[dict], name: str = "quickstart", waiting: tuple[str, ...] = ()) -> Path:
    cells = [{"cell": r["cell"], "baseline": r["baseline"], "stages": []} for r in rows]
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
        "config": {"name": name, "seeds": [0, 1]},
    }
    folder.mkdir(exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan))
    columns = list(dict.fromkeys(column for r in rows for column in r)) or COORDINATES
    pd.DataFrame(rows, columns=columns).to_parquet(folder / "results.parquet")
    points = [point for r in rows if r["status"] == "finished" for point in curve(r)]
    names = ["cell", "stage", "step", "tokens", "seconds", "name", "value"]
    pd.DataFrame(points, columns=names).to_parquet(folder / "curves.parquet")
    return folder


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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("run"), grid_rows())
    assert write_report(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return (run / "report.html").read_text()


def test_what_ran_and_what_came_of_it_stand_in_words(page):
    text = Text(page).text
    assert "14 cells: baselines sequential_ab, sequential_ba and combined; model small; interleaving ratios" in text
    assert "2,100,224 tokens" in text and "4,200,448 tokens" in text
    mean = np.mean([r["forgetting/food"] for r in grid_rows() if r["cell"].startswith("sequential_ab-small-0.0-")])
    assert f"sequential_ab, small: food is forgotten by {mean:.2f} nats" in text
    assert "mean of 2 seeds) without interleaving" in text and "2 seeds) at 25 % interleaving." in text
    assert "by −0.02 nats" in text  # automotive, which interleaving still teaches


def test_one_page_and_the_same_bytes(run, page):
    assert len(page) < 6_000_000
    links = [attrs for tags in Text(page).tags.values() for attrs in tags if attrs.get("src") or attrs.get("href")]
    assert links == []
    write_report(run)
    assert (run / "report.html").read_text() == page
    assert {path.name for path in run.iterdir()} == {"plan.json", "results.parquet", "curves.parquet", "report.html"}


def test_tables_and_figures_speak(page):
    found = Text(page).tags
    assert len(found["table"]) == len(found["caption"]) == 2
    assert {attrs["scope"] for attrs in found["th"]} == {"row", "col", "colgroup"}
    spoken = [attrs["aria-label"] for attrs in found["div"] if attrs.get("role") == "img"]
    assert len(spoken) == 3
    assert all("sequential_ab, small, 0 %, none: " in label for label in spoken)
    assert "forgetting of food % of gain" in spoken[0]


def test_mean_and_interval_of_a_row(page):
    values = [r["final_loss/food"] for r in grid_rows() if r["baseline"] == "combined"]
    half = 12.706 * np.std(values, ddof=1) / math.sqrt(2)
    assert f"{np.mean(values):.3f} ± {half:.3f}" in Text(page).text


def test_one_seed_has_no_interval(tmp_path):
    rows = [r for r in grid_rows() if r["seed"] == 0]
    text = Text(write_report(write_run(tmp_path, rows)).read_text()).text
    assert "1 no interval" in text and "±" not in text and "mean of" not in text


def test_half_width_covers_19_of_20():
    assert half_width(np.array([1.0])) is None
    assert half_width(np.array([1.0, 3.0])) == pytest.approx(12.7062047)
    random = np.random.default_rng(0)
    for n in (2, 3, 6, 12, 31, 60):
        samples = random.normal(size=(4000, n))
        covered = np.mean([abs(sample.mean()) <= half_width(sample) for sample in samples])
        assert covered == pytest.approx(0.95, abs=0.012)


def test_what_is_missing_is_named_and_left_out(tmp_path):
    rows = grid_rows()
    rows[0] |= {"status": "failed", "reason": "out of memory: 9 GB needed", "forgetting/food": 99.0}
    rows[7] |= {"status": "diverged"}
    text = Text(write_report(write_run(tmp_path, rows, waiting=("later",))).read_text()).text
    assert "12 of 15 cells finished." in text
    assert (
        f"{rows[0]['cell']} (failed: out of memory: 9 GB needed), {rows[7]['cell']} (diverged), later (no result"
        in text
    )
    assert f"food is forgotten by {rows[1]['forgetting/food']:.2f} nats (" in text


UNFINISHED = {name: grid_rows()[0][name] for name in COORDINATES} | {"status": "failed", "reason": "no disk"}


@pytest.mark.parametrize("rows", [[], [UNFINISHED]])
def test_nothing_finished_is_a_page_too(tmp_path, rows):
    page = write_report(write_run(tmp_path, rows, waiting=("later",))).read_text()
    assert "No cell is finished yet" in Text(page).text and "later (no result yet)" in Text(page).text
    assert "Plotly.newPlot(" not in page.split("</style>")[1].split("<h1>")[1]


def test_an_unreadable_file_is_named(tmp_path):
    folder = write_run(tmp_path, grid_rows())
    (folder / "results.parquet").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"results\.parquet: cannot be read"):
        write_report(folder)
    assert not (folder / "report.html").exists()


HOSTILE = "</script><script>document.title='taken'</script><b>=cmd()\u202e|'x'!A0"


def hostile_rows() -> list[dict]:
    rows = grid_rows(HOSTILE, ("none", HOSTILE))
    rows[0] |= {"status": "failed", "reason": HOSTILE, "cell": HOSTILE}
    return rows


def test_names_are_text(tmp_path):
    plain = Text(write_report(write_run(tmp_path / "plain", grid_rows())).read_text())
    hostile = Text(write_report(write_run(tmp_path / "hostile", hostile_rows(), name=HOSTILE)).read_text())
    assert len(hostile.tags["script"]) == len(plain.tags["script"])
    shown = HOSTILE.replace("\u202e", "\\u202e")
    assert f"{shown}: what was forgotten" in hostile.text and f"(failed: {shown})" in hostile.text
    assert "\u202e" not in hostile.text


def traces(figure, **wanted) -> list:
    return [t for t in figure.data if all(getattr(t, name) == value for name, value in wanted.items())]


def test_forgetting_by_ratio_draws_every_seed_and_their_means():
    rows = grid_rows()
    figure = forgetting_by_ratio(pd.DataFrame(rows))
    nats, share = (t for t in traces(figure, mode="markers") if t.xaxis in ("x", "x2"))
    assert list(nats.x) == ["0 %"] * 2 + ["5 %"] * 2 + ["25 %"] * 2
    assert list(nats.y) == pytest.approx([r["forgetting/food"] for r in rows[:6]])
    assert list(share.y) == pytest.approx([100 * r["fraction_lost/food"] for r in rows[:6]])
    means = traces(figure, mode="lines+markers", xaxis="x")[0]
    assert list(means.y) == pytest.approx(np.array(nats.y).reshape(3, 2).mean(axis=1))
    assert len(traces(figure, mode="lines+markers")) == 4  # two orders, in nats and as a share


def test_the_order_of_the_cells_does_not_matter_to_the_ratios():
    rows = grid_rows()[:6]
    figure = forgetting_by_ratio(pd.DataFrame(rows[::-1]))
    assert list(traces(figure, mode="lines+markers", xaxis="x")[0].x) == ["0 %", "5 %", "25 %"]


def test_loss_curves_mark_the_switch_and_the_combined_loss():
    rows = grid_rows()
    curves = pd.DataFrame([point for r in rows for point in curve(r)])
    figure = loss_curves(pd.DataFrame(rows), curves)
    assert {shape.x0 for shape in figure.layout.shapes} == {STAGE_TOKENS}
    assert len(figure.layout.shapes) == 4  # two orders, two corpora; combined never switches
    dotted = traces(figure, name="combined, at its end", xaxis="x")[0]
    assert list(dotted.y) == pytest.approx([np.mean([r["final_loss/food"] for r in rows[-2:]])] * 2)
    food = curves[(curves["name"] == "loss/food") & curves["cell"].isin([rows[0]["cell"], rows[1]["cell"]])]
    mean = next(t for t in traces(figure, name="ratio 0 %", xaxis="x") if t.line.width > 2)
    assert list(mean.y) == pytest.approx(food.groupby(["stage", "tokens"])["value"].mean().to_list())


def test_learning_against_forgetting_has_a_point_per_cell():
    rows = grid_rows(interventions=("none", "l2_sp"))
    figure = learning_against_forgetting(pd.DataFrame(rows))
    points = [point for t in traces(figure, mode="markers", xaxis="x") for point in zip(t.x, t.y, strict=True)]
    expected = [(r["forgetting/food"], r["final_loss/automotive"]) for r in rows if r["baseline"] == "sequential_ab"]
    assert np.array(points) == pytest.approx(np.array(expected))
    assert {t.marker.symbol for t in traces(figure, mode="markers")} == {"circle", "square"}


def test_a_real_browser_draws_it_without_network_or_errors(run, tmp_path, browser, asked):
    hostile = write_report(write_run(tmp_path / "hostile", hostile_rows(), name=HOSTILE))
    pages = [(run / "report.html").as_uri(), hostile.as_uri()]
    for url in pages:
        browser.get(url)
        drawn = "return [...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('.trace path').length)"
        counts = browser.execute_script(drawn)
        assert len(counts) == 3 and min(counts) > 0
        assert "what was forgotten" in browser.title
        assert browser.get_log("browser") == []
    legend = browser.execute_script("return document.querySelector('.legendtext').textContent")
    assert HOSTILE.replace("\u202e", "\\u202e") in legend
    assert asked(browser) == pages
