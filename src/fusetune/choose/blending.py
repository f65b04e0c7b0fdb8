# SPDX-License-Identifier: Apache-2.0
"""How much of each candidate goes into `auto`.

Shapes: N rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from fusetune.choose.candidates import TIE
from fusetune.choose.losses import row_losses
from fusetune.fuse.forms import Blend, linear_pool
from fusetune.fuse.method import Fusion
from fusetune.fuse.methods.distributions.greedy_selection import GreedySelection
from fusetune.fuse.reweighted import Reweighted, class_shares, reweighted
from fusetune.metric import Metric
from fusetune.metrics.mean_iou import MeanIou
from fusetune.predictions.kinds import Array, Columnar, Floats, Kind, Probabilities
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.segmentation.pixels import sampled_masks, sampled_truth
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets, Targets

__all__ = ["BlendPlan", "blend", "blend_plan"]

ERRORS = 2.0  # standard errors within which a candidate is as good as the best
SAME = 1e-6  # predictions closer than this are one candidate, not two
POWERS = (1.0, 0.5)  # balanced accuracy asks for the first, macro F1 for about the second

Shares = dict[str, float]


@dataclass(frozen=True)
class BlendPlan:
    """How to blend candidates.

    Args:
        weights: Candidate → weight, summing to 1; candidates without weight are left out.
        divisors: Class → what its probability is divided by, where the metric weighs classes
            evenly; else empty.
    """

    weights: dict[str, float]
    divisors: Shares


def blend_plan(
    fused: Mapping[str, Kind],
    targets: AnyTargets,
    metric: Metric[Any],
    weights_N: Array | None = None,
) -> BlendPlan:
    """How much of each candidate, and what classes are divided by.

    Half of the weight is greedy selection by the metric. The other half is spread evenly over the
    candidates whose mean loss (log-loss, or squared error) is within two standard errors of the
    lowest, paired by row: greedy selection alone takes the noise of a few rows for skill, the even
    mean alone ignores the metric. Of candidates that say the same, the simplest is kept.

    Where the metric weighs classes evenly, the holdout's class shares are divided out, or their
    roots, whichever suits the metric on the even half's mean: the shares themselves maximize
    balanced accuracy, while macro F1 also minds the rows that are called rare in vain.

    Masks are blended by the same chosen pixels of every row that fusions are fitted on, and a metric
    that asks for a pixel's neighbors is stood in for by mean intersection over union.

    Args:
        fused: Candidate → out-of-fold predictions of the same rows, the simplest first.
        targets: Their truth.
        metric: What the user is judged by.
        weights_N: `(N,)` weights of the rows; None: all 1.
    """
    if isinstance(next(iter(fused.values())), Masks):
        fused = {name: sampled_masks(cast(Masks, part)) for name, part in fused.items()}
        targets = sampled_truth(targets)
        metric = MeanIou() if metric.reads_neighbors else metric
    distinct: dict[str, Any] = _distinct(fused)
    columns = next(iter(fused.values())).columns
    losses = {name: row_losses(part, targets) for name, part in distinct.items()}
    near = _near_best(losses, weights_N)
    divisors: Shares = {}
    if metric.weighs_classes_evenly and isinstance(targets, Targets):
        even = linear_pool([distinct[name] for name in near], np.ones(len(near)), columns)
        divisors = _divisors(even, targets, metric, weights_N)
        distinct = {name: reweighted(part, divisors) for name, part in distinct.items()}
    stack: Stack[Any] = Stack.align(distinct, classes=columns)
    greedy = GreedySelection().fit(stack, targets, metric, sample_weights_N=weights_N)
    selected = greedy.weights()
    weights = {
        name: weight
        for name in distinct
        if (weight := selected.get(name, 0) / 2 + (name in near) / (2 * len(near))) > 0
    }
    return BlendPlan(weights, divisors)


def blend(plan: BlendPlan, fusions: Mapping[str, Fusion[Any]]) -> Blend:
    """The fusion that the plan stands for."""
    parts = [fusions[name] for name in plan.weights]
    if plan.divisors:
        classes, shares_C = tuple(plan.divisors), np.array(list(plan.divisors.values()))
        parts = [Reweighted(fusion=part, classes=classes, shares_C=shares_C) for part in parts]
    weights_F = np.array(list(plan.weights.values()))
    return Blend(names=tuple(plan.weights), fusions=tuple(parts), weights_F=weights_F)


def _divisors(
    prediction: Probabilities, targets: Targets, metric: Metric[Any], weights_N: Array | None
) -> Shares:
    """Class shares to the power that suits the metric; ties go to the first power."""
    shares, sign = class_shares(targets, weights_N), 1 if metric.higher_is_better else -1
    powered = [{name: share**power for name, share in shares.items()} for power in POWERS]
    gains = [
        sign * metric.value(metric.statistics(reweighted(prediction, divisors), targets), weights_N)
        for divisors in powered
    ]
    return next(
        one for one, gain in zip(powered, gains, strict=True) if not gain < max(gains) - TIE
    )


def _near_best(losses: Mapping[str, Any], weights_N: Array | None) -> list[str]:
    shares_N = np.ones(len(next(iter(losses.values())))) if weights_N is None else weights_N
    shares_N = shares_N / shares_N.sum()
    best_N = min(losses.values(), key=lambda losses_N: losses_N @ shares_N)
    near = []
    for name, losses_N in losses.items():
        worse_N = losses_N - best_N
        mean = worse_N @ shares_N
        if mean <= ERRORS * np.sqrt(shares_N**2 @ (worse_N - mean) ** 2) + TIE:
            near.append(name)
    return near


def _distinct(fused: Mapping[str, Kind]) -> dict[str, Kind]:
    """The candidates, without those that repeat an earlier one."""
    kept: dict[str, Kind] = {}
    for name, part in fused.items():
        numbers = _numbers(part)
        scale = SAME * max(1.0, float(np.abs(numbers).max(initial=0)))
        if not any(
            np.abs(numbers - _numbers(one)).max(initial=0) <= scale for one in kept.values()
        ):
            kept[name] = part
    return kept


def _numbers(prediction: Kind) -> Floats:
    if isinstance(prediction, Masks):
        arrays = [mask.array().reshape(-1) for mask in prediction.masks]
        return np.concatenate(arrays) if arrays else np.zeros(0)
    assert isinstance(prediction, Columnar)
    return prediction.array_NC
