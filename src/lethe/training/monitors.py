"""What tells of forgetting without text of A: how far a stage has come from the model of A, on fixed probe rows.

Of a stage after A, at every mark:
`kl_self`             KL(p_A || p) on text sampled from the model of A, nats per token: an alarm on an unprotected run;
                      out of sample it misranks protected ones
`kl/CORPUS`           the same on held-out text of the stage's main corpus (KL on B)
`weight_distance`     ||theta - theta_A|| / ||theta_A||, a baseline
`cka_self/LAYER`      linear CKA to the model of A after block LAYER (the first is 1) on the sampled text: 1 is the same
                      geometry up to rotation and scale, which is not the same function
`cka/CORPUS/LAYER`    the same on the held-out text

A mixture of several models has no one geometry: of it, or compared with one, there is KL alone.

All are computed eagerly in float32 and summed in float64. They draw no number and leave no gradient, so a stage has the
same weights with and without them. KL is exact over the vocabulary.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from lethe.config import UserError
from lethe.evaluation.losses import held_out_rows
from lethe.interventions.derived import gauge_rows
from lethe.interventions.interface import Switch
from lethe.model.cost import FLOAT32, rows_evaluated_at_once
from lethe.model.fundamentals import Transformer
from lethe.model.transformer import TorchTransformer
from lethe.training.stage import Stage
from lethe.worker import Worker

VERSION = 1  # raise it with every change that alters a value: it belongs into the fingerprint of what is measured
SAMPLED_ROWS, HELD_OUT_ROWS = 4, 4  # as good as 48 at ranking 13 arms of a small model: all are compared on the same
CKA_TOKENS = 4096  # at most: the activations of all layers at these are kept
KEPT_BYTES = 2**28  # of log-probabilities of the model of A on one text; where they are more, it is asked each time
FEWEST_TOKENS = 4  # below it the debiased HSIC is undefined


class Monitors:
    """Made once for a stage; all ranks make and ask it together.

    `teacher` is the model of A on the worker's device, to be looked at only. `sampled` and `held_out` are int64
    [n, context + 1], of its own text and of `corpus`. Raises UserError for too few tokens.
    """

    def __init__(
        self, teacher: nn.Module, sampled: np.ndarray, held_out: np.ndarray, corpus: str, worker: Worker
    ) -> None:
        trunk = _trunk(teacher)
        self.weights = {} if trunk is None else {name: p.detach() for name, p in trunk.named_parameters()}
        self.probes = {"self": Probe(teacher, sampled, worker), corpus: Probe(teacher, held_out, worker)}

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Every monitor of the model as it is now."""
        trunk = _trunk(model)
        values = {"weight_distance": weight_distance(self.weights, trunk)} if trunk and self.weights else {}
        for text, probe in self.probes.items():
            divergence, similarity = probe.compare(model)
            values["kl_self" if text == "self" else f"kl/{text}"] = divergence
            name = "cka_self" if text == "self" else f"cka/{text}"
            values |= {f"{name}/{layer}": cka for layer, cka in enumerate(similarity, start=1)}
        return values


def of_stage(switch: Switch) -> Monitors | None:
    """The monitors of a stage that is about to start; None without a parent: there is nothing to forget."""
    stage = switch.stage
    if stage.parent is None:
        return None
    corpus = main_corpus(stage)
    held_out = held_out_rows(switch.data.split(corpus, "val"), stage.model.context, HELD_OUT_ROWS)
    return Monitors(switch.frozen(stage.parent), gauge_rows(switch, SAMPLED_ROWS), held_out, corpus, switch.worker)


def main_corpus(stage: Stage) -> str:
    """The corpus of the largest weight; of equal ones the first that no stage before trained on."""
    before = {corpus for earlier in stage.sequence[:-1] for corpus in earlier.mixture}
    return min(stage.mixture, key=lambda corpus: (-stage.mixture[corpus], corpus in before, corpus))


class Probe:
    """Rows of one text, shared out among the ranks, and what the model of A makes of them."""

    def __init__(self, teacher: nn.Module, rows: np.ndarray, worker: Worker) -> None:
        context, vocab = rows.shape[1] - 1, len(_transformers(teacher)[0].embedding.weight)
        places = min(context, max(1, CKA_TOKENS // len(rows)))
        self.places = torch.arange(places, device=worker.device) * context // places
        self.tokens, self.states = len(rows) * context, len(rows) * places
        if self.states < FEWEST_TOKENS:
            raise UserError(f"evaluation.monitors: found {self.states} tokens; allowed: {FEWEST_TOKENS} or more")
        own = torch.from_numpy(rows[worker.rank :: worker.world, :-1]).to(worker.device)
        # A quarter of an evaluation's: here as many as four tensors of the size of the logits are alive at once.
        self.chunks = own.split(max(1, rows_evaluated_at_once(context, vocab) // 4))
        self.teacher, self.worker = teacher, worker
        keeps = FLOAT32 * own.numel() * vocab <= KEPT_BYTES
        self.kept: list[Tensor] | None = [] if keeps else None
        states = []
        for log_probabilities, state in self._read(teacher, _blocks(teacher)):
            states.append(state)
            if self.kept is not None:
                self.kept.append(log_probabilities)
        self.theirs: list[Tensor] = list(self._centred(states)) if _blocks(teacher) else []
        self.theirs_alone = [hsic(x, x, self.states, worker) for x in self.theirs]

    @torch.no_grad()
    def compare(self, model: nn.Module) -> tuple[float, list[float]]:
        """KL(p_A || p) in nats per token, and the CKA to the model of A after each block: none of a mixture."""
        nats, states = torch.zeros((), dtype=torch.float64, device=self.worker.device), []
        blocks = _blocks(model) if self.theirs else []
        teacher = self.kept or (log_probabilities for log_probabilities, _ in self._read(self.teacher, []))
        for theirs, (ours, state) in zip(teacher, self._read(model, blocks), strict=True):
            nats += (theirs.exp() * (theirs - ours)).sum(-1).double().sum()
            states.append(state)
        similarity = []
        for x, y, x_alone in zip(self.theirs, self._centred(states), self.theirs_alone, strict=True) if blocks else ():
            cross, y_alone = hsic(x, y, self.states, self.worker), hsic(y, y, self.states, self.worker)
            similarity.append(cka(cross, x_alone, y_alone))
        return self.worker.sum(nats).item() / self.tokens, similarity

    @torch.no_grad()
    def _read(self, model: nn.Module, blocks: list[nn.Module]) -> Iterator[tuple[Tensor, Tensor]]:
        """A chunk at a time: log-probabilities [b, T, V], and what blocks give at `places`, [blocks, b * places, D]."""
        seen: dict[int, Tensor] = {}

        def keep(layer: int, x: Tensor) -> None:
            seen[layer] = x[:, self.places].flatten(0, 1).float()

        for ids in self.chunks:
            hooks = [
                block.register_forward_hook(lambda module, x, y, layer=layer: keep(layer, y))
                for layer, block in enumerate(blocks)
            ]
            try:
                with torch.compiler.set_stance("force_eager"):  # compiled code would not see the hooks
                    log_probabilities = model(ids).float().log_softmax(-1)
            finally:
                for hook in hooks:
                    hook.remove()
            states = [seen[layer] for layer in range(len(blocks))]
            yield log_probabilities, torch.stack(states) if states else log_probabilities.new_empty(0, 0, 0)

    def _centred(self, states: list[Tensor]) -> Tensor:
        """This rank's states less the mean over all ranks': float32 [layers, n, D]."""
        x = torch.cat(states, dim=1)
        mean = self.worker.sum(x.double().sum(dim=1, keepdim=True)) / self.states
        return (x - mean).float()


def hsic(x: Tensor, y: Tensor, n: int, worker: Worker) -> float:
    """n (n - 3) HSIC_1 of linear kernels (Song et al. 2012, eq. 5) of n states [., D], centred, shared by the ranks.

    The unbiased estimate: the plain one grows with D / n, until unlike models look alike. The kernels' rows of centred
    states sum to 0, so all terms come from X^T Y and the norms of rows, without an n x n matrix. Tokens of one text
    depend on each other, so some bias is left.
    """
    x, y = x.double(), y.double()
    product = worker.sum(x.T @ y)
    x_norms, y_norms = (x * x).sum(1), (y * y).sum(1)
    sums = torch.stack([x_norms @ y_norms, x_norms.sum(), y_norms.sum()])
    dot, x_sum, y_sum = worker.sum(sums).tolist()
    return float((product**2).sum()) - n / (n - 2) * dot + x_sum * y_sum / ((n - 1) * (n - 2))


def cka(cross: float, x: float, y: float) -> float:
    """Linear CKA (Kornblith et al. 2019, eq. 6) from HSIC of x with y, x with x, y with y; 0 for a constant."""
    return cross / (x * y) ** 0.5 if x > 0 and y > 0 else 0.0


def weight_distance(before: dict[str, Tensor], trunk: nn.Module) -> float:
    """||theta - theta_A|| / ||theta_A|| over the parameters of the model of A, a low-rank product in training included.

    What a method adds beside them (a gate, a shift) does not count.
    """
    moved, size = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for name, parameter in before.items():
        owner, _, attribute = name.rpartition(".")
        now = getattr(trunk.get_submodule(owner), attribute).detach()
        moved += (now.double() - parameter.double()).square().sum().cpu()
        size += parameter.double().square().sum().cpu()
    return float((moved / size).sqrt())


def _transformers(model: nn.Module) -> list[TorchTransformer | Transformer]:
    """Those inside whatever is wrapped around them: several in a mixture."""
    return [module for module in model.modules() if isinstance(module, TorchTransformer | Transformer)]


def _trunk(model: nn.Module) -> TorchTransformer | Transformer | None:
    """The one inside; None where there are several."""
    found = _transformers(model)
    return found[0] if len(found) == 1 else None


def _blocks(model: nn.Module) -> list[nn.Module]:
    trunk = _trunk(model)
    return [] if trunk is None else list(trunk.blocks)
