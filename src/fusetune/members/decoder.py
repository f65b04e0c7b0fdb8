# SPDX-License-Identifier: Apache-2.0
"""Interface of a decoder: what the numbers mean that a detector's network gives.

Shapes: B rows of a batch, P places where the network looks for objects, D detections, C classes.
"""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.members.detectors import NUM_DETECTIONS
from fusetune.plugins import plugin_name
from fusetune.predictions.kinds import Floats

__all__ = ["Decoder", "Found", "View", "best_detections", "corners", "sigmoid", "unlike"]

Found = tuple[Floats, Floats]
"""`(B, P, 4)` left, top, right, bottom as shares of the image, and `(B, P, C)` scores from 0 to 1."""

LEAST_SCORE = 0.001
"""Of a box that is kept, as in the evaluation scripts of YOLOv5 and FastestDet."""
MOST_CANDIDATES = 1000
"""Of an image, those with the highest scores, before suppression; as torchvision's RetinaNet."""


@dataclass(frozen=True)
class View:
    """The square that a network saw.

    Args:
        size: Its side in pixels.
        exported: The side that the network was made for.
    """

    size: int
    exported: int


@dataclass(frozen=True, kw_only=True)
class Decoder(abc.ABC):
    """From a network's raw outputs to boxes and scores. Plug-ins say how their networks see images."""

    channels: ClassVar[Literal["rgb", "bgr"]] = "rgb"
    mean: ClassVar[tuple[float, float, float]] = (0.0, 0.0, 0.0)
    std: ClassVar[tuple[float, float, float]] = (1.0, 1.0, 1.0)
    letterbox: ClassVar[bool] = False
    """Whether they are trained on images with gray beside them; else on ones made square."""
    most_overlap: ClassVar[float | None] = None
    """Of two boxes of a class, above which the worse one goes; None: the network gives each object once."""

    @property
    def name(self) -> str:
        """Name in recipes: the plug-in's file."""
        return plugin_name(type(self))

    @abc.abstractmethod
    def decode(self, outputs: Sequence[Floats], view: View, num_classes: int) -> Found:
        """Boxes and scores of all places.

        Args:
            outputs: All that the network gave, in its order; the first axis is B.
            view: What it saw.
            num_classes: C, of the network's own classes.

        Raises:
            InvalidValue: Outputs of other shapes.
        """


def unlike(decoder: Decoder, outputs: Sequence[Floats], expected: str) -> InvalidValue:
    """The error for outputs that a decoder does not know."""
    shapes = " and ".join(str(output.shape) for output in outputs)
    return InvalidValue(
        f"the network gives {shapes}, which the decoder {decoder.name} does not know",
        expected,
        "Check classes: [...] and decoder, or export the network in that form.",
    )


def corners(centers_P4: Floats) -> Floats:
    """`(..., 4)` left, top, right, bottom from center, width and height.

    Example:
        >>> corners(np.array([0.5, 0.5, 0.2, 0.4])).round(2).tolist()
        [0.4, 0.3, 0.6, 0.7]
    """
    middle, half = centers_P4[..., :2], centers_P4[..., 2:] / 2
    return np.concatenate([middle - half, middle + half], axis=-1)


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    return (1 + np.tanh(logits / 2)) / 2


def best_detections(found: Found, most_overlap: float | None) -> Floats:
    """`(B, D, 6)` the best boxes, cut to the image, by falling score; class -1 for none.

    Args:
        found: Of every place.
        most_overlap: Of a box with a better one of its class, where it stays; None: all stay.
    """
    from fusetune.fuse.detection.numba_boxes import kept_greedily

    boxes_BP4, scores_BPC = found
    dense = np.zeros((len(boxes_BP4), NUM_DETECTIONS, 6), dtype=np.float32)
    dense[..., 5] = -1
    for row, (boxes_P4, scores_PC) in enumerate(zip(boxes_BP4, scores_BPC, strict=True)):
        places, labels = np.nonzero(scores_PC >= LEAST_SCORE)
        scores = scores_PC[places, labels]
        best = np.argsort(-scores, kind="stable")[:MOST_CANDIDATES]
        places, labels, scores = places[best], labels[best], scores[best]
        boxes = boxes_P4[places].clip(0, 1)
        if most_overlap is not None:
            order = np.argsort(labels, kind="stable")
            starts = np.searchsorted(labels[order], np.arange(scores_PC.shape[1] + 1))
            kept = kept_greedily(starts, boxes[order].astype(np.float64), most_overlap)
            chosen = np.sort(order[kept])
            labels, scores, boxes = labels[chosen], scores[chosen], boxes[chosen]
        num = min(NUM_DETECTIONS, len(scores))
        dense[row, :num, :4] = boxes[:num]
        dense[row, :num, 4], dense[row, :num, 5] = scores[:num], labels[:num]
    return dense
