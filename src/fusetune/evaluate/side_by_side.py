# SPDX-License-Identifier: Apache-2.0
"""Masks looked at image by image, all of them and for all metrics at once."""

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from fusetune.metric import Metric
from fusetune.predictions.kinds import Kind
from fusetune.predictions.segmentation.masks import Mask, Masks
from fusetune.predictions.segmentation.sharing import IMAGES_AT_ONCE, sharing
from fusetune.predictions.segmentation.tallies import decide_together
from fusetune.predictions.targets import GroundTruth
from fusetune.predictions.threads import in_threads

__all__ = ["look_side_by_side"]

_LOOKED: "weakref.WeakKeyDictionary[Mask, list[Any]]" = weakref.WeakKeyDictionary()


def look_side_by_side(
    predictions: Sequence[Kind], targets: GroundTruth, metrics: Sequence[Metric[Any]]
) -> None:
    """Let metrics find out what they keep of every mask; nothing for other kinds.

    Fusions of the same members, one after the other, would read and resample these again and again.
    Images are shared among threads. Afterwards, `statistics` of the same masks cost nothing.

    Args:
        predictions: Of the targets' rows, in their order.
        targets: Their truth.
        metrics: Those that will be asked.
    """
    masks = [one for one in predictions if isinstance(one, Masks)]

    def look(row: int) -> None:
        wanted = [one for one in masks if _LOOKED.get(one.masks[row]) != [*metrics]]
        if not wanted:
            return
        rows, truth = np.array([row]), targets.take(np.array([row]))
        with sharing():
            decide_together(list(dict.fromkeys(one.masks[row] for one in wanted)))
            for one in wanted:
                for metric in metrics:
                    metric.statistics(one.take(rows), truth)
                _LOOKED[one.masks[row]] = [*metrics]

    in_threads(look, range(len(targets) if masks else 0), most=IMAGES_AT_ONCE)
