# SPDX-License-Identifier: Apache-2.0
"""What the objectives of learned weights need to know of predictions and truth, for every kind.

Shapes: M members, N rows, C columns (classes, values or quantiles), L likelihoods.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fusetune.errors import PredictionError, name_some
from fusetune.fuse.forms import known_classes, linear_pool, over_classes, true_probs_MN
from fusetune.predictions.kinds import Array, Floats, Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets, LabelSets, Numbers, Targets

__all__ = [
    "cells_ML",
    "densities_MN",
    "error_blocks",
    "filled_arrays",
    "likelihoods_ML",
    "truth_NC",
]

EXACT = 1e-20  # smallest variance of errors, as a share of the largest squared number
BLOCK = 2**20  # numbers per block of errors: 8 MB in double precision


def likelihoods_ML(stack: Stack[Any], targets: AnyTargets) -> Floats:
    """`(M, L)` probability that each member gives to what is true, in double precision.

    One a row for `Probabilities`: that of the true class. One a row and class for `Marginals`:
    that of its being there, or not; rows first. Clipped from below where log-loss clips.
    """
    if isinstance(stack.parts[0], Probabilities):
        if any(part.classes != stack.classes for part in stack.parts):
            return true_probs_MN(stack, targets)
        columns_N = targets.columns(stack.classes)
        cells_N = np.arange(len(stack)) * len(stack.classes) + columns_N
        true_MN = np.empty((len(stack.parts), len(stack)))
        for part, true_N in zip(stack.parts, true_MN, strict=True):
            taken_N = part.probs_NC.take(cells_N, mode="clip")
            taken_N[columns_N < 0] = 0
            np.maximum(taken_N, np.finfo(taken_N.dtype).eps, out=true_N)
        return true_MN
    assert isinstance(stack.parts[0], Marginals)
    arrays = filled_arrays(stack)
    present_NC = truth_NC(stack, targets) > 0
    return np.stack([_cells(array_NC, present_NC).ravel() for array_NC in arrays])


def densities_MN(stack: Stack[Values], targets: Numbers, shares_N: Floats) -> Floats:
    """`(M, N)` logarithms of the density that each member gives to the true numbers.

    Normal around the predicted numbers, each with the variance of the member's errors on these
    rows; summed over the numbers of a row.

    Args:
        stack: Values; not quantiles.
        targets: The true numbers.
        shares_N: `(N,)` weights of the rows, summing to 1.
    """
    truth = truth_NC(stack, targets)
    judged_C = ~np.isnan(truth).any(axis=0)
    logs_MN = np.empty((len(stack.parts), len(stack)))
    for array_NC, logs_N in zip(filled_arrays(stack), logs_MN, strict=True):
        squares_NC = (array_NC[:, judged_C] - truth[:, judged_C]) ** 2
        tiny_C = np.maximum((truth[:, judged_C] ** 2).max(axis=0) * EXACT, np.finfo(float).tiny)
        variance_C = np.maximum(shares_N @ squares_NC, tiny_C)
        logs_N[:] = -0.5 * (squares_NC / variance_C + np.log(2 * np.pi * variance_C)).sum(axis=1)
    return logs_MN


def cells_ML(stack: Stack[Any], targets: AnyTargets, column: int) -> Floats:
    """`(M, N)` probability that each member gives to one column's being true, or not true.

    The likelihoods of one class against the rest. Clipped from below where log-loss clips.
    """
    present_N = truth_NC(stack, targets)[:, column] > 0
    arrays = filled_arrays(stack)
    return np.stack([_cells(array_NC[:, column], present_N) for array_NC in arrays])


def error_blocks(stack: Stack[Any], targets: AnyTargets, shares_N: Floats) -> Iterator[Floats]:
    """`(M, rows, C)` predictions minus truth, times the root of each row's share, block by block.

    Squared and summed, they give Brier's score, or the squared error of values. In double
    precision; the columns are those of the stack, and 0 where there is no truth.
    """
    arrays, truth = filled_arrays(stack), truth_NC(stack, targets)
    roots_N, unjudged_C = np.sqrt(shares_N), np.isnan(truth).any(axis=0)
    step = max(1, BLOCK // max(1, len(arrays) * truth.shape[1]))
    for start in range(0, len(stack), step):
        rows = slice(start, start + step)
        errors_MNC = np.empty((len(arrays), *truth[rows].shape))
        for index, array_NC in enumerate(arrays):
            np.subtract(array_NC[rows], truth[rows], out=errors_MNC[index])
        errors_MNC *= roots_N[rows, None]
        errors_MNC[:, :, unjudged_C] = 0
        yield errors_MNC


def truth_NC(stack: Stack[Any], targets: AnyTargets) -> Floats:
    """`(N, C)` what perfect members would predict, over the stack's columns, in double precision.

    0 and 1 for classes; the numbers themselves for values, matched by name unless there is but
    one, and NaN where a column has no truth. All quantiles estimate one number.

    Raises:
        PredictionError: No column of the members is named as a true number.
    """
    if isinstance(targets, Targets):
        truth = np.zeros((len(stack), len(stack.classes)))
        columns_N = targets.columns(stack.classes)
        known = np.flatnonzero(columns_N >= 0)
        truth[known, columns_N[known]] = 1.0
        return truth
    if isinstance(targets, LabelSets):
        return targets.over(stack.classes).astype(np.float64)
    assert isinstance(targets, Numbers)
    names = list(targets.names)
    if isinstance(stack.parts[0], Values) and stack.parts[0].levels:
        return np.repeat(targets.values_ND[:, :1], len(stack.classes), axis=1)
    if len(names) == len(stack.classes) == 1:
        return targets.values_ND
    columns = [names.index(name) if name in names else -1 for name in stack.classes]
    if max(columns) < 0:
        raise PredictionError(
            f"the members predict {name_some(stack.classes)}",
            f"the names of the true numbers: {name_some(names, most=12)}",
            "Rename the members' columns.",
        )
    return np.pad(targets.values_ND, ((0, 0), (0, 1)), constant_values=np.nan)[:, columns]


def filled_arrays(stack: Stack[Any]) -> list[Floats]:
    """M arrays `(N, C)` over the stack's columns.

    A column that a member lacks is filled with the mean of the members that have it, and class
    probabilities are divided by their sums: what renormalizing the weights does, at equal weights.
    A column that no member has is 0. Arrays of members that have every column are not copied.
    """
    known = known_classes(stack.parts, stack.classes)
    pool = None
    arrays = []
    for part in stack.parts:
        absent = [name for name in known if name not in part.columns]
        array_NC = over_classes(part, stack.classes).array_NC
        if absent:
            if pool is None:
                pool = over_classes(
                    linear_pool(stack.parts, np.ones(len(stack.parts)), stack.classes),
                    stack.classes,
                )
            columns = [stack.classes.index(name) for name in absent]
            array_NC[:, columns] = pool.array_NC[:, columns]
            if isinstance(part, Probabilities):
                array_NC /= array_NC.sum(axis=1, keepdims=True)
        arrays.append(array_NC)
    return arrays


def _cells(array_NC: Floats, present_NC: Array) -> Floats:
    """Probabilities of what is true, of what is there or not there."""
    eps = np.finfo(array_NC.dtype).eps
    doubles_NC = array_NC.astype(np.float64)
    return np.maximum(np.where(present_NC, doubles_NC, 1 - doubles_NC), eps)
