# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from fusetune.calibrate.calibrators.beta import Beta
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.targets import Targets


def two_classes(curve, rows=2000, seed=0):
    """A member that says p where curve(p) is so."""
    random = np.random.default_rng(seed)
    said_N = random.beta(0.7, 0.7, size=rows).clip(1e-4, 1 - 1e-4)
    ids = [f"row{n}" for n in range(rows)]
    member = Probabilities(ids, ("no", "yes"), np.stack([1 - said_N, said_N], axis=1))
    labels_N = (random.random(rows) < curve(said_N)).astype(int)
    return member, Targets(member.ids, member.classes, labels_N)


def objective(said_N, of_class_N, weights_N, penalty):
    """The definition for one class."""
    said_N = (1 - 1e-6) * said_N + 1e-6 / 2
    signs_N = np.where(of_class_N, 1, -1)

    def loss(point):
        logits_N = point[0] * np.log(said_N) - point[1] * np.log(1 - said_N) + point[2]
        away = (point[0] - 1) ** 2 + (point[1] - 1) ** 2 + point[2] ** 2
        return weights_N @ np.log1p(np.exp(-signs_N * logits_N)) + penalty / 2 * away

    return loss


CURVES = {
    "sharper": lambda p: p**3 / (p**3 + (1 - p) ** 3),
    "flatter": lambda p: 0.3 + 0.4 * p,
    "bent": lambda p: p**3,
    "falling": lambda p: 1 - p,
    "falls at the top": lambda p: 0.4 * (1 - p**8) + 0.1,
    "falls at the bottom": lambda p: 0.9 - 0.4 * (1 - (1 - p) ** 8),
}


@pytest.mark.parametrize("curve", CURVES.values(), ids=list(CURVES))
@pytest.mark.parametrize("weighted", [False, True])
def test_scipy_finds_the_same_curve_within_the_bounds(curve, weighted):
    member, targets = two_classes(curve)
    weights_N = np.random.default_rng(1).random(2000) if weighted else np.ones(2000)
    weights_N /= weights_N.mean()
    fitted = Beta().fit(member, targets, sample_weights_N=weights_N)
    loss = objective(member.probs_NC[:, 1], targets.labels_N == 1, weights_N, 3.0)
    found = minimize(
        loss,
        [1, 1, 0],
        method="L-BFGS-B",
        bounds=[(0, None), (0, None), (None, None)],
        options={"ftol": 1e-14, "gtol": 1e-8},
    )
    assert loss(fitted.parameters_CF[1]) <= found.fun + 1e-7
    np.testing.assert_allclose(fitted.parameters_CF[1], found.x, atol=2e-3)
    assert fitted.parameters_CF[:, :2].min() >= 0


def test_the_bounds_are_met_where_the_curve_falls():
    fitted = Beta().fit(*two_classes(CURVES["falling"]))
    assert fitted.parameters_CF[1, :2].tolist() == [0, 0]


def test_without_a_penalty_it_is_the_papers_logistic_regression():
    member, targets = two_classes(CURVES["bent"])
    said_N = (1 - 1e-6) * member.probs_NC[:, 1] + 1e-6 / 2
    features_NF = np.stack([np.log(said_N), -np.log(1 - said_N)], axis=1)
    theirs = LogisticRegression(C=1e10, tol=1e-10, max_iter=1000).fit(features_NF, targets.labels_N)
    fitted = Beta(penalty=1e-9).fit(member, targets).parameters_CF[1]
    np.testing.assert_allclose(fitted, [*theirs.coef_[0], theirs.intercept_[0]], atol=1e-3)


def test_two_classes_mirror_each_other_and_already_sum_to_one():
    member, targets = two_classes(CURVES["bent"])
    fitted = Beta().fit(member, targets)
    no, yes = fitted.parameters_CF
    np.testing.assert_allclose(no, [yes[1], yes[0], -yes[2]], atol=1e-8)
    said_N = (1 - 1e-6) * member.probs_NC[:, 1] + 1e-6 / 2
    logits_N = yes[0] * np.log(said_N) - yes[1] * np.log(1 - said_N) + yes[2]
    np.testing.assert_allclose(fitted(member).probs_NC[:, 1], 1 / (1 + np.exp(-logits_N)))


def test_a_strong_penalty_is_the_identity():
    member, targets = two_classes(CURVES["flatter"])
    fitted = Beta(penalty=1e9).fit(member, targets)
    np.testing.assert_allclose(fitted(member).probs_NC, member.probs_NC, atol=2e-6)
