# SPDX-License-Identifier: Apache-2.0
"""FusionClassifier and FusionRegressor.

Shapes: N rows, C classes or other columns, D numbers.
"""

import abc
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin, is_classifier, is_regressor
from sklearn.model_selection import check_cv
from sklearn.utils import Bunch, indexable
from sklearn.utils.metadata_routing import UNUSED, MetadataRouter, MethodMapping
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.validation import check_is_fitted

from fusetune.errors import InvalidValue, name_some
from fusetune.fuse.forms import over_classes
from fusetune.predictions.kinds import Array, Columnar, Floats, Ids
from fusetune.predictions.stack import Stack
from fusetune.sklearn.fitting import Judged, Wishes, fit_fusion, metric_of
from fusetune.sklearn.inputs import (
    check_features,
    class_targets,
    fit_parameters,
    number_targets,
    resolved_columns,
    sample_weights,
)
from fusetune.sklearn.members import (
    Given,
    Member,
    Trained,
    check_splits,
    feature_values,
    take_fitted,
    train,
)
from fusetune.sklearn.problems import Amounts, Labels, OneClass, Problem

__all__ = ["FusionClassifier", "FusionRegressor"]

DROP, PREFIT = "drop", "prefit"
INPUTS = "X"  # what the features are called that `passthrough` gives the fusion


@dataclass(eq=False, repr=False)
class _Fusing(_BaseComposition, abc.ABC):
    """What both estimators share; the settings are described by `FusionClassifier`."""

    estimators: list[tuple[str, Any]]
    _: KW_ONLY
    method: Any = "auto"
    methods: Any = None
    cv: Any = 5
    metric: Any = None
    columns: Mapping[str, Any] | None = None
    calibrator: Any = "auto"
    passthrough: bool = False
    n_jobs: int | None = None
    random_state: Any = 0

    _required_parameters: ClassVar[list[str]] = ["estimators"]  # read by the checks of 1.5
    # The splitter is the one who asks for groups, under metadata routing.
    __metadata_request__fit = {"groups": UNUSED}  # noqa: RUF012

    def fit(
        self,
        X: Any,  # noqa: ANN401
        y: Any,  # noqa: ANN401
        sample_weight: Any = None,  # noqa: ANN401
        groups: Any = None,  # noqa: ANN401
        **params: Any,  # noqa: ANN401
    ) -> Self:
        """Fit the estimators and the fusion of their predictions.

        Args:
            X: Inputs of N rows: an array, a sparse matrix, a DataFrame, or a list.
            y: `(N,)` targets, or `(N, C)` for several of them per row.
            sample_weight: `(N,)` weights of the rows, handed to every estimator that takes them
                and to the fusion, which leaves out rows of weight 0.
            groups: `(N,)` groups of the rows, for a `cv` that keeps them together.
            **params: With metadata routing, whatever the estimators and `cv` request.

        Raises:
            ValueError: Something given cannot be used; most are `fusetune.errors.InvalidValue`.
        """
        names = [name for name, _ in self._checked_estimators()]
        check_features(self, X, reset=True)
        y = self._targets(y)
        X, _ = indexable(X, y)
        weights_N = sample_weights(sample_weight, X)
        kept = [(name, one) for name, one in self.estimators if not _is_dropped(one)]
        arguments, splitting = fit_parameters(self, kept, weights_N, groups, params)
        columns = resolved_columns(self.columns, names, X)
        members = [Member(name, one, columns.get(name), arguments[name]) for name, one in kept]
        given = Given(X, y, _ids(len(y)), weights_N)
        self.problem_ = self._problem(y, members)
        self.metric_ = metric_of(self.metric, self.problem_)
        self._wishes().candidates(self.problem_)  # names are checked before the work
        stack, at = self._train(members, given, splitting)
        self._fuse(stack, given, at)
        fitted = {name: one.estimator for name, one in self.trained_.items()}
        self.estimators_ = list(fitted.values())
        self.named_estimators_ = Bunch(**{name: fitted.get(name, DROP) for name in names})
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings; with `deep`, also the estimators by name, and theirs as `name__setting`."""
        return self._get_params("estimators", deep=deep)

    def set_params(self, **params: Any) -> Self:  # noqa: ANN401
        """Change settings, an estimator by its name (`"drop"` leaves it out), or its settings."""
        self._set_params("estimators", **params)
        return self

    @property
    def named_estimators(self) -> Bunch:
        """The estimators as given, by name."""
        return Bunch(**dict(self.estimators))

    def get_metadata_routing(self) -> MetadataRouter:
        """Who may request metadata of `fit`: this one, its estimators, and `cv` when it splits."""
        fit = MethodMapping().add(caller="fit", callee="fit")
        router = MetadataRouter(owner=type(self).__name__).add_self_request(self)
        for name, estimator in self.estimators:
            if not _is_dropped(estimator):
                router.add(**{name: estimator}, method_mapping=fit)
        if hasattr(self.cv, "split"):
            splitting = MethodMapping().add(caller="fit", callee="split")
            router.add(cv=self.cv, method_mapping=splitting)
        return router

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401
        from sklearn.utils import get_tags

        tags = super().__sklearn_tags__()
        try:
            inner = [get_tags(one) for _, one in self.estimators if not _is_dropped(one)]
        except Exception:  # whatever is wrong with them, `fit` says it
            return tags
        tags.input_tags.allow_nan = all(one.input_tags.allow_nan for one in inner)
        tags.input_tags.sparse = all(one.input_tags.sparse for one in inner)
        tags.target_tags.multi_output = all(one.target_tags.multi_output for one in inner)
        if tags.classifier_tags is not None:
            several = [
                one.classifier_tags is not None and one.classifier_tags.multi_label for one in inner
            ]
            tags.classifier_tags.multi_label = all(several)
            tags.target_tags.multi_output = False  # several labels, but not several classes
        return tags

    @abc.abstractmethod
    def _targets(self, y: Any) -> Array:  # noqa: ANN401
        """Targets as an array, checked."""

    @abc.abstractmethod
    def _problem(self, y: Array, members: list[Member]) -> Problem:
        """What y asks for."""

    @abc.abstractmethod
    def _is_of_other_type(self, estimator: Any) -> bool:  # noqa: ANN401
        """Whether an estimator predicts something else."""

    def _checked_estimators(self) -> list[tuple[str, Any]]:
        pairs = self.estimators
        if not isinstance(pairs, list | tuple) or not all(_is_pair(pair) for pair in pairs):
            raise InvalidValue(
                f"estimators is {pairs!r}"[:80], "a list of (name, estimator) pairs", "Write one."
            )
        self._validate_names([name for name, _ in pairs])
        if all(_is_dropped(one) for _, one in pairs):
            raise InvalidValue(
                "all estimators are dropped" if pairs else "no estimator is given",
                "at least one",
                "Add a (name, estimator) pair.",
            )
        other = [
            name for name, one in pairs if not _is_dropped(one) and self._is_of_other_type(one)
        ]
        if other:
            raise InvalidValue(
                f"{name_some(other)} cannot be members of a {type(self).__name__}",
                "classifiers for FusionClassifier, regressors for FusionRegressor",
                "Replace them.",
            )
        return list(pairs)

    def _train(
        self, members: list[Member], given: Given, splitting: Mapping[str, Any]
    ) -> tuple[Stack[Any], Array]:
        """Predictions of rows that trained no member, and the positions of these rows."""
        if isinstance(self.cv, str):
            if self.cv != PREFIT:
                raise InvalidValue(
                    f"cv is '{self.cv}'", "a number of folds, a splitter, or 'prefit'", "Change it."
                )
            for member in members:
                check_is_fitted(member.estimator)
            self.trained_, stack = take_fitted(self.problem_, members, given)
            at = np.arange(len(given.y))
        else:
            if len(given.y) == 1:
                raise InvalidValue(
                    "1 sample is given (n_samples=1)",
                    "several, so that a row can be predicted by a fit that did not see it",
                    "Give more rows, or fitted estimators and cv='prefit'.",
                )
            cv = check_cv(self.cv, given.y, classifier=is_classifier(self))
            splits = list(cv.split(given.X, given.y, **splitting))
            check_splits(splits, len(given.y))
            self.trained_, stack, at = train(self.problem_, members, given, splits, self.n_jobs)
        return stack, at

    def _fuse(self, stack: Stack[Any], given: Given, at: Array) -> None:
        """Fit the fusion on the rows that count, and note how good everything is there."""
        weights_N = given.weights_N
        if weights_N is not None:
            counts_N = weights_N[at] > 0
            stack, at = stack.take(counts_N), at[counts_N]
            weights_N = weights_N[at]
        stack = self._with_features(stack, given.X, given.ids)
        truth = self.problem_.truth(stack.ids, given.y[at])
        judged = Judged(stack, truth, self.metric_, weights_N)
        forms = {name: one.form for name, one in self.trained_.items()}
        choice = fit_fusion(self._wishes(), self.problem_, judged, forms)
        self.fusion_, self.method_ = choice.fusion, choice.chosen
        weights = self.fusion_.weights()
        self.weights_ = weights and {name: weights.get(name, 0.0) for name in self.trained_}
        self.member_scores_ = {
            name: judged.score(part) for name, part in zip(stack.members, stack.parts, strict=True)
        }
        self.cv_scores_ = {name: judged.score(one) for name, one in choice.cross_fitted.items()}

    def _with_features(self, stack: Stack[Any], X: Any, ids: Ids) -> Stack[Any]:  # noqa: ANN401
        if not self.passthrough:
            return stack
        parts = dict(zip(stack.members, stack.parts, strict=True))
        features = {INPUTS: feature_values(X, ids)}
        return Stack.align(parts, classes=stack.classes, features=features)

    def _wishes(self) -> Wishes:
        return Wishes(self.method, self.methods, self.calibrator, self.random_state)

    def _fused(self, X: Any) -> Columnar:  # noqa: ANN401
        """The fusion's prediction of rows, over all columns; runs members with weight only."""
        check_is_fitted(self, "fusion_")
        check_features(self, X, reset=False)
        parts: dict[str, Columnar] = {}
        ids: Ids | None = None
        for name in self.fusion_.members:
            trained: Trained = self.trained_[name]
            output = trained.output(self.problem_, X)
            ids = _ids(len(output.array_NC)) if ids is None else ids
            parts[name] = trained.prediction(self.problem_, ids, output)
        assert ids is not None
        stack: Stack[Any] = Stack.align(parts, classes=self.problem_.columns)
        fused = self.fusion_(self._with_features(stack, X, ids))
        return over_classes(fused, self.problem_.columns)


@dataclass(eq=False, repr=False)
class FusionClassifier(ClassifierMixin, _Fusing):
    """Fuse classifiers by the method that suits the data, weighted by rows they were not fitted on.

    Each estimator predicts rows that it did not see (by `cv`), a fusion is fitted on these
    predictions, and the estimators are then fitted on all rows. `VotingClassifier` weighs all
    alike, `StackingClassifier` fits one method; here the method is chosen by data (`auto`), or
    named. Use `method="mean"` with few rows: there is little to learn weights from.

    y of shape `(N, C)` with zeros and ones asks for several labels per row; `predict_proba` then
    has the probability of each, and `predict` says which are above one half (the metric's
    `threshold`, if it has one).

    Estimators need no `predict_proba`. Decision values are divided by the number that makes their softmax
    (sigmoid, for several labels) least wrong, and calibrated; predictions that are labels only become
    zeros and ones, and are calibrated. The calibrators are `vector` and `confusion` (for several
    labels `beta` and `isotonic`), fitted with the fusion, cross-fitted. `vote` sees members as they
    are.

    A fold's fit may not know a rare class. It then gives it probability 0, and rows of that class
    in that fold do not fit the fusion.

    Args:
        estimators: Pairs of a name and an estimator; `"drop"` in place of one leaves it out.
        method: `"auto"` blends the `methods` by how well they do on rows that did not fit them;
            `"best"` takes the best of them; or a fusion method's name (docs/methods.md), a
            `FusionMethod`, or `"best_member"`.
        methods: Names of fusion methods, `FusionMethod`s, or a mapping from names to them, which
            `auto` and `best` choose among; None: the task's list.
        cv: How rows come to be predicted: a number of folds (stratified for one class per row, not
            shuffled), a splitter, or splits; every row at most once. Rows never predicted (the
            first of a `TimeSeriesSplit`) do not fit the fusion. `"prefit"`: the estimators are
            fitted already and used as they are, X and y are rows new to them. 5 folds as in
            scikit-learn.
        metric: Name of a metric (docs/methods.md), or a `Metric`, by which methods and members are
            chosen; None: accuracy, or macro F1 for several labels.
        columns: Estimator's name → the columns of X that it sees: names, positions, a mask, a slice
            or a callable of X, as in `ColumnTransformer`; others see all.
        calibrator: Name of a calibrator, or a `Calibrator`, of the fusion, fitted on its
            cross-fitted predictions; None: the fusion is used as it is. `"auto"` is `temperature`
            for what `auto` and `best` choose, and nothing for a method that you name: it changes
            no decision and lowers the log-loss (docs/results/sklearn.md).
        passthrough: Whether the fusion sees X too, as the features of methods that weigh members
            row by row (`gating`, `dynamic_selection`); X has to be numeric.
        n_jobs: Fits at a time, as in scikit-learn.
        random_state: Deals rows to folds within the fusion, and seeds methods given by name. None
            draws a new seed each time.

    Attributes:
        classes_: `(C,)` labels, sorted; for several labels per row their positions.
        estimators_: The fitted estimators, without dropped ones.
        named_estimators_: The same by name.
        fusion_: The fitted fusion; `fusetune.fuse.fusion.save_fusion` stores it.
        method_: What was chosen.
        weights_: Estimator → weight, summing to 1; None where a fusion is no weighted average.
        member_scores_: Estimator → metric on rows that it did not see, before calibration.
        cv_scores_: Method → metric on rows that did not fit it; with `auto` and `best` only. The
            best of these is an optimist: cross-validate this estimator for an honest number.
        metric_: What decided.
        trained_: Estimator's name → how its answers are read: `form` (probabilities, scores,
            labels, values), and the `scale` of scores.
        problem_: What y asks for.
        n_features_in_: Number of features.
        feature_names_in_: Their names, if X has such.

    Cost:
        One fit per estimator and fold, one more per estimator, and for `auto` and `best` six fits
        of each method, on predictions only.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.naive_bayes import GaussianNB
        >>> X, y = load_iris(return_X_y=True)
        >>> pairs = [("logistic", LogisticRegression(max_iter=1000)), ("bayes", GaussianNB())]
        >>> fusion = FusionClassifier(pairs, metric="log_loss").fit(X, y)
        >>> fusion.predict(X[:2]), fusion.method_
        (array([0, 0]), 'auto')
    """

    def predict(self, X: Any) -> Array:  # noqa: ANN401
        """`(N,)` the most probable classes, the first of equals; or `(N, C)` zeros and ones."""
        probs_NC = self._fused(X).array_NC
        if isinstance(self.problem_, Labels):
            return (probs_NC > getattr(self.metric_, "threshold", 0.5)).astype(np.int64)
        labels_N: Array = self.classes_[probs_NC.argmax(axis=1)]
        return labels_N

    def predict_proba(self, X: Any) -> Floats:  # noqa: ANN401
        """`(N, C)` probabilities, columns as in `classes_`."""
        return self._fused(X).array_NC

    def _targets(self, y: Any) -> Array:  # noqa: ANN401
        return class_targets(y)

    def _problem(self, y: Array, members: list[Member]) -> Problem:
        if y.ndim == 2:
            self.classes_ = np.arange(y.shape[1])
            return Labels(tuple(str(c) for c in range(y.shape[1])))
        known = [np.unique(y)]
        if isinstance(self.cv, str):  # fitted estimators may know classes that these rows lack
            told = [getattr(member.estimator, "classes_", None) for member in members]
            known += [np.asarray(classes) for classes in told if classes is not None]
        self.classes_ = np.unique(np.concatenate(known))
        return OneClass(self.classes_)

    def _is_of_other_type(self, estimator: Any) -> bool:  # noqa: ANN401
        return bool(is_regressor(estimator))


@dataclass(eq=False, repr=False)
class FusionRegressor(RegressorMixin, _Fusing):
    """Fuse regressors by the method that suits the data, weighted by rows they were not fitted on.

    As `FusionClassifier`, for numbers: y of shape `(N,)`, or `(N, D)` if all estimators predict
    several numbers.

    Args:
        estimators: Pairs of a name and an estimator; `"drop"` in place of one leaves it out.
        method: `"auto"`, `"best"`, `"best_member"`, a fusion method's name, or a `FusionMethod`.
        methods: What `auto` and `best` choose among; None: the task's list.
        cv: A number of folds (not shuffled), a splitter, splits, or `"prefit"`.
        metric: Name of a metric, or a `Metric`; None: root mean squared error.
        columns: Estimator's name → the columns of X that it sees.
        calibrator: There are no calibrators of numbers; leave it as it is.
        passthrough: Whether the fusion sees X too, as the features of `gating`.
        n_jobs: Fits at a time, as in scikit-learn.
        random_state: Deals rows to folds within the fusion, and seeds methods given by name.

    Attributes:
        estimators_: The fitted estimators, without dropped ones.
        named_estimators_: The same by name.
        fusion_: The fitted fusion.
        method_: What was chosen.
        weights_: Estimator → weight, summing to 1; None where a fusion is no weighted average.
        member_scores_: Estimator → metric on rows that it did not see.
        cv_scores_: Method → metric on rows that did not fit it; with `auto` and `best` only.
        metric_: What decided.
        trained_: Estimator's name → how its answers are read.
        problem_: What y asks for.
        n_features_in_: Number of features.
        feature_names_in_: Their names, if X has such.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn.linear_model import Ridge
        >>> from sklearn.tree import DecisionTreeRegressor
        >>> X, y = load_diabetes(return_X_y=True)
        >>> tree = DecisionTreeRegressor(max_depth=3, random_state=0)
        >>> fusion = FusionRegressor([("ridge", Ridge()), ("tree", tree)]).fit(X, y)
        >>> fusion.predict(X[:2]).shape, min(fusion.member_scores_, key=fusion.member_scores_.get)
        ((2,), 'ridge')
    """

    def predict(self, X: Any) -> Floats:  # noqa: ANN401
        """`(N,)` numbers, or `(N, D)` if y had several."""
        values_ND = self._fused(X).array_NC
        return values_ND if self._several else values_ND[:, 0]

    def _targets(self, y: Any) -> Array:  # noqa: ANN401
        return number_targets(y)

    def _problem(self, y: Array, members: list[Member]) -> Problem:
        self._several = y.ndim == 2
        return Amounts(tuple(f"y{d}" for d in range(y.shape[1] if self._several else 1)))

    def _is_of_other_type(self, estimator: Any) -> bool:  # noqa: ANN401
        return bool(is_classifier(estimator))


def _ids(num_rows: int) -> Ids:
    return np.arange(num_rows).astype(str)


def _is_pair(pair: Any) -> bool:  # noqa: ANN401
    return isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)


def _is_dropped(estimator: Any) -> bool:  # noqa: ANN401
    return isinstance(estimator, str) and estimator == DROP
