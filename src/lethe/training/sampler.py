"""The rows of any step of a stage, read from the memory-mapped token shards."""

import numpy as np

from lethe.config import UserError
from lethe.tokens.shards import TokenData
from lethe.training.mixture import assign, shuffled
from lethe.training.stage import Stage


class MixtureSampler:
    """Gives the batch of a step; holds no state, so any step can be asked for in any order."""

    def __init__(self, stage: Stage, data: TokenData) -> None:
        self.stage = stage
        self.splits = {corpus: data.split(corpus, "train") for corpus in stage.mixture}
        self.vocab_size = data.vocab_size
        for corpus, split in self.splits.items():
            if not split.windows(stage.model.context):
                raise UserError(
                    f"{data.root / corpus}: found {split.tokens} training tokens; allowed: more than the context, "
                    f"{stage.model.context}"
                )

    def rows(self, step: int, rank: int = 0, world: int = 1) -> np.ndarray:
        """The windows of step `step`, or one rank's equal share of them: int64 [batch / world, context + 1]."""
        batch = self.stage.recipe.batch
        share = batch // world
        return self.windows(np.arange(share) + step * batch + rank * share)

    def windows(self, slots: np.ndarray) -> np.ndarray:
        """What stands at `slots` (int64 [n]) of the sequence of windows the stage reads: int64 [n, context + 1]."""
        context = self.stage.model.context
        rows = np.empty((len(slots), context + 1), dtype=np.int64)
        for corpus, (filled, counts) in assign(self.stage.mixture, slots).items():
            if len(filled):
                split = self.splits[corpus]
                positions = counts + self.stage.offsets.get(corpus, 0)
                places = shuffled(positions, split.windows(context), f"{self.stage.seed}/{corpus}")
                rows[filled] = split.read(places, context)
        return rows

    def unigram_counts(self) -> np.ndarray:
        """How often each id was a target over the whole stage: int64 [V]."""
        counts = np.zeros(self.vocab_size, dtype=np.int64)
        for step in range(self.stage.steps):
            counts += np.bincount(self.rows(step)[:, 1:].ravel(), minlength=self.vocab_size)
        return counts
