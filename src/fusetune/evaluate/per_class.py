# SPDX-License-Identifier: Apache-2.0
"""Detections and masks judged part by part: classes, sizes of objects, levels of recall.

Shapes: N rows, C classes, R resamples, V parts.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusetune.evaluate.compare import bootstrap_differences
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.matches import (
    AREAS,
    AREAS_A2,
    Area,
    Summary,
    class_values,
    match_statistics,
    precision_curves,
    summary_values,
)
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Floats, Kind
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.tallies import class_tallies
from fusetune.predictions.targets import GroundTruth

__all__ = ["class_results"]

HALF = Summary(overlap=0.5)
SIZES: tuple[Area, ...] = ("small", "medium", "large")
MOST_CURVES = 12  # members whose precision and recall are kept
Values = Callable[[Floats], Floats]


@dataclass(frozen=True)
class _Pair:
    """Who is compared: the best member and the chosen fusion, and the seed of resampling."""

    best: str
    chosen: str
    seed: int

    def entries(self, parts: Mapping[str, Values], num_rows: int) -> list[dict[str, Any]]:
        """Of each part: `values` by name, `gain` and its `interval` (None: no value in any resample)."""
        values = {name: parts[name](np.ones((1, num_rows)))[0] for name in (self.best, self.chosen)}
        gains = bootstrap_differences(
            parts[self.chosen], parts[self.best], num_rows, seed=self.seed
        )
        return [
            {
                "values": {name: _rounded(found[index]) for name, found in values.items()},
                "gain": _rounded(gain.value),
                "interval": None
                if math.isnan(gain.low)
                else [_rounded(gain.low), _rounded(gain.high)],
            }
            for index, gain in enumerate(gains)
        ]


def class_results(
    predictions: Mapping[str, Kind],
    targets: GroundTruth,
    best: str,
    chosen: str,
    *,
    seed: int,
) -> dict[str, Any]:
    """What of results.json compares the best member and the chosen fusion part by part.

    Detections by average precision over ten overlaps, masks by intersection over union.

    Args:
        predictions: Name → detections or masks of the targets' rows, of members and of `chosen`.
        targets: Their truth.
        best: The best member.
        chosen: The chosen predictor.
        seed: Of the resampling.

    Returns:
        `per_class`, for each class that has objects or pixels, in the targets' order, `{class,
        objects, average_precision: {name: value}, gain, interval}`, or of masks `{class, pixels,
        intersection_over_union, gain, interval}`. Of detections also `by_size`, likewise with
        `size` for `class`, unless boxes are shares of their image; and `precision_recall`, the mean
        over the classes of precision at 101 levels of recall, at an overlap of a half. Nothing for
        other kinds.
    """
    pair = _Pair(best, chosen, seed)
    if isinstance(targets, LabelMaps):
        return {"per_class": _of_masks(predictions, targets, pair)}
    if not isinstance(targets, Objects):
        return {}
    statistics = {
        name: match_statistics(part, targets)
        for name, part in predictions.items()
        if isinstance(part, Boxes)
    }
    sizes = {} if targets.relative else {"by_size": _by_size(statistics, targets, pair)}
    return {
        "per_class": _by_class(statistics, targets, pair),
        **sizes,
        "precision_recall": _curves(statistics, pair),
    }


def _by_class(
    statistics: Mapping[str, Floats], targets: Objects, pair: _Pair
) -> list[dict[str, Any]]:
    num_classes = len(targets.classes)

    def values_of(statistics_NS: Floats) -> Values:
        def values(weights_RN: Floats) -> Floats:
            found_RC = class_values(Summary(), statistics_NS, weights_RN)
            absent = np.full((len(found_RC), num_classes - found_RC.shape[1]), np.nan)
            return np.concatenate([found_RC, absent], axis=1)

        return values

    parts = {name: values_of(found) for name, found in statistics.items()}
    assert targets.ignored_K is not None
    counts_C = np.bincount(targets.labels_K[~targets.ignored_K], minlength=num_classes)
    entries = zip(targets.classes, counts_C, pair.entries(parts, len(targets)), strict=True)
    return [
        {"class": label, "objects": int(count), **_named("average_precision", entry)}
        for label, count, entry in entries
        if count
    ]


def _by_size(
    statistics: Mapping[str, Floats], targets: Objects, pair: _Pair
) -> list[dict[str, Any]]:
    def values_of(statistics_NS: Floats) -> Values:
        return lambda weights_RN: np.stack(
            [summary_values(Summary(area=size), statistics_NS, weights_RN) for size in SIZES],
            axis=1,
        )

    parts = {name: values_of(found) for name, found in statistics.items()}
    counts = _sizes_of(targets)
    entries = zip(SIZES, counts, pair.entries(parts, len(targets)), strict=True)
    return [
        {"size": size, "objects": count, **_named("average_precision", entry)}
        for size, count, entry in entries
    ]


def _sizes_of(targets: Objects) -> list[int]:
    """How many objects that count are of each size; the ends belong to both sides, as in COCO."""
    assert targets.ignored_K is not None and targets.areas_K is not None
    areas_K = targets.areas_K[~targets.ignored_K]
    ends = [AREAS_A2[AREAS[size]] for size in SIZES]
    return [int(((areas_K >= low) & (areas_K <= high)).sum()) for low, high in ends]


def _curves(statistics: Mapping[str, Floats], pair: _Pair) -> dict[str, Any]:
    """The chosen one, the best member and others, as many as are kept."""
    names = [*dict.fromkeys([pair.chosen, pair.best, *statistics])][: MOST_CURVES + 1]
    curves = {}
    for name in names:
        curves_CQ = precision_curves(HALF, statistics[name])
        known_C = ~np.isnan(curves_CQ).any(axis=1)
        curves[name] = curves_CQ[known_C].mean(axis=0)
    return {
        "overlap": HALF.overlap,
        "average_precision": {name: _rounded(found.mean()) for name, found in curves.items()},
        "precision": {name: found.round(4).tolist() for name, found in curves.items()},
    }


def _of_masks(
    predictions: Mapping[str, Kind], truth: LabelMaps, pair: _Pair
) -> list[dict[str, Any]]:
    def values_of(tallies_N3C: Floats) -> Values:
        def values(weights_RN: Floats) -> Floats:
            both_RC, said_RC, true_RC = (weights_RN @ tallies_N3C[:, part] for part in range(3))
            either_RC = said_RC + true_RC - both_RC
            return np.where(true_RC > 0, both_RC / np.maximum(either_RC, 1), np.nan)

        return values

    parts = {
        name: values_of(class_tallies(predictions[name], truth).astype(np.float64))  # type: ignore[arg-type]
        for name in (pair.best, pair.chosen)
    }
    counts_C = truth.counts_NC.sum(axis=0).tolist()
    entries = zip(truth.classes, counts_C, pair.entries(parts, len(truth)), strict=True)
    return [
        {"class": label, "pixels": count, **_named("intersection_over_union", entry)}
        for label, count, entry in entries
        if count
    ]


def _named(measure: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {measure: entry["values"], "gain": entry["gain"], "interval": entry["interval"]}


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)
