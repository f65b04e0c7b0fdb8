# SPDX-License-Identifier: Apache-2.0
"""FastestDet: one box per cell of a grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fusetune.members.decoder import Decoder, Found, View, corners, sigmoid, unlike
from fusetune.predictions.kinds import Floats

__all__ = ["Fastestdet"]

OBJECT_POWER, CLASS_POWER = 0.6, 0.4


@dataclass(frozen=True, kw_only=True)
class Fastestdet(Decoder):
    """Each cell of a `(B, 5 + C, S, S)` map says how surely an object is there, where, and of which class.

    Its box is centered at the cell's corner plus the hyperbolic tangent of two numbers, in cells;
    width and height are the sigmoid of two more, as shares of the image that the network was made
    for: one of another size is seen in the same pixels. Its score is objectness^0.6
    times (the best class's probability)^0.4; other classes have none, as in the authors' code.

    Reference: https://github.com/dog-qiuqiu/FastestDet, 2022.
    """

    channels: ClassVar[Literal["rgb", "bgr"]] = "bgr"
    most_overlap: ClassVar[float | None] = 0.45

    def decode(self, outputs: Sequence[Floats], view: View, num_classes: int) -> Found:
        """One box per cell, row by row."""
        if len(outputs) != 1 or outputs[0].ndim != 4 or outputs[0].shape[1] != 5 + num_classes:
            raise unlike(self, outputs, f"one map of 5 + {num_classes} numbers: (B, 5 + C, S, S)")
        height, width = outputs[0].shape[2:]
        said_BPN = outputs[0].reshape(*outputs[0].shape[:2], -1).swapaxes(1, 2)
        rows, columns = np.divmod(np.arange(height * width), width)
        centers = (np.tanh(said_BPN[..., 1:3]) + np.stack([columns, rows], axis=1)) / (
            width,
            height,
        )
        sides = sigmoid(said_BPN[..., 3:5]) * view.exported / view.size
        boxes_BP4 = corners(np.concatenate([centers, sides], axis=-1))
        classes_BPC = said_BPN[..., 5:]
        best = classes_BPC == classes_BPC.max(axis=-1, keepdims=True)
        powers = said_BPN[..., :1] ** OBJECT_POWER * classes_BPC**CLASS_POWER
        return boxes_BP4, np.where(best, powers, 0)
