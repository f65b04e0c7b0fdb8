# SPDX-License-Identifier: Apache-2.0
"""Greedy selection beside autogluon.core's EnsembleSelection: the same weights, and how much faster.

    PYTHONPATH=src OMP_NUM_THREADS=1 python benchmarks/greedy_selection.py [--growth] [--vectors FILE]

Both are given the same arrays, in one process, on one BLAS thread: ours is the whole `fit` of
`GreedySelection` from an aligned stack, the peer's the whole `fit` of `EnsembleSelection`. Without
autogluon.core (`pip install autogluon.core`) only ours is measured. `--growth` shows how time grows
with rows and members; `--vectors` writes small pools and the peer's weights, for the tests.
"""

import argparse
import importlib.util
import json
import statistics
import time
from pathlib import Path

import numpy as np

from fusetune.fuse.methods.distributions.greedy_selection import GreedySelection
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.log_loss import LogLoss
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets

POOLS = {"96 % right": (3.5, 0.7), "81 % right": (2.5, 1.0), "52 % right": (1.5, 1.0)}
METRICS = {"log_loss": LogLoss(), "accuracy": Accuracy()}
ROUNDS = 25
HAS_PEER = importlib.util.find_spec("autogluon") is not None


def pool(
    members: int, rows: int, classes: int, *, seed: int = 0, skill: float = 2.5, noise: float = 1.0
) -> tuple[Stack[Probabilities], Targets]:
    """Members whose logits share the truth and an error, and each have one of their own."""
    random = np.random.default_rng(seed)
    labels_N = random.integers(classes, size=rows)
    shared_NC = random.normal(size=(rows, classes))
    shared_NC[np.arange(rows), labels_N] += skill
    names, ids = tuple(f"c{c}" for c in range(classes)), np.arange(rows).astype(str)
    parts = {}
    for member in range(members):
        own_NC = noise * random.uniform(0.5, 1.5) * random.normal(size=(rows, classes))
        logits_NC = shared_NC * random.uniform(0.7, 1.3) + own_NC
        parts[f"m{member}"] = Probabilities.from_logits(ids, names, logits_NC)
    return Stack.align(parts, classes=names), Targets(ids, names, labels_N)


def seconds(stack: Stack[Probabilities], targets: Targets, metric: str, repeats: int) -> float:
    """Median time of our fit."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        GreedySelection(rounds=ROUNDS).fit(stack, targets, METRICS[metric])
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def by_peer(
    stack: Stack[Probabilities], targets: Targets, metric: str, rounds: int = ROUNDS
) -> tuple[np.ndarray, float, bool]:
    """The peer's weights, its time, and whether several sizes tie for its best score (if quick)."""
    from autogluon.core import metrics
    from autogluon.core.models.greedy_ensemble.ensemble_selection import EnsembleSelection

    arrays = [part.probs_NC for part in stack.parts]
    judged_by = {"log_loss": metrics.log_loss, "accuracy": metrics.accuracy}[metric]
    options = {"problem_type": "multiclass", "metric": judged_by, "tie_breaker": "second_metric"}
    selection = EnsembleSelection(ensemble_size=rounds, **options)
    start = time.perf_counter()
    selection.fit(arrays, targets.labels_N)
    took = time.perf_counter() - start
    path = EnsembleSelection(ensemble_size=rounds, **options)
    path.use_best = False  # never cut: to see whether a later size is as good
    path._fit(arrays, targets.labels_N) if took < 1 else None
    scores = getattr(path, "trajectory_", selection.trajectory_)
    return selection.weights_, took, scores.count(min(scores)) > 1


def race(members: int, rows: int, classes: int, repeats: int) -> None:
    """Ours beside the peer's, on three pools and two metrics."""
    print(f"\n{members} members × {rows:,} rows × {classes} classes, {ROUNDS} rounds\n")
    print("| members are | metric | ours, s | autogluon.core, s | times faster | weights |")
    print("| --- | --- | ---: | ---: | ---: | --- |")
    for name, (skill, noise) in POOLS.items():
        stack, targets = pool(members, rows, classes, skill=skill, noise=noise)
        for metric in METRICS:
            before = seconds(stack, targets, metric, repeats)
            if not HAS_PEER:
                print(f"| {name} | {metric} | {before:.3f} | | | |", flush=True)
                continue
            weights_M, peer, _ = by_peer(stack, targets, metric)
            ours = statistics.median([before, seconds(stack, targets, metric, repeats)])
            fusion = GreedySelection(rounds=ROUNDS).fit(stack, targets, METRICS[metric])
            found = np.array([fusion.weights().get(member, 0.0) for member in stack.members])
            same = "the same" if np.allclose(found, weights_M, atol=1e-12) else "others"
            print(
                f"| {name} | {metric} | {ours:.3f} | {peer:.2f} | {peer / ours:.0f} | {same} |",
                flush=True,
            )


def growth(classes: int) -> None:
    """Seconds by rows and by members, on the middle pool."""
    skill, noise = POOLS["81 % right"]
    print("\n| members | rows | log_loss, s | accuracy, s |\n| ---: | ---: | ---: | ---: |")
    sizes = [(100, rows) for rows in (2_500, 5_000, 10_000, 20_000, 40_000)]
    sizes += [(members, 10_000) for members in (50, 100, 200, 500, 1_000)]
    for members, rows in sizes:
        stack, targets = pool(members, rows, classes, skill=skill, noise=noise)
        times = [f"{seconds(stack, targets, metric, 3):.3f}" for metric in METRICS]
        print(f"| {members:,} | {rows:,} | {' | '.join(times)} |", flush=True)


def vectors(path: Path) -> None:
    """Small pools with the peer's weights; of accuracy only those whose best size is unique."""
    cases, passed_over = [], 0
    for metric in METRICS:
        seed = 0
        while sum(case["metric"] == metric for case in cases) < 4:
            stack, targets = pool(6, 60, 3, seed=seed, skill=1.0, noise=2.0)
            parts = {
                name: Probabilities(part.ids, part.classes, part.probs_NC.round(4))
                for name, part in zip(stack.members, stack.parts, strict=True)
            }
            stack = Stack.align(parts, classes=stack.classes)
            weights_M, _, tied = by_peer(stack, targets, metric)
            seed += 1
            if tied:
                passed_over += 1
                continue
            probs = [part.probs_NC.round(4).tolist() for part in stack.parts]
            labels = targets.labels_N.tolist()
            weights = weights_M.tolist()
            cases.append({"metric": metric, "probs": probs, "labels": labels, "weights": weights})
    written = {
        "peer": "autogluon.core EnsembleSelection, tie_breaker='second_metric'",
        "rounds": ROUNDS,
        "passed_over": f"{passed_over} pools whose best accuracy occurs at several sizes",
        "cases": cases,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(written, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{len(cases)} cases, {passed_over} passed over: {path}")


def main() -> None:
    """Measure, and print Markdown tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--vectors", type=Path)
    options = parser.parse_args()
    if not HAS_PEER:
        print("autogluon.core is not installed: only ours is measured.")
    if options.vectors:
        vectors(options.vectors)
        return
    race(options.members, options.rows, options.classes, options.repeats)
    if options.growth:
        growth(options.classes)


if __name__ == "__main__":
    main()
