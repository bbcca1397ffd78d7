"""What a model gets of a cluster's GPUs, by the memory that the plan says a worker needs."""

from dataclasses import dataclass

from grid.cluster import ensure_ray
from grid.spec import Grid, Resources
from grid.tree import Tree
from lethe.config import UserError
from lethe.devices import readable, visible_gpus

MOST_ON_A_GPU = 8  # cells; more take turns at its cores, and each has its own context in its memory


@dataclass(frozen=True)
class Gpus:
    """How many there are, and the bytes of memory of the smallest."""

    number: int
    bytes: int


def fitted(grid: Grid, gpus: Gpus) -> Grid:
    """The grid with each model whose resources say `fit` on as large a share of a GPU, or as few of them, as hold it.

    Raises UserError for a model that all of them together do not hold.
    """
    tree, resources, problems = Tree(grid), dict(grid.resources), []
    for model in grid.models:
        asked = grid.resources_of(model)
        if asked.fit and (chosen := _fitted(tree, model, asked, gpus)):
            resources[model] = chosen
        elif asked.fit:
            need = readable(_need(tree, model, asked))
            problems.append(
                f"resources of model {model}: found {need} for a worker, and {gpus.number} GPUs of "
                f"{readable(gpus.bytes)}; allowed: fewer sequences at once (micro_batch), or more or larger GPUs"
            )
    if problems:
        raise UserError("\n".join(problems))
    return grid.model_copy(update={"resources": resources})


def _fitted(tree: Tree, model: str, asked: Resources, gpus: Gpus) -> Resources | None:
    batch, micro_batch = tree.grid.stage.batch, asked.micro_batch or 1
    for workers in (n for n in range(1, gpus.number + 1) if batch % (n * micro_batch) == 0):
        chosen = asked.model_copy(update={"workers": workers, "gpus": 1.0, "fit": False})
        if (need := _need(tree, model, chosen)) <= gpus.bytes:
            sharers = min(gpus.bytes // need, MOST_ON_A_GPU) if workers == 1 else 1
            return chosen.model_copy(update={"gpus": 1 / sharers})
    return None


def _need(tree: Tree, model: str, resources: Resources) -> int:
    return tree.memory_of(model, resources).together


def fit(grid: Grid) -> Grid:
    """`fitted` to the cluster, which is joined or started for it; the grid itself where no model asks for that."""
    if not any(grid.resources_of(model).fit for model in grid.models):
        return grid
    ensure_ray()
    return fitted(grid, _gpus())


def _gpus() -> Gpus:
    """Of the cluster; UserError where it has none whose memory is known."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0)(visible_gpus)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    found = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in nodes
    ]
    sizes = [size for gpus in ray.get(found) for _, size in gpus]
    if not sizes:
        raise UserError("resources: fit: found no GPU in this cluster; allowed: where there are GPUs (nvidia-smi)")
    return Gpus(int(ray.cluster_resources()["GPU"]), min(sizes))
