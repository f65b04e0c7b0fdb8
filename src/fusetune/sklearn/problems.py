# SPDX-License-Identifier: Apache-2.0
"""The seam: what y asks for, and what an estimator's answer is worth as a prediction.

Shapes: N rows, C classes or other columns, D numbers, K classes that an estimator knows.
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np

from fusetune.calibrate.calibrators.temperature import (
    MarginalTemperatures,
    Temperature,
    TemperatureCalibration,
)
from fusetune.errors import InvalidValue, PredictionError, name_some
from fusetune.predictions.kinds import (
    Array,
    Columnar,
    Floats,
    Ids,
    Marginals,
    Probabilities,
    Values,
)
from fusetune.predictions.targets import GroundTruth, LabelSets, Numbers, Targets
from fusetune.task import Task
from fusetune.tasks.classification import Classification
from fusetune.tasks.multilabel import Multilabel
from fusetune.tasks.regression import Regression

__all__ = ["Amounts", "Labels", "OneClass", "Output", "Problem", "Scale", "score_scale"]

Scale: TypeAlias = float | Floats
"""What scores are divided by: one number, or one per label."""


@dataclass(frozen=True, eq=False)
class Output:
    """What an estimator says of some rows.

    Args:
        form: `probabilities`, `scores` (of any scale, the higher the likelier), `labels` (as
            zeros and ones) or `values`.
        array_NC: `(N, C)` one column for each of the problem's; for a class that the estimator
            does not know, 0, or among scores minus infinity.
        known_C: `(C,)` the columns that it knows.
    """

    form: str
    array_NC: Floats
    known_C: Array


class Problem(abc.ABC):
    """What is predicted, as y tells it."""

    task: ClassVar[Task]
    calibrators: ClassVar[Mapping[str, str]] = {}
    """Form → calibrator that makes a prediction of it."""
    columns: tuple[str, ...]

    @abc.abstractmethod
    def truth(self, ids: Ids, y: Array) -> GroundTruth:
        """The targets of rows."""

    @abc.abstractmethod
    def read(self, estimator: Any, X: Any) -> Output:  # noqa: ANN401
        """Ask a fitted estimator about rows."""

    def known_C(self, estimator: Any) -> Array:  # noqa: ANN401
        """`(C,)` which columns a fitted estimator knows."""
        return np.ones(len(self.columns), dtype=bool)

    @abc.abstractmethod
    def prediction(self, ids: Ids, output: Output, scale: Scale) -> Columnar:
        """An output as the kind that fusions work on; scores are divided by `scale` first."""

    def learnable_N(self, y_train: Array, y: Array) -> Array:
        """`(N,)` whether estimators fitted on `y_train` could get each row right at all."""
        return np.ones(len(y), dtype=bool)


@dataclass(frozen=True, eq=False)
class OneClass(Problem):
    """One class per row.

    Args:
        classes: `(C,)` labels as in y, sorted.
    """

    classes: Array
    columns: tuple[str, ...] = field(init=False)

    task: ClassVar[Task] = Classification()
    calibrators: ClassVar[Mapping[str, str]] = {"scores": "vector", "labels": "confusion"}

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(str(label) for label in self.classes.tolist()))

    def truth(self, ids: Ids, y: Array) -> Targets:
        """The true classes."""
        return Targets(ids, self.columns, np.searchsorted(self.classes, y))

    def read(self, estimator: Any, X: Any) -> Output:  # noqa: ANN401
        """Probabilities, else decision values, else labels; columns are matched by label.

        Decision values s of two classes become scores of -s/2 and s/2, whose softmax is the
        sigmoid of s. Values that do not belong to one class each (one-versus-one) are left aside.
        """
        positions, known_C = self._positions(estimator), self.known_C(estimator)
        if hasattr(estimator, "predict_proba"):
            answer_NK = np.asarray(estimator.predict_proba(X))
            _check_columns(estimator, answer_NK, len(positions))
            return Output("probabilities", self._wide(answer_NK, positions, 0), known_C)
        if hasattr(estimator, "decision_function"):
            answer_NK = np.asarray(estimator.decision_function(X))
            if answer_NK.ndim == 1 and len(positions) == 2:
                answer_NK = np.stack([-answer_NK / 2, answer_NK / 2], axis=1)
            if answer_NK.shape[1:] == (len(positions),):
                _check_finite(estimator, answer_NK)
                return Output("scores", self._wide(answer_NK, positions, -np.inf), known_C)
        named_N = np.asarray(estimator.predict(X)).ravel()
        at_N = self._at(named_N.tolist(), type(estimator).__name__)
        array_NC = (np.array(at_N)[:, None] == np.arange(len(self.classes))).astype(np.float64)
        return Output("labels", array_NC, known_C)

    def known_C(self, estimator: Any) -> Array:  # noqa: ANN401
        """`(C,)` its `classes_`; all of them if it does not tell."""
        known_C: Array = np.isin(np.arange(len(self.classes)), self._positions(estimator))
        return known_C

    def prediction(self, ids: Ids, output: Output, scale: Scale) -> Probabilities:
        """Probabilities over the classes that the estimator knows; softmax of scores."""
        array_NC = output.array_NC[:, output.known_C]
        names = tuple(
            name for name, known in zip(self.columns, output.known_C, strict=True) if known
        )
        if output.form == "scores":
            scores_NC = array_NC / scale
            exp_NC = np.exp(scores_NC - scores_NC.max(axis=1, keepdims=True))
            array_NC = exp_NC / exp_NC.sum(axis=1, keepdims=True)
        return Probabilities(ids, names, array_NC)

    def learnable_N(self, y_train: Array, y: Array) -> Array:
        """Rows whose class occurs in `y_train`."""
        return np.isin(y, np.unique(y_train))

    def _positions(self, estimator: Any) -> list[int]:  # noqa: ANN401
        known = getattr(estimator, "classes_", None)
        labels = self.classes.tolist() if known is None else np.asarray(known).tolist()
        return self._at(labels, type(estimator).__name__)

    def _at(self, labels: Sequence[Any], estimator: str) -> list[int]:
        position = {label: index for index, label in enumerate(self.classes.tolist())}
        strange = {label: None for label in labels if label not in position}
        if strange:
            raise PredictionError(
                f"{estimator} names the classes {name_some(map(str, strange))}",
                f"only the classes {name_some(self.columns, most=12)}",
                "Fit it on labels that are written as in y.",
            )
        return [position[label] for label in labels]

    def _wide(self, answer_NK: Floats, at: list[int], absent: float) -> Floats:
        shape = (len(answer_NK), len(self.classes))
        wide_NC = np.full(shape, absent, dtype=np.result_type(answer_NK.dtype, np.float32))
        wide_NC[:, at] = answer_NK
        return wide_NC


@dataclass(frozen=True, eq=False)
class Labels(Problem):
    """Several labels per row, each there or not: y is `(N, C)` of zeros and ones.

    Args:
        columns: C names.
    """

    columns: tuple[str, ...]

    task: ClassVar[Task] = Multilabel()
    calibrators: ClassVar[Mapping[str, str]] = {"scores": "beta", "labels": "isotonic"}

    def truth(self, ids: Ids, y: Array) -> LabelSets:
        """The true labels."""
        return LabelSets(ids, self.columns, y != 0)

    def read(self, estimator: Any, X: Any) -> Output:  # noqa: ANN401
        """Probabilities, as one array or one per label, else decision values, else labels."""
        form = "probabilities"
        if hasattr(estimator, "predict_proba"):
            answer = estimator.predict_proba(X)
            if isinstance(answer, list):
                answer = np.stack(
                    [
                        _of_ones(np.asarray(probs_NK), known)
                        for probs_NK, known in zip(answer, estimator.classes_, strict=True)
                    ],
                    axis=1,
                )
        elif hasattr(estimator, "decision_function"):
            form, answer = "scores", estimator.decision_function(X)
            _check_finite(estimator, np.asarray(answer))
        else:
            form, answer = "labels", estimator.predict(X)
            answer = answer.toarray() if hasattr(answer, "toarray") else answer
        array_NC = np.asarray(answer)
        _check_columns(estimator, array_NC, len(self.columns))
        array_NC = array_NC.astype(np.result_type(array_NC.dtype, np.float32), copy=False)
        return Output(form, array_NC, self.known_C(estimator))

    def prediction(self, ids: Ids, output: Output, scale: Scale) -> Marginals:
        """A probability for each label; sigmoid of scores."""
        if output.form == "scores":
            return Marginals.from_logits(ids, self.columns, output.array_NC / scale)
        return Marginals(ids, self.columns, output.array_NC)

    def learnable_N(self, y_train: Array, y: Array) -> Array:
        """Rows whose labels all occur in `y_train`, and are all absent from some of its rows."""
        seen_C, missing_C = (y_train != 0).any(axis=0), (y_train == 0).any(axis=0)
        learnable_N: Array = np.where(y != 0, seen_C, missing_C).all(axis=1)
        return learnable_N


@dataclass(frozen=True, eq=False)
class Amounts(Problem):
    """Numbers.

    Args:
        columns: D names.
    """

    columns: tuple[str, ...]

    task: ClassVar[Task] = Regression()

    def truth(self, ids: Ids, y: Array) -> Numbers:
        """The true numbers."""
        return Numbers(ids, self.columns, y.reshape(len(y), -1))

    def read(self, estimator: Any, X: Any) -> Output:  # noqa: ANN401
        """What it predicts."""
        values_ND = np.asarray(estimator.predict(X))
        values_ND = values_ND.reshape(len(values_ND), -1)
        _check_columns(estimator, values_ND, len(self.columns))
        values_ND = values_ND.astype(np.result_type(values_ND.dtype, np.float32), copy=False)
        return Output("values", values_ND, self.known_C(estimator))

    def prediction(self, ids: Ids, output: Output, scale: Scale) -> Values:
        """The numbers as they are."""
        return Values(ids, self.columns, output.array_NC)


def score_scale(
    problem: Problem, output: Output, truth: GroundTruth, weights_N: Floats | None
) -> Scale:
    """What scores are divided by, so that their softmax (sigmoid) has the least log-loss.

    Decision values may be margins, ranks or votes: nothing is known of their scale. They are divided
    by their spread, and then by the `temperature` of these rows; one number, or one per label.

    Args:
        problem: What is predicted.
        output: Scores of N rows.
        truth: Their targets.
        weights_N: `(N,)` numbers of at least 0; None: all 1.
    """
    spread = _spread(output.array_NC)
    rough: Any = problem.prediction(truth.ids, output, spread)
    fitted = Temperature().fit(rough, truth, sample_weights_N=weights_N)  # type: ignore[arg-type]
    if isinstance(fitted, TemperatureCalibration):
        return spread * fitted.temperature
    assert isinstance(fitted, MarginalTemperatures)
    return spread * fitted.temperatures_C


def _spread(scores_NC: Floats) -> float:
    """The standard deviation of scores, of several within their rows; 1 where they are all equal."""
    scores_NC = np.where(np.isfinite(scores_NC), scores_NC, np.nan)
    if scores_NC.shape[1] > 1:
        scores_NC = scores_NC - np.nanmean(scores_NC, axis=1, keepdims=True)
    spread = float(np.nanstd(scores_NC))
    return spread if 0 < spread < np.inf else 1.0


def _of_ones(probs_NK: Floats, known: Sequence[Any]) -> Floats:
    """`(N,)` the probability that a label is there; 0 or 1 if only one was seen when fitting."""
    at = np.flatnonzero(np.asarray(known) == 1)
    ones_N: Floats = probs_NK[:, at[0]] if len(at) else np.zeros(len(probs_NK))
    return ones_N


def _check_columns(estimator: Any, array: Array, columns: int) -> None:  # noqa: ANN401
    if array.ndim != 2 or array.shape[1] != columns:
        raise InvalidValue(
            f"{type(estimator).__name__} gives an array of shape {array.shape}",
            f"{columns} columns",
            "Check that it is fitted on y as it is given here.",
        )


def _check_finite(estimator: Any, array: Array) -> None:  # noqa: ANN401
    if not np.isfinite(array).all():
        raise PredictionError(
            f"the decision values of {type(estimator).__name__} hold NaN or infinity",
            "finite numbers",
            "Scale its inputs.",
        )
