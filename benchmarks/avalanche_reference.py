"""What Avalanche gives for matrices of losses: the reference numbers of tests/evaluation/test_transfer.py.

It runs in an environment of its own, for lethe does not depend on Avalanche:

    python3 -m venv rivals/avalanche && rivals/avalanche/bin/pip install avalanche-lib==0.6.0
    rivals/avalanche/bin/python benchmarks/avalanche_reference.py

Avalanche's metrics take accuracies, which are better when higher: they are given the losses with the sign turned. Its
callbacks are called as its training loop calls them: evaluate everything once untrained, then after each experience.
Prints one JSON object: by matrix, forgetting and BWT by corpus and their means (Avalanche's "stream" metrics), and
forward transfer likewise.
"""

import json
from types import SimpleNamespace
from typing import Any

# By name, the loss on corpus j (column) after i stages (row, 0 the untrained model); stage i learns corpus i - 1.
MATRICES = {
    "two stages": [
        [7.62, 7.61],
        [4.41, 6.93],
        [6.05, 4.57],
    ],
    "three stages": [
        [7.62, 7.61, 7.63],
        [4.41, 6.93, 6.72],
        [6.05, 4.57, 6.11],
        [5.58, 6.25, 4.83],
    ],
    "four stages, some transfer backward": [
        [2.25, 2.75, 3.5, 2.0],
        [1.0, 2.5, 3.75, 1.5],
        [0.75, 1.25, 3.0, 1.75],
        [1.5, 1.125, 2.0, 2.5],
        [1.25, 1.625, 2.25, 0.5],
    ],
}


def run(metric: Any, losses: list[list[float]]) -> Any:
    """The metric after its callbacks saw the whole matrix."""
    strategy = SimpleNamespace(experience=None, eval_every=0)
    for trained, row in enumerate(losses):
        if trained:
            strategy.experience = SimpleNamespace(current_experience=trained - 1)
            metric.before_training_exp(strategy)
        metric.before_eval(strategy)
        for corpus, loss in enumerate(row):
            strategy.experience = SimpleNamespace(current_experience=corpus)
            strategy.value = -loss
            metric.before_eval_exp(strategy)
            metric.after_eval_iteration(strategy)
            metric.after_eval_exp(strategy)
        metric.after_eval(strategy)
    return metric


def reads_matrix(kind: type) -> Any:
    """One of Avalanche's metrics that takes the value at hand where it would compute an accuracy."""
    given = {
        "metric_update": lambda self, strategy: None,
        "metric_result": lambda self, strategy: strategy.value,
        "_package_result": lambda self, strategy: None,
    }
    return type(kind.__name__, (kind,), given)()


def main() -> None:
    """Print the numbers."""
    import avalanche
    from avalanche.evaluation.metrics import forgetting_bwt, forward_transfer

    numbers: dict[str, Any] = {"avalanche": avalanche.__version__}
    for name, losses in MATRICES.items():
        forgetting = run(reads_matrix(forgetting_bwt.StreamForgetting), losses)
        backward = run(reads_matrix(forgetting_bwt.StreamBWT), losses)
        forward = run(reads_matrix(forward_transfer.StreamForwardTransfer), losses)
        numbers[name] = {
            "forgetting": forgetting.forgetting.result(),
            "mean forgetting": forgetting.result(),
            "mean BWT": backward.result(),
            "forward transfer": forward.forward_transfer.result(),
            "mean forward transfer": forward.result(),
        }
    print(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
