# SPDX-License-Identifier: Apache-2.0
"""YOLO networks, from version 5 on, as their exports to ONNX give them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fusetune.members.decoder import Decoder, Found, View, corners, unlike
from fusetune.predictions.kinds import Floats

__all__ = ["Yolo"]


@dataclass(frozen=True, kw_only=True)
class Yolo(Decoder):
    """Boxes in pixels as center, width and height, and a score per class, in one of two forms.

    `(B, P, 5 + C)` of versions 5 and 7, whose fifth number, how surely an object is there,
    multiplies the scores; and `(B, 4 + C, P)` of versions 8, 9, 11 and 12. Exports with built-in
    suppression (`nms=True`, version 10) have other forms and are refused.

    Reference: Jocher et al. "Ultralytics YOLOv5" and "YOLOv8", 2020 and 2023.
    """

    letterbox: ClassVar[bool] = True
    most_overlap: ClassVar[float | None] = 0.7
    """As in ultralytics' validation of version 8."""

    def decode(self, outputs: Sequence[Floats], view: View, num_classes: int) -> Found:
        """The boxes of all scales, one after the other; of several outputs the first counts."""
        said = outputs[0]
        boxes_BP4: Floats
        scores_BPC: Floats
        if said.ndim == 3 and said.shape[2] == 5 + num_classes:
            boxes_BP4, scores_BPC = said[..., :4], said[..., 5:] * said[..., 4:5]
        elif said.ndim == 3 and said.shape[1] == 4 + num_classes:
            boxes_BP4, scores_BPC = said[:, :4].swapaxes(1, 2), said[:, 4:].swapaxes(1, 2)
        else:
            raise unlike(
                self, outputs, f"(B, P, 5 + {num_classes}), or (B, 4 + {num_classes}, P) first"
            )
        return corners(boxes_BP4) / view.size, scores_BPC
