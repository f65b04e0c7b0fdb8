# SPDX-License-Identifier: Apache-2.0
"""What calibrators share: their rows, columns by name, logarithms, and Newton's method.

Shapes: N rows, C classes, F parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np

from fusetune.errors import InvalidValue, PredictionError, name_some
from fusetune.predictions.kinds import Array, Columnar, Floats, Marginals, Probabilities
from fusetune.predictions.targets import LabelSets, Targets
from fusetune.predictions.weights import row_weights

__all__ = [
    "Chances",
    "FitRows",
    "by_name",
    "fit_rows",
    "in_its_order",
    "normalized",
    "num_outcomes",
    "positive",
    "share",
    "sigmoid",
    "smoothed",
    "softmax",
    "solve_newton",
]

Oracle = Callable[[Floats], tuple[float, Floats, Floats]]
"""Parameters `(F,)` → a convex loss, its `(F,)` gradient and its `(F, F)` second derivatives."""


Chances: TypeAlias = Probabilities | Marginals

T = TypeVar("T", bound=Columnar)


@dataclass(frozen=True, eq=False)
class FitRows:
    """The rows that can teach a calibrator something.

    Args:
        probs_NC: `(N, C)` probabilities, in double precision.
        true_NC: `(N, C)` booleans: is the row of the class?
        weights_N: `(N,)` weights above 0.
        outcomes: How many outcomes a probability is one of: C, or 2 for `Marginals`.
    """

    probs_NC: Floats
    true_NC: Array
    weights_N: Floats
    outcomes: int


def fit_rows(
    prediction: Chances, targets: Targets | LabelSets, sample_weights_N: Array | None
) -> FitRows:
    """The rows with weight; of `Probabilities` those whose true class the member knows.

    Of the others no column could be right. The weights have mean 1 over **all** rows given; no row
    may be left.

    Raises:
        PredictionError: There are no rows to fit on.
        InvalidValue: A weight is negative or not finite, or all are 0.
    """
    assert np.array_equal(prediction.ids, targets.ids), "prediction and targets differ in rows"
    weights_N = row_weights(prediction.ids, sample_weights_N, "the calibration")
    kept_N = weights_N > 0
    if isinstance(targets, LabelSets):
        true_NC = targets.over(prediction.classes)
    else:
        columns_N = targets.columns(prediction.classes)
        true_NC = columns_N[:, None] == np.arange(len(prediction.classes))
        kept_N &= columns_N >= 0
    probs_NC = prediction.probs_NC[kept_N].astype(np.float64)
    return FitRows(probs_NC, true_NC[kept_N], weights_N[kept_N], num_outcomes(prediction))


def num_outcomes(prediction: Chances) -> int:
    """How many outcomes each probability is one of: the classes, or 2 (there or not)."""
    return 2 if isinstance(prediction, Marginals) else len(prediction.classes)


def by_name(prediction: Chances, classes: tuple[str, ...]) -> Floats:
    """`(N, C)` probabilities in double precision, columns in the order of the classes.

    Raises:
        PredictionError: The prediction's classes are not these.
    """
    strange = sorted(set(classes) ^ set(prediction.classes))
    if strange:
        raise PredictionError(
            f"the prediction has {len(prediction.classes)} classes and the calibration was fitted "
            f"on {len(classes)}; {name_some(strange)} stand in one of them only",
            "the classes that the calibration was fitted on, in any order",
            "Calibrate predictions of the same member, or fit the calibration again.",
        )
    order = [prediction.classes.index(name) for name in classes]
    return np.take(prediction.probs_NC, order, axis=1).astype(np.float64)


def in_its_order(prediction: T, classes: tuple[str, ...], probs_NC: Floats) -> T:
    """The prediction's rows with new numbers, in its own order of columns and precision."""
    order = [classes.index(name) for name in prediction.columns]
    array_NC = np.take(probs_NC, order, axis=1).astype(prediction.array_NC.dtype)
    return prediction.with_array(prediction.columns, array_NC)


def smoothed(probs_NC: Floats, smoothing: float, outcomes: int) -> Floats:
    """`(1 - smoothing) p + smoothing / outcomes`: no probability is 0 any more.

    Example:
        >>> smoothed(np.array([[1.0, 0.0]]), 0.01, 2)
        array([[0.995, 0.005]])
    """
    return (1 - smoothing) * probs_NC + smoothing / outcomes


def softmax(logits_NC: Floats) -> Floats:
    """`(N, C)` probabilities of logits."""
    exp_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    exp_NC /= exp_NC.sum(axis=1, keepdims=True)
    return exp_NC


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)) of an array of any shape, without overflow."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1, small) / (1 + small)


def normalized(prediction: Chances, scores_NC: Floats, fallback_NC: Floats) -> Floats:
    """Rows divided by their sums where they must sum to 1; a row of zeros becomes the fallback's."""
    if isinstance(prediction, Marginals):
        return scores_NC
    sums_N = scores_NC.sum(axis=1, keepdims=True)
    empty_N = sums_N == 0
    return np.where(empty_N, fallback_NC, scores_NC / np.where(empty_N, 1, sums_N))


def solve_newton(oracle: Oracle, start_F: Floats, tolerance: float = 1e-9) -> Floats:
    """`(F,)` parameters where a smooth, strictly convex function is least.

    Newton steps, halved until they gain a quarter of what their slope promises. Stops where a step
    promises to gain less than `tolerance` squared, or the function's last bit is reached.

    Reference:
        Boyd, Vandenberghe. Convex Optimization. Cambridge, 2004, algorithm 9.5.
    """
    point_F, rounding = start_F.astype(np.float64), 4 * np.finfo(np.float64).eps
    loss, slope_F, curvature_FF = oracle(point_F)
    for _ in range(100):
        step_F = -np.linalg.solve(curvature_FF, slope_F)
        promise = float(slope_F @ step_F)
        if promise >= -(tolerance**2):
            break
        size = 1.0
        while True:
            tried_F = point_F + size * step_F
            tried = oracle(tried_F)
            if tried[0] <= loss + size * promise / 4 + rounding * abs(loss):
                break
            size /= 2
            if size < 1e-8:
                return point_F
        point_F, (loss, slope_F, curvature_FF) = tried_F, tried
    return point_F


def share(name: str, value: float) -> None:
    """Refuse a hyperparameter that is not a share between 0 and 1, both left out."""
    _require(name, value, 0 < value < 1, "a share above 0 and below 1")


def positive(name: str, value: float, *, or_zero: bool = False) -> None:
    """Refuse a hyperparameter that is not a finite number above 0 (or 0, if that is allowed)."""
    good = np.isfinite(value) and (value > 0 or (or_zero and value == 0))
    _require(
        name,
        value,
        bool(good),
        "a finite number of at least 0" if or_zero else "a finite number above 0",
    )


def _require(name: str, value: float, good: bool, expected: str) -> None:
    if not good:
        raise InvalidValue(
            f"{name} is {value}", expected, "Change it, or leave it out for the default."
        )
