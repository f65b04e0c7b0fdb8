# SPDX-License-Identifier: Apache-2.0
"""Linear probes: logistic regression on a checkpoint's features.

Shapes: N rows, D features, C classes.
"""

import warnings

import numpy as np

from fusetune.predictions.kinds import Floats
from fusetune.scout.score import View

__all__ = ["out_of_fold_probs", "probe_probs"]

PENALTY = 0.01  # of the squared weights, per row, on features of unit variance; see `probe_probs`
MOST_FEATURES = 512


def probe_probs(view: View, features_ND: Floats) -> Floats:
    """`(N, C)` probabilities of new rows by a probe fitted on all rows of a view.

    Features are centered and scaled by one number, so that their variances sum to their count: the
    penalty then means the same for every checkpoint, and a direction that the checkpoint
    uses much keeps its weight. More than 512 features are first turned into their 512
    principal components, which leaves a linear classifier little to lose and costs a tenth.

    Args:
        view: What to fit on.
        features_ND: `(N, D)` of other rows, as the same checkpoint gives them.
    """
    mean_D = view.features_ND.mean(axis=0, dtype=np.float64)
    centered_ND = view.features_ND - mean_D
    scale = np.sqrt((centered_ND**2).mean()) or 1.0
    fitted_ND, new_ND = centered_ND / scale, (features_ND - mean_D) / scale
    if fitted_ND.shape[1] > MOST_FEATURES:
        fitted_ND, new_ND = _components(fitted_ND, new_ND)
    return _logistic(fitted_ND, view, new_ND)


def out_of_fold_probs(view: View, *, folds: int = 5) -> Floats:
    """`(N, C)` probabilities of the view's own rows, each by a probe of the other folds.

    Rows are dealt class by class in the order given, so that every fold has its share of each.
    """
    folds = max(2, min(folds, len(view.labels_N)))
    order = np.argsort(view.labels_N, kind="stable")
    fold_N = np.empty(len(order), dtype=np.int64)
    fold_N[order] = np.arange(len(order)) % folds
    probs_NC = np.zeros((len(order), view.num_classes))
    for fold in range(folds):
        held, rest = fold_N == fold, fold_N != fold
        part = View(view.features_ND[rest], view.labels_N[rest], view.num_classes)
        probs_NC[held] = probe_probs(part, view.features_ND[held])
    return probs_NC


def _components(fitted_ND: Floats, new_ND: Floats) -> tuple[Floats, Floats]:
    from sklearn.decomposition import PCA

    num = min(MOST_FEATURES, *fitted_ND.shape)
    found = PCA(num, svd_solver="randomized", random_state=0).fit(fitted_ND)
    return found.transform(fitted_ND), found.transform(new_ND)


def _logistic(fitted_ND: Floats, view: View, new_ND: Floats) -> Floats:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    known = np.unique(view.labels_N)
    probs_NC = np.zeros((len(new_ND), view.num_classes))
    if len(known) == 1:
        probs_NC[:, known[0]] = 1
        return probs_NC
    strength = 1 / (PENALTY * len(fitted_ND))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe need not be exact
        fitted = LogisticRegression(C=strength, max_iter=200, tol=1e-3).fit(
            fitted_ND, view.labels_N
        )
    probs_NC[:, fitted.classes_] = fitted.predict_proba(new_ND)
    return probs_NC
