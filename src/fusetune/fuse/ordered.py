# SPDX-License-Identifier: Apache-2.0
"""Averages of the members' sorted values, column by column: what median, trimmed mean and max share.

Shapes: M members, N rows, C classes or other columns, K members that have a column.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from fusetune.fuse.forms import known_classes, over_classes
from fusetune.fuse.method import Fusion
from fusetune.predictions.kinds import Columnar, Floats, Probabilities
from fusetune.predictions.stack import Stack

__all__ = ["OrderedAverage"]

T = TypeVar("T", bound=Columnar)

BLOCK = 2**18  # numbers sorted at a time


@dataclass(frozen=True, kw_only=True)
class OrderedAverage(Fusion[Any]):
    """Mean of what is left of each column's K sorted values, the ends cut off.

    Only the members that have a column have a say in it. Rows of class probabilities are then
    divided by their sums; one of which nothing is left (each member sure of another class) becomes
    the mean of the members.

    Args:
        members: M member names.
        low: Share of the lowest values that is cut: floor(low K), but one or two values stay.
        high: Share of the highest values that is cut.
    """

    members: tuple[str, ...]
    low: float
    high: float

    def __call__(self, stack: Stack[T]) -> T:
        """The averages, over the columns that the members have; one member passes through."""
        parts = stack.select(self.members).parts
        columns = known_classes(parts, stack.classes)
        if len(parts) == 1:
            return over_classes(parts[0], columns)
        dtype = np.result_type(*(part.array_NC.dtype for part in parts))
        array_NC = np.empty((len(stack), len(columns)), dtype=dtype)
        step = max(1, BLOCK // len(parts))
        for start in range(0, len(stack), step):
            rows = slice(start, start + step)
            left_NC, means_NC = np.empty((2, *array_NC[rows].shape))
            for column, name in enumerate(columns):
                values_KN = np.stack(
                    [
                        part.array_NC[rows, part.columns.index(name)]
                        for part in parts
                        if name in part.columns
                    ]
                ).astype(np.float64)
                means_NC[:, column] = values_KN.mean(axis=0)
                left_NC[:, column] = self._average(values_KN)
            if isinstance(parts[0], Probabilities):
                nothing_N = left_NC.sum(axis=1) <= 0
                left_NC[nothing_N] = means_NC[nothing_N]
                left_NC /= left_NC.sum(axis=1, keepdims=True)
            array_NC[rows] = left_NC
        widest = max(parts, key=lambda part: len(part.columns))
        return widest.with_array(columns, array_NC)

    def _average(self, values_KN: Floats) -> Floats:
        low, high = cuts(len(values_KN), self.low, self.high)
        if low + high == 0:
            means_N: Floats = values_KN.mean(axis=0)
            return means_N
        values_KN.sort(axis=0)
        kept_N: Floats = values_KN[low : len(values_KN) - high].mean(axis=0)
        return kept_N


def cuts(count: int, low: float, high: float) -> tuple[int, int]:
    """How many of `count` sorted values are cut at the low and at the high end.

    Example:
        >>> [cuts(count, 0.5, 0.5) for count in (1, 2, 3, 4, 5)]  # the median
        [(0, 0), (0, 0), (1, 1), (1, 1), (2, 2)]
        >>> cuts(5, 0.2, 0.2), cuts(5, 1, 0)
        ((1, 1), (4, 0))
    """
    low_count, high_count = (math.floor(share * count + 1e-9) for share in (low, high))
    while low_count + high_count >= count:
        low_count, high_count = max(0, low_count - 1), max(0, high_count - 1)
    return low_count, high_count
