# SPDX-License-Identifier: Apache-2.0
"""Accuracy of a linear classifier on the features, cross-validated."""

from dataclasses import dataclass

from fusetune.scout.probe import out_of_fold_probs
from fusetune.scout.score import TransferScore, View

__all__ = ["LinearProbe"]


@dataclass(frozen=True, kw_only=True)
class LinearProbe(TransferScore):
    """Share of rows that a logistic regression on the other folds' features gets right.

    Args:
        folds: 5, as usual.

    Cost:
        `folds` logistic regressions on (N, D): the dearest of the scores, and the one nearest to
        what fine-tuning the head alone would give.

    Reference:
        Kornblith, Shlens, Le. "Do better ImageNet models transfer better?" CVPR 2019.
    """

    folds: int = 5

    def value(self, view: View) -> float:
        """Accuracy in [0, 1]."""
        probs_NC = out_of_fold_probs(view, folds=self.folds)
        return float((probs_NC.argmax(axis=1) == view.labels_N).mean())
