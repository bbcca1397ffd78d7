"""The page: what its words, tables and marks say, against the numbers that the runs were made of."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from report_runs import (
    COORDINATES,
    HOSTILE,
    STAGE_TOKENS,
    Text,
    drifting_rows,
    grid_rows,
    hostile_rows,
    many_rows,
    write_run,
)

from grid.report import write_report
from grid.report.arms import CELL, FURTHER, MAIN
from lethe.config import UserError
from lethe.evaluation.metrics import CELL_LOSSES, CELL_METRICS, CORPUS_LOSSES, CORPUS_METRICS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "quickstart", grid_rows())
    assert write_report(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return (run / "report.html").read_text()


def mean_of(arm: str, metric: str = "forgetting/food") -> float:
    return float(np.mean([r[metric] for r in grid_rows() if r["cell"].startswith(arm)]))


def test_what_ran_and_what_came_of_it_stand_in_words(page):
    text = Text(page).text
    assert "14 cells: 3 baselines sequential_ab, sequential_ba and combined; model small; 3 interleaving ratios" in text
    assert "2,100,224 tokens" in text and "4,200,448 tokens" in text and "3.1 × 10¹²" in text
    assert f"of food is forgotten without interleaving {mean_of('sequential_ab-small-0.0-'):.2f} ±" in text
    assert "with 25 % interleaving −0.02 ±" in text  # automotive, which interleaving still teaches
    assert "of what was learned, 2 seeds)" in text


def test_the_best_arms_are_named_with_their_differences(tmp_path):
    text = Text(write_report(write_run(tmp_path, many_rows())).read_text()).text
    # Interleaving at 25 % ends at a loss of 5.176; arms 15 and 16 are below it, and 16 forgets less.
    assert "At no more loss on automotive than 25 % interleaving, the best other arm is arm_16: it forgets 0.33" in text
    assert "At matched loss on automotive," in text and "(of 20 arms)." in text


def test_one_page_and_the_same_bytes(run, page):
    assert len(page.encode()) < 6_000_000
    links = [attrs for tags in Text(page).tags.values() for attrs in tags if attrs.get("src") or attrs.get("href")]
    assert links and all(attrs["href"].startswith("#") for attrs in links)
    write_report(run)
    assert (run / "report.html").read_text() == page
    assert {path.name for path in run.iterdir()} == {"plan.json", "results.parquet", "curves.parquet", "report.html"}


def test_every_part_has_a_name_for_who_cannot_see_it(page):
    found = Text(page).tags
    ids = [attrs["id"] for tags in found.values() for attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for attrs in found["a"]} <= set(ids)
    assert len(found["table"]) == len(found["caption"]) > 5
    assert {attrs["scope"] for attrs in found["th"]} == {"row", "col"}
    pictures = [attrs for attrs in found["div"] if attrs.get("role") == "img"]
    assert len(pictures) == len(found["figure"]) > 7
    spoken = Text(page).text
    assert all(attrs["aria-describedby"] in ids and attrs["aria-label"] for attrs in pictures)
    assert "sequential_ab, small, interleaving, forgetting of food in nats by ratio: 0 %: 1.6" in spoken
    assert len(found["h1"]) == 1 and len(found["h2"]) == 10 and "h3" not in found


def test_mean_and_interval_of_a_row(page):
    values = [r["final_loss/food"] for r in grid_rows() if r["baseline"] == "combined"]
    half = 12.706 * np.std(values, ddof=1) / math.sqrt(2)
    assert f"{np.mean(values):.3f} ±{half:.3f}" in Text(page).text


def test_methods_are_filled_in(page):
    text = Text(page).text
    assert "batches of 8 sequences (512 tokens a step); learning rate 0.006, rising over 5 % of each stage" in text
    assert "small (238,080 parameters)" in text and "a byte-level BPE vocabulary of 2,048" in text
    assert "pull (l2_sp: strength 10)" in text and "r was 0 % and 5 %" in text
    assert "64 held-out sequences" in text and "40 facts a corpus" in text


def test_what_the_stages_recorded_stands_in_the_methods(tmp_path):
    folder = write_run(tmp_path / "runs" / "g", grid_rows())
    for name in ("food", "automotive"):
        meta = tmp_path / "data" / "tokens" / "bpe-1" / name / "meta.json"
        meta.parent.mkdir(parents=True)
        splits = {"train": {"tokens": 1_234_567, "documents": 890}, "val": {"tokens": 45_678, "documents": 12}}
        meta.write_text(json.dumps({"splits": splits}))
    made = {"lethe": "1a2b3c-dirty", "processor": "abacus", "torch": "2.99"}
    for r in grid_rows():
        stage = tmp_path / "runs" / "stages" / r["stage_key"] / "stage.json"
        stage.parent.mkdir(parents=True)
        stage.write_text(json.dumps({"made_with": made, "tokens_folder": "bpe-1"}))
    text = Text(write_report(folder).read_text()).text
    assert "food (1,234,567 training tokens in 890 documents, 45,678 in 12 held out)" in text
    assert "lethe 1a2b3c-dirty; processor abacus; torch 2.99" in text


def test_stages_of_several_seeds_are_one_branch_with_their_costs(page):
    text = Text(page).text
    assert "food (small): 150,016 tokens, 7.5 s at seed 0, part of 6 cells" in text
    assert "pull samples +100 % +25 % +33 % +50 % added on top" in text
    assert "MFU, %" in text and "25.0 ±0.0" in text


def test_the_self_check_is_shown_where_it_is(run, tmp_path, page):
    assert "python -m ray_jobs.self_check" in Text(page).text
    folder = write_run(tmp_path / "g", grid_rows())
    check = {"name": "monotone", "assertion": "<i>more</i> old text, less lost", "strength": "near-certain", "n": 2}
    check |= {"value": 0.5, "interval": [0.25, 0.75], "unit": "nats", "verdict": "failed", "why": "not so"}
    other = check | {"name": "exact", "interval": None, "value": None, "verdict": "held", "why": ""}
    found = {"held": 1, "failed": 1, "undecided": 0, "source": "sample", "checks": [check, other]}
    (tmp_path / "self_check.json").write_text(json.dumps(found))
    text = Text(write_report(folder).read_text()).text
    assert "1 held, 1 failed, 0 undecided" in text and "✗ failed not so" in text and "0.500 [0.250, 0.750]" in text
    assert "<i>more</i> old text" in text


def test_a_roll_back_is_explained_where_there_was_one(tmp_path, page):
    rows, points = drifting_rows()
    text = Text(write_report(write_run(tmp_path, rows, points=points)).read_text()).text
    assert "are what was spent until the drift fired" in text and "A cross is where a seed passed its threshold" in text
    first, last = (int(share * STAGE_TOKENS) for share in (0.6, 0.9))
    told = (
        f"cut fired at 2 of 2 seeds after {(first + last) / 2:,.0f} tokens ({first:,} to {last:,}), the threshold was"
    )
    assert f"{told} 0.65 nats" in text
    assert "late trained whole to the end, where the drift was 1.00 nats, the threshold was 1.50 nats" in text
    assert "watch trained whole to the end, where the drift was 1.00 nats." in text
    watched = [(r, [p for p in points if p["cell"] == r["cell"]]) for r in rows if r["intervention"] != "cut"]
    alone = write_run(tmp_path / "w", [r for r, _ in watched], points=[p for _, own in watched for p in own])
    quiet = Text(write_report(alone).read_text()).text
    assert "Drift. KL from the model of A" in quiet and "spent until" not in quiet and "A cross is" not in quiet
    assert "Drift. KL" not in Text(page).text


def test_of_several_corpora_the_table_says_which_was_forgotten(tmp_path):
    rows = [r for r in many_rows(2) if r["baseline"] != "sequential_ba"]
    text = Text(write_report(write_run(tmp_path / "one", rows)).read_text()).text
    assert "forgotten corpus: food;" in text
    third = {"learned_loss/air": 3.0, "final_loss/air": 3.0, "forgetting/automotive": 0.5}
    rows = [r | third if r["baseline"] == "sequential_ab" else r for r in rows]
    text = Text(write_report(write_run(tmp_path / "two", rows)).read_text()).text
    assert "arm_0 food +0.000" in text and "arm_0 automotive +0.000" in text


def test_the_price_stands_beside_what_an_arm_forgets(tmp_path):
    rows, points = drifting_rows()
    text = Text(write_report(write_run(tmp_path / "a", rows, points=points)).read_text()).text
    assert "grows by, % FLOPs to train − plain's, %" in text and "FLOPs to run − plain's" not in text
    assert "+0.000 ±0.000 +58 % +25 % late" in text and "+0.000 ±0.000 0 % 0 % watch" in text
    alike = [r | {"growth": 0.5, "extra_flops": 0.0} if r["intervention"] != "none" else r for r in rows]
    text = Text(write_report(write_run(tmp_path / "b", alike, points=points)).read_text()).text
    assert "grows by, %: +50 %." in text and "FLOPs to train" not in text


def test_probes_that_do_not_count_have_no_loss(page):
    text = Text(page).text
    assert "75.0 ±0.0 52.5 ±31.8 22.5 ±31.8 0.30 ±0.00 at 2 of 2 seeds" in text
    assert "25.0 ±0.0 20.0 ±0.0 – – no, at 0 of 2 seeds" in text


def test_one_seed_has_no_interval(tmp_path):
    rows = [r for r in grid_rows() if r["seed"] == 0]
    text = Text(write_report(write_run(tmp_path, rows)).read_text()).text
    assert "One seed a cell: there is no interval." in text and "1 no interval" in text
    assert (
        "±" not in text.replace("± is 1.96 standard errors", "").split("Methods")[0].replace("±0", "").split("Table")[0]
    )


def test_what_is_missing_is_named_and_left_out(tmp_path):
    rows = grid_rows()
    rows[0] |= {"status": "failed", "reason": "out of memory: 9 GB needed", "forgetting/food": 99.0}
    rows[7] |= {"status": "diverged"}
    text = Text(write_report(write_run(tmp_path, rows, waiting=("later",))).read_text()).text
    assert "12 of 15 cells finished." in text
    for line in (f"{rows[0]['cell']} (failed: out of memory: 9 GB needed)", f"{rows[7]['cell']} (diverged)"):
        assert line in text
    assert "later (no result yet)" in text
    assert f"is forgotten without interleaving {rows[1]['forgetting/food']:.2f} nats (" in text


UNFINISHED = {name: grid_rows()[0][name] for name in COORDINATES} | {"status": "failed", "reason": "no disk"}


@pytest.mark.parametrize("rows", [[], [UNFINISHED]])
def test_nothing_finished_is_a_page_too(tmp_path, rows):
    page = write_report(write_run(tmp_path, rows, waiting=("later",))).read_text()
    assert "No cell is finished yet" in Text(page).text and "later (no result yet)" in Text(page).text
    assert "figure" not in Text(page).tags


@pytest.mark.parametrize("name", ["results.parquet", "curves.parquet", "plan.json", "../self_check.json"])
def test_an_unreadable_file_is_named(tmp_path, name):
    folder = write_run(tmp_path / "g", grid_rows())
    (folder / name).write_bytes(b"<html>")
    with pytest.raises(UserError, match=rf"{Path(name).name}: cannot be read"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_names_are_text(tmp_path):
    plain = Text(write_report(write_run(tmp_path / "plain", grid_rows("m", ("none", "i")))).read_text())
    hostile = Text(write_report(write_run(tmp_path / "hostile", hostile_rows(), name=HOSTILE)).read_text())
    assert len(hostile.tags["script"]) == len(plain.tags["script"])
    shown = HOSTILE.replace("\u202e", "\\u202e")
    assert f"{shown}: what was forgotten" in hostile.text and f"(failed: {shown})" in hostile.text
    assert "\u202e" not in hostile.text


def test_every_metric_of_the_tables_is_one_of_the_results():
    known = {*CORPUS_METRICS, *CELL_METRICS} | {
        f"{name}{unit}" for name in (*CORPUS_LOSSES, *CELL_LOSSES) for unit in ("", "_bpb")
    }
    assert {metric.name for metric in (*MAIN, *CELL, *FURTHER)} <= known
