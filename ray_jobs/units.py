"""Units of work through Ray Data: data never travels, each task writes its own files and hands back a row about it."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from lethe.units import Row, Task, in_turn

if TYPE_CHECKING:
    import pyarrow as pa

MAX_BLOCKS = 1000  # of a Ray Data set; each has its cost, and a task may take several units
_here = ContextVar("here", default=False)


@contextmanager
def on_this_node() -> Iterator[None]:
    """Within, units are made on this node of the cluster alone, for no other sees its disk."""
    before = _here.set(True)
    try:
        yield
    finally:
        _here.reset(before)


def each_unit(units: Sequence[Row], task: Task) -> Iterator[Row]:
    """What `task` says of each unit, as they are done, in parallel; starts Ray where it does not run.

    A task returns what a user can mend as part of its row: an exception would arrive wrapped in Ray's own.
    """
    from grid.cluster import ensure_ray

    ensure_ray()
    import ray.data

    def run(batch: "pa.Table") -> "pa.Table":
        import pyarrow

        return pyarrow.Table.from_pylist([task(unit) for unit in batch.to_pylist()])

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    items = ray.data.from_items(list(units), override_num_blocks=min(len(units), MAX_BLOCKS))
    here = ray.get_runtime_context().get_node_id()
    if _here.get() and not any(node["NodeID"] == here and node["Resources"].get("CPU") for node in ray.nodes()):
        yield from in_turn(units, task)  # the node gives Ray no CPU, as a head should
        return
    node = {"ray.io/node-id": here} if _here.get() else None
    yield from items.map_batches(run, batch_size=1, batch_format="pyarrow", label_selector=node).iter_rows()
