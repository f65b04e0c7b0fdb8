# SPDX-License-Identifier: Apache-2.0
"""COCO's average recall of 10 detections per image and class."""

from dataclasses import dataclass
from typing import ClassVar

from fusetune.metric import Metric
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.matches import Summary, match_statistics, summary_values
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Floats, Kind

__all__ = ["CocoRecall10"]

SUMMARY = Summary(recall=True, most=10)


@dataclass(frozen=True, kw_only=True)
class CocoRecall10(Metric[Boxes]):
    """Mean recall of the 10 top detections of each image and class; higher is better, 0 to 1.

    The share of the objects that are matched, averaged over the classes and the overlaps from 0.5 to
    0.95; scores only decide which detections are among them. Where no class has objects it is NaN.

    Reference:
        Lin et al. "Microsoft COCO: common objects in context". ECCV 2014; the numbers are those of
        its evaluation code (pycocotools).
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Boxes})
    higher_is_better: ClassVar[bool] = True
    title: ClassVar[str] = "AR of 10 detections"
    percent: ClassVar[bool] = True

    def statistics(self, prediction: Boxes, targets: Objects) -> Floats:
        """`(N, S)` matches of the detections and numbers of objects; see `match_statistics`."""
        return match_statistics(prediction, targets)

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` means of the classes that have objects in the resample."""
        return summary_values(SUMMARY, statistics_NS, weights_RN)
