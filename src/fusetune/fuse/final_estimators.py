# SPDX-License-Identifier: Apache-2.0
"""Fits of stacking's final estimators.

Shapes: N rows, C classes or other columns, F inputs, the last of them a constant 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.fuse.least_squares import nonnegative_least_squares, ridge
from fusetune.fuse.logistic import LogisticProblem, choose_penalty
from fusetune.fuse.method import Fusion
from fusetune.fuse.stack_forms import EstimatorStack, LinearStack, LogisticStack
from fusetune.fuse.stack_inputs import StackInputs
from fusetune.predictions.kinds import Array, Floats, Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import AnyTargets

__all__ = ["StackRows", "fit_estimator", "fit_logistic", "fit_nonnegative", "fit_ridge"]

Estimator: TypeAlias = Any
"""A scikit-learn estimator."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StackRows:
    """Rows to fit a final estimator on.

    Args:
        stack: Predictions.
        targets: Their truth.
        weights_N: `(N,)` weights with mean 1.
        folds_N: `(N,)` folds; those from `num_folds` on choose no penalty.
        num_folds: Folds that do.
    """

    stack: Stack[Any]
    targets: AnyTargets
    weights_N: Floats
    folds_N: Array
    num_folds: int

    @property
    def of_classes(self) -> bool:
        """Whether classes are predicted, and not values."""
        return isinstance(self.stack.parts[0], Probabilities)

    def wanted_NC(self, columns: tuple[str, ...]) -> Floats:
        """`(N, C)` what is to be predicted: indicators of the true classes, or numbers."""
        if self.of_classes:
            return (self.targets.columns(columns)[:, None] == np.arange(len(columns))).astype(float)
        found_NC: Floats = self.targets.values_ND[:, [self.targets.names.index(c) for c in columns]]
        return found_NC


def fit_logistic(inputs: StackInputs, rows: StackRows, penalties: Sequence[float]) -> LogisticStack:
    """Multinomial regression on top of the members' mean."""
    inputs_NF, base_NC = inputs(rows.stack)
    columns_N = rows.targets.columns(inputs.columns)
    weights_N = np.where(columns_N < 0, 0, rows.weights_N)  # no member could ever be right
    problem = LogisticProblem(inputs_NF, base_NC, columns_N, weights_N)
    some = np.flatnonzero(rows.folds_N < rows.num_folds)
    penalty = choose_penalty(problem.take(some), penalties, rows.folds_N[some])
    return LogisticStack(
        inputs=inputs,
        on_mean=True,
        penalty=penalty,
        coefficients_FC=problem.fit(penalty, problem.zeros()),
    )


def fit_ridge(inputs: StackInputs, rows: StackRows, penalties: Sequence[float]) -> LinearStack:
    """Least squares on top of the members' mean; of logarithms, on top of nothing."""
    inputs_NF, base_NC = inputs(rows.stack)
    wanted_NC, on_mean = rows.wanted_NC(inputs.columns), inputs.form == "values"
    found_FC, penalty = ridge(
        inputs_NF, wanted_NC - base_NC * on_mean, rows.weights_N, penalties, rows.folds_N
    )
    return LinearStack(inputs=inputs, on_mean=on_mean, penalty=penalty, coefficients_FC=found_FC)


def fit_nonnegative(inputs: StackInputs, rows: StackRows) -> LinearStack:
    """For each column, weights of at least 0 for the members' numbers for this column."""
    inputs_NF, _ = inputs(rows.stack)
    wanted_NC = rows.wanted_NC(inputs.columns)
    found_FC = np.zeros((inputs_NF.shape[1], wanted_NC.shape[1]))
    for column, own in enumerate(inputs.own()):
        found_FC[own, column] = nonnegative_least_squares(
            inputs_NF[:, own], wanted_NC[:, column], rows.weights_N
        )
    return LinearStack(inputs=inputs, on_mean=False, penalty=0.0, coefficients_FC=found_FC)


def fit_estimator(inputs: StackInputs, rows: StackRows, estimator: Estimator) -> Fusion[Any]:
    """A copy of a scikit-learn estimator; a linear one becomes plain arrays.

    Raises:
        InvalidValue: It is to predict classes and has no `predict_proba`.
    """
    from sklearn.base import clone

    if rows.of_classes and not hasattr(estimator, "predict_proba"):
        raise InvalidValue(
            f"the final estimator {type(estimator).__name__} has no predict_proba",
            "a classifier that gives probabilities",
            "Use logistic, ridge, nonnegative, or wrap it in CalibratedClassifierCV.",
        )
    inputs_NF = inputs(rows.stack)[0][:, :-1]
    used_N, wanted = rows.weights_N > 0, rows.targets
    if rows.of_classes:
        columns_N = wanted.columns(inputs.columns)
        used_N &= columns_N >= 0
        truth = np.asarray(inputs.columns)[columns_N]
    else:
        wanted_NC = rows.wanted_NC(inputs.columns)
        truth = wanted_NC[:, 0] if wanted_NC.shape[1] == 1 else wanted_NC
    weights_N = rows.weights_N[used_N]
    options = {} if (weights_N == weights_N[:1]).all() else {"sample_weight": weights_N}
    fitted = clone(estimator).fit(inputs_NF[used_N], truth[used_N], **options)
    return _as_arrays(inputs, fitted, of_classes=rows.of_classes) or EstimatorStack(
        inputs=inputs, estimator=fitted
    )


def _as_arrays(inputs: StackInputs, fitted: Estimator, *, of_classes: bool) -> Fusion[Any] | None:
    """A linear estimator's coefficients, if it is one."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.linear_model._base import LinearModel

    num_columns = len(inputs.columns)
    if of_classes:
        complete = tuple(getattr(fitted, "classes_", ())) == inputs.columns
        softmaxed = getattr(fitted, "solver", "") != "liblinear" or num_columns == 2
        if not isinstance(fitted, LogisticRegression) or not (complete and softmaxed):
            return None
    elif not isinstance(fitted, LinearModel):
        return None
    coefficients = np.atleast_2d(fitted.coef_)
    constants = np.broadcast_to(fitted.intercept_, len(coefficients))
    found_FC = np.concatenate([coefficients.T, constants[None]])
    if of_classes and len(coefficients) == 1:  # of the second of two classes
        found_FC = np.concatenate([np.zeros_like(found_FC), found_FC], axis=1)
    form = LogisticStack if of_classes else LinearStack
    return form(inputs=inputs, on_mean=False, penalty=0.0, coefficients_FC=found_FC)
