# SPDX-License-Identifier: Apache-2.0
"""Weights of smallest log-loss, and of smallest squared error, beside SciPy's SLSQP.

    PYTHONPATH=src OMP_NUM_THREADS=1 python benchmarks/simplex_weights.py [--members 100] [--rows 10000]
    PYTHONPATH=src OMP_NUM_THREADS=1 python benchmarks/simplex_weights.py --objectives 150

All are given the same `(M, N)` probabilities of the true classes, in one process, on one BLAS
thread (more made SLSQP ten times slower on a busy machine). The duality gap, in nats, is computed
alike for all: the largest pull of a member at the weights found, minus 1. One problem has an
optimum with few members, the other one with most of them, and in the third it lies next to the
equal weights that SLSQP starts from. `--objectives` compares, on simulated pools, what weights by
each objective and shrinkage score on new rows.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from greedy_selection import pool
from scipy.optimize import minimize

from fusetune.fuse.methods.distributions.weighted_mean import WeightedMean
from fusetune.fuse.simplex import log_loss_weights, residual_gram, squared_error_weights
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.brier import Brier
from fusetune.metrics.log_loss import LogLoss
from fusetune.metrics.macro_f1 import MacroF1

Solver = Callable[[np.ndarray], np.ndarray]


def problem(members: int, rows: int, kind: str, seed: int = 0) -> np.ndarray:
    """Probabilities of true classes: members of like skill, or each with rows that it alone knows."""
    random = np.random.default_rng(seed)
    spread_M1 = random.uniform(0.5, 2.5, (members, 1))
    skill_M1 = 0.15 * random.normal(size=(members, 1))
    logits_MN = 1.0 + skill_M1 + 1.5 * random.normal(size=rows)
    logits_MN = logits_MN + spread_M1 * random.normal(size=(members, rows))
    if kind != "sparse":
        logits_MN = 0.3 * random.normal(size=(members, rows)) - 4.0
        shares_M = random.uniform(0.3, 1.7, members)
        knows = random.choice(members, rows, p=shares_M / shares_M.sum())
        if kind == "near equal":
            knows = np.arange(rows) % members
        logits_MN[knows, np.arange(rows)] += 6.0
    return 1 / (1 + np.exp(-logits_MN))


def slsqp(true_MN: np.ndarray, *, gradient: bool) -> np.ndarray:
    """Weights by SciPy's SLSQP with its default tolerance."""
    members, rows = true_MN.shape

    def loss(weights_M: np.ndarray) -> float:
        return -float(np.log(np.maximum(weights_M @ true_MN, 1e-300)).mean())

    def slope(weights_M: np.ndarray) -> np.ndarray:
        return -true_MN @ (1 / np.maximum(weights_M @ true_MN, 1e-300)) / rows

    found = minimize(
        loss,
        np.full(members, 1 / members),
        jac=slope if gradient else None,
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"maxiter": 1_000},
    )
    weights_M = np.maximum(found.x, 0)
    return weights_M / weights_M.sum()


def gap(weights_M: np.ndarray, true_MN: np.ndarray) -> float:
    """Duality gap of log-loss, in nats."""
    return float((true_MN @ (1 / (weights_M @ true_MN))).max() / true_MN.shape[1] - 1)


def timed(solve: Solver, true_MN: np.ndarray, repeats: int) -> tuple[float, np.ndarray]:
    """Median time, and the weights."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        weights_M = solve(true_MN)
        times.append(time.perf_counter() - start)
    return statistics.median(times), weights_M


def log_loss(members: int, rows: int, repeats: int) -> None:
    """The table of log-loss."""
    print(f"\nLog-loss, {members} members × {rows:,} rows\n")
    print("| optimum | solver | s | of ours | gap, nats | members with weight |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    solvers: dict[str, tuple[Solver, int]] = {
        "ours": (lambda p: log_loss_weights(p, np.ones(p.shape[1]))[0], repeats),
        "SLSQP with gradient": (lambda p: slsqp(p, gradient=True), repeats),
        "SLSQP": (lambda p: slsqp(p, gradient=False), 1),
    }
    for kind in ("sparse", "dense", "near equal"):
        true_MN = problem(members, rows, kind)
        ours = 0.0
        for name, (solve, times) in solvers.items():
            took, weights_M = timed(solve, true_MN, times)
            ours = ours or took
            print(
                f"| {kind} | {name} | {took:.4f} | {took / ours:.2f} | "
                f"{gap(weights_M, true_MN):.0e} | {int((weights_M > 1e-6).sum())} |",
                flush=True,
            )


def squared_error(rows: int, repeats: int) -> None:
    """The table of squared error: after one pass over the rows, nothing depends on them."""
    print("\nSquared error\n")
    print("| members | rows | one pass, s | weights, s | gap / E | members with weight |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for members, num_rows in ((100, rows), (100, 4 * rows), (500, rows)):
        random = np.random.default_rng(0)
        errors_MN = random.normal(size=(members, num_rows)) + random.normal(size=num_rows)
        errors_MN *= random.uniform(0.8, 1.2, (members, 1)) / np.sqrt(num_rows)
        passed, gram_MM = timed(lambda e: residual_gram(e[:, :, None]), errors_MN, repeats)
        took, weights_M = timed(lambda g: squared_error_weights(g)[0], gram_MM, repeats)
        _, certified = squared_error_weights(gram_MM)
        print(
            f"| {members} | {num_rows:,} | {passed:.4f} | {took:.4f} | "
            f"{certified / gram_MM.diagonal().mean():.0e} | {int((weights_M > 0).sum())} |",
            flush=True,
        )


def objectives(pools: int) -> None:
    """What weights by each objective score on 4,000 new rows, beside log-loss weights unshrunk."""
    print(
        "\n| metric | weights | better by | ± | wins | losses |\n| --- | --- | ---: | ---: | ---: | ---: |"
    )
    ways = {
        "mean": WeightedMean(shrink=1.0),
        "log_loss, shrunk": WeightedMean(objective="log_loss"),
        "squared_error, shrunk": WeightedMean(objective="squared_error"),
        "metric": WeightedMean(objective="metric", shrink=0.0),
        "metric, shrunk": WeightedMean(objective="metric"),
    }
    base = WeightedMean(objective="log_loss", shrink=0.0)
    gains: dict[tuple[str, str], list[float]] = {}
    for seed in range(pools):
        random = np.random.default_rng(seed)
        rows, members = int(random.choice([40, 100, 300, 1_000])), int(random.integers(3, 12))
        skill, noise = random.uniform(1, 3), random.uniform(0.5, 2)
        size = members, rows + 4_000, int(random.integers(2, 6))
        stack, targets = pool(*size, seed=seed, skill=skill, noise=noise)
        fit, new = np.arange(rows), np.arange(rows, rows + 4_000)
        for metric in (LogLoss(), Brier(), Accuracy(), MacroF1()):
            scores = {}
            for name, method in {"": base, **ways}.items():
                fusion = method.fit(stack.take(fit), targets.take(fit), metric)
                fused = fusion(stack.take(new))
                scores[name] = metric.value(metric.statistics(fused, targets.take(new)))
            for name in ways:
                gain = metric.gain(scores[name], scores[""])
                gains.setdefault((metric.name, name), []).append(float(gain))
    for (metric_name, name), found in gains.items():
        values = np.array(found)
        error = values.std() / np.sqrt(len(values))
        print(
            f"| {metric_name} | {name} | {values.mean():+.4f} | {error:.4f} | "
            f"{100 * (values > 1e-9).mean():.0f} % | {100 * (values < -1e-9).mean():.0f} % |"
        )


def main() -> None:
    """Measure, and print Markdown tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--objectives", type=int, metavar="POOLS")
    options = parser.parse_args()
    if options.objectives:
        objectives(options.objectives)
        return
    log_loss(options.members, options.rows, options.repeats)
    squared_error(options.rows, options.repeats)


if __name__ == "__main__":
    main()
