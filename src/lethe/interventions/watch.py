"""Watch: plain training under a gauge, which tells without text of A how far the model has come from that of A.

The gauge is KL(p_A || p) per token on texts sampled from the model of A, which nothing trains on, read each `every` of
the stage's steps: `drift` in the curve and, with its highest value, in the stage's record. The weights are those of
plain training bit for bit. Trained on more of A, it is the control by which `fracture` sets its threshold: a model
drifts from where it stood under any new training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from lethe.config import Config
from lethe.interventions.interface import Cost, Intervention, Switch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lethe.training.monitors import Probe

DRIFT = "drift"
ROWS = 24
"""Sampled for a reading."""


class Watch(Intervention):
    """Holds the model of A, unless its log-probabilities on the rows are few enough to keep."""

    class Parameters(Config):
        every: Annotated[float, Field(gt=0, le=1)] = 0.02

    parameters: Parameters

    def __init__(self, parameters: Parameters, switch: Switch) -> None:
        super().__init__(parameters, switch)
        self.every = max(1, round(parameters.every * switch.stage.steps))
        self.readings: dict[int, float] = {}
        self.probe: Probe | None = None

    @classmethod
    def cost(cls, parameters: Config) -> Cost:
        return Cost("samples", weights=1)

    def watch(self, model: nn.Module, step: int) -> dict[str, float]:
        from lethe.interventions.derived import gauge_rows
        from lethe.training.monitors import Probe

        if step % self.every:
            return {}
        if self.probe is None:
            self.probe = Probe(
                self.switch.frozen(self.switch.parent), gauge_rows(self.switch, ROWS), self.switch.worker
            )
        self.readings[step] = self.probe.compare(model)[0]
        return {DRIFT: self.readings[step]}

    def state(self) -> dict[str, Tensor]:
        import torch

        return {"readings": torch.tensor(list(self.readings.items()), dtype=torch.float64)} if self.readings else {}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.readings = {int(step): value for step, value in state["readings"].tolist()} if state else {}

    def record(self) -> dict[str, Any]:
        return {"readings": list(self.readings.items()), "highest": max(self.readings.values())}
