# SPDX-License-Identifier: Apache-2.0
"""Applying fusions: weighted sums beside the speed of reading, votes beside scikit-learn's.

    PYTHONPATH=src OMP_NUM_THREADS=1 python benchmarks/fusing_speed.py [--members 20] [--rows 200000]

The speed of reading is the best of three ways to read every number of the same arrays once with
NumPy: `sum`, `max` and the product of an array with itself. Each figure is the best of several
runs, ours and the yardstick in turn; one process, one BLAS thread. The members of scikit-learn's
hard `VotingClassifier` and of ours name the highest of the same probabilities.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from sklearn.ensemble import VotingClassifier
from sklearn.preprocessing import LabelEncoder

from fusetune.fuse.forms import WeightedAverage
from fusetune.fuse.methods.distributions.mean import Mean
from fusetune.fuse.methods.distributions.vote import Vote
from fusetune.fuse.sums import weighted_sum
from fusetune.metrics.accuracy import Accuracy
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack


class Given:
    """A member for scikit-learn that has its probabilities already."""

    def __init__(self, probs_NC: np.ndarray) -> None:
        self.probs_NC = probs_NC

    def predict(self, inputs_N: np.ndarray) -> np.ndarray:
        """The labels."""
        return self.probs_NC.argmax(axis=1)


def best(work: Callable[[], object]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def stack_of(members: int, rows: int, classes: int, dtype: type) -> Stack[Probabilities]:
    """Random probabilities, the highest of them mostly that of the same class."""
    random = np.random.default_rng(0)
    labels_N = random.integers(classes, size=rows)
    ids, names = np.arange(rows).astype(str), tuple(f"c{c}" for c in range(classes))
    parts = {}
    for member in range(members):
        raw_NC = random.random((rows, classes)) ** 4
        raw_NC[np.arange(rows), labels_N] += 0.5
        probs_NC = (raw_NC / raw_NC.sum(axis=1, keepdims=True)).astype(dtype)
        parts[f"m{member}"] = Probabilities(ids, names, probs_NC)
    return Stack.align(parts)


def averages(stack: Stack[Probabilities], repeats: int) -> None:
    """Rows of the table of averages."""
    arrays = [part.probs_NC for part in stack.parts]
    flats = [array.reshape(-1) for array in arrays]
    equal_M, dtype = np.full(len(arrays), 1 / len(arrays)), arrays[0].dtype
    weights_M = np.random.default_rng(1).random(len(arrays))
    weighted = WeightedAverage.of(dict(zip(stack.members, weights_M, strict=True)))
    mean = Mean().fit(stack, None, Accuracy())
    ways: dict[str, Callable[[], object]] = {
        "read: sum": lambda: [array.sum() for array in arrays],
        "read: max": lambda: [array.max() for array in arrays],
        "read: a @ a": lambda: [flat @ flat for flat in flats],
        "weighted_sum": lambda: weighted_sum(arrays, weights_M, dtype),
        "weighted_sum, equal weights": lambda: weighted_sum(arrays, equal_M, dtype),
        "weighted_mean, applied": lambda: weighted(stack),
        "mean, applied": lambda: mean(stack),
    }
    times = {name: float("inf") for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            times[name] = min(times[name], best(work))
    size = sum(array.nbytes for array in arrays)
    reading = min(took for name, took in times.items() if name.startswith("read"))
    for name, took in times.items():
        print(
            f"| {arrays[0].dtype} | {name} | {size / took / 1e9:.1f} | {reading / took:.2f} |",
            flush=True,
        )


def votes(stack: Stack[Probabilities], repeats: int) -> None:
    """Rows of the table of votes."""
    given = [Given(part.probs_NC) for part in stack.parts]
    peer = VotingClassifier(list(zip(stack.members, given, strict=True)))
    peer.estimators_ = given
    peer.le_ = LabelEncoder().fit(np.arange(len(stack.classes)))
    vote = Vote().fit(stack, None, Accuracy())
    inputs_N = np.zeros((len(stack), 1))
    theirs = min(best(lambda: peer.predict(inputs_N)) for _ in range(2))
    ours = min(best(lambda: vote(stack)) for _ in range(repeats))
    given_N, fused_N = peer.predict(inputs_N), vote(stack).probs_NC.argmax(axis=1)
    counts_NC = np.zeros((len(stack), len(stack.classes)))
    for member in given:
        counts_NC[np.arange(len(stack)), member.predict(inputs_N)] += 1
    untied_N = (counts_NC == counts_NC.max(axis=1, keepdims=True)).sum(axis=1) == 1
    same = (given_N == fused_N)[untied_N].mean()
    dtype = stack.parts[0].probs_NC.dtype
    print(
        f"| {dtype} | {ours:.3f} | {theirs:.2f} | {theirs / ours:.0f} | {100 * same:.0f} % |",
        flush=True,
    )


def main() -> None:
    """Measure, and print Markdown tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    size = options.members, options.rows, options.classes
    print("{} members × {:,} rows × {} classes\n".format(*size))
    print("| precision | work | GB/s | of the speed of reading |\n| --- | --- | ---: | ---: |")
    for dtype in (np.float32, np.float64):
        averages(stack_of(*size, dtype), options.repeats)
    print("\n| precision | vote, s | scikit-learn, s | times faster | same where no tie |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for dtype in (np.float32, np.float64):
        votes(stack_of(*size, dtype), options.repeats)


if __name__ == "__main__":
    main()
