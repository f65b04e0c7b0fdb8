# SPDX-License-Identifier: Apache-2.0
"""What a metric makes of a pool with one more member, for each member in turn.

Averaging is linear, so a pool with one more member costs an addition. Log-loss needs only the
probabilities of what is true, squared error only inner products of members, and accuracy only the
classes of the rows that some member could still flip; every other metric is asked for the value
of each whole pool.

Shapes: M members, N rows, C columns, L likelihoods, B members of a block, K columns or 1.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from fusetune.fuse.evidence import error_blocks, likelihoods_ML
from fusetune.fuse.forms import linear_pool, over_classes
from fusetune.fuse.pool_values import PoolValues
from fusetune.fuse.segmentation.selection_tallies import PixelTallies
from fusetune.fuse.selection_accuracy import Accuracies
from fusetune.fuse.simplex import residual_gram
from fusetune.metric import Metric
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.brier import Brier
from fusetune.metrics.log_loss import LogLoss
from fusetune.metrics.multilabel_log_loss import MultilabelLogLoss
from fusetune.metrics.rmse import Rmse
from fusetune.predictions.kinds import Floats, Values
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.segmentation.pixels import pixel_rows
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["tie_losses", "values_for"]

FACTORS = 16  # probabilities multiplied per logarithm: eps**16 is still a normal double

Integers = npt.NDArray[np.int64]


def tie_losses(stack: Stack[Any], targets: AnyTargets, weights_N: Floats) -> PoolValues:
    """Log-loss of classes, squared error of values: what settles ties."""
    if isinstance(stack.parts[0], Values):
        return _SquaredErrors(_grams(stack, targets, weights_N, per_column=False))
    if isinstance(stack.parts[0], Masks):
        pixels, truth, weights_K, _ = pixel_rows(stack, targets, weights_N)
        return _LogLosses(likelihoods_ML(pixels, truth), weights_K)
    true_ML = likelihoods_ML(stack, targets)
    return _LogLosses(true_ML, np.repeat(weights_N, true_ML.shape[1] // len(weights_N)))


def values_for(
    stack: Stack[Any],
    targets: AnyTargets,
    metric: Metric[Any],
    weights_N: Floats,
    losses: PoolValues,
) -> PoolValues:
    """The fastest way to a metric's values; the losses that settle ties, where they are the same."""
    first = stack.parts[0]
    complete = all(len(part.columns) == len(stack.classes) for part in stack.parts)
    if complete and isinstance(metric, LogLoss):
        return losses
    if complete and isinstance(metric, Brier):
        return _SquaredErrors(_grams(stack, targets, weights_N, per_column=False))
    if complete and isinstance(metric, Accuracy):
        arrays = [over_classes(part, stack.classes).array_NC for part in stack.parts]
        return Accuracies(arrays, targets.columns(stack.classes), weights_N / weights_N.sum())
    if complete and isinstance(metric, MultilabelLogLoss):
        same = set(stack.classes) == set(targets.classes)
        return losses if same else _AnyValues(stack, targets, metric, weights_N)
    if complete and isinstance(metric, Rmse) and not first.levels:
        same = set(stack.classes) == set(targets.names) or len(stack.classes) == 1
        if same:
            grams_KMM = _grams(stack, targets, weights_N, per_column=True)
            return _SquaredErrors(grams_KMM, root=True)
    if isinstance(first, Masks) and metric.of_tallies:
        return PixelTallies(stack, targets, metric, weights_N)
    return _AnyValues(stack, targets, metric, weights_N)


class _LogLosses(PoolValues):
    def __init__(self, true_ML: Floats, weights_L: Floats) -> None:
        used_L = weights_L > 0
        if not used_L.all():
            true_ML, weights_L = true_ML[:, used_L], weights_L[used_L]
        self.number = len(weights_L)
        self.shares_L = None if (weights_L == weights_L[0]).all() else weights_L / weights_L.sum()
        # Padding has the sum 1 for ever: its logarithm is 0.
        padding = -self.number % FACTORS if self.shares_L is None else 0
        self.true_ML = np.pad(true_ML, ((0, 0), (0, padding))) if padding else true_ML
        self.sums_L = np.pad(np.zeros(self.number), (0, padding), constant_values=1.0)

    def with_each(self, counts_M: Integers, members: Integers) -> Floats:
        means = np.empty(len(members))
        step = max(1, 2**16 // max(1, self.sums_L.size))
        for start in range(0, len(members), step):
            block = members[start : start + step]
            sums_BL = self.true_ML[block] + self.sums_L
            if self.shares_L is None:
                products = np.multiply.reduce(sums_BL.reshape(len(block), FACTORS, -1), axis=1)
                means[start : start + step] = np.log(products).sum(axis=1) / self.number
            else:
                means[start : start + step] = np.log(sums_BL) @ self.shares_L
        return np.log(counts_M.sum() + 1) - means

    def add(self, member: int) -> None:
        self.sums_L += self.true_ML[member]


class _SquaredErrors(PoolValues):
    """|sum of errors of the chosen + e_m|^2 expands into inner products, computed once.

    Args:
        grams_KMM: `(K, M, M)` inner products of the members' errors, for all columns or for each.
        root: Give the mean over K of the roots.
    """

    def __init__(self, grams_KMM: Floats, *, root: bool = False) -> None:
        self.grams_KMM, self.root = grams_KMM, root

    def with_each(self, counts_M: Integers, members: Integers) -> Floats:
        values_K = []
        for gram_MM in self.grams_KMM:
            cross_M, own_M = gram_MM @ counts_M, gram_MM.diagonal()
            squares = counts_M @ cross_M + 2 * cross_M[members] + own_M[members]
            values_K.append(np.maximum(squares, 0) / (counts_M.sum() + 1) ** 2)
        return np.mean(np.sqrt(values_K) if self.root else values_K, axis=0)

    def add(self, member: int) -> None:
        pass  # the counts say it all


class _AnyValues(PoolValues):
    def __init__(
        self, stack: Stack[Any], targets: AnyTargets, metric: Metric[Any], weights_N: Floats
    ) -> None:
        self.stack, self.targets, self.metric, self.weights_N = stack, targets, metric, weights_N

    def with_each(self, counts_M: Integers, members: Integers) -> Floats:
        values = []
        for member in members.tolist():
            more_M = counts_M.astype(np.float64)
            more_M[member] += 1
            used = np.flatnonzero(more_M)
            parts = [self.stack.parts[index] for index in used]
            pool = linear_pool(parts, more_M[used], self.stack.classes)
            statistics_NS = self.metric.statistics(pool, self.targets)
            values.append(self.metric.value(statistics_NS, self.weights_N))
        return np.array(values)

    def add(self, member: int) -> None:
        pass  # the counts say it all


def _grams(
    stack: Stack[Any], targets: AnyTargets, weights_N: Floats, *, per_column: bool
) -> Floats:
    """`(K, M, M)` inner products of the members' errors, for all columns or for each."""
    num_members, num_columns = len(stack.members), len(stack.classes)
    grams_KMM = np.zeros((num_columns if per_column else 1, num_members, num_members))
    for errors_MNC in error_blocks(stack, targets, weights_N / weights_N.sum()):
        for column, gram_MM in enumerate(grams_KMM):
            gram_MM += residual_gram(errors_MNC[:, :, [column]] if per_column else errors_MNC)
    return grams_KMM
