# SPDX-License-Identifier: Apache-2.0
"""Fitted final estimators of stacking.

Shapes: N rows, C classes or other columns, F inputs, the last of them a constant 1.
"""

from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.fuse.logistic import softmax
from fusetune.fuse.method import Fusion
from fusetune.fuse.stack_inputs import StackInputs
from fusetune.predictions.kinds import Columnar, Floats, Probabilities
from fusetune.predictions.stack import Stack

__all__ = ["EstimatorStack", "LinearStack", "LogisticStack", "as_answer"]

T = TypeVar("T", bound=Columnar)


@dataclass(frozen=True, kw_only=True, eq=False)
class LogisticStack(Fusion[Probabilities]):
    """Fitted logistic regression: plain arrays.

    Args:
        inputs: What it sees.
        on_mean: Whether the members' mean is added to the logits.
        penalty: The penalty that was chosen; not read when predicting.
        coefficients_FC: `(F, C)`.
    """

    inputs: StackInputs
    on_mean: bool
    penalty: float
    coefficients_FC: Floats
    members: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", self.inputs.members)

    def __call__(self, stack: Stack[Probabilities]) -> Probabilities:
        """Softmax of the linear function of the inputs."""
        inputs_NF, base_NC = self.inputs(stack)
        logits_NC = (
            self.coefficients_FC.T @ inputs_NF.T
        ).T  # columns lie together, as in the inputs
        if self.on_mean:
            logits_NC += base_NC
        return as_answer(stack, self.inputs, softmax(logits_NC))


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearStack(Fusion[Any]):
    """Fitted linear regression on values or probabilities: plain arrays.

    For class probabilities, what is negative becomes 0 and rows are divided by their sums; a row of
    which nothing is left becomes the members' mean.

    Args:
        inputs: What it sees.
        on_mean: Whether the members' mean is added.
        penalty: The penalty that was chosen; not read when predicting.
        coefficients_FC: `(F, C)`.
    """

    inputs: StackInputs
    on_mean: bool
    penalty: float
    coefficients_FC: Floats
    members: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", self.inputs.members)

    def __call__(self, stack: Stack[T]) -> T:
        """The linear function of the inputs."""
        inputs_NF, base_NC = self.inputs(stack)
        answer_NC = inputs_NF @ self.coefficients_FC + base_NC * self.on_mean
        if isinstance(stack.parts[0], Probabilities):
            answer_NC = np.maximum(answer_NC, 0)
            nothing_N = answer_NC.sum(axis=1) <= 0
            answer_NC[nothing_N] = self._mean(stack, nothing_N)
            answer_NC /= answer_NC.sum(axis=1, keepdims=True)
        return as_answer(stack, self.inputs, answer_NC)

    def _mean(self, stack: Stack[Any], rows_N: Floats) -> Floats:
        _, base_NC = self.inputs(stack)
        return softmax(base_NC[rows_N]) if self.inputs.form != "values" else base_NC[rows_N]


@dataclass(frozen=True, kw_only=True, eq=False)
class EstimatorStack(Fusion[Any]):
    """A fitted scikit-learn estimator: works in memory, is not saved.

    Args:
        inputs: What it sees, without the constant.
        estimator: Fitted on class names, or on values.
    """

    inputs: StackInputs
    estimator: Any
    members: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", self.inputs.members)

    def __call__(self, stack: Stack[T]) -> T:
        """What the estimator predicts; a class that it never saw has probability 0."""
        inputs_NF = self.inputs(stack)[0][:, :-1]
        answer_NC = np.zeros((len(stack), len(self.inputs.columns)))
        if not len(stack):
            return as_answer(stack, self.inputs, answer_NC)
        if isinstance(stack.parts[0], Probabilities):
            known = [self.inputs.columns.index(name) for name in self.estimator.classes_]
            answer_NC[:, known] = self.estimator.predict_proba(inputs_NF)
        else:
            answer_NC[:] = np.reshape(self.estimator.predict(inputs_NF), answer_NC.shape)
        return as_answer(stack, self.inputs, answer_NC)

    def check_savable(self) -> None:
        """Refuse.

        Raises:
            InvalidValue: Always.
        """
        raise InvalidValue(
            f"the final estimator is a {type(self.estimator).__name__}, which only Python's pickle can save",
            "one that is linear (it is saved as arrays): nothing saved by fusetune can run foreign code",
            "Use logistic, ridge, nonnegative or a linear scikit-learn estimator, or keep it in memory.",
        )


def as_answer(stack: Stack[T], inputs: StackInputs, answer_NC: Floats) -> T:
    """Numbers as a prediction of the members' kind, in their widest precision."""
    parts = stack.select(inputs.members).parts
    dtype = np.result_type(*(part.array_NC.dtype for part in parts))
    widest = max(parts, key=lambda part: len(part.columns))
    return widest.with_array(inputs.columns, answer_NC.astype(dtype))
