"""The assertions of the self-check, and what of a seed's measured histories each is about.

They are those that the published work and our own measurements agree on (forgetting, interleaving, learning rate,
tokens, order, relearning), and controls that tell a broken evaluation or a dead intervention.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lethe.evaluation import forgetting, transfer
from lethe.evaluation.history import History

Strength = Literal["exact", "near-certain", "likely", "expected"]

AB, BA, COMBINED = "sequential_ab", "sequential_ba", "combined"
MORE, SHUFFLED, MIXED = "more", "shuffled", "mixed"


@dataclass(frozen=True)
class Seed:
    """What was measured at one seed, by arm: `sequential_ab`, `sequential_ab 0.05`, `sequential_ab lr_03`, ...

    `more` is A, then more of A; `shuffled` A, then the tokens of B in random order; `mixed` one stage from scratch on
    the mixture that interleaving makes at A's share in `combined`, from another seed.
    """

    a: str
    b: str
    arms: Mapping[str, History]

    def lost(self, arm: str = AB) -> float:
        """Forgetting of the corpus that the arm learned first, in nats per token."""
        first = self.b if arm == BA else self.a
        value = forgetting.forgetting(self.arms[arm], first)
        assert value is not None, f"{arm} has no later stage"
        return value

    def share_lost(self, arm: str = AB) -> float | None:
        """The same as a share of what was learned."""
        return transfer.fraction_lost(self.arms[arm], self.b if arm == BA else self.a)

    def lost_after(self, share: float) -> float:
        """Forgetting of A after a share of the tokens of B, from the curve."""
        curve, learned = self.arms[AB].after(self.a), forgetting.learned_loss(self.arms[AB], self.a)
        assert learned is not None
        return float(np.interp(share * curve[-1, 0], curve[:, 0], curve[:, 1]) - learned)

    def loss(self, corpus: str, arm: str = AB) -> float:
        """Loss at the end of the arm."""
        return float(self.arms[arm].losses(corpus)[-1])

    def mean_loss(self, arm: str) -> float:
        """Mean of the final losses on A and B."""
        return (self.loss(self.a, arm) + self.loss(self.b, arm)) / 2

    def drops(self) -> list[float]:
        """How much forgetting falls from each ratio to the next."""
        lost = [self.lost(arm) for arm in (AB, f"{AB} 0.01", f"{AB} 0.05", f"{AB} 0.1")]
        return [before - after for before, after in zip(lost, lost[1:], strict=False)]

    def savings(self) -> float:
        """Relearning savings of A, from a side branch of as many tokens as A took; 0 where these do not bring it back.

        So that is not left out, and counts against savings.
        """
        return forgetting.relearning_savings(self.arms[AB], self.a) or 0.0

    def price(self) -> float:
        """What interleaving 5 % of A costs on B."""
        return self.loss(self.b, f"{AB} 0.05") - self.loss(self.b)


@dataclass(frozen=True)
class Assertion:
    """The mean of `value` over seeds lies above `above` and below `below`; with `either`, on one side of `above`."""

    name: str
    text: str
    strength: Strength
    value: Callable[[Seed], float | None]
    above: float = -math.inf
    below: float = math.inf
    unit: str = "nats"
    either: bool = False
    undefined: str = "it is not defined"


ASSERTIONS = (
    Assertion("1a forgetting, A then B", "L_A(AB) > L_A(A)", "near-certain", lambda s: s.lost(), above=0),
    Assertion("1b forgetting, B then A", "L_B(BA) > L_B(B)", "near-certain", lambda s: s.lost(BA), above=0),
    Assertion("2a ratio 0 to .01", "F_A falls from r = 0 to r = .01", "near-certain", lambda s: s.drops()[0], above=0),
    Assertion(
        "2b ratio .01 to .05", "F_A falls from r = .01 to r = .05", "near-certain", lambda s: s.drops()[1], above=0
    ),
    Assertion(
        "2c ratio .05 to .1", "F_A falls from r = .05 to r = .1", "near-certain", lambda s: s.drops()[2], above=0
    ),
    Assertion(
        "2d first drop largest",
        "F_A falls more from r = 0 to .01 than in any later step",
        "likely",
        lambda s: s.drops()[0] - max(s.drops()[1:]),
        above=0,
    ),
    Assertion("3a price of replay", "r = .05 raises L_B by less than .05", "likely", lambda s: s.price(), below=0.05),
    Assertion(
        "3b replay pays",
        "r = .05 saves more of A than it costs of B",
        "likely",
        lambda s: s.lost() - s.lost(f"{AB} 0.05") - s.price(),
        above=0,
    ),
    Assertion(
        "4a combined, A then B",
        "mean loss after A then B > combined, at equal tokens",
        "near-certain",
        lambda s: s.mean_loss(AB) - s.mean_loss(COMBINED),
        above=0,
    ),
    Assertion(
        "4b combined, B then A",
        "mean loss after B then A > combined, at equal tokens",
        "near-certain",
        lambda s: s.mean_loss(BA) - s.mean_loss(COMBINED),
        above=0,
    ),
    Assertion(
        "4c replay, from above",
        "mean loss after A then B > with r = .05",
        "near-certain",
        lambda s: s.mean_loss(AB) - s.mean_loss(f"{AB} 0.05"),
        above=0,
    ),
    Assertion(
        "4d replay, from below",
        "mean loss with r = .05 > combined",
        "near-certain",
        lambda s: s.mean_loss(f"{AB} 0.05") - s.mean_loss(COMBINED),
        above=0,
    ),
    Assertion(
        "5a learning rate x1, x.3",
        "F_A is larger at x1 of B's learning rate than at x.3",
        "near-certain",
        lambda s: s.lost() - s.lost(f"{AB} lr_03"),
        above=0,
    ),
    Assertion(
        "5b learning rate x.3, x.1",
        "F_A is larger at x.3 of B's learning rate than at x.1",
        "near-certain",
        lambda s: s.lost(f"{AB} lr_03") - s.lost(f"{AB} lr_01"),
        above=0,
    ),
    Assertion(
        "6a tokens of B",
        "F_A rises from a tenth of B's tokens to all",
        "near-certain",
        lambda s: s.lost() - s.lost_after(0.1),
        above=0,
    ),
    Assertion(
        "6b concave",
        "F_A after a tenth of B's tokens > a tenth of F_A at the end",
        "near-certain",
        lambda s: s.lost_after(0.1) - 0.1 * s.lost(),
        above=0,
    ),
    Assertion(
        "8 order",
        "phi(A then B) differs from phi(B then A); the sign is a finding",
        "expected",
        lambda s: transfer.minus(s.share_lost(), s.share_lost(BA)),
        above=0,
        unit="share",
        either=True,
        undefined="B alone leaves the loss on A as low as A itself does",
    ),
    Assertion(
        "9 relearning savings",
        "A comes back in fewer tokens than it took at first",
        "near-certain",
        lambda s: s.savings(),
        above=0,
        unit="share",
    ),
    Assertion(
        "10a transfer",
        "L_B(A) is far below L_B(init): by more than .5",
        "expected",
        lambda s: transfer.forward_transfer(s.arms[AB]),
        above=0.5,
    ),
    Assertion("10b large from scratch", "F_A > .3 in a small model", "expected", lambda s: s.lost(), above=0.3),
    Assertion(
        "10c most of the gain",
        "more than half of what was learned of A is lost",
        "expected",
        lambda s: s.share_lost(),
        above=0.5,
        unit="share",
        undefined="B alone leaves the loss on A as low as A itself does",
    ),
    Assertion(
        "11a more of A",
        "A, then more of A, forgets nothing: F_A < .05",
        "near-certain",
        lambda s: s.lost(MORE),
        below=0.05,
    ),
    Assertion(
        "11b shuffled tokens",
        "F_A is larger after the tokens of B in random order than after B",
        "near-certain",
        lambda s: s.lost(SHUFFLED) - s.lost(),
        above=0,
    ),
    Assertion(
        "13b r = share of A",
        "from scratch, interleaving at A's share in combined gives combined's mean loss to .1, at other seeds",
        "likely",
        lambda s: s.mean_loss(MIXED) - s.mean_loss(COMBINED),
        above=-0.1,
        below=0.1,
    ),
)
# Name, assertion and strength of the one that is not measured here.
SIZE: tuple[str, str, Strength] = (
    "7 size",
    "at matched losses F_A falls with the model's size, from 5M to 236M parameters; at equal tokens the sign is open",
    "likely",
)
# By name, the assertions about bits.
EXACT = {
    "12a ewc off": "ewc at strength 0 ends with the weights of plain training",
    "12b ewc full": "ewc at a huge strength, with a floor, ends with the weights of A",
    "12c l2_sp full": "l2_sp at a huge strength ends with the weights of A",
    "12d all frozen": "freezing all ends with the weights of A",
    "13a r = 1": "interleaving at r = 1 (but for less than one sequence) ends with the weights of going on with A",
    "14 repeatable": "the same two stages, trained again in another process, end with the same weights",
}
