# SPDX-License-Identifier: Apache-2.0
"""Fitted form of a weighted average whose weights differ from column to column.

Shapes: M members, N rows, C columns (classes or values).
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from fusetune.fuse.forms import known_classes, over_classes
from fusetune.fuse.method import Fusion
from fusetune.predictions.kinds import Columnar, Floats, Probabilities, Values
from fusetune.predictions.stack import Stack

__all__ = ["ColumnAverage"]

T = TypeVar("T", bound=Columnar)


@dataclass(frozen=True, kw_only=True, eq=False)
class ColumnAverage(Fusion[Any]):
    """Weighted average of the members, with weights of its own for every column.

    Over the members that have a column, its weights renormalize; where they are all 0, or the
    column was not there when the weights were fitted, these members count alike. Rows of class
    probabilities are divided by their sums, and a row whose classes are all 0 is the plain mean.
    Quantiles that cross, for their weights differ, are put in order.

    Args:
        members: Names of the members with weight in some column.
        columns: Names of the columns.
        weights_MC: `(M, C)` numbers of at least 0; every column's ratios matter, nothing else.
    """

    members: tuple[str, ...]
    columns: tuple[str, ...]
    weights_MC: Floats

    def __post_init__(self) -> None:
        assert self.weights_MC.shape == (len(self.members), len(self.columns))
        assert self.members and np.isfinite(self.weights_MC).all() and self.weights_MC.min() >= 0

    @classmethod
    def of(cls, stack: Stack[Any], weights_CM: Floats) -> "ColumnAverage":
        """The average by these weights of the stack's columns; members without any are left out."""
        kept = np.flatnonzero(weights_CM.any(axis=0))
        members = tuple(stack.members[index] for index in kept)
        return cls(members=members, columns=stack.classes, weights_MC=weights_CM.T[kept])

    def __call__(self, stack: Stack[T]) -> T:
        """The weighted average, over the columns that these members have, in the stack's order."""
        parts = stack.select(self.members).parts
        columns = known_classes(parts, stack.classes)
        if len(parts) == 1:
            return over_classes(parts[0], columns)
        has_MC = np.array([[name in part.columns for name in columns] for part in parts])
        weights_MC = np.where(has_MC, self._weights_over(columns), 0.0)
        weights_MC = np.where(has_MC & ~weights_MC.any(axis=0), 1.0, weights_MC)
        weights_MC = weights_MC / weights_MC.sum(axis=0)
        arrays = [over_classes(part, columns).array_NC for part in parts]
        pooled_NC = np.zeros((len(stack), len(columns)))
        for array_NC, weights_C in zip(arrays, weights_MC, strict=True):
            pooled_NC += array_NC * weights_C
        if isinstance(parts[0], Probabilities):
            empty_N = ~pooled_NC.any(axis=1)
            pooled_NC[empty_N] = sum(array_NC[empty_N] for array_NC in arrays)
            pooled_NC /= pooled_NC.sum(axis=1, keepdims=True)
        if isinstance(parts[0], Values) and parts[0].levels:
            pooled_NC.sort(axis=1)
        widest = max(parts, key=lambda part: len(part.columns))
        return widest.with_array(columns, pooled_NC.astype(np.result_type(*arrays)))

    def _weights_over(self, columns: tuple[str, ...]) -> Floats:
        """`(M, len(columns))` weights; 1 for columns that were not there."""
        position = {name: index for index, name in enumerate(self.columns)}
        wider_MC = np.pad(self.weights_MC, ((0, 0), (0, 1)), constant_values=1.0)
        return wider_MC[:, [position.get(name, len(position)) for name in columns]]
