# SPDX-License-Identifier: Apache-2.0
"""Metadata routing: who is handed what, through cross-validation and searches."""

import numpy as np
import pytest
from sklearn import config_context
from sklearn.datasets import make_classification
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.naive_bayes import GaussianNB

from fusetune.sklearn import FusionClassifier

GROUPS = np.arange(120) // 10


@pytest.fixture(autouse=True)
def routing():
    with config_context(enable_metadata_routing=True):
        yield


@pytest.fixture(scope="module")
def rows():
    return make_classification(120, 5, random_state=0)


class Spy(GaussianNB):
    """Remembers what it was fitted on."""

    seen = []  # noqa: RUF012

    def fit(self, X, y, sample_weight=None):
        self.seen.append((X[:, 0], sample_weight))
        return super().fit(X, y, sample_weight)


def test_those_who_ask_get_the_weights(rows):
    X, y = rows
    Spy.seen.clear()
    pairs = [
        ("asks", Spy().set_fit_request(sample_weight=True)),
        ("does_not", Spy().set_fit_request(sample_weight=False)),
    ]
    weights_N = np.random.default_rng(0).uniform(0.5, 2, 120)
    fusion = FusionClassifier(pairs, cv=3, method="weighted_mean")
    fusion.fit(X, y, sample_weight=weights_N)
    asked, others = Spy.seen[:4], Spy.seen[4:]
    for x_N, given_N in asked:
        at = [X[:, 0].tolist().index(x) for x in x_N]
        np.testing.assert_array_equal(given_N, weights_N[at])
    assert [given_N for _, given_N in others] == [None] * 4


def test_nobody_asked(rows):
    pairs = [("bayes", GaussianNB())]
    with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
        FusionClassifier(pairs).fit(*rows, sample_weight=np.ones(120))
    FusionClassifier(pairs).fit(*rows)


def test_groups_go_through_cross_validation_to_both_splitters(rows):
    X, y = rows
    Spy.seen.clear()
    fusion = FusionClassifier([("spy", Spy())], cv=GroupKFold(2), method="mean")
    cross_validate(fusion, X, y, cv=GroupKFold(3), params={"groups": GROUPS})
    assert len(Spy.seen) == 9  # three times two folds and one refit
    for x_N, _ in Spy.seen:
        inside = np.isin(X[:, 0], x_N)
        assert not set(GROUPS[inside]) & set(GROUPS[~inside])


def test_weights_go_through_cross_validation(rows):
    X, y = rows
    spy = Spy().set_fit_request(sample_weight=True)
    fusion = FusionClassifier([("spy", spy)], cv=2, method="mean")
    fusion.set_fit_request(sample_weight=True).set_score_request(sample_weight=False)
    Spy.seen.clear()
    cross_validate(fusion, X, y, cv=2, params={"sample_weight": np.full(120, 2.0)})
    assert {float(given_N.mean()) for _, given_N in Spy.seen} == {2.0}
