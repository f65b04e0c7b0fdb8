# SPDX-License-Identifier: Apache-2.0
"""Detections and masks judged class by class.

Shapes: C classes.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fusetune.predictions.detection.matches import Summary, class_values, match_statistics
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Kind
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.tallies import class_tallies
from fusetune.predictions.targets import GroundTruth

__all__ = ["class_results"]


def class_results(
    predictions: Mapping[str, Kind], targets: GroundTruth
) -> dict[str, list[dict[str, Any]]]:
    """Each class that has objects or pixels, in the targets' order.

    Detections by average precision over ten overlaps, masks by intersection over union.

    Args:
        predictions: Name → detections or masks of the targets' rows.
        targets: Their truth.

    Returns:
        `per_class`, a list of `{class, objects, average_precision: {name: value}}`, or of masks
        `{class, pixels, intersection_over_union: {name: value}}`; nothing for other kinds.
    """
    if isinstance(targets, LabelMaps):
        return _of_masks(predictions, targets)
    if not isinstance(targets, Objects):
        return {}
    assert targets.ignored_K is not None
    num_classes, everything_1N = len(targets.classes), np.ones((1, len(targets)))
    counts_C = np.bincount(targets.labels_K[~targets.ignored_K], minlength=num_classes)
    values = {}
    for name, part in predictions.items():
        statistics_NS = match_statistics(part, targets)  # type: ignore[arg-type]
        found_C = class_values(Summary(), statistics_NS, everything_1N)[0]
        values[name] = [*found_C.tolist(), *[math.nan] * (num_classes - len(found_C))]
    entries = [
        {
            "class": label,
            "objects": int(counts_C[index]),
            "average_precision": {name: round(found[index], 6) for name, found in values.items()},
        }
        for index, label in enumerate(targets.classes)
        if counts_C[index]
    ]
    return {"per_class": entries}


def _of_masks(predictions: Mapping[str, Kind], truth: LabelMaps) -> dict[str, list[dict[str, Any]]]:
    values = {}
    for name, part in predictions.items():
        tallies_3C = class_tallies(part, truth).sum(axis=0)  # type: ignore[arg-type]
        either_C = tallies_3C[1] + tallies_3C[2] - tallies_3C[0]
        values[name] = (tallies_3C[0] / np.maximum(either_C, 1)).round(6).tolist()
    counts_C = truth.counts_NC.sum(axis=0).tolist()
    entries = [
        {
            "class": label,
            "pixels": counts_C[index],
            "intersection_over_union": {name: found[index] for name, found in values.items()},
        }
        for index, label in enumerate(truth.classes)
        if counts_C[index]
    ]
    return {"per_class": entries}
