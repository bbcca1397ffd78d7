"""The prior of the output, shifted back after the fact: logits + strength (log u_A - log u_B).

u_A and u_B are the unigram shares of the tokens trained on before the switch and since, each count plus 1/2 (label
shift: Saerens et al. 2002, eq. 2.4, where strength is 1). No step is trained: it is made of a finished `none`, and acts
wherever its model does. Strength 0 is plain training bit for bit; at 1 a model that knows nothing but u_B becomes one
that knows nothing but u_A. What of forgetting is no more than another prior is won back; B pays for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat

from lethe.config import Config
from lethe.interventions import PLAIN
from lethe.interventions.interface import Cost, Intervention

if TYPE_CHECKING:
    from torch import nn

    from lethe.training.stage import Stage


class Prior(Intervention):
    """Needs of A its unigram counts."""

    reshapes, trains = True, False

    class Parameters(Config):
        strength: NonNegativeFloat = 0.75

    parameters: Parameters

    @classmethod
    def cost(cls, parameters: Config) -> Cost:
        return Cost("statistics", flops=0)

    @classmethod
    def reads(cls, parameters: Config, stage: Stage) -> tuple[Stage, ...]:
        return (stage.altered(intervention=PLAIN),)

    def at_switch(self, model: nn.Module) -> nn.Module:
        from lethe.model.shifted import Shifted

        vocab_size = len(self.switch.record(self.switch.parent)["unigram_counts"])
        return Shifted(model, vocab_size).to(self.switch.worker.device)

    def at_end(self, model: nn.Module) -> None:
        from lethe.interventions.derived import counts_of, log_unigram_ratio
        from lethe.model.shifted import Shifted

        assert isinstance(model, Shifted)
        trained = self.switch.stage.reads[0]
        shift = -log_unigram_ratio(self.switch, counts_of(self.switch, trained))
        model.trunk.load_state_dict(self.switch.load(trained).state_dict())
        model.shift.copy_(self.parameters.strength * shift)
