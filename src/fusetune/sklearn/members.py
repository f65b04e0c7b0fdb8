# SPDX-License-Identifier: Apache-2.0
"""Fit estimators, and predict rows by fits that did not see them.

Shapes: N rows, C classes or other columns, D features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn import clone
from sklearn.utils import check_array
from sklearn.utils.parallel import Parallel, delayed

from fusetune.errors import InvalidValue, PredictionError, name_some
from fusetune.predictions.kinds import Array, Columnar, Floats, Ids, Values
from fusetune.predictions.stack import Stack
from fusetune.sklearn.inputs import rows, selected
from fusetune.sklearn.problems import Output, Problem, Scale, score_scale

__all__ = [
    "Given",
    "Member",
    "Split",
    "Trained",
    "check_splits",
    "feature_values",
    "take_fitted",
    "train",
]

Split = tuple[Array, Array]
"""Positions of the rows to fit on, and of those to predict."""


@dataclass(frozen=True, eq=False)
class Given:
    """Rows to fit on.

    Args:
        X: Inputs.
        y: Targets.
        ids: `(N,)` row names.
        weights_N: `(N,)` numbers of at least 0; None: all 1.
    """

    X: Any
    y: Array
    ids: Ids
    weights_N: Floats | None = None


@dataclass(frozen=True, eq=False)
class Member:
    """One estimator of the ensemble.

    Args:
        name: Its name.
        estimator: Not fitted, and never to be: its clones are.
        columns: The columns of X that it sees; None: all.
        parameters: What its `fit` is handed besides X and y; arrays with one entry per row are
            divided as the rows are.
    """

    name: str
    estimator: Any
    columns: Any = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Trained:
    """One estimator after fitting.

    Args:
        estimator: Fitted on all rows.
        columns: The columns of X that it sees; None: all.
        form: Of what it gives.
        scale: What its scores are divided by; for several labels one number each.
    """

    estimator: Any
    columns: Any
    form: str
    scale: Scale

    @classmethod
    def of(
        cls,
        problem: Problem,
        member: Member,
        estimator: Any,  # noqa: ANN401
        output: Output,
        given: Given,
        at: Array,
    ) -> "Trained":
        """A fitted estimator, and what its outputs for the rows at some positions tell of it."""
        scale: Scale = 1.0
        if output.form == "scores":
            ids, weights_N = given.ids[at], given.weights_N
            weights_N = None if weights_N is None else weights_N[at]
            scale = score_scale(problem, output, problem.truth(ids, given.y[at]), weights_N)
        return cls(estimator, member.columns, output.form, scale)

    def output(self, problem: Problem, X: Any) -> Output:  # noqa: ANN401
        """What it says of rows."""
        return problem.read(self.estimator, selected(X, self.columns))

    def prediction(self, problem: Problem, ids: Ids, output: Output) -> Columnar:
        """An output as a prediction.

        Raises:
            PredictionError: The output is of another form than those that fitted the fusion.
        """
        if output.form != self.form:
            raise PredictionError(
                f"{type(self.estimator).__name__} gives {output.form} here and {self.form} elsewhere",
                "one form from all fits of an estimator",
                "Give it fixed settings, or wrap it in CalibratedClassifierCV.",
            )
        return problem.prediction(ids, output, self.scale)


def check_splits(splits: Sequence[Split], num_rows: int) -> None:
    """Refuse splits that predict a row twice, or none.

    Raises:
        InvalidValue: They do.
    """
    predicted = np.concatenate([test for _, test in splits]) if splits else np.empty(0, int)
    counts_N = np.bincount(predicted, minlength=num_rows)
    if counts_N.max(initial=0) > 1 or not len(predicted):
        found = f"row {counts_N.argmax()} more than once" if len(predicted) else "no row"
        raise InvalidValue(
            f"cv predicts {found}",
            "every row at most once, and some row",
            "Use KFold, GroupKFold, TimeSeriesSplit or another splitter without repeats.",
        )


def train(
    problem: Problem,
    members: Sequence[Member],
    given: Given,
    splits: Sequence[Split],
    n_jobs: int | None,
) -> tuple[dict[str, Trained], Stack[Any], Array]:
    """Fit each member on all rows, and once per split to predict the rows left out.

    Args:
        problem: What is predicted.
        members: What is fitted.
        given: The rows.
        splits: Checked by `check_splits`.
        n_jobs: Fits at a time, as in scikit-learn.

    Returns:
        Member → what is left of it; predictions of the rows that can fit a fusion; and these rows'
        positions. They are the rows that were predicted, and whose class (or labels) the fits could
        know.

    Cost:
        One fit per member and split, and one more per member.
    """
    whole = (None, None)
    tasks = [(member, split) for member in members for split in (*splits, whole)]
    done = Parallel(n_jobs=n_jobs)(
        delayed(_fit)(problem, member, given.X, given.y, split) for member, split in tasks
    )
    trained: dict[str, Trained] = {}
    predictions: dict[str, Columnar] = {}
    at = _teaching_rows(problem, given.y, splits)
    for index, member in enumerate(members):
        *parts, estimator = done[index * (len(splits) + 1) : (index + 1) * (len(splits) + 1)]
        form, array_NC = _joined(problem, member.name, parts, splits, len(given.y))
        output = Output(form, array_NC[at], problem.known_C(estimator))
        made = Trained.of(problem, member, estimator, output, given, at)
        trained[member.name] = made
        predictions[member.name] = made.prediction(problem, given.ids[at], output)
    return trained, Stack.align(predictions, classes=problem.columns), at


def take_fitted(
    problem: Problem, members: Sequence[Member], given: Given
) -> tuple[dict[str, Trained], Stack[Any]]:
    """Use fitted estimators as they are: the rows given are new to them.

    Returns:
        Member → what is to be known of it; and predictions of all rows.
    """
    trained: dict[str, Trained] = {}
    predictions: dict[str, Columnar] = {}
    every = np.arange(len(given.y))
    for member in members:
        output = problem.read(member.estimator, selected(given.X, member.columns))
        made = Trained.of(problem, member, member.estimator, output, given, every)
        trained[member.name] = made
        predictions[member.name] = made.prediction(problem, given.ids, output)
    return trained, Stack.align(predictions, classes=problem.columns)


def feature_values(X: Any, ids: Ids) -> Values:  # noqa: ANN401
    """Numeric inputs as feature vectors of the rows, for fusions that look at them.

    Raises:
        ValueError: They are not numeric, dense and finite.
    """
    X_ND = check_array(X, dtype=[np.float64, np.float32])
    return Values(ids, tuple(f"x{d}" for d in range(X_ND.shape[1])), X_ND)


def _fit(problem: Problem, member: Member, X: Any, y: Array, split: Any) -> Any:  # noqa: ANN401
    """The estimator fitted on all rows; or, with a split, what its fit says of the rows left out."""
    fit_on, test = split
    X = selected(X, member.columns)
    parameters = {
        name: _divided(value, fit_on, len(y)) for name, value in member.parameters.items()
    }
    estimator = clone(member.estimator).fit(rows(X, fit_on), rows(y, fit_on), **parameters)
    return estimator if test is None else problem.read(estimator, rows(X, test))


def _divided(value: Any, at: Array | None, num_rows: int) -> Any:  # noqa: ANN401
    sized = hasattr(value, "shape") or isinstance(value, list | tuple)
    length = (value.shape or (0,))[0] if hasattr(value, "shape") else len(value) if sized else -1
    return rows(value, at) if length == num_rows else value


def _teaching_rows(problem: Problem, y: Array, splits: Sequence[Split]) -> Array:
    kept = [test[problem.learnable_N(y[fit_on], y[test])] for fit_on, test in splits]
    at = np.sort(np.concatenate(kept))
    if not len(at):
        raise InvalidValue(
            "every row that cv predicts is of a class that its fit had not seen",
            "rows of every class in more than one fold",
            "Use fewer folds, or a splitter that mixes the classes.",
        )
    return at


def _joined(
    problem: Problem, name: str, parts: Sequence[Output], splits: Sequence[Split], num_rows: int
) -> tuple[str, Floats]:
    """Form and numbers of the splits' outputs in the order of the rows; 0 where none predicts."""
    forms = sorted({part.form for part in parts})
    if len(forms) > 1:
        raise PredictionError(
            f"the fits of '{name}' give {name_some(forms)}",
            "one form from all fits of an estimator",
            "Give it fixed settings, or wrap it in CalibratedClassifierCV.",
        )
    dtype = np.result_type(*(part.array_NC.dtype for part in parts))
    array_NC = np.zeros((num_rows, len(problem.columns)), dtype=dtype)
    for part, (_, test) in zip(parts, splits, strict=True):
        array_NC[test] = part.array_NC
    return forms[0], array_NC
