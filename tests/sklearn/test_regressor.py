# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor, VotingRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import GridSearchCV, KFold, TimeSeriesSplit, cross_val_predict
from sklearn.multioutput import MultiOutputRegressor
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeRegressor

from fusetune.errors import InvalidValue, PredictionError
from fusetune.fuse.methods.distributions.weighted_mean import WeightedMean
from fusetune.metrics.rmse import Rmse
from fusetune.predictions.kinds import Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Numbers
from fusetune.sklearn import FusionRegressor

pytestmark = pytest.mark.slow

TREE = DecisionTreeRegressor(max_depth=3, random_state=0)
PAIRS = [("ridge", Ridge(0.1)), ("tree", TREE), ("svr", SVR())]


@pytest.fixture(scope="module")
def diabetes():
    return load_diabetes(return_X_y=True)


def test_the_mean_is_voting(diabetes):
    X, y = diabetes
    fusion = FusionRegressor(PAIRS, method="mean").fit(X, y)
    expected = VotingRegressor(PAIRS).fit(X, y).predict(X)
    np.testing.assert_allclose(fusion.predict(X), expected, rtol=1e-12)
    assert fusion.score(X, y) > 0.3


def test_weights_are_those_of_cross_val_predict_fused_by_hand(diabetes):
    X, y = diabetes
    cv = KFold(4, shuffle=True, random_state=3)
    fusion = FusionRegressor(PAIRS, method="weighted_mean", cv=cv).fit(X, y)
    ids = [str(n) for n in range(len(y))]
    guesses = {name: cross_val_predict(one, X, y, cv=cv) for name, one in PAIRS}
    stack = Stack.align({name: Values(ids, ("y0",), g[:, None]) for name, g in guesses.items()})
    by_hand = WeightedMean().fit(stack, Numbers(ids, ("y0",), y[:, None]), Rmse()).weights()
    assert fusion.fusion_.weights() == pytest.approx(by_hand, rel=1e-9)
    weights = fusion.weights_
    expected = sum(weights[n] * e.predict(X) for n, e in fusion.named_estimators_.items())
    np.testing.assert_allclose(fusion.predict(X), expected)
    errors = {name: root_mean_squared_error(y, guess) for name, guess in guesses.items()}
    assert fusion.member_scores_ == pytest.approx(errors)


def test_auto_is_not_worse_than_its_parts_on_new_rows(diabetes):
    X, y = diabetes
    fusion = FusionRegressor(PAIRS).fit(X[:300], y[:300])
    assert fusion.method_ == "auto"
    assert {"best_member", "mean", "weighted_mean", "greedy_selection"} <= set(fusion.cv_scores_)
    error = root_mean_squared_error(y[300:], fusion.predict(X[300:]))
    errors = [root_mean_squared_error(y[300:], one.predict(X[300:])) for one in fusion.estimators_]
    assert error < np.median(errors)
    named = FusionRegressor(PAIRS, method="greedy_selection").fit(X[:300], y[:300])
    assert named.weights_["svr"] < 0.2  # not scaled to y: close to the constant mean


def test_several_numbers(diabetes):
    X, y = diabetes
    both = np.stack([y, X[:, 2] * 1000 + y], axis=1)
    pairs = [("ridge", Ridge()), ("tree", TREE), ("svr", MultiOutputRegressor(SVR()))]
    mean = FusionRegressor(pairs, method="mean").fit(X, both)
    expected = np.mean([one.predict(X) for one in mean.estimators_], axis=0)
    np.testing.assert_allclose(mean.predict(X), expected, rtol=1e-12)
    fusion = FusionRegressor(pairs).fit(X, both)
    assert fusion.predict(X).shape == both.shape
    assert fusion.score(X, both) > 0.4


def test_sample_weights_and_rows_never_predicted(diabetes):
    X, y = diabetes
    cv = TimeSeriesSplit(3)
    weights_N = np.random.default_rng(0).uniform(0, 2, len(y))
    fusion = FusionRegressor(PAIRS, method="weighted_mean", cv=cv)
    fusion.fit(X, y, sample_weight=weights_N)
    rows = np.concatenate([test for _, test in cv.split(X)])
    ids = [str(n) for n in rows]
    parts = {}
    for name, one in PAIRS:
        guess = [
            one.fit(X[fit], y[fit], sample_weight=weights_N[fit]).predict(X[test])
            for fit, test in cv.split(X)
        ]
        parts[name] = Values(ids, ("y0",), np.concatenate(guess)[:, None])
    targets = Numbers(ids, ("y0",), y[rows, None])
    by_hand = WeightedMean().fit(
        Stack.align(parts), targets, Rmse(), sample_weights_N=weights_N[rows]
    )
    assert fusion.fusion_.weights() == pytest.approx(by_hand.weights(), rel=1e-6)
    expected = {
        name: root_mean_squared_error(y[rows], part.values_ND[:, 0], sample_weight=weights_N[rows])
        for name, part in parts.items()
    }
    assert fusion.member_scores_ == pytest.approx(expected)


def test_grid_search_and_fitted_estimators(diabetes):
    X, y = diabetes
    grid = {"method": ["mean", "best"], "ridge__alpha": [0.01, 100.0], "svr": ["drop"]}
    search = GridSearchCV(FusionRegressor(PAIRS, cv=3), grid, cv=3).fit(X, y)
    assert search.best_params_["ridge__alpha"] == 0.01
    fitted = [("forest", RandomForestRegressor(10, random_state=0)), ("linear", LinearRegression())]
    for _, one in fitted:
        one.fit(X[:200], y[:200])
    fusion = FusionRegressor(fitted, cv="prefit", metric="mae").fit(X[200:], y[200:])
    assert fusion.estimators_ == [one for _, one in fitted]
    assert fusion.member_scores_["linear"] == pytest.approx(
        np.abs(fitted[1][1].predict(X[200:]) - y[200:]).mean()
    )


def test_single_precision_stays_single(diabetes):
    X, y = diabetes

    class Narrow(LinearRegression):
        def predict(self, X):
            return super().predict(X).astype(np.float32)

    fusion = FusionRegressor([("one", Narrow()), ("two", Narrow())], method="mean").fit(X, y)
    assert fusion.predict(X).dtype == np.float32


class Forgetful(LinearRegression):
    """Gives the first of several numbers only."""

    def predict(self, X):
        return super().predict(X)[:, 0]


class Diverged(LinearRegression):
    def predict(self, X):
        return super().predict(X) * np.inf


def test_what_cannot_be_fitted(diabetes):
    X, y = diabetes
    with pytest.raises(InvalidValue, match="'logistic' cannot be members of a FusionRegressor"):
        FusionRegressor([("logistic", LogisticRegression())]).fit(X, y)
    with pytest.raises(InvalidValue, match="the target y is None"):
        FusionRegressor(PAIRS).fit(X, None)
    with pytest.raises(InvalidValue, match=r"shape \(88, 1\); expected 2 columns"):
        FusionRegressor([("one", Forgetful())]).fit(X[:440], np.stack([y, y], axis=1)[:440])
    with pytest.raises(PredictionError, match="NaN or infinity"):
        FusionRegressor([("one", Diverged())]).fit(X, y)
    with pytest.raises(InvalidValue, match="one that calibrates Values"):
        FusionRegressor(PAIRS, calibrator="temperature").fit(X, y)
