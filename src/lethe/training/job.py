"""A stage with all it takes to train it: where its data and results lie, and what is measured on the way."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lethe.evaluation.mine import probes_path
from lethe.files import fingerprint
from lethe.tokens.shards import TokenData
from lethe.training.stage import Evaluation, Stage
from lethe.training.store import StageStore

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Job:
    """What `run_stage` is given. `keep_optimizer`: a later stage carries the optimizer state on."""

    stage: Stage
    data: TokenData
    store: StageStore
    corpora: tuple[str, ...]
    evaluation: Evaluation = Evaluation()
    checkpoint_every: int = 100
    keep_optimizer: bool = False

    @property
    def key(self) -> str:
        return self.key_of(self.stage)

    def key_of(self, stage: Stage) -> str:
        return stage.key(fingerprints(self.data))

    @property
    def measured(self) -> str:
        """Fingerprint of what is measured: two stages with equal ones have comparable curves."""
        held_out = {corpus: self.data.split(corpus, "val").fingerprint for corpus in sorted(self.corpora)}
        evaluation = self.evaluation.model_dump(mode="json")
        if evaluation.pop("monitors"):
            from lethe.training.monitors import VERSION

            evaluation["monitors"] = VERSION
        if asked := evaluation.pop("probes"):
            evaluation["probes"] = probes_path(self.data, asked).name
        return fingerprint({"held_out": held_out, "evaluation": evaluation})

    @property
    def is_finished(self) -> bool:
        return self.store.has(self.key, self.measured, self.keep_optimizer)

    def await_finished(self) -> None:
        """Wait a while until what another has finished is seen here."""
        self.store.await_finished(self.key, self.measured, self.keep_optimizer)

    @property
    def partial(self) -> Path:
        """Where its checkpoints lie while it trains."""
        return self.store.folder(self.key) / "partial"

    def fetch(self) -> None:
        """Get its checkpoints from the store's bucket, where there is one: another machine may have come further."""
        if self.store.bucket:
            self.store.bucket.pull(self.partial)

    def load(self, stage: Stage) -> "nn.Module":
        """The finished model of another stage, to be trained."""
        from lethe.model.shared import unshare
        from lethe.training.load import load_model

        return unshare(load_model(self.store, self.key_of(stage)))


def fingerprints(data: TokenData) -> dict[str, str]:
    """What stage keys need to know of the data: a fingerprint for the tokenizer and for each corpus."""
    corpora = {corpus: data.split(corpus, "train").fingerprint for corpus in data.corpora}
    return corpora | {"tokenizer": data.tokenizer_fingerprint}
