# SPDX-License-Identifier: Apache-2.0
"""Detections judged class by class.

Shapes: C classes.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fusetune.predictions.kinds import Kind
from fusetune.predictions.matches import Summary, class_values, match_statistics
from fusetune.predictions.objects import Objects
from fusetune.predictions.targets import GroundTruth

__all__ = ["class_results"]


def class_results(
    predictions: Mapping[str, Kind], targets: GroundTruth
) -> dict[str, list[dict[str, Any]]]:
    """Average precision over ten overlaps of each class that has objects, in the targets' order.

    Args:
        predictions: Name → detections of the targets' rows.
        targets: Their truth.

    Returns:
        `per_class`, a list of `{class, objects, average_precision: {name: value}}`; nothing for
        other kinds.
    """
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
