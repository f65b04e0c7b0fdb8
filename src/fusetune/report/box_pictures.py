# SPDX-License-Identifier: Apache-2.0
"""Pictures of detections as a run folder keeps them.

Shapes: L layers, K boxes of all layers, H W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusetune.predictions.kinds import Array, Floats

__all__ = [
    "ASIDE",
    "BOXES",
    "RIGHT",
    "WRONG",
    "BoxPicture",
    "BoxPictures",
    "Reason",
    "read_box_pictures",
]

BOXES = Path("images/test/boxes.npz")
WRONG, RIGHT, ASIDE = 0, 1, 2  # of the truth: missed, found; aside: what counts neither way
Reason = str  # `gain`, `loss` or `disputed`


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxPicture:
    """One image with what each layer draws on it.

    Args:
        id: The row.
        reason: Why it was chosen.
        pixels_HWC: `(H, W, 3)` uint8.
        boxes_K8: `(K, 8)` layer, left, top, right, bottom as shares of the image, class, score, and
            `WRONG`, `RIGHT` or `ASIDE`; each layer's by falling score.
    """

    id: str
    reason: Reason
    pixels_HWC: Array
    boxes_K8: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxPictures:
    """Some rows with true and predicted boxes.

    Args:
        classes: Names of the class numbers.
        layers: Names of the layers: the truth, the chosen predictor, the best member, others.
        cuts: Layer → least score that is drawn; infinity: nothing is.
        left_out: How many members are not shown.
        pictures: The rows.
    """

    classes: tuple[str, ...]
    layers: tuple[str, ...]
    cuts: Mapping[str, float]
    left_out: int
    pictures: tuple[BoxPicture, ...]


def read_box_pictures(folder: Path) -> BoxPictures | None:
    """The pictures of a run folder; None where there are none."""
    path = folder / BOXES
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        named = zip(arrays["ids"].tolist(), arrays["reasons"].tolist(), strict=True)
        layers = tuple(arrays["layers"].tolist())
        return BoxPictures(
            classes=tuple(arrays["classes"].tolist()),
            layers=layers,
            cuts=dict(zip(layers, arrays["cuts"].tolist(), strict=True)),
            left_out=int(arrays["left_out"]),
            pictures=tuple(
                BoxPicture(
                    id=name,
                    reason=reason,
                    pixels_HWC=arrays[f"picture{number}"],
                    boxes_K8=arrays[f"boxes{number}"],
                )
                for number, (name, reason) in enumerate(named)
            ),
        )
