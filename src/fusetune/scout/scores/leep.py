# SPDX-License-Identifier: Apache-2.0
"""LEEP: how well the checkpoint's own classes predict the task's.

Shapes: N rows, S classes of the checkpoint, C classes of the task.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.scout.score import TransferScore, View

__all__ = ["Leep"]


@dataclass(frozen=True, kw_only=True)
class Leep(TransferScore):
    """Mean log of Σ_s P(true class | s) p_s, where P(class | s) is counted with p as weights.

    The log-likelihood of the classifier that translates the checkpoint's own predictions by their
    empirical joint distribution with the labels; at most 0.

    Cost:
        One product of (C, N) and (N, S).

    Reference:
        Nguyen, Hassner, Seeger, Archambeau. "LEEP: a new measure to evaluate transferability of
        learned representations". ICML 2020.
    """

    needs_source_head: ClassVar[bool] = True

    def value(self, view: View) -> float:
        """Mean log-likelihood."""
        assert view.source_probs_NS is not None
        probs_NS = view.source_probs_NS.astype(np.float64)
        joint_CS = view.one_hot_NC.T @ probs_NS
        given_CS = joint_CS / np.maximum(joint_CS.sum(axis=0), np.finfo(float).tiny)
        likelihoods_N = np.einsum("ns,ns->n", probs_NS, given_CS[view.labels_N])
        return float(np.log(likelihoods_N).mean())
