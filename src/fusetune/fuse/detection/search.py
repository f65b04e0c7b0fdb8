# SPDX-License-Identifier: Apache-2.0
"""Weights and thresholds of weighted boxes fusion by search, for all classes and for each.

Shapes: M members, N rows, C classes.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fusetune.fuse.detection.fusion import Confidence, fused_clusters
from fusetune.fuse.detection.pool import knows_MC
from fusetune.metric import Metric
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.matches import Summary, class_values, match_statistics
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Floats
from fusetune.predictions.stack import Stack

__all__ = ["Grid", "Search", "Setting"]

FACTORS = (0.0, 0.5, 2.0)  # by which a member's weight is tried
TIE = 1e-12


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to fuse.

    Args:
        weights: M numbers of at least 0.
        iou: Overlap that a box must exceed.
        skip: Least calibrated score.
        confidence: How a cluster's score is made.
    """

    weights: tuple[float, ...]
    iou: float
    skip: float = 0.0
    confidence: Confidence = "box_and_model_avg"


@dataclass(frozen=True)
class Grid:
    """What is tried.

    Args:
        ious: Overlaps.
        skips: Least scores.
        confidences: Rules.
        rounds: How often each member's weight is tried anew.
    """

    ious: tuple[float, ...]
    skips: tuple[float, ...]
    confidences: tuple[Confidence, ...]
    rounds: int


class Search:
    """Coordinate search by the metric; every setting tried is remembered with its classes' values.

    Args:
        stack: Members with calibrated scores.
        targets: Their truth.
        metric: What is made best.
        weights_N: `(N,)` weights of the rows, as they were given: counts stay whole numbers, whose
            shares are compared with levels of recall without rounding.
    """

    def __init__(
        self, stack: Stack[Boxes], targets: Objects, metric: Metric[Any], weights_N: Floats
    ) -> None:
        self.stack, self.targets, self.metric, self.weights_N = stack, targets, metric, weights_N
        self.sign = 1 if metric.higher_is_better else -1
        self.tried: dict[Setting, tuple[float, Floats]] = {}

    def best(self, grid: Grid) -> Setting:
        """The best setting for all classes alike; ties go to the one tried first."""
        num_members = len(self.stack.members)
        one = Setting(weights=(1.0,) * num_members, iou=grid.ious[0])
        one = self._better(one, [replace(one, iou=iou) for iou in grid.ious])
        one = self._better(one, [replace(one, confidence=rule) for rule in grid.confidences])
        for _ in range(grid.rounds if num_members > 1 else 0):
            before = one
            for m in range(num_members):
                changed = [_weighed(one, m, factor) for factor in FACTORS]
                one = self._better(one, [other for other in changed if any(other.weights)])
            if one == before:
                break
        one = self._better(one, [replace(one, iou=iou) for iou in grid.ious])
        return self._better(one, [replace(one, skip=skip) for skip in grid.skips])

    def by_class(self, best: Setting, objects: float) -> list[Setting]:
        """C settings: for each class the best tried, drawn to that for all by the class's rarity.

        A class's gain counts by n / (n + `objects`) with n its true objects, that of all classes by
        the rest; only settings with the same rule of confidence, which orders a class's boxes.
        """
        settings = [one for one in self.tried if one.confidence == best.confidence]
        settings.sort(key=lambda one: one != best)  # ties: the best for all
        values_L = np.array([self.tried[one][0] for one in settings])
        values_LC = np.array([self.tried[one][1] for one in settings])
        assert self.targets.ignored_K is not None
        counted = ~self.targets.ignored_K
        share_N = self.weights_N / self.weights_N.mean()
        weights_K = share_N[self.targets.rows_K][counted]
        num_classes = len(self.targets.classes)
        counts_C = np.bincount(self.targets.labels_K[counted], weights_K, num_classes)
        own_C = counts_C / (counts_C + objects)
        gains_LC = np.nan_to_num(values_LC - values_LC[:1])
        drawn_LC = own_C * gains_LC + (1 - own_C) * (values_L - values_L[0])[:, None]
        by_name = dict(zip(self.targets.classes, drawn_LC.T, strict=True))
        chosen = []
        for name in self.stack.classes:
            drawn_L = by_name.get(name, values_L - values_L[0])
            chosen.append(settings[int(np.argmax(drawn_L > drawn_L.max() - TIE))])
        return chosen

    def _better(self, one: Setting, others: list[Setting]) -> Setting:
        for other in others:
            if self._value(other) > self._value(one) + TIE:
                one = other
        return one

    def _value(self, setting: Setting) -> float:
        if setting not in self.tried:
            weights_MC = np.array(setting.weights)[:, None] * knows_MC(self.stack)
            fused = fused_clusters(
                self.stack, weights_MC, (setting.iou, setting.skip), setting.confidence
            )
            value = self.metric.value(self.metric.statistics(fused, self.targets), self.weights_N)
            statistics_NS = match_statistics(fused, self.targets)
            found_C = class_values(Summary(), statistics_NS, self.weights_N[None])[0]
            values_C = np.full(len(self.targets.classes), np.nan)
            values_C[: len(found_C)] = found_C
            self.tried[setting] = (self.sign * value, values_C)
        return self.tried[setting][0]


def _weighed(setting: Setting, member: int, factor: float) -> Setting:
    weights = list(setting.weights)
    weights[member] = weights[member] * factor if weights[member] else factor
    return replace(setting, weights=tuple(weights))
