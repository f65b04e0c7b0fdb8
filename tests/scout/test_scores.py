# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.metrics import mutual_info_score
from sklearn.neighbors import KNeighborsClassifier

from fusetune.errors import InvalidValue
from fusetune.plugins import discover
from fusetune.scout.probe import out_of_fold_probs, probe_probs
from fusetune.scout.score import TransferScore, View
from fusetune.scout.scores.h_score import HScore
from fusetune.scout.scores.knn import Knn
from fusetune.scout.scores.leep import Leep
from fusetune.scout.scores.log_me import LogMe
from fusetune.scout.scores.nce import Nce

SCORES = {name: cls() for name, cls in discover(TransferScore).items()}


def view_of(rows=120, features=8, classes=3, *, spread=1.0, seed=0, source=5) -> View:
    """Classes around centers of their own; `spread` 0: the features know nothing of them."""
    random = np.random.default_rng(seed)
    labels_N = np.arange(rows) % classes
    centers_CD = spread * random.normal(size=(classes, features))
    features_ND = centers_CD[labels_N] + random.normal(size=(rows, features))
    logits_NS = features_ND @ random.normal(size=(features, source))
    probs_NS = np.exp(logits_NS)
    return View(features_ND, labels_N, classes, probs_NS / probs_NS.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("name", SCORES)
def test_features_that_separate_the_classes_score_higher(name: str) -> None:
    values = [SCORES[name].of(view_of(spread=spread)) for spread in (0.0, 1.0, 4.0)]
    assert values == sorted(values) and values[0] < values[-1]


@pytest.mark.parametrize("name", SCORES)
def test_the_order_of_rows_and_the_names_of_classes_do_not_matter(name: str) -> None:
    view = view_of(rows=90)
    order = np.random.default_rng(1).permutation(90)
    assert view.source_probs_NS is not None
    other = View(
        view.features_ND[order],
        (view.num_classes - 1 - view.labels_N)[order],
        view.num_classes,
        view.source_probs_NS[order],
    )
    tolerance = 0.1 if name == "linear_probe" else 1e-6  # other rows share a fold
    assert SCORES[name].of(other) == pytest.approx(SCORES[name].of(view), abs=tolerance)


@pytest.mark.parametrize("name", SCORES)
def test_hard_views_give_numbers(name: str) -> None:
    plain = view_of(rows=12, features=40)
    constant = View(np.ones((12, 3)), plain.labels_N, 3, plain.source_probs_NS)
    one_class = View(plain.features_ND, np.zeros(12, dtype=int), 3, plain.source_probs_NS)
    for view in (plain, constant, one_class):
        value = SCORES[name].of(view)
        assert value is not None and np.isfinite(value)


def test_scores_of_a_source_head_are_none_without_one() -> None:
    view = view_of()
    without = View(view.features_ND, view.labels_N, view.num_classes)
    assert {name for name, score in SCORES.items() if score.of(without) is None} == {"leep", "nce"}


@pytest.mark.parametrize(("rows", "features"), [(40, 3), (6, 9)])
def test_log_me_is_the_largest_evidence(rows: int, features: int) -> None:
    view = view_of(rows, features, classes=2)
    evidences = []
    for target_N in view.one_hot_NC.T:

        def negative(logs, target_N=target_N):
            a, b = np.exp(logs)
            covariance = view.features_ND @ view.features_ND.T / a + np.eye(rows) / b
            return -multivariate_normal(np.zeros(rows), covariance).logpdf(target_N) / rows

        evidences.append(-minimize(negative, [0.0, 0.0], method="Nelder-Mead").fun)
    assert LogMe().value(view) == pytest.approx(np.mean(evidences), abs=1e-4)


def test_nce_is_the_entropy_that_is_left() -> None:
    view = view_of(spread=2.0)
    assert view.source_probs_NS is not None
    top_N = view.source_probs_NS.argmax(axis=1)
    entropy = np.log(3)  # 40 rows of each class
    expected = mutual_info_score(view.labels_N, top_N) - entropy
    assert Nce().value(view) == pytest.approx(expected)


def test_leep_by_hand() -> None:
    probs_NS = np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]])
    view = View(np.ones((3, 1)), np.array([0, 0, 1]), 2, probs_NS)
    # P(0 | s) = 1.4 / 1.5 and 0.6 / 1.5; P(1 | s) = 0.1 / 1.5 and 0.9 / 1.5
    likelihoods = [0.8 * 14 / 15 + 0.2 * 0.4, 0.6 * 14 / 15 + 0.4 * 0.4, 0.1 / 15 + 0.9 * 0.6]
    assert Leep().value(view) == pytest.approx(np.log(likelihoods).mean())


def test_h_score_of_one_feature_is_the_share_of_variance_between_classes() -> None:
    random = np.random.default_rng(0)
    labels_N = np.arange(3000) % 2
    features_ND = (labels_N + random.normal(size=3000))[:, None]
    means = [features_ND[labels_N == c].mean() for c in (0, 1)]
    share = np.var(means) / features_ND.var()
    assert HScore().value(View(features_ND, labels_N, 2)) == pytest.approx(share, rel=1e-2)


def test_neighbors_as_scikit_learn_finds_them() -> None:
    view = view_of(rows=60)
    right = 0
    unit_ND = view.features_ND / np.linalg.norm(view.features_ND, axis=1, keepdims=True)
    for row in range(60):
        rest = np.arange(60) != row

        def weights(distances):
            return np.exp((1 - distances**2 / 2) / 0.07)

        near = KNeighborsClassifier(7, weights=weights).fit(unit_ND[rest], view.labels_N[rest])
        right += near.predict(unit_ND[[row]])[0] == view.labels_N[row]
    assert Knn(neighbors=7).value(view) == pytest.approx(right / 60)


def test_knn_needs_a_neighbor() -> None:
    with pytest.raises(InvalidValue, match="neighbors is 0"):
        Knn(neighbors=0)


def test_a_probe_judges_rows_that_it_was_not_fitted_on() -> None:
    noise = view_of(rows=60, features=100, spread=0.0)
    accuracy = (out_of_fold_probs(noise).argmax(axis=1) == noise.labels_N).mean()
    assert accuracy < 0.6  # it would be 1 on the rows fitted on
    assert (probe_probs(noise, noise.features_ND).argmax(axis=1) == noise.labels_N).all()


def test_many_features_are_reduced_to_the_same_end() -> None:
    view = view_of(rows=60, features=700, spread=2.0)
    probs_NC = out_of_fold_probs(view)
    assert (probs_NC.argmax(axis=1) == view.labels_N).mean() > 0.9
    np.testing.assert_allclose(probs_NC.sum(axis=1), 1)


def test_the_scale_of_features_does_not_matter_to_a_probe() -> None:
    view = view_of()
    scaled = View(1000 * view.features_ND + 5, view.labels_N, 3)
    np.testing.assert_allclose(out_of_fold_probs(scaled), out_of_fold_probs(view), atol=1e-3)
