# SPDX-License-Identifier: Apache-2.0
"""Fitted forms that several fusion methods share, and the pool they are made of.

Shapes: M members, N rows, C classes, F fusions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from fusetune.fuse.method import Fusion
from fusetune.fuse.segmentation.fusion import pooled_masks
from fusetune.fuse.sums import weighted_sum
from fusetune.predictions.kinds import Array, Columnar, Floats, Kind, Probabilities
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.stack import Stack, known_classes
from fusetune.predictions.targets import GroundTruth, Targets
from fusetune.predictions.weights import row_weights

__all__ = [
    "Blend",
    "WeightedAverage",
    "fit_weights",
    "known_classes",
    "linear_pool",
    "over_classes",
    "true_probs_MN",
]

T = TypeVar("T", bound=Columnar)
P = TypeVar("P", bound=Kind)

BLOCK = 2**16  # numbers per block: sums in double precision stay in a core's cache


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightedAverage(Fusion[Any]):
    """Linear pool: the average of the members' probabilities or values, by weight.

    Over the columns that a member does not have, the weights renormalize over the members that
    have them; class probabilities are then divided by their sums. Averaging quantiles level by
    level is Vincentization. A single member passes through bit for bit.

    Args:
        members: Names of the members with weight.
        weights_M: `(M,)` numbers above 0; only their ratios matter (counts will do).

    Reference:
        Stone, M. "The opinion pool". Annals of Mathematical Statistics, 1961.
    """

    members: tuple[str, ...]
    weights_M: Floats

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights_M", np.asarray(self.weights_M, dtype=np.float64))
        assert self.members and self.weights_M.shape == (len(self.members),)
        assert np.isfinite(self.weights_M).all() and self.weights_M.min() > 0

    @classmethod
    def of(cls, weights: Mapping[str, float]) -> "WeightedAverage":
        """The average by these weights; members of weight 0 are left out."""
        kept = {name: float(weight) for name, weight in weights.items() if weight > 0}
        return cls(members=tuple(kept), weights_M=np.array(list(kept.values())))

    def __call__(self, stack: Stack[T]) -> T:
        """The weighted average, over the columns that these members have, in the stack's order."""
        return linear_pool(stack.select(self.members).parts, self.weights_M, stack.classes)

    def weights(self) -> dict[str, float]:
        """Member → weight, summing to 1."""
        return dict(
            zip(self.members, (self.weights_M / self.weights_M.sum()).tolist(), strict=True)
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Blend(Fusion[Any]):
    """Weighted average of what several fitted fusions give.

    Args:
        names: Names of the fusions, for people to read.
        fusions: F fitted fusions.
        weights_F: `(F,)` numbers above 0; only their ratios matter.
    """

    names: tuple[str, ...]
    fusions: tuple[Fusion[Any], ...]
    weights_F: Floats
    members: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights_F", np.asarray(self.weights_F, dtype=np.float64))
        used = dict.fromkeys(name for fusion in self.fusions for name in fusion.members)
        object.__setattr__(self, "members", tuple(used))
        assert len(self.names) == len(self.fusions) == len(self.weights_F) > 0
        assert np.isfinite(self.weights_F).all() and self.weights_F.min() > 0

    def __call__(self, stack: Stack[T]) -> T:
        """The weighted average of the fusions' predictions."""
        fused = [fusion(stack) for fusion in self.fusions]
        return linear_pool(fused, self.weights_F, stack.classes)

    def parts(self) -> dict[str, float]:
        """Fusion → weight, summing to 1."""
        return dict(zip(self.names, (self.weights_F / self.weights_F.sum()).tolist(), strict=True))

    def weights(self) -> dict[str, float] | None:
        """Member → weight if every part is a weighted average of members, else None."""
        combined = dict.fromkeys(self.members, 0.0)
        for fusion, share in zip(self.fusions, self.parts().values(), strict=True):
            weights = fusion.weights()
            if weights is None:
                return None
            for member, weight in weights.items():
                combined[member] += share * weight
        return combined


def linear_pool(parts: Sequence[T], weights_M: Floats, classes: Sequence[str]) -> T:
    """Weighted average of predictions of the same rows; see `WeightedAverage`.

    In the widest precision among the parts. Parts with the same columns are added as `weighted_sum`
    does it, at the speed of reading them and within some 1e-7 for single precision; others in double
    precision, rounded once.

    Args:
        parts: M predictions with identical ids.
        weights_M: `(M,)` numbers above 0.
        classes: The order of the columns; columns that no part has are left out.

    Returns:
        With one part, its own array if the order is the same (not a copy).

    Cost:
        One pass over M N C numbers.
    """
    classes = known_classes(parts, classes)
    if len(parts) == 1:
        return over_classes(parts[0], classes)
    if isinstance(parts[0], Masks):
        pooled: Any = pooled_masks(parts, weights_M, classes)
        return pooled
    arrays = [part.array_NC for part in parts]
    widest = max(parts, key=lambda part: len(part.columns))
    if all(part.columns == classes for part in parts):
        pooled_NC = weighted_sum(arrays, weights_M / weights_M.sum(), np.result_type(*arrays))
    else:
        pooled_NC = _pooled_where_known(parts, weights_M, classes)
    return widest.with_array(classes, pooled_NC)


def _pooled_where_known(parts: Sequence[T], weights_M: Floats, classes: tuple[str, ...]) -> Floats:
    """`(N, C)` averages over the members that have each column."""
    arrays = [part.array_NC for part in parts]
    columns = [_columns(part, classes) for part in parts]
    mass_C = np.zeros(len(classes))
    for weight, column in zip(weights_M, columns, strict=True):
        mass_C[column] += weight
    partial = any(len(part.columns) < len(classes) for part in parts)
    pooled_NC = np.empty((len(parts[0]), len(classes)), dtype=np.result_type(*arrays))
    step = max(1, BLOCK // len(classes))
    for start in range(0, len(pooled_NC), step):
        rows = slice(start, start + step)
        sums_NC = np.zeros(pooled_NC[rows].shape)
        for array_NC, weight, column in zip(arrays, weights_M, columns, strict=True):
            sums_NC[:, column] += np.multiply(array_NC[rows], weight, dtype=np.float64)
        sums_NC /= mass_C
        if partial and isinstance(parts[0], Probabilities):
            sums_NC /= sums_NC.sum(axis=1, keepdims=True)
        pooled_NC[rows] = sums_NC
    return pooled_NC


def over_classes(prediction: P, classes: tuple[str, ...]) -> P:
    """The prediction with its classes in another order; see `Kind.over`.

    Args:
        prediction: Any prediction.
        classes: All of its classes, and perhaps more.
    """
    return prediction.over(classes)


def true_probs_MN(stack: Stack[Probabilities], targets: Targets) -> Floats:
    """`(M, N)` probability that each member gives to the true class, in double precision.

    At least the eps of the member's own precision, where log-loss clips. A member's missing
    classes are filled with the mean of the members that know them, and its rows divided by their
    sums: what renormalizing the weights does, at equal weights.
    """
    rows_N = np.arange(len(stack))
    missing = [[c for c in stack.classes if c not in part.classes] for part in stack.parts]
    true_MN = np.empty((len(stack.members), len(stack)))
    equal_M = np.ones(len(stack.members))
    pool = linear_pool(stack.parts, equal_M, stack.classes) if any(missing) else None
    for index, (part, absent) in enumerate(zip(stack.parts, missing, strict=True)):
        columns_N = targets.columns(part.classes)
        true_N = part.probs_NC[rows_N, columns_N].astype(np.float64)
        true_N[columns_N < 0] = 0
        if absent and pool is not None:
            filled_NC = pool.probs_NC[:, [i for i, c in enumerate(pool.classes) if c in absent]]
            filled = tuple(c for c in pool.classes if c in absent)
            others_N = targets.columns(filled)
            strange_N = others_N >= 0
            true_N[strange_N] = filled_NC[strange_N, others_N[strange_N]]
            true_N /= 1 + filled_NC.sum(axis=1)
        np.maximum(true_N, np.finfo(part.probs_NC.dtype).eps, out=true_MN[index])
    return true_MN


def fit_weights(
    stack: Stack[P], targets: GroundTruth | None, sample_weights_N: Array | None
) -> Floats:
    """`(N,)` weights of the rows with mean 1, so that their scale does not matter.

    Raises:
        PredictionError: There are no rows to fit on.
        InvalidValue: A weight is negative or not finite, or all are 0.
    """
    same_rows = targets is None or np.array_equal(stack.ids, targets.ids)
    assert same_rows, "stack and targets differ in rows"
    return row_weights(stack.ids, sample_weights_N, "the fusion")


def _columns(part: Columnar, classes: Sequence[str]) -> Array | slice:
    if part.columns == tuple(classes):
        return slice(None)
    position = {name: index for index, name in enumerate(classes)}
    return np.array([position[name] for name in part.columns])
