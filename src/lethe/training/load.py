"""From a stage of the store back to its model."""

import torch
from torch import Tensor, nn

from lethe.config import UserError
from lethe.interventions import find
from lethe.interventions.interface import Switch
from lethe.model.build import build_model, initialise
from lethe.model.shared import unshare
from lethe.training.stage import Stage
from lethe.training.store import StageStore
from lethe.worker import Worker


def fresh_model(stage: Stage, vocab_size: int) -> nn.Module:
    """The model a stage without a parent starts from, drawn from its seed."""
    model = build_model(stage.model, vocab_size)
    initialise(model, stage.seed)
    return model


def load_model(store: StageStore, key: str) -> nn.Module:
    """The finished model of a stage, on the CPU; UserError if it is not there, altered, no numbers, or misshapen."""
    weights, record = _weights(store, key), store.finished(key)
    stage = Stage.model_validate(record["stage"])
    kind = find(stage.intervention.kind)
    if kind.reshapes:
        assert stage.parent is not None
        switch = Switch(stage, store, record["data"], Worker())
        model = stage.intervention.make(switch).at_switch(switch.load(stage.parent))
    else:
        model = _shape(store, stage, record)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = [name for name in found if expected.get(name) != found[name]]
    wrong += [name for name in expected if name not in found and not kind.reshapes]
    if wrong:
        raise UserError(
            f"{store.folder(key) / 'model.safetensors'}: {wrong[0]}: found {found.get(wrong[0])}; "
            f"allowed: {expected.get(wrong[0])}"
        )
    model.load_state_dict(weights, strict=False)
    return model


def _weights(store: StageStore, key: str) -> dict[str, Tensor]:
    """What the store has, where it can be read and holds numbers: a record may name the sha256 of anything."""
    path, weights = store.folder(key) / "model.safetensors", store.weights(key)
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{path}: {name}: found weights that are no numbers; allowed: finite weights")
    return weights


def _shape(store: StageStore, stage: Stage, record: dict) -> nn.Module:
    """A model of the stage's shape, whose weights are still to be loaded: its nearest reshaped ancestor's, or plain."""
    ancestors = reversed(stage.sequence[:-1])
    reshaped = next((s for s in ancestors if find(s.intervention.kind).reshapes), None)
    if reshaped:
        return unshare(load_model(store, reshaped.key(record["data"])))
    return build_model(stage.model, record["vocab_size"])
