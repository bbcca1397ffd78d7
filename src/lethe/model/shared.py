"""Models within a model that have parameters in common: held once to be looked at, apart to be trained."""

from collections import defaultdict

import torch
from torch import nn


def share_equal(model: nn.Module) -> None:
    """Let parameters of equal shape and equal numbers be one, in place: the first of them. What it gives stays."""
    kept: dict[tuple[torch.Size, torch.dtype], list[nn.Parameter]] = defaultdict(list)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            alike = kept[parameter.shape, parameter.dtype]
            same = next((other for other in alike if other is parameter or torch.equal(other, parameter)), None)
            if same is None:
                alike.append(parameter)
            else:
                setattr(module, name, same)


def unshare(model: nn.Module) -> nn.Module:
    """The model itself, each of its parameters on its own again: so that each can train, or be loaded."""
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in seen:
                parameter = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                setattr(module, name, parameter)
            seen.add(id(parameter))
    return model
