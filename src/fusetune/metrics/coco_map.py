# SPDX-License-Identifier: Apache-2.0
"""COCO's mean average precision (AP) of detections."""

from dataclasses import dataclass
from typing import ClassVar

from fusetune.metric import Metric
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.matches import Summary, match_statistics, summary_values
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Floats, Kind

__all__ = ["CocoMap"]

SUMMARY = Summary()


@dataclass(frozen=True, kw_only=True)
class CocoMap(Metric[Boxes]):
    """Mean average precision over classes and ten overlaps; higher is better, 0 to 1.

    Precision is read at 101 levels of recall (the best that any longer ranking reaches) and averaged
    over them, the classes, and the overlaps (IoU) from 0.5 to 0.95 that count as found. Equal scores
    keep the order of the rows, as COCO's do. Crowds and ignored objects, and what matches them,
    count neither way. A class without objects is left out: in a resample, those that it leaves out;
    where none remains the value is NaN (COCO writes -1). No mean over rows: read its interval, and do
    not select by it on a few dozen images.

    Example:
        >>> from fusetune.predictions.detection.objects import Objects
        >>> box = [[0.0, 0.0, 10.0, 10.0]]
        >>> said = Boxes(["a"], ("cat",), [0, 1], [[0.0, 0.0, 10.0, 8.0]], [0.9], [0])
        >>> truth = Objects(said.ids, ("cat",), [0, 1], box, [0])
        >>> round(CocoMap().value(CocoMap().statistics(said, truth)), 2)  # found up to 0.8
        0.7

    Reference:
        Lin et al. "Microsoft COCO: common objects in context". ECCV 2014; the numbers are those of
        its evaluation code (pycocotools).
    """

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Boxes})
    higher_is_better: ClassVar[bool] = True
    title: ClassVar[str] = "Mean average precision"
    percent: ClassVar[bool] = True

    def statistics(self, prediction: Boxes, targets: Objects) -> Floats:
        """`(N, S)` matches of the detections and numbers of objects; see `match_statistics`."""
        return match_statistics(prediction, targets)

    def values(self, statistics_NS: Floats, weights_RN: Floats) -> Floats:
        """`(R,)` means of the classes that have objects in the resample."""
        return summary_values(SUMMARY, statistics_NS, weights_RN)
