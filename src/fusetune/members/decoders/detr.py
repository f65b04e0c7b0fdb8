# SPDX-License-Identifier: Apache-2.0
"""DETR and its successors: a set of objects, each given once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fusetune.members.decoder import Decoder, Found, View, corners, sigmoid, unlike
from fusetune.predictions.kinds import Floats

__all__ = ["Detr"]


@dataclass(frozen=True, kw_only=True)
class Detr(Decoder):
    """Boxes `(B, P, 4)` as shares, center and sides, beside logits of the classes.

    Which is which, their widths tell; where both have four columns, logits come first. Logits `(B, P, C + 1)`, whose last class is "no object", are read by a softmax, as DETR and
    YOLOS are trained; logits `(B, P, C)` by sigmoids, as Deformable DETR and RT-DETR are.

    Reference: Carion et al. "End-to-end object detection with transformers". ECCV 2020.
    """

    mean: ClassVar[tuple[float, float, float]] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, float, float]] = (0.229, 0.224, 0.225)

    def decode(self, outputs: Sequence[Floats], view: View, num_classes: int) -> Found:
        """One box per query."""
        threes = [output for output in outputs if output.ndim == 3]
        widths = (num_classes, num_classes + 1)
        pairs = [
            (boxes, logits)
            for boxes in threes
            for logits in threes
            if boxes is not logits and boxes.shape[2] == 4 and logits.shape[2] in widths
        ]
        if not 1 <= len(pairs) <= 2:
            expected = f"boxes (B, P, 4) and logits (B, P, {num_classes}) or one more"
            raise unlike(self, outputs, expected)
        boxes_BP4, logits_BPC = pairs[-1]
        if logits_BPC.shape[2] == num_classes:
            return corners(boxes_BP4), sigmoid(logits_BPC)
        powers = np.exp(logits_BPC - logits_BPC.max(axis=-1, keepdims=True))
        return corners(boxes_BP4), (powers / powers.sum(axis=-1, keepdims=True))[..., :-1]
