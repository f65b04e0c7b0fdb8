# SPDX-License-Identifier: Apache-2.0
"""Pixels counted by class: what every metric of segmentation is made of.

Shapes: N rows, C classes of the truth, H W pixels, R resamples.
"""

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusetune.predictions.kinds import Floats
from fusetune.predictions.segmentation.label_maps import LabelMaps, Labels
from fusetune.predictions.segmentation.masks import Mask, Masks
from fusetune.predictions.segmentation.sharing import once_inside, put_inside, sharing

__all__ = [
    "class_tallies",
    "confusion_of",
    "decide_together",
    "decided_of",
    "mean_ratios",
    "tally_statistics",
]

Integers = npt.NDArray[np.int64]

_KEPT: "weakref.WeakKeyDictionary[Mask, tuple[Any, Integers]]" = weakref.WeakKeyDictionary()


def class_tallies(prediction: Masks, targets: LabelMaps) -> Integers:
    """`(N, 3, C)` pixels of every row: rightly called so, called so, and truly so, of each class.

    The most probable class is what a pixel is called (the earlier one of equals); pixels that the
    truth ignores count nowhere. Counted once for each mask as long as it is there, as several
    metrics, and many resamples, ask for them.

    Args:
        prediction: Masks of the sizes that the truth has.
        targets: The truth of the same rows.
    """
    tallies = np.zeros((len(prediction), 3, len(targets.classes)), dtype=np.int64)
    for row, (mask, labels) in enumerate(zip(prediction.masks, targets.maps, strict=True)):
        key, kept = (prediction.classes, targets.classes), _KEPT.get(mask)
        if kept is None or kept[0][1:] != key or kept[0][0]() is not labels:
            confusion_CP = confusion_of(mask, labels, prediction.classes, targets.classes)
            known_CC = confusion_CP[:, : len(targets.classes)]
            counted = np.stack(
                [known_CC.diagonal(), known_CC.sum(axis=0), confusion_CP.sum(axis=1)]
            )
            kept = ((weakref.ref(labels), *key), counted)
            _KEPT[mask] = kept
        tallies[row] = kept[1]
    return tallies


def tally_statistics(prediction: Masks, targets: LabelMaps) -> Floats:
    """`(N, 3 C)` pixels: rightly called so, called so, truly so, of each class."""
    assert np.array_equal(prediction.ids, targets.ids), "prediction and targets differ in rows"
    tallies_N3C = class_tallies(prediction, targets)
    return tallies_N3C.reshape(len(prediction), 3 * len(targets.classes)).astype(np.float64)


def mean_ratios(parts_RC: Floats, wholes_RC: Floats) -> Floats:
    """`(R,)` means of part / whole over the classes whose whole is not 0; NaN without such."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios_RC = np.where(wholes_RC > 0, parts_RC / wholes_RC, 0.0)
        means_R: Floats = ratios_RC.sum(axis=1) / (wholes_RC > 0).sum(axis=1)
    return means_R


def confusion_of(
    mask: Mask, labels: Labels, classes: tuple[str, ...], true_classes: tuple[str, ...]
) -> Integers:
    """`(C, C + 1)` pixels of one row by true class and predicted class; the last: of no true class."""
    num_classes = len(true_classes)
    truth_HW = labels.read()
    assert mask.size == truth_HW.shape, (mask.size, truth_HW.shape)
    codes = np.zeros((num_classes + 1) ** 2, dtype=np.int64)
    said_HW = decided_of(mask, classes, true_classes)
    for top, bottom in mask.spans():
        code = (truth_HW[top:bottom].astype(np.int64) + 1) * (num_classes + 1)
        code += said_HW[top:bottom]
        codes += np.bincount(code.reshape(-1), minlength=len(codes))
    return codes.reshape(num_classes + 1, num_classes + 1)[1:]


def decided_of(
    mask: Mask, classes: tuple[str, ...], true_classes: tuple[str, ...]
) -> npt.NDArray[np.int16]:
    """`(H, W)` predicted classes, as positions among the true ones; C where they are none of these."""
    position = {name: index for index, name in enumerate(true_classes)}
    places = [position.get(name, len(true_classes)) for name in classes]
    said_HW = once_inside((_decided, mask), lambda: _decided([mask])[0])
    if places == list(range(len(places))):
        return said_HW
    return np.array(places, dtype=np.int16)[said_HW]


def decide_together(masks: Sequence[Mask]) -> None:
    """Have the most probable classes of an image's masks ready inside of `sharing`, of all band by band.

    Bands that several of them are made of are read and computed once.

    Args:
        masks: Of one size.
    """
    for mask, said_HW in zip(masks, _decided(masks), strict=True):
        put_inside((_decided, mask), said_HW)


def _decided(masks: Sequence[Mask]) -> list[npt.NDArray[np.int16]]:
    """`(H, W)` most probable classes of each, one at least."""
    said = [np.zeros(mask.size, dtype=np.int16) for mask in masks]
    widest = max(masks, key=lambda mask: mask.num_classes)
    for top, bottom in widest.spans():
        with sharing():
            for mask, said_HW in zip(masks, said, strict=True):
                said_HW[top:bottom] = mask.decided(top, bottom)
    return said
