# SPDX-License-Identifier: Apache-2.0
"""Pictures of masks as a run folder keeps them.

Shapes: L layers, H W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fusetune.predictions.kinds import Array

__all__ = [
    "DISPUTED",
    "FUSED",
    "NOTHING",
    "PICTURES",
    "TRUTH",
    "MaskPictures",
    "read_mask_pictures",
]

PICTURES = Path("images/test/masks.npz")
TRUTH, FUSED, DISPUTED = "truth", "fused", "members that differ"
NOTHING = 255  # of no class


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskPictures:
    """Label maps of some rows, thinned out.

    Args:
        classes: Names of the class numbers.
        layers: Names of the layers: the truth, members, the fusion, and how many members differ
            from it.
        pictures: Row id → `(L, H, W)` class numbers of the layers.
        images: Row id → the image itself, `(H, W, 3)` uint8; empty where no images are at hand.
    """

    classes: tuple[str, ...]
    layers: tuple[str, ...]
    pictures: Mapping[str, Array]
    images: Mapping[str, Array] = field(default_factory=dict)


def read_mask_pictures(folder: Path) -> MaskPictures | None:
    """The pictures of a run folder, the most disputed row first; None where there are none."""
    path = folder / PICTURES
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        ids = arrays["ids"].tolist()
        return MaskPictures(
            classes=tuple(arrays["classes"].tolist()),
            layers=tuple(arrays["layers"].tolist()),
            pictures={name: arrays[f"picture{number}"] for number, name in enumerate(ids)},
            images={
                name: arrays[f"image{number}"]
                for number, name in enumerate(ids)
                if f"image{number}" in arrays
            },
        )
