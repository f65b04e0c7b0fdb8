# SPDX-License-Identifier: Apache-2.0
"""What a metric of masks makes of a pool with one more member, on the pixels of all rows at once.

Shapes: M members, N rows, C classes of the truth, P pixels of all rows.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from fusetune.fuse.forms import linear_pool
from fusetune.fuse.pool_values import PoolValues
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Floats, as_ids
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.masks import ArrayMask, Masks
from fusetune.predictions.segmentation.tallies import decided_of
from fusetune.predictions.stack import Stack, known_classes

__all__ = ["PixelTallies"]

Integers = npt.NDArray[np.int64]


class PixelTallies(PoolValues):
    """Values of a metric `of_tallies`.

    Row by row, some hundred pixels of each, calls would take ten times as long as the numbers.

    Args:
        stack: Masks of few pixels.
        targets: Their truth.
        metric: What decides.
        weights_N: `(N,)` weights of the rows.
    """

    def __init__(
        self, stack: Stack[Masks], targets: LabelMaps, metric: Metric[Any], weights_N: Floats
    ) -> None:
        self.classes, self.true_classes = stack.classes, targets.classes
        self.metric, self.weights_N = metric, weights_N
        self.parts: list[Any] = [_in_a_line(part) for part in stack.parts]
        truth = [one.read().reshape(-1) for one in targets.maps]
        rows_P = np.repeat(np.arange(len(truth)), [len(labels) for labels in truth])
        labels_P = np.concatenate(truth)
        self.judged_P = np.flatnonzero(labels_P >= 0)
        self.rows_P, self.labels_P = rows_P[self.judged_P], labels_P[self.judged_P]
        self.true_NC = self._counts(self.rows_P, self.labels_P)

    def with_each(self, counts_M: Integers, members: Integers) -> Floats:
        """See `PoolValues`."""
        values = []
        for member in members.tolist():
            more_M = counts_M.astype(np.float64)
            more_M[member] += 1
            used = np.flatnonzero(more_M)
            parts = [self.parts[index] for index in used]
            classes = known_classes(parts, self.classes)
            pool: Any = linear_pool(parts, more_M[used], classes)
            said_P = decided_of(pool.masks[0], classes, self.true_classes)[0, self.judged_P]
            right_P = said_P == self.labels_P
            right_NC = self._counts(self.rows_P[right_P], said_P[right_P])
            tallies = [right_NC, self._counts(self.rows_P, said_P), self.true_NC]
            statistics_NS = np.concatenate(tallies, axis=1).astype(np.float64)
            values.append(self.metric.value(statistics_NS, self.weights_N))
        return np.array(values)

    def add(self, member: int) -> None:
        """See `PoolValues`; the counts say it all."""

    def _counts(self, rows_P: Array, labels_P: Array) -> Integers:
        """`(N, C)` pixels; those of a class that the truth lacks, C, are left out."""
        width = len(self.true_classes) + 1
        codes = np.bincount(rows_P * width + labels_P, minlength=len(self.weights_N) * width)
        return codes.reshape(-1, width)[:, :-1]


def _in_a_line(masks: Masks) -> Masks:
    """All rows as one of a single line, in memory."""
    arrays = [mask.array().reshape(len(masks.classes), 1, -1) for mask in masks.masks]
    return Masks(as_ids(["all"]), masks.classes, (ArrayMask(np.concatenate(arrays, axis=2)),))
