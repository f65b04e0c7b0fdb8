# SPDX-License-Identifier: Apache-2.0
"""COCO's average precision of small objects."""

from dataclasses import dataclass
from typing import ClassVar

from fusetune.metric import Metric
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.matches import Summary, match_statistics, summary_values
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Floats, Kind

__all__ = ["CocoMapSmall"]

SUMMARY = Summary(area="small")


@dataclass(frozen=True, kw_only=True)
class CocoMapSmall(Metric[Boxes]):
    """Mean average precision of objects with an area below 32² pixels; higher is better, 0 to 1.

    As `coco_map`, other objects, and what matches them, counting neither way. Means nothing for
    relative boxes.

    Reference:
        Lin et al. "Microsoft COCO: common objects in context". ECCV 2014; the numbers are those of
        its evaluation code (pycocotools).
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Boxes})
    higher_is_better: ClassVar[bool] = True
    title: ClassVar[str] = "AP of small objects"
    percent: ClassVar[bool] = True

    def statistics(self, prediction: Boxes, targets: Objects) -> Floats:
        """`(N, S)` matches of the detections and numbers of objects; see `match_statistics`."""
        return match_statistics(prediction, targets)

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` means of the classes that have objects in the resample."""
        return summary_values(SUMMARY, statistics_NS, weights_RN)
