# SPDX-License-Identifier: Apache-2.0
import pickle

import numpy as np
import pytest
import scipy.sparse as sparse
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_breast_cancer, load_iris, make_classification
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    RepeatedKFold,
    StratifiedKFold,
    TimeSeriesSplit,
    cross_val_predict,
    cross_val_score,
)
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from fusetune.calibrated import CalibratedFusion
from fusetune.errors import InvalidValue, PredictionError, UnknownName
from fusetune.fuse.fusion import load_fusion, save_fusion
from fusetune.fuse.methods.distributions.greedy_selection import GreedySelection
from fusetune.fuse.methods.distributions.weighted_mean import WeightedMean
from fusetune.metrics.log_loss import LogLoss
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets
from fusetune.sklearn import FusionClassifier

pytestmark = pytest.mark.slow

LOGISTIC = make_pipeline(StandardScaler(), LogisticRegression())
TREE = DecisionTreeClassifier(max_depth=3, random_state=0)
PAIRS = [("logistic", LOGISTIC), ("bayes", GaussianNB()), ("tree", TREE)]


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.fixture(scope="module")
def three_classes():
    return make_classification(300, 8, n_informative=5, n_classes=3, flip_y=0.1, random_state=0)


def test_the_mean_is_soft_voting(iris):
    X, y = iris
    fusion = FusionClassifier(PAIRS, method="mean").fit(X, y)
    voting = VotingClassifier(PAIRS, voting="soft").fit(X, y)
    np.testing.assert_allclose(fusion.predict_proba(X), voting.predict_proba(X), rtol=1e-12)
    np.testing.assert_array_equal(fusion.predict(X), voting.predict(X))
    assert fusion.weights_ == pytest.approx(dict.fromkeys(fusion.named_estimators_, 1 / 3))
    assert fusion.method_ == "mean"
    assert fusion.cv_scores_ == {}
    assert fusion.score(X, y) == voting.score(X, y)


def test_weights_are_those_of_cross_val_predict_fused_by_hand(three_classes):
    X, y = three_classes
    cv = StratifiedKFold(4, shuffle=True, random_state=3)
    fusion = FusionClassifier(PAIRS, method="weighted_mean", cv=cv, metric="log_loss").fit(X, y)
    ids = [str(n) for n in range(len(y))]
    out_of_fold = {
        name: Probabilities(
            ids, ("0", "1", "2"), cross_val_predict(one, X, y, cv=cv, method="predict_proba")
        )
        for name, one in PAIRS
    }
    targets = Targets(ids, ("0", "1", "2"), y)
    by_hand = WeightedMean().fit(Stack.align(out_of_fold), targets, LogLoss())
    assert fusion.fusion_.weights() == pytest.approx(by_hand.weights(), rel=1e-9)
    refitted = {
        name: Probabilities(ids, ("0", "1", "2"), clone(one).fit(X, y).predict_proba(X))
        for name, one in PAIRS
    }
    expected_NC = by_hand(Stack.align(refitted)).probs_NC
    np.testing.assert_allclose(fusion.predict_proba(X), expected_NC, rtol=1e-9)
    scores = {name: log_loss(y, part.probs_NC) for name, part in out_of_fold.items()}
    assert fusion.member_scores_ == pytest.approx(scores)


def test_auto_blends_and_says_how_good_each_method_was(three_classes):
    X, y = three_classes
    fusion = FusionClassifier(PAIRS, metric="log_loss").fit(X, y)
    assert fusion.method_ == "auto"
    assert {"best_member", "mean", "vote", "stacking"} <= set(fusion.cv_scores_)
    best = FusionClassifier(PAIRS, metric="log_loss", method="best").fit(X, y)
    assert best.method_ == min(best.cv_scores_, key=best.cv_scores_.get)
    few = FusionClassifier(PAIRS, methods=["mean", WeightedMean()], metric="log_loss").fit(X, y)
    assert set(few.cv_scores_) == {"best_member", "mean", "weighted_mean"}
    assert few.weights_ is not None
    assert sum(few.weights_.values()) == pytest.approx(1)


def test_the_best_member_alone(three_classes):
    X, y = three_classes
    fusion = FusionClassifier(PAIRS, method="best_member").fit(X, y)
    best = max(fusion.member_scores_, key=fusion.member_scores_.get)
    assert fusion.weights_ == {name: float(name == best) for name, _ in PAIRS}
    expected = fusion.named_estimators_[best].predict_proba(X)
    np.testing.assert_array_equal(fusion.predict_proba(X), expected)


def test_only_estimators_with_weight_run_when_predicting(iris):
    X, y = iris
    fusion = FusionClassifier(PAIRS, method="best_member").fit(X, y)
    for name, trained in fusion.trained_.items():
        if not fusion.weights_[name]:
            object.__setattr__(trained, "estimator", None)
    assert len(fusion.predict(X)) == len(y)


def test_grid_search_over_methods_and_nested_settings(iris):
    X, y = iris
    fusion = FusionClassifier([("tree", TREE), ("bayes", GaussianNB())], cv=3)
    grid = {
        "method": ["mean", GreedySelection(rounds=3)],
        "tree__max_depth": [1, 3],
        "bayes": ["drop", GaussianNB()],
    }
    search = GridSearchCV(fusion, grid, cv=3).fit(X, y)
    assert len(search.cv_results_["params"]) == 8
    assert search.best_estimator_.named_estimators_["tree"].max_depth == 3
    assert search.best_score_ > 0.9


def test_settings_are_got_and_set(iris):
    X, y = iris
    fusion = FusionClassifier(PAIRS)
    assert fusion.get_params()["tree__max_depth"] == 3
    assert fusion.get_params(deep=False).keys() == {
        "estimators",
        "method",
        "methods",
        "cv",
        "metric",
        "columns",
        "calibrator",
        "passthrough",
        "n_jobs",
        "random_state",
    }
    assert fusion.set_params(tree__max_depth=1, bayes="drop", method="mean") is fusion
    assert fusion.named_estimators.bayes == "drop"
    fusion.fit(X, y)
    assert len(fusion.estimators_) == 2
    assert fusion.named_estimators_["bayes"] == "drop"
    assert fusion.named_estimators_["tree"].get_depth() == 1
    assert set(fusion.weights_) == {"logistic", "tree"}


def test_it_works_in_pipelines_and_as_a_member(three_classes):
    X, y = three_classes
    inner = FusionClassifier([("bayes", GaussianNB()), ("tree", TREE)], cv=3, method="log_pool")
    outer = FusionClassifier([("inner", inner), ("logistic", LOGISTIC)], method="mean", cv=3)
    pipeline = make_pipeline(StandardScaler(), outer)
    assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.6
    assert pipeline.fit(X, y).predict_proba(X).shape == (300, 3)


def test_labels_may_be_anything_and_keep_their_type(iris):
    X, y = iris
    names = np.array(["setosa", "versicolor", "virginica"], dtype=object)[y]
    fusion = FusionClassifier(PAIRS).fit(X, names)
    assert fusion.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert (fusion.predict(X) == names).mean() > 0.9
    assert fusion.named_estimators_["tree"].predict(X[:1])[0] == "setosa"
    numbers = FusionClassifier(PAIRS).fit(X, y * 10 - 5)
    np.testing.assert_array_equal(numbers.classes_, [-5, 5, 15])
    np.testing.assert_allclose(numbers.predict_proba(X), fusion.predict_proba(X))
    booleans = FusionClassifier(PAIRS).fit(X, y == 2)
    assert booleans.predict(X).dtype == bool
    floats = FusionClassifier(PAIRS).fit(X, y.astype(float))
    assert floats.predict(X).dtype == float


def test_groups_stay_together(three_classes):
    X, y = three_classes
    groups = np.arange(300) // 10
    seen = []

    class Spy(GaussianNB):
        def fit(self, X, y, sample_weight=None):
            seen.append(set(X[:, 0]))
            return super().fit(X, y, sample_weight)

    FusionClassifier([("spy", Spy())], cv=GroupKFold(3), method="mean").fit(X, y, groups=groups)
    for fitted_on in seen[:-1]:
        inside = np.isin(X[:, 0], list(fitted_on))
        assert not set(groups[inside]) & set(groups[~inside])
    assert len(seen) == 4
    assert len(seen[-1]) == 300
    with pytest.raises(ValueError, match="groups"):
        FusionClassifier(PAIRS, cv=GroupKFold(3)).fit(X, y)


def test_rows_that_are_never_predicted_do_not_fit_the_fusion(three_classes):
    X, y = three_classes
    cv = TimeSeriesSplit(4)
    fusion = FusionClassifier(PAIRS, method="weighted_mean", cv=cv, metric="log_loss").fit(X, y)
    rows = np.concatenate([test for _, test in cv.split(X)])
    assert len(rows) == 240
    ids = [str(n) for n in rows]
    out_of_fold = {
        name: Probabilities(
            ids,
            ("0", "1", "2"),
            np.concatenate(
                [clone(one).fit(X[fit], y[fit]).predict_proba(X[test]) for fit, test in cv.split(X)]
            ),
        )
        for name, one in PAIRS
    }
    targets = Targets(ids, ("0", "1", "2"), y[rows])
    by_hand = WeightedMean().fit(Stack.align(out_of_fold), targets, LogLoss())
    assert fusion.fusion_.weights() == pytest.approx(by_hand.weights(), rel=1e-6)


@pytest.mark.parametrize(
    ("cv", "found"),
    [
        (RepeatedKFold(n_splits=3, n_repeats=2, random_state=0), "more than once"),
        ([(np.arange(10), np.arange(0))], "no row"),
    ],
)
def test_splits_that_repeat_rows_or_predict_none_are_refused(iris, cv, found):
    with pytest.raises(InvalidValue, match=f"cv predicts .*{found}"):
        FusionClassifier(PAIRS, cv=cv).fit(*iris)


def test_fitted_estimators_are_used_as_they_are(three_classes):
    X, y = three_classes
    fitted = [(name, clone(one).fit(X[:150], y[:150])) for name, one in PAIRS]
    fusion = FusionClassifier(fitted, cv="prefit", method="weighted_mean", metric="log_loss")
    fusion.fit(X[150:], y[150:])
    assert list(fusion.estimators_) == [one for _, one in fitted]
    expected = {name: log_loss(y[150:], one.predict_proba(X[150:])) for name, one in fitted}
    assert fusion.member_scores_ == pytest.approx(expected)
    with pytest.raises(NotFittedError):
        FusionClassifier(PAIRS, cv="prefit").fit(X, y)


def test_fitted_estimators_may_know_different_classes(three_classes):
    X, y = three_classes
    names = np.array(["a", "b", "c"])[y]
    two = names != "c"
    fitted = [
        ("all", clone(LOGISTIC).fit(X, names)),
        ("two", GaussianNB().fit(X[two], names[two])),
    ]
    fusion = FusionClassifier(fitted, cv="prefit", method="mean").fit(X, names)
    all_NC, two_NC = fitted[0][1].predict_proba(X), fitted[1][1].predict_proba(X)
    sums_NC = np.column_stack([(all_NC[:, :2] + two_NC) / 2, all_NC[:, 2]])
    expected_NC = sums_NC / sums_NC.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fusion.predict_proba(X), expected_NC)
    # Rows to fit the fusion on that lack a class which the estimators know:
    fusion.fit(X[two], names[two])
    assert fusion.classes_.tolist() == ["a", "b", "c"]
    assert fusion.predict_proba(X).shape == (300, 3)


def test_a_class_missing_from_a_fold(iris):
    X, y = iris
    y = y.copy()
    y[0] = 3  # one row: the fold that predicts it cannot know its class
    forest = RandomForestClassifier(5, random_state=0)
    pairs = [("forest", forest), ("bayes", GaussianNB())]
    for method in ("mean", "weighted_mean", "stacking", "auto"):
        fusion = FusionClassifier(pairs, cv=KFold(3, shuffle=True, random_state=0), method=method)
        probs_NC = fusion.fit(X, y).predict_proba(X)
        assert fusion.classes_.tolist() == [0, 1, 2, 3]
        np.testing.assert_allclose(probs_NC.sum(axis=1), 1)
        assert (fusion.predict(X) == y).mean() > 0.9
    # It did not count against the estimators: accuracy is of 149 rows.
    right = np.array(list(fusion.member_scores_.values())) * 149
    np.testing.assert_allclose(right, np.round(right), atol=1e-9)
    ordered = FusionClassifier(pairs, cv=KFold(3))  # sorted by class: no fold knows its rows
    with pytest.raises(InvalidValue, match="of a class that its fit had not seen"):
        ordered.fit(X, np.repeat([0, 1, 2], 50))


def test_columns_by_name_position_and_callable(iris):
    pd = pytest.importorskip("pandas")
    X, y = iris
    pairs = PAIRS[1:]  # exact: no solver sees the memory's layout
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    by_name = {"bayes": ["a", "b"], "tree": lambda X: list(X.columns[2:])}
    fusion = FusionClassifier(pairs, columns=by_name).fit(frame, y)
    assert fusion.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    assert fusion.n_features_in_ == 4
    assert fusion.named_estimators_["bayes"].feature_names_in_.tolist() == ["a", "b"]
    assert fusion.named_estimators_["tree"].feature_names_in_.tolist() == ["c", "d"]
    at = FusionClassifier(pairs, columns={"bayes": [0, 1], "tree": slice(2, 4)}).fit(X, y)
    np.testing.assert_allclose(at.predict_proba(X), fusion.predict_proba(frame))
    masked = FusionClassifier(pairs, columns={"bayes": [True, True, False, False], "tree": [2, 3]})
    np.testing.assert_allclose(masked.fit(X, y).predict_proba(X), at.predict_proba(X))
    with pytest.raises(ValueError, match="feature names"):
        fusion.predict(frame[["d", "c", "b", "a"]])
    with pytest.raises(UnknownName, match="no estimator is called 'forest'"):
        FusionClassifier(pairs, columns={"forest": [0]}).fit(X, y)
    with pytest.raises(InvalidValue, match="a mapping from an estimator's name"):
        FusionClassifier(pairs, columns=["a"]).fit(X, y)


def test_text_and_numbers_side_by_side():
    pd = pytest.importorskip("pandas")
    texts = ["good film", "bad film", "good good", "bad bad", "so good", "so bad"] * 10
    frame = pd.DataFrame({"text": texts, "stars": [5, 1, 4, 2, 5, 1] * 10})
    y = ["good" in text for text in texts]
    words = make_pipeline(CountVectorizer(), MultinomialNB())
    pairs = [("words", words), ("stars", GaussianNB())]
    fusion = FusionClassifier(pairs, columns={"words": "text", "stars": ["stars"]}).fit(frame, y)
    assert fusion.score(frame, y) == 1
    only = FusionClassifier([("words", words)], method="mean").fit(texts, y)  # a list of texts
    assert only.score(texts, y) == 1


def test_sparse_inputs(three_classes):
    X, y = three_classes
    pairs = [("logistic", LogisticRegression()), ("tree", TREE)]
    dense = FusionClassifier(pairs).fit(X, y)
    thin = FusionClassifier(pairs).fit(sparse.csr_array(X), y)
    np.testing.assert_allclose(
        thin.predict_proba(sparse.csr_array(X)), dense.predict_proba(X), atol=1e-4
    )


def test_sample_weights_reach_estimators_and_fusion(three_classes):
    X, y = three_classes
    seen = {}

    class Spy(GaussianNB):
        def fit(self, X, y, sample_weight=None):
            seen.setdefault(self.var_smoothing, []).append((X[:, 0], sample_weight))
            return super().fit(X, y, sample_weight)

    weight_of = dict(zip(X[:, 0], np.random.default_rng(0).uniform(0.1, 2, 300), strict=True))
    weights_N = np.array([weight_of[x] for x in X[:, 0]])
    pairs = [
        ("plain", Spy(var_smoothing=1e-9)),
        (
            "piped",
            make_pipeline(StandardScaler(with_mean=False, with_std=False), Spy(var_smoothing=1e-8)),
        ),
    ]
    FusionClassifier(pairs, cv=3, method="mean").fit(X, y, sample_weight=weights_N)
    for fits in seen.values():
        assert [len(x_N) for x_N, _ in fits] == [200, 200, 200, 300]
        for x_N, given_N in fits:
            np.testing.assert_array_equal(given_N, [weight_of[x] for x in x_N])


def test_the_fusion_is_weighted_too(three_classes):
    X, y = three_classes
    weights_N = np.where(X[:, 0] > 0, 1.0, 0.0)  # what is 0 does not count at all
    spare = [("knn", KNeighborsClassifier()), ("other", KNeighborsClassifier(15))]
    fusion = FusionClassifier(spare, method="weighted_mean", metric="log_loss")
    with pytest.warns(UserWarning, match="'knn', 'other' take no sample_weight"):
        fusion.fit(X, y, sample_weight=weights_N)
    cv = StratifiedKFold(5)
    kept = np.flatnonzero(weights_N)
    ids = [str(n) for n in kept]
    out_of_fold = {
        name: Probabilities(
            ids, ("0", "1", "2"), cross_val_predict(one, X, y, cv=cv, method="predict_proba")[kept]
        )
        for name, one in spare
    }
    targets = Targets(ids, ("0", "1", "2"), y[kept])
    by_hand = WeightedMean().fit(Stack.align(out_of_fold), targets, LogLoss())
    expected = {"knn": 0.0, "other": 0.0, **by_hand.weights()}
    assert fusion.weights_ == pytest.approx(expected, abs=1e-6)
    losses = {name: log_loss(y[kept], part.probs_NC) for name, part in out_of_fold.items()}
    assert fusion.member_scores_ == pytest.approx(losses, rel=1e-6)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros(150), "all sample weights are zero"),
        (-np.ones(150), "a sample weight is negative"),
        (np.ones((150, 1)), "one number per row"),
        (np.ones(3), "inconsistent numbers of samples"),
    ],
)
def test_wrong_sample_weights(iris, weights, message):
    with pytest.raises(ValueError, match=message):
        FusionClassifier(PAIRS).fit(*iris, sample_weight=weights)


@pytest.mark.parametrize("classes", [2, 3])
def test_decision_values_become_probabilities(classes):
    X, y = make_classification(
        400, 8, n_informative=5, n_classes=classes, flip_y=0.1, random_state=1
    )
    pairs = [
        ("linear", LinearSVC(random_state=0)),
        ("ridge", RidgeClassifier()),
        ("rbf", make_pipeline(StandardScaler(), SVC())),
    ]
    fusion = FusionClassifier(pairs, method="weighted_mean", metric="log_loss").fit(
        X[:300], y[:300]
    )
    assert {one.form for one in fusion.trained_.values()} == {"scores"}
    probs_NC = fusion.predict_proba(X[300:])
    np.testing.assert_allclose(probs_NC.sum(axis=1), 1)
    even = np.log(classes)
    assert log_loss(y[300:], probs_NC) < 0.75 * even
    assert max(fusion.member_scores_.values()) < 0.9 * even  # scaled before they are judged
    # The scale of the decision values does not matter: it is divided out.
    large = [("linear", LinearSVC(random_state=0)), ("ridge", Magnified()), ("rbf", pairs[2][1])]
    scaled = FusionClassifier(large, method="weighted_mean", metric="log_loss").fit(
        X[:300], y[:300]
    )
    np.testing.assert_allclose(scaled.predict_proba(X[300:]), probs_NC, rtol=1e-6)


def test_the_best_member_is_the_best_after_calibration():
    X, y = make_classification(400, 8, n_informative=5, flip_y=0.1, random_state=1)
    pairs = [("svm", make_pipeline(StandardScaler(), SVC())), ("bayes", GaussianNB())]
    fusion = FusionClassifier(pairs, method="best_member", metric="log_loss").fit(X[:300], y[:300])
    assert fusion.weights_ == {"svm": 1.0, "bayes": 0.0}
    assert fusion.member_scores_["svm"] < fusion.member_scores_["bayes"]
    svm, bayes = (one.score(X[300:], y[300:]) for one in fusion.estimators_)
    assert svm > bayes
    assert fusion.predict_proba(X).max() < 1


class Magnified(RidgeClassifier):
    def decision_function(self, X):
        return 1000 * super().decision_function(X)


class Namer(ClassifierMixin, BaseEstimator):
    """Gives labels only."""

    def fit(self, X, y):
        self.tree_ = DecisionTreeClassifier(max_depth=3, random_state=0).fit(X, y)
        self.classes_ = self.tree_.classes_
        return self

    def predict(self, X):
        return self.tree_.predict(X)


def test_labels_alone_become_probabilities(three_classes):
    X, y = three_classes
    names = np.array(["a", "b", "c"])[y]
    pairs = [("namer", Namer()), ("bayes", GaussianNB())]
    fusion = FusionClassifier(pairs, method="weighted_mean", metric="log_loss").fit(X, names)
    assert fusion.trained_["namer"].form == "labels"
    probs_NC = fusion.predict_proba(X)
    assert probs_NC.min() > 0  # calibrated by its confusion matrix: never sure
    alone = FusionClassifier([("namer", Namer())], method="mean", metric="log_loss").fit(X, names)
    assert log_loss(names, alone.predict_proba(X)) < 1
    voted = FusionClassifier([("namer", Namer())], method="vote").fit(X, names)
    np.testing.assert_array_equal(voted.predict(X), Namer().fit(X, names).predict(X))


class Restless(ClassifierMixin, BaseEstimator):
    """Has probabilities when it was fitted on few rows."""

    def fit(self, X, y):
        self.bayes_ = GaussianNB().fit(X, y)
        self.classes_, self.few_ = self.bayes_.classes_, len(X) < 110
        return self

    def __getattr__(self, name):
        if name == "predict_proba" and self.__dict__.get("few_"):
            return self.bayes_.predict_proba
        raise AttributeError(name)

    def predict(self, X):
        return self.bayes_.predict(X)


def test_estimators_that_answer_differently_each_time_are_refused(iris):
    restless = [("restless", Restless())]
    with pytest.raises(PredictionError, match="gives labels here and probabilities elsewhere"):
        FusionClassifier(restless, cv=KFold(3, shuffle=True), method="mean").fit(*iris).predict(
            iris[0]
        )
    uneven = [(np.arange(100), np.arange(100, 110)), (np.arange(10, 150), np.arange(10))]
    with pytest.raises(
        PredictionError, match="the fits of 'restless' give 'labels', 'probabilities'"
    ):
        FusionClassifier(restless, cv=uneven, method="mean").fit(*iris)


def test_a_calibrator_of_the_fusion(three_classes):
    X, y = three_classes
    deep = [
        ("one", DecisionTreeClassifier(random_state=0)),
        ("two", DecisionTreeClassifier(random_state=1)),
    ]
    plain = FusionClassifier(deep, method="mean").fit(X[:200], y[:200])
    calm = FusionClassifier(deep, method="mean", calibrator="temperature").fit(X[:200], y[:200])
    better = log_loss(y[200:], calm.predict_proba(X[200:]))
    assert better < 0.5 * log_loss(y[200:], plain.predict_proba(X[200:]))
    with pytest.raises(InvalidValue, match="one that calibrates Probabilities"):
        FusionClassifier(deep, calibrator=3).fit(X, y)


def test_what_is_chosen_is_calibrated_and_what_is_named_is_not(three_classes):
    X, y = three_classes
    calibrated = {
        (method, calibrator): isinstance(
            FusionClassifier(PAIRS, method=method, calibrator=calibrator).fit(X, y).fusion_,
            CalibratedFusion,
        )
        for method in ("auto", "best", "mean")
        for calibrator in ("auto", None, "vector")
    }
    assert [key for key, found in calibrated.items() if found] == [
        ("auto", "auto"),
        ("auto", "vector"),
        ("best", "auto"),
        ("best", "vector"),
        ("mean", "vector"),
    ]


def test_methods_that_look_at_the_inputs(three_classes):
    X, y = three_classes
    near = FusionClassifier(PAIRS, method="dynamic_selection", passthrough=True).fit(X, y)
    assert near.predict_proba(X).shape == (300, 3)
    assert near.weights_ is None
    with pytest.raises(PredictionError, match="no features"):
        FusionClassifier(PAIRS, method="dynamic_selection").fit(X, y)


def test_copies_and_pickles(iris, tmp_path):
    X, y = iris
    fusion = FusionClassifier(PAIRS, metric=LogLoss(), method=GreedySelection(rounds=5)).fit(X, y)
    again = pickle.loads(pickle.dumps(fusion))  # noqa: S301
    np.testing.assert_array_equal(again.predict_proba(X), fusion.predict_proba(X))
    fresh = clone(fusion)
    assert not hasattr(fresh, "fusion_")
    np.testing.assert_array_equal(fresh.fit(X, y).predict_proba(X), fusion.predict_proba(X))
    save_fusion(fusion.fusion_, tmp_path / "fusion")
    assert load_fusion(tmp_path / "fusion").weights() == fusion.fusion_.weights()


@pytest.mark.slow  # starts processes
def test_two_jobs_give_what_one_gives(three_classes):
    X, y = three_classes
    one = FusionClassifier(PAIRS).fit(X, y)
    two = FusionClassifier(PAIRS, n_jobs=2).fit(X, y)
    np.testing.assert_array_equal(one.predict_proba(X), two.predict_proba(X))


def test_the_random_state_deals_the_rows(three_classes):
    X, y = three_classes
    probs = [
        FusionClassifier(PAIRS, metric="log_loss", random_state=seed).fit(X, y).predict_proba(X)
        for seed in (0, 0, 1, np.random.RandomState(5), np.random.RandomState(5))
    ]
    np.testing.assert_array_equal(probs[0], probs[1])
    np.testing.assert_array_equal(probs[3], probs[4])
    assert not np.array_equal(probs[0], probs[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimators": []}, "no estimator is given"),
        ({"estimators": [("a", "drop")]}, "all estimators are dropped"),
        ({"estimators": [GaussianNB()]}, "a list of"),
        ({"estimators": [("a", GaussianNB()), ("a", TREE)]}, "not unique"),
        ({"estimators": [("cv", GaussianNB())]}, "conflict with constructor"),
        (
            {"estimators": [("a", LinearRegression())]},
            "'a' cannot be members of a FusionClassifier",
        ),
        ({"method": "meen"}, "Did you mean 'mean'?"),
        ({"method": 7}, "the method is 7"),
        ({"methods": ["mean", "mean"]}, "'mean' twice"),
        ({"metric": "rmse"}, "one that judges Probabilities"),
        ({"cv": "prefitted"}, "cv is 'prefitted'"),
    ],
)
def test_what_cannot_be_fitted(iris, settings, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        FusionClassifier(**{"estimators": PAIRS, **settings}).fit(*iris)


def test_targets_that_are_no_classes(iris):
    X, _ = iris
    with pytest.raises(InvalidValue, match="several columns of classes"):
        FusionClassifier(PAIRS).fit(X, np.tile([1, 2, 3], (150, 1)) + (np.arange(150) % 2)[:, None])
    with pytest.raises(ValueError, match="Unknown label type"):
        FusionClassifier(PAIRS).fit(X, X[:, 0])
    with pytest.raises(InvalidValue, match="fit is given 'depth'"):
        FusionClassifier(PAIRS).fit(*iris, depth=3)
    with pytest.raises(NotFittedError):
        FusionClassifier(PAIRS).predict(X)


def test_two_classes_on_real_data():
    X, y = load_breast_cancer(return_X_y=True)
    fusion = FusionClassifier(PAIRS, metric="log_loss").fit(X[:300], y[:300])
    assert fusion.score(X[300:], y[300:]) > 0.93
