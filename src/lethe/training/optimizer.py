"""AdamW and the learning rate of a stage. A schedule belongs to its stage: it never spans a switch."""

import math
from collections import defaultdict

import torch
from torch import Tensor, nn

from lethe.training.stage import Recipe


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The rate of step `step` (0-based) of `steps`: a linear warm-up, then the recipe's schedule.

    wsd: constant, then a linear decay to `floor` of it (Hu et al. 2024, MiniCPM, section 4.2; the decay there is
    exponential). cosine: half a cosine from the end of the warm-up to `floor` at the last step (Loshchilov & Hutter
    2017, SGDR, eq. 5, one period).
    """
    warmup = round(recipe.warmup * steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    decay = steps - warmup if recipe.decay is None else round(recipe.decay * steps)
    if step < steps - decay:
        return recipe.learning_rate
    left = (steps - 1 - step) / decay
    if recipe.schedule == "cosine":
        left = (1 - math.cos(math.pi * left)) / 2
    return recipe.learning_rate * (recipe.floor + (1 - recipe.floor) * left)


def make_optimizer(model: nn.Module, recipe: Recipe, factors: dict[str, float]) -> torch.optim.AdamW:
    """AdamW over all parameters whose factor is not 0; weight decay on matrices only.

    Each group carries `factor` (on the learning rate) and `names` (of its parameters, in order).
    """
    groups: dict[tuple[float, bool], list[str]] = defaultdict(list)
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        factor = factors.get(name, 1.0)
        parameter.requires_grad_(factor != 0)
        if factor:
            groups[factor, parameter.dim() > 1].append(name)
    if not groups:
        groups[1.0, False] = []  # all is frozen
    return torch.optim.AdamW(
        [
            {
                "params": [parameters[name] for name in names],
                "names": names,
                "factor": factor,
                "weight_decay": recipe.weight_decay if matrix else 0.0,
            }
            for (factor, matrix), names in groups.items()
        ],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        fused=True,
    )


def optimizer_tensors(optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """The optimizer's state by `FIELD/PARAMETER`."""
    return {
        f"{field}/{name}": value
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for field, value in optimizer.state[parameter].items()
    }


def load_optimizer_tensors(optimizer: torch.optim.AdamW, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave.

    A parameter of which it held nothing, or another shape (an intervention has grown it), starts without moments.
    """
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            moment = tensors.get(f"exp_avg/{name}")
            if moment is not None and moment.shape == parameter.shape:
                optimizer.state[parameter] = {
                    field: tensors[f"{field}/{name}"].to(parameter.device)
                    for field in ("step", "exp_avg", "exp_avg_sq")
                }
