# SPDX-License-Identifier: Apache-2.0
"""Some pixels of every row's mask: what fusions of masks are fitted on.

The pixels of a row hang on its id, its size and their number alone, so that all members, the truth and
what is fused are asked for the same ones; fewer pixels are the first of more.

Shapes: M members, N rows, C classes, H W pixels, P chosen pixels of a row.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from fusetune.errors import PredictionError
from fusetune.predictions.kinds import Array, Floats, Probabilities
from fusetune.predictions.long_truth import nameless
from fusetune.predictions.segmentation.label_maps import ArrayLabels, LabelMaps, class_counts
from fusetune.predictions.segmentation.masks import ArrayMask, Mask, Masks, Places, Size, mask_like
from fusetune.predictions.segmentation.sharing import IMAGES_AT_ONCE
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets, replaced
from fusetune.predictions.threads import in_threads

__all__ = ["chosen_places", "pixel_rows", "sampled_masks", "sampled_truth"]

PIXELS = 2**15  # of all rows: stacking 5 members of 19 classes learns 1,900 numbers from them
FEWEST, MOST = 16, 4096  # of one row


def chosen_places(name: str, size: Size, num_rows: int) -> Places:
    """`(P,)` positions of pixels, line after line: all, or so many drawn with replacement.

    Args:
        name: The row's id.
        size: Of its image.
        num_rows: With how many rows it shares the fit: P is a power of two, so that about 32,000
            pixels come together.
    """
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    share = 2 ** int(np.log2(max(1, PIXELS // max(1, num_rows))))
    number, available = min(max(share, FEWEST), MOST), size[0] * size[1]
    if available <= number:
        return np.arange(available)
    return (np.random.default_rng(seed).random(number) * available).astype(np.int64)


def sampled_masks(masks: Masks) -> Masks:
    """The chosen pixels of every row as a mask of one line, in memory."""

    def line(row: tuple[str, Mask]) -> ArrayMask:
        name, mask = row
        return ArrayMask(mask.sample(chosen_places(name, mask.size, len(masks)))[:, None])

    rows = list(zip(masks.ids.tolist(), masks.masks, strict=True))
    return mask_like(masks, masks.ids, in_threads(line, rows, most=IMAGES_AT_ONCE))


def sampled_truth(truth: LabelMaps) -> LabelMaps:
    """The true classes of the same pixels."""
    lines = []
    for name, labels in zip(truth.ids.tolist(), truth.maps, strict=True):
        places_P = chosen_places(name, labels.size, len(truth))
        lines.append(ArrayLabels(labels.sample(places_P)[None]))
    counts = [class_counts(one.read(), len(truth.classes)) for one in lines]
    counts_NC = np.array(counts, dtype=np.int64).reshape(-1, len(truth.classes))
    return LabelMaps(truth.ids, truth.classes, tuple(lines), counts_NC)


def pixel_rows(
    stack: Stack[Masks], truth: LabelMaps, weights_N: Floats
) -> tuple[Stack[Probabilities], Targets, Floats, Array]:
    """The chosen pixels as rows of their own, without those of no class.

    Args:
        stack: Members' masks of N rows.
        truth: Their truth.
        weights_N: `(N,)` weights of the rows.

    Returns:
        The stack and targets of the pixels, sorted by the rows' ids, so that fits do not hang on the
        rows' order; their weights (a row's weight is divided evenly among its pixels) and the
        position of each one's row.

    Raises:
        PredictionError: No pixel has a class.
    """
    order = np.argsort(stack.ids)
    stack, truth = stack.take(order), truth.take(order)
    labels = [one.read()[0] for one in sampled_truth(truth).maps]
    kept = [labels_P >= 0 for labels_P in labels]
    rows_K = np.repeat(np.arange(len(labels)), [int(kept_P.sum()) for kept_P in kept])
    if not len(rows_K):
        raise PredictionError(
            "no pixel of the truth has a class",
            "labels that name classes",
            "Check the label maps, and which number means that a pixel is ignored.",
        )
    named = nameless(len(rows_K))
    parts = tuple(_probabilities(part, kept, named) for part in stack.parts)
    labels_K = np.concatenate([one[kept_P] for one, kept_P in zip(labels, kept, strict=True)])
    none = Targets(named[:0], truth.classes, np.zeros(0, dtype=np.int64))
    targets = replaced(none, ids=named, labels_N=labels_K.astype(np.int64))
    counts_N = np.bincount(rows_K, minlength=len(labels))
    weights_K = (weights_N[order] / np.maximum(counts_N, 1))[rows_K]
    return Stack(stack.members, parts, stack.classes), targets, weights_K, order[rows_K]


def _probabilities(masks: Masks, kept: Sequence[Array], named: Any) -> Probabilities:  # noqa: ANN401
    lines = zip(sampled_masks(masks).masks, kept, strict=True)
    numbers_CK = np.concatenate(
        [mask.band(0, 1)[:, 0][:, kept_P] for mask, kept_P in lines], axis=1
    )
    made = object.__new__(Probabilities)
    return Probabilities.trusted(made, named, masks.classes, np.ascontiguousarray(numbers_CK.T))
