# SPDX-License-Identifier: Apache-2.0
"""How sure each member is of a row, and how far it stands from the others.

Shapes: M members, N rows, C classes.
"""

import numpy as np

from fusetune.fuse.forms import over_classes
from fusetune.predictions.kinds import Floats, Probabilities
from fusetune.predictions.stack import Stack

__all__ = ["STATISTICS", "confidence_NS"]

STATISTICS = ("largest probability", "entropy", "margin", "disagreement")


def confidence_NS(stack: Stack[Probabilities]) -> Floats:
    """`(N, 4 M)` statistics of each member in turn, in double precision and between 0 and 1.

    Its largest probability; its entropy as a share of log C (0 with a single class); its largest
    minus its second largest probability (1 with a single class); the share of the other members
    whose most probable class (ties: the earlier) is another than its own (0 with one member). Over
    the classes that the member itself knows.
    """
    votes_MN = np.stack(
        [over_classes(part, stack.classes).probs_NC.argmax(axis=1) for part in stack.parts]
    )
    num_others = max(1, len(stack.members) - 1)
    blocks = []
    for part, votes_N in zip(stack.parts, votes_MN, strict=True):
        probs_NC = part.probs_NC.astype(np.float64)
        top_N2 = np.sort(np.pad(probs_NC, ((0, 0), (1, 0))), axis=1)[:, -2:]
        logs_NC = np.log(np.where(probs_NC > 0, probs_NC, 1))
        entropy_N = -(probs_NC * logs_NC).sum(axis=1) / np.log(max(2, probs_NC.shape[1]))
        margin_N = top_N2[:, 1] - top_N2[:, 0]
        disagreement_N = (votes_MN != votes_N).sum(axis=0) / num_others
        blocks.append(np.stack([top_N2[:, 1], entropy_N, margin_N, disagreement_N], axis=1))
    return np.concatenate(blocks, axis=1)
