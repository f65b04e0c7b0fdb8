# SPDX-License-Identifier: Apache-2.0
"""Small pictures of the images on which the chosen fusion gains, loses, or differs from members most.

Shapes: N rows, K boxes, L layers of a picture.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.atomic import replacing
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.matches import (
    OVERLAPS_T,
    best_cut,
    match_statistics,
    matched_bits,
)
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Array, Floats
from fusetune.predictions.ragged import Offsets
from fusetune.predictions.stack import Stack
from fusetune.report.box_pictures import ASIDE, BOXES, RIGHT, WRONG
from fusetune.report.mask_pictures import TRUTH

__all__ = ["Chosen", "save_box_pictures", "small_picture"]

MOST_ROWS, MOST_MEMBERS, MOST_BOXES = 3, 3, 60  # for each reason; beside truth and fusion; a layer
SIDE = 320  # pixels of the longer side
Chosen = tuple[str, Boxes]
"""The chosen predictor's name and its boxes."""


def save_box_pictures(
    folder: Path,
    stack: Stack[Boxes],
    truth: Objects,
    chosen: Chosen,
    best_member: str,
    pixels_of: Callable[[str], Array],
) -> None:
    """Write `images/test/boxes.npz`: images with true boxes and those that members and fusion draw.

    No file where members and fusion draw the same.

    Args:
        folder: The run folder.
        stack: Members' boxes of the judged rows.
        truth: Their truth.
        chosen: Who was chosen, and its boxes of the same rows.
        best_member: With whom it is compared.
        pixels_of: From a row's id to its image, `(H, W, 3)` uint8.
    """
    name, fused = chosen
    others = [one for one in stack.members if one != best_member]
    shown = [best_member, *others][:MOST_MEMBERS]
    layers = {name: fused, **{one: stack[one] for one in shown}}
    cuts = {one: best_cut(match_statistics(part, truth)) for one, part in layers.items()}
    drawn = {one: _from_score(part, cuts[one]) for one, part in layers.items()}
    reasons = _rows(drawn, truth, name, best_member)
    pictures: dict[str, Any] = {}
    for number, row in enumerate(reasons):
        pixels = pixels_of(str(truth.ids[row]))
        pictures[f"picture{number}"] = small_picture(pixels)
        pictures[f"boxes{number}"] = _drawn_on(pixels, row, drawn, truth)
    path = folder / BOXES
    if not pictures:
        path.unlink(missing_ok=True)  # of a run before
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            ids=truth.ids[list(reasons)],
            reasons=np.array(list(reasons.values())),
            layers=np.array([TRUTH, *layers]),
            cuts=np.array([0.0, *cuts.values()]),
            classes=np.array(_classes(drawn, truth)),
            left_out=np.array(len(stack.members) - len(shown)),
            **pictures,
        )


def _from_score(boxes: Boxes, cut: float) -> Boxes:
    """The boxes of at least a score."""
    kept = boxes.scores_K >= cut
    found = (boxes.boxes_K4[kept], boxes.scores_K[kept], boxes.labels_K[kept])
    return Boxes.from_entries(boxes.ids, boxes.classes, boxes.rows_K[kept], found)


def _rows(
    drawn: Mapping[str, Boxes], truth: Objects, chosen: str, best_member: str
) -> dict[int, str]:
    """Row → why it is shown; of equal rows the first."""
    gain_N = _quality(drawn[chosen], truth) - _quality(drawn[best_member], truth)
    fused = _as_truth(drawn[chosen], _classes(drawn, truth))
    members = [part for name, part in drawn.items() if name != chosen]
    differ_N = 1 - np.mean([_quality(part, fused, overlaps=1) for part in members], axis=0)
    found: dict[int, str] = {}
    for reason, size_N in (("gain", gain_N), ("loss", -gain_N), ("disputed", differ_N)):
        order = np.argsort(-size_N, kind="stable")
        left = [row for row in order.tolist() if size_N[row] > 1e-9 and row not in found]
        found |= dict.fromkeys(left[:MOST_ROWS], reason)
    return found


def _quality(prediction: Boxes, truth: Objects, overlaps: int = len(OVERLAPS_T)) -> Floats:
    """`(N,)` F1 of each row, its mean over the lowest overlaps; 1 where nothing is there nor found."""
    order, bits_K2, _ = matched_bits(prediction, truth)
    rows_K, num_rows = prediction.rows_K[order], len(truth)
    assert truth.ignored_K is not None
    objects_N = np.bincount(truth.rows_K[~truth.ignored_K], minlength=num_rows)
    unknown = set(prediction.classes) - set(truth.classes)
    strange_N = _counts_of(prediction, unknown)
    scores = []
    for t in range(overlaps):
        right_K, aside_K = (bits_K2 >> t & 1).T > 0
        right_N = np.bincount(rows_K, right_K & ~aside_K, num_rows)
        whole_N = np.bincount(rows_K, ~aside_K, num_rows) + strange_N + objects_N
        scores.append(np.where(whole_N > 0, 2 * right_N / np.maximum(whole_N, 1), 1.0))
    mean_N: Floats = np.mean(scores, axis=0)
    return mean_N


def _counts_of(prediction: Boxes, classes: set[str]) -> Array:
    """`(N,)` how many boxes of a row are of some classes."""
    of_K = np.array([name in classes for name in prediction.classes] or [False])[
        prediction.labels_K
    ]
    return np.bincount(prediction.rows_K[of_K], minlength=len(prediction))


def _as_truth(boxes: Boxes, classes: tuple[str, ...]) -> Objects:
    named = boxes.over(classes)
    return Objects(named.ids, classes, named.offsets, named.boxes_K4, named.labels_K)


def _classes(drawn: Mapping[str, Boxes], truth: Objects) -> tuple[str, ...]:
    known = dict.fromkeys(truth.classes)
    return tuple(known | dict.fromkeys(name for part in drawn.values() for name in part.classes))


def _drawn_on(pixels: Array, row: int, drawn: Mapping[str, Boxes], truth: Objects) -> Floats:
    """`(K, 8)` boxes of all layers on one image; see `BoxPicture`."""
    where, classes = np.array([row]), _classes(drawn, truth)
    own = truth.take(where)
    size = (1, 1) if truth.relative else (pixels.shape[1], pixels.shape[0])
    parts = [part.over(classes).take(where) for part in drawn.values()]
    assert own.ignored_K is not None
    ones_K = np.ones(len(own.labels_K))
    said = Boxes(own.ids, own.classes, own.offsets, own.boxes_K4, ones_K, own.labels_K)
    found_K = _status(said, _as_truth(parts[0], classes))
    found_K = np.where(own.ignored_K, ASIDE, found_K)
    layers = [_columns(0, (own.boxes_K4, own.labels_K, ones_K, found_K), size)]
    for number, part in enumerate(parts, start=1):
        order = np.argsort(-part.scores_K, kind="stable")[:MOST_BOXES]
        columns = (part.boxes_K4, part.labels_K, part.scores_K, _status(part, own))
        layers.append(_columns(number, tuple(one[order] for one in columns), size))
    return np.concatenate(layers)


def _status(prediction: Boxes, truth: Objects) -> Offsets:
    """`(K,)` whether each box is right at an overlap of a half."""
    order, bits_K2, _ = matched_bits(prediction, truth)
    status_K = np.full(len(prediction.scores_K), WRONG)
    right_K, aside_K = (bits_K2 & 1).T > 0
    status_K[order] = np.where(aside_K, ASIDE, np.where(right_K, RIGHT, WRONG))
    return status_K


def _columns(layer: int, columns: tuple[Array, ...], size: tuple[int, int]) -> Floats:
    boxes_K4, labels_K, scores_K, status_K = columns
    shares_K4 = boxes_K4.astype(np.float64) / np.tile(size, 2)
    layer_K = np.full(len(labels_K), float(layer))
    return np.column_stack([layer_K, shares_K4, labels_K, scores_K, status_K])


def small_picture(pixels: Array, side: int = SIDE) -> Array:
    """The image with a longer side of at most `side` pixels, `(H, W, 3)` uint8."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    picture.thumbnail((side, side))
    return np.asarray(picture)
