# SPDX-License-Identifier: Apache-2.0
"""NCE: how much the checkpoint's own most probable class leaves open about the task's."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.scout.score import TransferScore, View

__all__ = ["Nce"]


@dataclass(frozen=True, kw_only=True)
class Nce(TransferScore):
    """Negative conditional entropy -H(class | the checkpoint's most probable class), in nats.

    At most 0; 0 where the checkpoint's class determines the task's.

    Cost:
        One table of counts.

    Reference:
        Tran, Nguyen, Hassner. "Transferability and hardness of supervised classification tasks".
        ICCV 2019.
    """

    needs_source_head: ClassVar[bool] = True

    def value(self, view: View) -> float:
        """-H(Y | Z)."""
        assert view.source_probs_NS is not None
        top_N = view.source_probs_NS.argmax(axis=1)
        joint_CS = np.zeros((view.num_classes, view.source_probs_NS.shape[1]))
        np.add.at(joint_CS, (view.labels_N, top_N), 1 / len(top_N))
        seen = joint_CS > 0
        given = (joint_CS / np.maximum(joint_CS.sum(axis=0), np.finfo(float).tiny))[seen]
        return float((joint_CS[seen] * np.log(given)).sum())
