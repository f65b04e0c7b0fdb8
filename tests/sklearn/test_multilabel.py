# SPDX-License-Identifier: Apache-2.0
"""Several labels per row."""

import numpy as np
import pytest
import scipy.sparse as sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import make_multilabel_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import f1_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from fusetune.errors import InvalidValue
from fusetune.metrics.multilabel_macro_f1 import MultilabelMacroF1
from fusetune.sklearn import FusionClassifier

pytestmark = pytest.mark.slow

FOREST = RandomForestClassifier(10, max_depth=4, random_state=0)
REST = OneVsRestClassifier(LogisticRegression())
PAIRS = [("forest", FOREST), ("rest", REST)]


@pytest.fixture(scope="module")
def rows():
    X, y = make_multilabel_classification(200, 10, n_classes=3, random_state=0)
    return X - X.mean(axis=0), y


def of_ones(answer):
    return np.stack([probs_N2[:, 1] for probs_N2 in answer], axis=1)


def test_arrays_and_lists_of_probabilities_are_averaged(rows):
    X, y = rows
    fusion = FusionClassifier(PAIRS, method="mean").fit(X, y)
    forest_NC = of_ones(FOREST.fit(X, y).predict_proba(X))
    expected_NC = (forest_NC + REST.fit(X, y).predict_proba(X)) / 2
    np.testing.assert_allclose(fusion.predict_proba(X), expected_NC, rtol=1e-12)
    np.testing.assert_array_equal(fusion.predict(X), expected_NC > 0.5)
    assert fusion.predict(X).dtype == np.int64
    np.testing.assert_array_equal(fusion.classes_, [0, 1, 2])
    assert 0 < fusion.score(X, y) <= 1


def test_members_are_judged_on_rows_they_did_not_see(rows):
    X, y = rows
    fusion = FusionClassifier(PAIRS).fit(X, y)
    assert fusion.metric_.name == "multilabel_macro_f1"
    said = of_ones(cross_val_predict(FOREST, X, y, cv=KFold(5), method="predict_proba")) > 0.5
    expected = f1_score(y, said, average="macro")
    assert fusion.member_scores_["forest"] == pytest.approx(expected)
    assert fusion.score(X, y) > 0.6
    assert fusion.method_ == "auto"


def test_the_metrics_threshold_decides(rows):
    X, y = rows
    fusion = FusionClassifier(PAIRS, metric=MultilabelMacroF1(threshold=0.3)).fit(X, y)
    np.testing.assert_array_equal(fusion.predict(X), fusion.predict_proba(X) > 0.3)


def test_sparse_indicators(rows):
    X, y = rows
    thin = FusionClassifier(PAIRS).fit(X, sparse.csr_array(y))
    np.testing.assert_array_equal(
        thin.predict_proba(X), FusionClassifier(PAIRS).fit(X, y).predict_proba(X)
    )


class Namer(ClassifierMixin, BaseEstimator):
    """Gives labels only, as a sparse matrix."""

    def fit(self, X, y):
        self.forest_ = RandomForestClassifier(10, max_depth=4, random_state=0).fit(X, y)
        return self

    def predict(self, X):
        return sparse.csr_matrix(self.forest_.predict(X))


def test_decision_values_and_labels(rows):
    X, y = rows
    pairs = [
        ("ridge", RidgeClassifier()),
        ("svm", OneVsRestClassifier(LinearSVC(random_state=0))),
        ("namer", Namer()),
    ]
    fusion = FusionClassifier(pairs, method="mean").fit(X, y)
    forms = {name: one.form for name, one in fusion.trained_.items()}
    assert forms == {"ridge": "scores", "svm": "scores", "namer": "labels"}
    probs_NC = fusion.predict_proba(X)
    assert probs_NC.min() > 0
    assert probs_NC.max() < 1
    assert f1_score(y, probs_NC > 0.5, average="macro") > 0.8


def test_a_label_that_a_fold_never_saw(rows):
    X, y = rows
    y = y.copy()
    y[:, 2] = 0
    y[:30, 2] = 1  # all in the first fold
    knn = KNeighborsClassifier()
    outputs = MultiOutputClassifier(KNeighborsClassifier(9))
    pairs = [("knn", knn), ("outputs", outputs)]
    fusion = FusionClassifier(pairs, method="mean", cv=KFold(4), metric="hamming_accuracy")
    fusion.fit(X, y)
    assert fusion.predict_proba(X).shape == (200, 3)
    assert fusion.predict_proba(X)[:30, 2].max() > 0.5  # the fits on all rows know it
    # It did not count against the estimators: the metric is of 170 rows with 3 labels.
    right = np.array(list(fusion.member_scores_.values())) * 170 * 3
    np.testing.assert_allclose(right, np.round(right), atol=1e-9)


def test_methods_for_one_class_per_row_are_refused(rows):
    with pytest.raises(InvalidValue, match="'dynamic_selection' fuses Probabilities"):
        FusionClassifier(PAIRS, method="dynamic_selection").fit(*rows)
    with pytest.raises(InvalidValue, match="one that judges Marginals"):
        FusionClassifier(PAIRS, metric="accuracy").fit(*rows)
