# SPDX-License-Identifier: Apache-2.0
"""Interface of a transferability score: how promising a checkpoint is, judged by its features."""

import abc
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from fusetune.plugins import plugin_name
from fusetune.predictions.kinds import Array, Floats

__all__ = ["TransferScore", "View"]


@dataclass(frozen=True, eq=False)
class View:
    """What a checkpoint, not fine-tuned, makes of some labelled rows.

    Args:
        features_ND: `(N, D)` what goes into its head, finite.
        labels_N: `(N,)` numbers of the true classes.
        num_classes: C, above every label.
        source_probs_NS: `(N, S)` probabilities of its own head's classes; None without such a head.
    """

    features_ND: Floats
    labels_N: Array
    num_classes: int
    source_probs_NS: Floats | None = None

    def __post_init__(self) -> None:
        assert self.features_ND.ndim == 2 and len(self.features_ND) == len(self.labels_N) > 0
        assert self.labels_N.min() >= 0 and self.labels_N.max() < self.num_classes

    @property
    def one_hot_NC(self) -> Floats:
        """`(N, C)` ones at the true classes."""
        return np.eye(self.num_classes)[self.labels_N]


class TransferScore(abc.ABC):
    """Ranks checkpoints by a number; higher is better. Frozen dataclasses.

    Values of one score compare checkpoints on the same rows; they mean nothing across scores.
    """

    needs_source_head: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Name in tables and on the command line: the plug-in's file."""
        return plugin_name(type(self))

    @final
    def of(self, view: View) -> float | None:
        """The score, or None where it needs a head that the checkpoint does not have."""
        if self.needs_source_head and view.source_probs_NS is None:
            return None
        return float(self.value(view))

    @abc.abstractmethod
    def value(self, view: View) -> float:
        """The score; `view` has what it needs."""
