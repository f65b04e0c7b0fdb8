# SPDX-License-Identifier: Apache-2.0
"""Small pictures of the masks on which members disagree most, for the report.

Shapes: M members, N rows, C classes, H W pixels, L layers of a picture.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.atomic import replacing
from fusetune.predictions.kinds import Array
from fusetune.predictions.segmentation.files import FileMask
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.segmentation.pixels import sampled_masks
from fusetune.predictions.segmentation.tallies import decided_of
from fusetune.predictions.stack import Stack
from fusetune.report.mask_pictures import DISPUTED, FUSED, NOTHING, PICTURES, TRUTH
from fusetune.stages.box_pictures import small_picture

__all__ = ["save_mask_pictures"]

MOST_ROWS, MOST_MEMBERS = 6, 6
SIDE = 160  # pixels of the longer side
IMAGE_SIDE = 2 * SIDE


def save_mask_pictures(
    folder: Path,
    stack: Stack[Masks],
    truth: LabelMaps,
    fused: Path,
    pixels_of: Callable[[str], Array] | None = None,
) -> None:
    """Write `images/test/masks.npz`: what is true, what members and fusion say, where they differ.

    Args:
        folder: The run folder.
        stack: Members' masks of the judged rows.
        truth: Their truth.
        fused: The chosen fusion's masks, as `write_masks` wrote them.
        pixels_of: From a row's id to its image, `(H, W, 3)` uint8; None: there are no images.
    """
    rows = _most_disputed(stack)
    shown = stack.members[:MOST_MEMBERS]
    pictures: dict[str, Any] = {
        f"picture{number}": _layers(
            stack.select(shown).take(np.array([row])), truth.take(np.array([row])), fused
        )
        for number, row in enumerate(rows)
    }
    if not pictures:
        return
    if pixels_of is not None:
        pictures |= {
            f"image{number}": small_picture(pixels_of(str(truth.ids[row])), IMAGE_SIDE)
            for number, row in enumerate(rows)
        }
    path = folder / PICTURES
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            ids=truth.ids[rows],
            layers=np.array([TRUTH, *shown, FUSED, DISPUTED]),
            classes=np.array(truth.classes),
            **pictures,
        )


def _most_disputed(stack: Stack[Masks]) -> list[int]:
    """Rows by the share of their chosen pixels on which members differ, the largest first."""
    votes = []
    for part in stack.parts:
        names = np.array([stack.classes.index(name) for name in part.classes])
        votes.append([names[mask.decided(0, 1)[0]] for mask in sampled_masks(part).masks])
    shares = [
        float(np.mean(np.any([said[row] != votes[0][row] for said in votes], axis=0)))
        for row in range(len(stack))
    ]
    order = sorted(range(len(stack)), key=lambda row: -shares[row])
    return order[:MOST_ROWS]


def _layers(stack: Stack[Masks], truth: LabelMaps, fused: Path) -> Array:
    """`(L, H, W)` class numbers, `NOTHING` where there is none; the last layer counts who differ."""
    name, labels = str(truth.ids[0]), truth.maps[0].read()
    step = max(1, -(-max(labels.shape) // SIDE))
    thin: Any = (slice(step // 2, None, step), slice(step // 2, None, step))
    classes = truth.classes
    said = [decided_of(part.masks[0], part.classes, classes)[thin] for part in stack.parts]
    known = (fused / "classes.txt").read_text(encoding="utf-8").splitlines()
    chosen = decided_of(FileMask(fused / f"{name}.npy"), tuple(known), classes)[thin]
    differ = sum((one != chosen).astype(np.uint8) for one in said)
    shown = [labels[thin], *said, chosen]
    layers = [np.where((one < 0) | (one >= len(classes)), NOTHING, one) for one in shown]
    return np.stack([*layers, differ]).astype(np.uint8)
