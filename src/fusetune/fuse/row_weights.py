# SPDX-License-Identifier: Apache-2.0
"""What methods share that weigh members row by row: the pool, and the rows' feature vectors.

Shapes: M members, N rows, C classes or other columns, F features, B rows of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np

from fusetune.errors import PredictionError, name_some
from fusetune.fitted import Fitted
from fusetune.fuse.forms import known_classes, over_classes
from fusetune.predictions.kinds import Columnar, Floats, Probabilities
from fusetune.predictions.stack import Stack

__all__ = ["Scale", "feature_names", "feature_vectors", "feature_widths", "pool_by_row"]

T = TypeVar("T", bound=Columnar)

BLOCK = 2**16  # numbers per block: sums in double precision stay in a core's cache
CONSTANT = 1e-9  # deviation, relative to the mean, of a feature that only rounding moves


def pool_by_row(parts: Sequence[T], weights_MN: Floats, classes: Sequence[str]) -> T:
    """Weighted average of predictions of the same rows, with weights for each row.

    Over the columns that a member does not have, a row's weights renormalize over the members that
    have them, and class probabilities are then divided by their sums; a class that no member with
    weight knows has probability 0 in that row. Summed in double precision and rounded once to the
    widest precision among the parts.

    Args:
        parts: M predictions with identical ids.
        weights_MN: `(M, N)` numbers of at least 0, not all 0 in any row; only their ratios matter.
        classes: The order of the columns; columns that no part has are left out.

    Returns:
        With one part, its own array if the order is the same (not a copy).

    Cost:
        Two passes over M N C numbers.
    """
    classes = known_classes(parts, classes)
    if len(parts) == 1:
        return over_classes(parts[0], classes)
    arrays = [part.array_NC for part in parts]
    columns = [[classes.index(name) for name in part.columns] for part in parts]
    partial = any(len(column) < len(classes) for column in columns)
    pooled_NC = np.empty((len(parts[0]), len(classes)), dtype=np.result_type(*arrays))
    step = max(1, BLOCK // len(classes))
    for start in range(0, len(pooled_NC), step):
        rows = slice(start, start + step)
        sums_BC = np.zeros(pooled_NC[rows].shape)
        mass_BC = np.zeros(pooled_NC[rows].shape)
        for array_NC, weights_N, column in zip(arrays, weights_MN, columns, strict=True):
            weights_B1 = weights_N[rows, None].astype(np.float64)
            sums_BC[:, column] += array_NC[rows] * weights_B1
            mass_BC[:, column] += weights_B1
        np.divide(sums_BC, mass_BC, out=sums_BC, where=mass_BC > 0)
        if partial and isinstance(parts[0], Probabilities):
            sums_BC /= sums_BC.sum(axis=1, keepdims=True)
        pooled_NC[rows] = sums_BC
    widest = max(parts, key=lambda part: len(part.columns))
    return widest.with_array(classes, pooled_NC)


def feature_names(stack: Stack[Any], names: Sequence[str] | None) -> tuple[str, ...]:
    """The stack's features that are asked for; None asks for all of them, in the order of names.

    Raises:
        PredictionError: The stack does not have one of them.
    """
    wanted = tuple(sorted(stack.features)) if names is None else tuple(names)
    missing = [name for name in wanted if name not in stack.features]
    if missing:
        raise PredictionError(
            f"the features {name_some(missing)} are missing among {name_some(sorted(stack.features))}"
            if stack.features
            else f"the features {name_some(missing)} are missing: the predictions carry none",
            "feature vectors of every row, under these names",
            "Give the features with the predictions, or leave these names out and fit again.",
        )
    return wanted


def feature_widths(stack: Stack[Any], names: Sequence[str]) -> tuple[int, ...]:
    """How many numbers each of the features has."""
    return tuple(stack.features[name].shape[1] for name in names)


def feature_vectors(stack: Stack[Any], names: Sequence[str], widths: Sequence[int]) -> Floats:
    """`(N, F)` features side by side, in double precision.

    Args:
        stack: Predictions with features.
        names: Which features, in this order.
        widths: How many numbers each had when the fusion was fitted.

    Raises:
        PredictionError: One is missing, or has another width.
    """
    feature_names(stack, names)
    blocks = [np.asarray(stack.features[name], dtype=np.float64) for name in names]
    for name, block, width in zip(names, blocks, widths, strict=True):
        if block.shape[1] != width:
            raise PredictionError(
                f"the feature '{name}' has {block.shape[1]} numbers per row",
                f"{width}, as when the fusion was fitted",
                "Give the features of the same network and layer, or fit again.",
            )
    return np.concatenate([np.empty((len(stack), 0)), *blocks], axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scale(Fitted):
    """Standardization as on the fitting rows.

    Args:
        means_F: `(F,)` means.
        deviations_F: `(F,)` standard deviations; infinite for a feature that did not vary, which
            is 0 from then on.
    """

    means_F: Floats
    deviations_F: Floats

    @classmethod
    def of(cls, features_NF: Floats, weights_N: Floats) -> Self:
        """Means and deviations over rows that count by their weights."""
        shares_N = weights_N / weights_N.sum()
        means_F = shares_N @ features_NF
        deviations_F = np.sqrt(shares_N @ (features_NF - means_F) ** 2)
        varies_F = deviations_F > CONSTANT * np.abs(means_F)
        return cls(means_F=means_F, deviations_F=np.where(varies_F, deviations_F, np.inf))

    def __call__(self, features_NF: Floats) -> Floats:
        """`(N, F)` features with mean 0 and deviation 1 on the fitting rows."""
        return (features_NF - self.means_F) / self.deviations_F
