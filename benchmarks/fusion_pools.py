# SPDX-License-Identifier: Apache-2.0
r"""Every fusion method, `auto` and AutoGluon's ensemble selection on real pools of members.

The members are scikit-learn models fitted on train rows; the holdout fits the fusion; test rows
judge. Each pool is made several times over, with other rows and other members' seeds: even seeds
chose our defaults, odd ones are reported. Predictions are kept under --cache (minutes to make).
Writes docs/results/fusion_pools.md to the standard output:

    FUSETUNE_DATA=../shared/data python benchmarks/fusion_pools.py \
        --autogluon /tmp/peers/bin/python > docs/results/fusion_pools.md
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pools_of_members import POOLS, Pool, Predicted, predicted

from fusetune.choose import choose
from fusetune.errors import FusetuneError
from fusetune.evaluate.compare import bootstrap_gain
from fusetune.fuse.forms import WeightedAverage
from fusetune.fuse.method import FusionMethod
from fusetune.metric import Metric
from fusetune.plugins import discover, find
from fusetune.predictions.kinds import Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets, Numbers, Targets
from fusetune.tasks.classification import Classification
from fusetune.tasks.regression import Regression

MOST_TEST_ROWS = 5_000
RESAMPLES = 500
BEST, AUTO, PEER = "best_member", "auto", "autogluon"
SHOWN = (BEST, "mean", "weighted_mean", "greedy_selection", PEER, "log_pool", "stacking", AUTO)


@dataclass(frozen=True)
class Judged:
    """One pool, metric and seed.

    Args:
        pool: Key of `POOLS`.
        metric: What it is judged by.
        seed: Of the members and the split.
        scores: Method → value on test rows.
        signs: Method → 1 if significantly better than the best member, -1 if worse, else 0.
    """

    pool: str
    metric: str
    seed: int
    scores: dict[str, float]
    signs: dict[str, int]


def split(pool: Pool, made: Predicted, seed: int) -> list[tuple[Stack[Any], Any]]:
    """Holdout and test: members' predictions and the truth."""
    order = np.random.default_rng(1000 + seed).permutation(len(made.targets_N))
    ids = np.array([f"row{n:05d}" for n in range(len(order))])
    halves = []
    for rows in (order[: pool.holdout], order[pool.holdout :][:MOST_TEST_ROWS]):
        kept, parts = np.sort(rows), {}
        for name, array_NC in zip(made.members, made.array_MNC, strict=True):
            if made.classes:
                parts[name] = Probabilities(ids[kept], made.classes, array_NC[kept])
            else:
                parts[name] = Values(ids[kept], ("y",), array_NC[kept])
        truth = made.targets_N[kept]
        targets = (
            Targets(ids[kept], made.classes, truth)
            if made.classes
            else Numbers(ids[kept], ("y",), truth[:, None])
        )
        halves.append((Stack.align(parts, classes=made.classes), targets))
    return halves


def ask_autogluon(python: str, seeds: list[int], cache: Path) -> None:
    """Have the weights of its selection written for every pool, metric and seed."""
    folder = cache / "autogluon"
    folder.mkdir(parents=True, exist_ok=True)
    for name, pool in POOLS.items():
        for seed in seeds:
            (stack, targets), _ = split(pool, predicted(name, seed, cache), seed)
            array_MNC = np.stack([part.array_NC for part in stack.parts])
            is_number = isinstance(targets, Numbers)
            truth = targets.values_ND[:, 0] if is_number else targets.labels_N
            for metric in pool.metrics:
                path = folder / f"{name}-{seed}-{metric}.npz"
                if not path.exists():
                    np.savez(path, array_MNC=array_MNC, targets_N=truth, metric=metric)
    script = Path(__file__).with_name("autogluon_selection.py")
    subprocess.run([python, str(script), str(folder)], check=True)


def fused(
    stack: Stack[Any], targets: AnyTargets, metric: Metric[Any], test: Stack[Any]
) -> Iterator[tuple[str, Any]]:
    """Method → prediction of the test rows."""
    kind = type(stack.parts[0])
    task = Classification() if kind is Probabilities else Regression()
    methods = {name: find(FusionMethod, name)() for name in task.methods}
    choice = choose(stack, targets, metric, methods)
    for name, fusion in choice.fusions.items():
        yield name, fusion(test)
    for name, method in discover(FusionMethod).items():
        if name in choice.fusions or kind not in method.accepts:
            continue
        try:
            yield name, method().fit(stack, targets, metric)(test)
        except FusetuneError:
            continue  # it asks for features, which these pools do not have


def judged(name: str, seed: int, cache: Path) -> Iterator[Judged]:
    """The pool by each of its metrics."""
    pool = POOLS[name]
    (stack, targets), (test, truth) = split(pool, predicted(name, seed, cache), seed)
    for metric_name in pool.metrics:
        metric = find(Metric, metric_name)()
        fusions = dict(fused(stack, targets, metric, test))
        answer = cache / "autogluon" / f"{name}-{seed}-{metric_name}.json"
        if answer.exists():
            weights = dict(zip(stack.members, json.loads(answer.read_text()), strict=True))
            fusions[PEER] = WeightedAverage.of(weights)(test)
        statistics = {key: metric.statistics(part, truth) for key, part in fusions.items()}
        signs = {}
        for key, statistics_NS in statistics.items():
            gain = bootstrap_gain(
                metric, statistics_NS, statistics[BEST], resamples=RESAMPLES, seed=seed
            )
            signs[key] = int(gain.low > 0) - int(gain.high < 0)
        scores = {key: metric.value(part) for key, part in statistics.items()}
        yield Judged(name, metric_name, seed, scores, signs)


def mean_scores(results: list[Judged]) -> dict[tuple[str, str], dict[str, float]]:
    """Pool and metric → method → mean value over the seeds."""
    keys = dict.fromkeys((one.pool, one.metric) for one in results)
    found = {}
    for key in keys:
        own = [one.scores for one in results if (one.pool, one.metric) == key]
        found[key] = {name: float(np.mean([scores[name] for scores in own])) for name in own[0]}
    return found


def ranks(scores: dict[str, float], metric: str) -> dict[str, float]:
    """Method → rank, 1 for the best; ties share their mean rank."""
    sign = -1 if find(Metric, metric).higher_is_better else 1
    values = np.array([sign * round(value, 9) for value in scores.values()])
    below_M = (values[None] < values[:, None]).sum(axis=1)
    same_M = (values[None] == values[:, None]).sum(axis=1)
    return dict(zip(scores, (below_M + (same_M + 1) / 2).tolist(), strict=True))


def summary(results: list[Judged]) -> Iterator[str]:
    """Mean rank, wins and losses of every method, over the methods that every pool has."""
    table = mean_scores(results)
    everywhere = set.intersection(*(set(scores) for scores in table.values()))
    common = [name for name in next(iter(table.values())) if name in everywhere]
    by_metric = {
        metric: [key for key in table if key[1] == metric]
        for metric in dict.fromkeys(key[1] for key in table)
    }
    rank = {key: ranks({m: table[key][m] for m in common}, key[1]) for key in table}
    heads = "".join(f" {metric} ({len(keys)}) |" for metric, keys in by_metric.items())
    yield f"| method | mean rank ({len(table)}) |{heads} wins | losses |"
    yield "| --- |" + " ---: |" * (len(by_metric) + 3)
    order = sorted(common, key=lambda name: np.mean([rank[key][name] for key in table]))
    for name in order:
        overall = np.mean([rank[key][name] for key in table])
        parts = "".join(
            f" {np.mean([rank[key][name] for key in keys]):.2f} |" for keys in by_metric.values()
        )
        won = sum(one.signs[name] > 0 for one in results)
        lost = sum(one.signs[name] < 0 for one in results)
        shown = f"**{name}**" if name == AUTO else name
        yield f"| {shown} | {overall:.2f} |{parts} {won} | {lost} |"


def pool_lines(results: list[Judged]) -> Iterator[str]:
    """A line per pool and metric, means over the seeds."""
    yield (
        "| pool | holdout | members | classes | judged by |"
        + "".join(f" {name} |" for name in SHOWN)
        + " auto won/lost |"
    )
    yield "| --- | ---: | ---: | ---: | --- |" + " ---: |" * (len(SHOWN) + 1)
    for (pool, metric), scores in mean_scores(results).items():
        own = [one for one in results if (one.pool, one.metric) == (pool, metric)]
        won = sum(one.signs[AUTO] > 0 for one in own)
        lost = sum(one.signs[AUTO] < 0 for one in own)
        sign = 1 if find(Metric, metric).higher_is_better else -1
        best = max(sign * scores[name] for name in SHOWN if name in scores)
        cells = [
            "–" if name not in scores
            else f"**{scores[name]:.4f}**" if sign * scores[name] >= best - 1e-9
            else f"{scores[name]:.4f}"
            for name in SHOWN
        ]  # fmt: skip
        about = SIZES[pool]
        yield (
            f"| {pool} ({POOLS[pool].about}) | {POOLS[pool].holdout:,} | {about[0]} | {about[1]} | "
            f"{metric} | {' | '.join(cells)} | {won}/{lost} of {len(own)} |"
        )


SIZES: dict[str, tuple[int, str]] = {}

HEAD = """\
# Fusion on real pools

{date}, {machine}, numpy {numpy}; `python benchmarks/fusion_pools.py --seeds {seeds} --autogluon PYTHON`, {minutes:.1f} min after the members were fitted.

{pools} pools of real members (scikit-learn models, and three published networks) on real data, {comparisons} pools × metrics,
each made anew {num_seeds} times (other rows, other members' seeds: {total} comparisons). Defaults were chosen on even seeds
(0, 2, 4, 6); these are the odd seeds **{seeds}**, which no choice has seen. *Best member*: the one that looked
best on the holdout by the metric. *Wins* and *losses*: comparisons in which the paired 95 % bootstrap interval of the gain over the best
member on test excludes 0 ({total} each). Ranks are taken of the means over the seeds, 1 is best. `autogluon` is
`autogluon.core`'s EnsembleSelection, 25 rounds, ties by log-loss, run in its own interpreter. `auto` chooses among the
task's default methods: {defaults}.

{verdict}

"""


def verdict(results: list[Judged]) -> str:
    """The claims that the table is held against."""
    won = {n: sum(one.signs[n] > 0 for one in results) for n in (AUTO, "greedy_selection")}
    lost = [one for one in results if one.signs[AUTO] < 0]
    where = ", ".join(sorted({f"{one.pool} by {one.metric}" for one in lost}))
    return (
        f"`auto` wins {won[AUTO]} comparisons, greedy selection {won['greedy_selection']}; `auto` "
        f"loses {len(lost)} of {len(results)} ({100 * len(lost) / len(results):.1f} %): {where}."
    )


def main() -> None:
    """Make or load the pools, judge, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1,3,5,7")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/fusion_pools"))
    parser.add_argument("--autogluon", help="a Python that has autogluon.core")
    parser.add_argument("--pools", help="some pools only")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    names = given.pools.split(",") if given.pools else list(POOLS)
    warnings.filterwarnings("ignore", module="sklearn")
    for name in names:
        for seed in seeds:
            made = predicted(name, seed, given.cache)
            SIZES[name] = (len(made.members), str(len(made.classes) or "–"))
    start = time.perf_counter()
    if given.autogluon:
        ask_autogluon(given.autogluon, seeds, given.cache)
    results = []
    for name in names:
        for seed in seeds:
            results += judged(name, seed, given.cache)
        print(name, f"{time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    print(
        HEAD.format(
            date=datetime.date.today(),
            machine=platform.machine(),
            numpy=np.__version__,
            seeds=given.seeds,
            minutes=(time.perf_counter() - start) / 60,
            pools=len(names),
            comparisons=len(mean_scores(results)),
            num_seeds=len(seeds),
            total=len(results),
            defaults=", ".join(Classification.methods),
            verdict=verdict(results),
        )
    )
    classes = [one for one in results if POOLS[one.pool].metrics != ("rmse",)]
    numbers = [one for one in results if POOLS[one.pool].metrics == ("rmse",)]
    for title, own in (("Classification", classes), ("Regression", numbers)):
        if own:
            print(f"## {title}\n", *summary(own), "", *pool_lines(own), "", sep="\n")


if __name__ == "__main__":
    main()
