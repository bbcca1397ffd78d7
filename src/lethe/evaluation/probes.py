"""What a model knows: the likelihood of the choices of the knowledge probes; accuracy and margin along a stage.

Of a choice x after a prompt q, s(x) is its mean log-probability a token, in nats. An item is right where s of the
answer is above s of every distractor; its margin is the difference to the best of them. Two guards against a bias for
length stand beside it: s a UTF-8 byte, which no tokenizer moves, and s(x | q) - s(x | <eos>), which takes away what a
model holds of a choice before it reads the prompt (calibration as in Holtzman et al. 2021, "Surface Form Competition").
What all three show is no matter of length. The mean a token is the default, for a choice after `<eos>` alone is unlike
any text that the model has seen, and what it gives there is noise: calibrated, facts that a small model has learned are
missed (docs/decisions.md).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.config import UserError
from lethe.evaluation.items import Item
from lethe.model.cost import rows_evaluated_at_once
from lethe.tokens.shards import TokenData
from lethe.tokens.tokenizer import EOS_ID, load_tokenizer
from lethe.worker import Worker

Ids = tuple[int, ...]
Question = tuple[Ids, Ids]  # a context and the choice after it


class Scores(NamedTuple):
    """Of every item's answer and its three distractors, in this order: float64 [items, 4] each, in nats."""

    token: np.ndarray
    """Mean log-probability a token."""
    byte: np.ndarray
    """Log-probability a UTF-8 byte, the space before the choice counted."""
    pmi: np.ndarray
    """`token` minus the same after `<eos>` alone."""


class Probes:
    """The items of all corpora, tokenized for models of one context; `measure` is called at every mark."""

    def __init__(self, items: Sequence[Item], data: TokenData, context: int, worker: Worker) -> None:
        """A prompt begins after `<eos>` and is cut at its beginning where the context has no room for it.

        Raises UserError for a choice that leaves no room for a token of its prompt.
        """
        self.items, self.worker = list(items), worker
        tokenizer = load_tokenizer(data.tokenizer_path)
        texts = [[f" {choice}" for choice in (item.answer, *item.distractors)] for item in self.items]
        self.bytes = np.array([[len(text.encode()) for text in four] for four in texts]).reshape(-1, 4)
        prompts = [tuple(one.ids) for one in tokenizer.encode_batch([item.prompt for item in self.items])]
        choices = [[tuple(one.ids) for one in tokenizer.encode_batch(four)] for four in texts]
        self.lengths = np.array([[len(choice) for choice in four] for four in choices]).reshape(-1, 4)
        after: list[Question] = []
        alone: list[Question] = []
        for item, prompt, four in zip(self.items, prompts, choices, strict=True):
            room = context + 1 - max(map(len, four))  # the last token of a choice is only asked for, not read
            if room < 1:
                raise UserError(
                    f"probes: {item.id}: found a choice of {context + 1 - room} tokens; allowed: at most {context}"
                )
            after += [((EOS_ID, *prompt)[-room:], choice) for choice in four]
            alone += [((EOS_ID,), choice) for choice in four]
        questions = {question: number for number, question in enumerate(dict.fromkeys(after + alone))}
        self.after = np.array([questions[question] for question in after], dtype=np.int64).reshape(-1, 4)
        self.alone = np.array([questions[question] for question in alone], dtype=np.int64).reshape(-1, 4)
        self._lay_out(list(questions), data.vocab_size)

    def _lay_out(self, questions: list[Question], vocab_size: int) -> None:
        """The rows that hold all questions, in batches of about equal lengths, and where in them each token is asked.

        A row serves every question whose ids it begins with, for a causal model sees nothing of what follows: choices
        that differ in their last token alone share their prompt's row.
        """
        needed = sorted({context + choice[:-1] for context, choice in questions}, reverse=True)
        rows: list[Ids] = []
        serving: dict[Ids, Ids] = {}
        for ids in needed:  # what begins with `ids` comes just before it
            if not rows or rows[-1][: len(ids)] != ids:
                rows.append(ids)
            serving[ids] = rows[-1]
        place = {ids: number for number, ids in enumerate(sorted(rows, key=lambda ids: (len(ids), ids)))}
        ordered, at_once = list(place), rows_evaluated_at_once(max(map(len, rows), default=1), vocab_size)
        asked = [
            (place[serving[context + choice[:-1]]], len(context) - 1 + i, token)
            for context, choice in questions
            for i, token in enumerate(choice)
        ]
        self.starts = np.cumsum([0, *(len(choice) for _, choice in questions)])[:-1]
        self.tokens = np.array(asked, dtype=np.int64).reshape(-1, 3)  # row, position, id
        batches = [ordered[first : first + at_once] for first in range(0, len(ordered), at_once)]
        self.batches = [_padded(batch) for batch in batches]
        self.found = [np.flatnonzero(self.tokens[:, 0] // at_once == i) for i in range(len(batches))]
        self.tokens[:, 0] %= at_once

    @torch.no_grad()
    def scores(self, model: nn.Module) -> Scores:
        """The scores of all choices, float32 in the model; each rank does a share of the batches.

        Every token's log-probability is found by one rank and added to zeros, so ranks change no bit.
        """
        device = self.worker.device
        nats = torch.zeros(len(self.tokens), dtype=torch.float64, device=device)
        for i in range(self.worker.rank, len(self.batches), self.worker.world):
            found = torch.from_numpy(self.found[i]).to(device)
            row, position, asked = torch.from_numpy(self.tokens[self.found[i]]).to(device).unbind(1)
            logits = model(self.batches[i].to(device)).float()[row, position]
            nats[found] = F.cross_entropy(logits, asked, reduction="none").double()
        logs = -self.worker.sum(nats).cpu().numpy()
        sums = np.add.reduceat(logs, self.starts) if len(logs) else logs
        after, alone = sums[self.after], sums[self.alone]
        return Scores(after / self.lengths, after / self.bytes, (after - alone) / self.lengths)

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Points of curves, for every corpus X, TYPE and FORM of the items as NAME/X/TYPE/FORM.

        `probe_facts` (how many facts there are), `probe_accuracy` by the default score, by `_byte` and by `_pmi`, and
        `probe_margin` with its standard deviation over facts, `probe_margin_sd` (not for a single fact). Items that
        put one fact into other words hang together, so a fact counts once, with the mean over its items.
        """
        scores, values = self.scores(model), {}
        right = {f"probe_accuracy{suffix}": margins(one) > 0 for suffix, one in zip(SUFFIXES, scores, strict=True)}
        margin = margins(scores.token)
        groups: dict[str, dict[str, list[int]]] = {}
        for i, item in enumerate(self.items):
            groups.setdefault(f"{item.corpus}/{item.type}/{item.form}", {}).setdefault(item.fact, []).append(i)
        for group, facts in groups.items():
            values[f"probe_facts/{group}"] = float(len(facts))
            for name, is_right in right.items():
                values[f"{name}/{group}"] = float(np.mean([is_right[items].mean() for items in facts.values()]))
            by_fact = np.array([margin[items].mean() for items in facts.values()])
            values[f"probe_margin/{group}"] = float(by_fact.mean())
            if len(facts) > 1:
                values[f"probe_margin_sd/{group}"] = float(by_fact.std(ddof=1))
        return values


SUFFIXES = ("", "_byte", "_pmi")  # as the fields of Scores


def margins(scores: np.ndarray) -> np.ndarray:
    """Of scores [items, 4], the answer's first, by how much it is above the best distractor's: float64 [items]."""
    return scores[:, 0] - scores[:, 1:].max(axis=1, initial=-np.inf)


def _padded(rows: list[Ids]) -> Tensor:
    """int64 [rows, T], filled up at the right."""
    result = torch.full((len(rows), max(map(len, rows))), EOS_ID)
    for row, ids in zip(result, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return result
