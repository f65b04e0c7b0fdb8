# SPDX-License-Identifier: Apache-2.0
"""Probabilities turned into decisions under which every class counts alike.

Shapes: N rows, C classes.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fusetune.fuse.method import Fusion
from fusetune.predictions.kinds import Array, Floats, Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets

__all__ = ["Reweighted", "class_shares", "reweighted"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reweighted(Fusion[Probabilities]):
    """What a fusion gives, with the classes' shares divided out: p'(c) ∝ p(c) / share(c).

    The class with the highest p' is the one that balanced accuracy asks for: the mean recall over
    classes is largest where each row goes to the class whose density there is highest. As
    probabilities, p' are those of rows drawn evenly from all classes.

    Args:
        fusion: What is reweighted.
        classes: C class names.
        shares_C: `(C,)` numbers above 0; only their ratios matter.

    Reference:
        Elkan, C. "The foundations of cost-sensitive learning". IJCAI 2001.
    """

    fusion: Fusion[Any]
    classes: tuple[str, ...]
    shares_C: Floats
    members: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", self.fusion.members)
        assert self.shares_C.shape == (len(self.classes),) and self.shares_C.min() > 0

    def __call__(self, stack: Stack[Probabilities]) -> Probabilities:
        """The fusion's probabilities, reweighted."""
        return reweighted(self.fusion(stack), dict(zip(self.classes, self.shares_C, strict=True)))

    def weights(self) -> dict[str, float] | None:
        """Member → weight before the reweighting."""
        return self.fusion.weights()


def class_shares(targets: Targets, weights_N: Array | None = None) -> dict[str, float]:
    """Class → share of the rows, one row added to every class so that no share is 0.

    Args:
        targets: Of N rows.
        weights_N: `(N,)` weights of the rows, of which only the ratios matter; None: all 1.
    """
    weights_N = None if weights_N is None else weights_N / weights_N.mean()
    counts_C = np.bincount(targets.labels_N, weights_N, len(targets.classes)) + 1
    return dict(zip(targets.classes, (counts_C / counts_C.sum()).tolist(), strict=True))


def reweighted(prediction: Probabilities, shares: dict[str, float]) -> Probabilities:
    """The prediction with its probabilities divided by the shares, then by the rows' sums.

    A class without a share keeps the mean share of the others.
    """
    mean = float(np.mean(list(shares.values())))
    shares_C = np.array([shares.get(name, mean) for name in prediction.classes])
    probs_NC = prediction.probs_NC / shares_C
    probs_NC /= probs_NC.sum(axis=1, keepdims=True)
    return prediction.with_array(prediction.classes, probs_NC.astype(prediction.probs_NC.dtype))
