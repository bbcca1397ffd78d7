"""The interface of interventions: every hook has a neutral default, so that a file holds only what it changes.

The order in a stage: `cost`, `growth` and `reads` while the tree is planned; `at_switch` once, on the parent's model;
`learning_rates` once; then for each step `rate`, `extra_rows`, `penalty`, `after_step`, `watch`, `rolls_back`; `at_end`
once; `tensors` and `state` whenever a checkpoint is written, `record` at the end. What acts at inference is a property
of the model that `at_switch` returns: its `forward(ids)` gives the logits that training, evaluation and sampling use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lethe.config import Config, UserError
from lethe.model.cost import NO_GROWTH, Growth

if TYPE_CHECKING:
    import torch
    from numpy import ndarray
    from torch import Tensor, nn

    from lethe.interventions.derived import Pool
    from lethe.model.config import ModelConfig
    from lethe.tokens.shards import TokenData
    from lethe.training.stage import Stage
    from lethe.training.store import StageStore
    from lethe.worker import Worker


@dataclass(frozen=True)
class Cost:
    """What an intervention needs of the earlier corpora, and costs beside a plain stage of the same tokens."""

    needs: Literal["nothing", "statistics", "samples", "buffer"] = "nothing"
    """Of the earlier corpora: nothing but the finished model; numbers computed on their text; texts sampled from the
    model (which needs the unigram counts at most); rows of their text."""
    weights: float = 0
    """Further copies of the model's weights in memory."""
    rows: float = 0
    """Rows that a step adds to its batch, as a share of it: added tokens, for the stage's own stay as many."""
    flops: float = 1
    """FLOPs over those of a plain stage; what is done once at the switch is left out."""


@dataclass(frozen=True)
class Switch:
    """What an intervention may look at: its stage, and all of the finished stages that this one follows or reads."""

    stage: Stage
    store: StageStore
    fingerprints: Mapping[str, str]
    """Of the data, as stage keys need them."""
    worker: Worker
    token_data: TokenData | None = None
    """None where a finished model is only loaded."""

    @property
    def parent(self) -> Stage:
        """The stage before this one; UserError where there is none, and so nothing to forget."""
        if self.stage.parent is None:
            raise UserError(f"intervention: found {self.stage.intervention.kind!r}; allowed without a parent: none")
        return self.stage.parent

    @property
    def data(self) -> TokenData:
        """The token shards of all corpora; only in training."""
        assert self.token_data is not None, "a finished model is loaded without its data"
        return self.token_data

    def load(self, stage: Stage) -> nn.Module:
        """The model of a finished stage, on the CPU."""
        from lethe.training.load import load_model

        return load_model(self.store, stage.key(self.fingerprints))

    def frozen(self, stage: Stage) -> nn.Module:
        """The model of a finished stage on the worker's device, to be looked at only."""
        return self.load(stage).to(self.worker.device).eval().requires_grad_(False)

    def record(self, stage: Stage) -> dict[str, Any]:
        """The record of a finished stage (stage.json)."""
        return self.store.finished(stage.key(self.fingerprints))

    def artefact(
        self, stage: Stage, kind: str, parameters: dict[str, Any], make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """What `make()` derives from a finished stage, made once and shared by all stages that ask for the same.

        `kind` and `parameters` must say all that determines it beside the stage. On the CPU.
        """
        from lethe.training.artefacts import artefact

        about = {"stage": stage.key(self.fingerprints), "kind": kind, "parameters": parameters}
        return artefact(self.store.root.parent / "artefacts", about, make)

    def autocast(self) -> torch.autocast:
        """The precision of the stage's forward passes, for those of a teacher."""
        import torch

        device = torch.device(self.worker.device).type
        return torch.autocast(device, torch.bfloat16, self.stage.recipe.precision == "bf16")


class Intervention:
    """Base of all kinds. `Parameters` are the fields beside `kind` in YAML, with their defaults."""

    Parameters: ClassVar[type[Config]] = Config
    # Raise it with every change that alters the weights of an unchanged stage of this kind; stage keys hold it.
    version: ClassVar[int] = 1
    # Whether `at_switch` returns a model of another shape; such a stage is loaded through its parent's.
    reshapes: ClassVar[bool] = False
    # Whether the stage trains; one that does not is derived from the first stage it reads, in zero steps.
    trains: ClassVar[bool] = True
    # Where `extra_rows` come from, unless a kind says otherwise (lethe.interventions.derived.Pool).
    pool: Pool | None = None

    def __init__(self, parameters: Config, switch: Switch) -> None:
        self.parameters = parameters
        self.switch = switch

    @classmethod
    def cost(cls, parameters: Config) -> Cost:
        """What it needs and costs, for the plan and the results."""
        return Cost()

    @classmethod
    def growth(cls, parameters: Config, model: ModelConfig, vocab_size: int) -> Growth:
        """What the model has beside its parent's from this stage on, for the plan and the results."""
        return NO_GROWTH

    @classmethod
    def reads(cls, parameters: Config, stage: Stage) -> tuple[Stage, ...]:
        """The stages besides the parent that must be finished before this one starts (a teacher, a control).

        `stage` has the budget of a stage that trains, also where this one does not.
        """
        return ()

    def at_switch(self, model: nn.Module) -> nn.Module:
        """The model that the stage trains, from its parent's. Also called when a finished stage is loaded."""
        return model

    def learning_rates(self, model: nn.Module) -> dict[str, float]:
        """Factors on the learning rate, by parameter name; 0 freezes, a name left out has 1."""
        return {}

    def rate(self, step: int, planned: float) -> float:
        """The learning rate of a step, where the stage's recipe gives `planned`."""
        return planned

    def extra_rows(self, step: int) -> ndarray | None:
        """Rows that ride along in the step's forward pass: int64 [n, context + 1], on every rank its own."""
        return self.pool.at(step) if self.pool else None

    def penalty(self, logits: Tensor, rows: Tensor, extra: int) -> Tensor | None:
        """What is added to the loss of a forward pass; a step's is the mean over its passes and ranks.

        `rows` is int64 [n + extra, context + 1], the extra rows last; `logits` float [n + extra, context, V] are
        the model's at rows[:, :-1]. The stage's own loss is taken over the first n rows.
        """
        return None

    def after_step(self, model: nn.Module, learning_rate: float) -> None:
        """Change the weights after an optimizer step taken at `learning_rate` (a decoupled pull, a projection)."""

    def watch(self, model: nn.Module, step: int) -> dict[str, float]:
        """What it reads off the model after `step` steps, for the curve; on all ranks the same."""
        return {}

    def rolls_back(self, read: dict[str, float]) -> bool:
        """Whether, by what `watch` has read, the stage begins anew: from its parent's model, by `at_switch`, at step 0.

        The steps done until then are spent: they cost, and stand apart in the curve. Once a stage at most.
        """
        return False

    def at_end(self, model: nn.Module) -> None:
        """Change the weights once, after the last step (an average), or make them, where there are no steps."""

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """What the stage saves as its weights; a fractured model saves what it added to its trunk."""
        return dict(model.state_dict())

    def state(self) -> dict[str, Tensor]:
        """What it remembers from step to step, for a checkpoint; best nothing."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state` of a checkpoint."""

    def record(self) -> dict[str, Any]:
        """What the stage's record keeps of it (JSON, under `intervention`), for those who load or read the stage."""
        return {}
