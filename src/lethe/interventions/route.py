"""Routing: both models are kept whole, and what a text looks like decides token by token how much each has to say.

The next token has p = w p_B + (1 - w) p_A, p_A of the model before the stage, p_B of the stage with the intervention
`of` (with `freeze` or `fracture` the two differ in some parts alone, and hold the others in common). What decides w is
the `router` (lethe.model.routed):
`bayes`        the two models' own likelihoods of the text so far: nothing is needed of A. With gamma 1 a text costs at
               most ln 2 nats more than the model of A would take for all of it, however long it is.
`naive_bayes`  the unigram counts of the tokens each was trained on.
`even`         nothing: the control, an ensemble.
Evidence fades by `gamma` a token, so that a text may change its subject.

No step is trained, and no weight is stored: it is made of a finished stage. It costs in memory what `of` has trained,
and another forward pass wherever it is used. In a sequence of stages each path goes on from the path before it, not
from the mixture, and all of them are kept: w decides between the newest and the mixture before, so with `bayes` and
gamma 1 three stages are an exact posterior that begins at 1/4, 1/4, 1/2. A plain stage after a routed one trains all
its models through the mixture, each on its own: nothing is held in common any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from lethe.config import Config, UserError
from lethe.interventions import PLAIN, InterventionConfig
from lethe.interventions.freeze import Freeze, is_in
from lethe.interventions.interface import Cost, Intervention
from lethe.model.cost import Growth, parameter_sizes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lethe.model.config import ModelConfig
    from lethe.training.stage import Stage


class Route(Intervention):
    """Needs nothing of A but its model; with `naive_bayes` its unigram counts."""

    reshapes, trains = True, False

    class Parameters(Config):
        router: Literal["bayes", "naive_bayes", "even"] = "bayes"
        gamma: Annotated[float, Field(ge=0, le=1)] = 0.9
        of: InterventionConfig = PLAIN

        @field_validator("gamma")
        @classmethod
        def _acts(cls, gamma: float, info: ValidationInfo) -> float:
            if info.data.get("router") == "even" and gamma != cls.model_fields["gamma"].default:
                raise ValueError("nothing with router: even, where it does not act")
            return gamma

        @field_validator("of")
        @classmethod
        def _one_path(cls, of: InterventionConfig) -> InterventionConfig:
            if of.kind == "route":
                raise ValueError("any other kind")
            return of

    parameters: Parameters

    @classmethod
    def cost(cls, parameters: Config) -> Cost:
        """FLOPs none: those of the path stand at its own stage, whose rows and memory count here too."""
        assert isinstance(parameters, cls.Parameters)
        path = parameters.of.cost()
        counts = parameters.router == "naive_bayes" and path.needs == "nothing"
        return Cost("statistics" if counts else path.needs, path.weights, path.rows, flops=0)

    @classmethod
    def growth(cls, parameters: Config, model: ModelConfig, vocab_size: int) -> Growth:
        assert isinstance(parameters, cls.Parameters)
        path = parameters.of.growth(model, vocab_size)
        changed = 0 if path.frozen else trained(parameters.of.typed, model, vocab_size)
        return path._replace(frozen=True, beside=True, changed=changed)

    @classmethod
    def reads(cls, parameters: Config, stage: Stage) -> tuple[Stage, ...]:
        assert isinstance(parameters, cls.Parameters)
        return (stage.altered(intervention=parameters.of, parent=own_path(stage.parent)).with_reads(),)

    def at_switch(self, model: nn.Module) -> nn.Module:
        from lethe.model.routed import Routed
        from lethe.model.shared import share_equal

        ratio = self.ratio() if self.parameters.router == "naive_bayes" else None
        path = self.switch.frozen(self.switch.stage.reads[0])
        routed = Routed(model, path, self.parameters.router, self.parameters.gamma, ratio)
        share_equal(routed.to(self.switch.worker.device))
        return routed

    def ratio(self) -> Tensor:
        """log u_B / u_A of every id in the tokens trained on, float32 [V]."""
        from lethe.interventions.derived import counts_of, log_unigram_ratio

        return log_unigram_ratio(self.switch, counts_of(self.switch, self.switch.stage.reads[0])).float()

    def learning_rates(self, model: nn.Module) -> dict[str, float]:
        return {name: 0.0 for name, _ in model.named_parameters()}

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        return {}  # the models lie under the keys of their own stages, the counts in their records


def trained(of: Config, model: ModelConfig, vocab_size: int) -> int:
    """Weights of a plain model that a stage of such parameters changes: all, unless it freezes parts."""
    frozen, half = of.parts if isinstance(of, Freeze.Parameters) else (), model.layers / 2
    sizes = parameter_sizes(model, vocab_size)
    return sum(size for name, size in sizes.items() if not any(is_in(name, part, half) for part in frozen))


def own_path(parent: Stage | None) -> Stage:
    """The stage whose model the next path goes on from: of a routed parent its path, not the mixture.

    Raises UserError without a parent: one model has nothing to be routed.
    """
    if parent is None:
        raise UserError("intervention: found 'route'; allowed without a parent: none")
    return parent.reads[0] if parent.intervention.kind == "route" else parent
