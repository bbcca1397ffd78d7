"""The report of a grid: one HTML page that needs no network, drawn from plan.json, results.parquet and curves.parquet.

The figures are plain functions of the tables, for a notebook too:

    results, curves = (pandas.read_parquet(f"runs/NAME/{name}.parquet") for name in ("results", "curves"))
    forgetting_by_ratio(results).show()
    loss_curves(results, curves).show()

A section of the page is a module with `section(run) -> Section | None`, named in `page.SECTIONS`.
"""

from grid.report.curves import loss_curves, relearning_curves
from grid.report.drift import drift_curves
from grid.report.geometry import cka_maps
from grid.report.learning import learning_against_forgetting
from grid.report.monitors import monitor_curves
from grid.report.page import write_report
from grid.report.probes import probe_accuracies
from grid.report.ratio import forgetting_by_ratio, forgetting_of_arms

__all__ = [
    "cka_maps",
    "drift_curves",
    "forgetting_by_ratio",
    "forgetting_of_arms",
    "learning_against_forgetting",
    "loss_curves",
    "monitor_curves",
    "probe_accuracies",
    "relearning_curves",
    "write_report",
]
