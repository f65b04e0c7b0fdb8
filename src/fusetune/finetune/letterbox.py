# SPDX-License-Identifier: Apache-2.0
"""Whole images within a square, their shape kept: where they lie in it, and their boxes.

Shapes: N rows, K boxes of all rows.
"""

import numpy as np

from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Array, Floats
from fusetune.predictions.targets import replaced

__all__ = ["GRAY", "boxes_of_images", "objects_in_squares", "places"]

GRAY = 114
"""Of what is beside the image, as YOLO networks are trained."""


def places(sizes_N2: Array, side: int) -> tuple[Array, Array]:
    """`(N, 2)` left and top, and `(N, 2)` width and height, of each image within the square.

    Args:
        sizes_N2: Width and height of the images in pixels.
        side: Of the square; the longer side of each image fills it.

    Example:
        >>> places(np.array([[200, 100], [30, 60]]), 64)
        (array([[ 0, 16],
               [16,  0]]), array([[64, 32],
               [32, 64]]))
    """
    scales_N1 = side / np.asarray(sizes_N2).max(axis=1, keepdims=True)
    made_N2 = np.rint(sizes_N2 * scales_N1).astype(np.int64).clip(1, side)
    return (side - made_N2) // 2, made_N2


def objects_in_squares(objects: Objects, side: int) -> Objects:
    """The same objects where they lie in the square, in its pixels."""
    assert objects.sizes_N2 is not None and not objects.relative
    starts_N2, made_N2 = places(objects.sizes_N2, side)
    rows_K = objects.rows_K
    scales_K4 = np.tile(made_N2 / objects.sizes_N2, 2)[rows_K]
    boxes_K4 = objects.boxes_K4 * scales_K4 + np.tile(starts_N2, 2)[rows_K]
    areas_K = np.asarray(objects.areas_K) * scales_K4[:, :2].prod(axis=1)
    sizes_N2 = np.full(objects.sizes_N2.shape, float(side))
    return replaced(objects, boxes_K4=boxes_K4, areas_K=areas_K, sizes_N2=sizes_N2)


def boxes_of_images(boxes: Boxes, sizes_N2: Floats, side: int) -> Boxes:
    """The same boxes, shares of the square, in pixels of the images, and cut at their edges."""
    starts_N2, made_N2 = places(sizes_N2, side)
    rows_K = boxes.rows_K
    within_K4 = (boxes.boxes_K4 * side - np.tile(starts_N2, 2)[rows_K]) / np.tile(made_N2, 2)[
        rows_K
    ]
    boxes_K4 = within_K4.clip(0, 1) * np.tile(sizes_N2, 2)[rows_K]
    return replaced(boxes, boxes_K4=boxes_K4.astype(boxes.boxes_K4.dtype), relative=False)
