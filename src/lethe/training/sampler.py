"""The rows of any step of a stage, read from the memory-mapped token shards."""

import numpy as np

from lethe.config import UserError
from lethe.tokens.shards import TokenData
from lethe.training.mixture import assign, permute
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
        batch, context = self.stage.recipe.batch, self.stage.model.context
        share = batch // world
        slots = np.arange(share) + step * batch + rank * share
        rows = np.empty((share, context + 1), dtype=np.int64)
        for corpus, (filled, counts) in assign(self.stage.mixture, slots).items():
            if len(filled):
                positions = counts + self.stage.offsets.get(corpus, 0)
                rows[filled] = self.splits[corpus].read(self._windows(corpus, positions), context)
        return rows

    def _windows(self, corpus: str, positions: np.ndarray) -> np.ndarray:
        """The windows at `positions` of the corpus's stream: every epoch is a permutation of its own."""
        size = self.splits[corpus].windows(self.stage.model.context)
        epochs, places = np.divmod(positions, size)
        windows = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            windows[here] = permute(places[here], size, f"{self.stage.seed}/{corpus}/{epoch}")
        return windows

    def unigram_counts(self) -> np.ndarray:
        """How often each id was a target over the whole stage: int64 [V]."""
        counts = np.zeros(self.vocab_size, dtype=np.int64)
        for step in range(self.stage.steps):
            counts += np.bincount(self.rows(step)[:, 1:].ravel(), minlength=self.vocab_size)
        return counts
