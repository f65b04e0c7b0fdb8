# SPDX-License-Identifier: Apache-2.0
"""Outlines of the classes in label maps, and which of their pixels lie near another map's.

A pixel is on the outline of its own class only, so that one map of labels holds all outlines. Outlines are few
pixels: looking around each, nearest places first, costs a hundredth of a distance transform for every class.

Shapes: H W pixels, K pixels on outlines, L labels.
"""

import numpy as np
import numpy.typing as npt

from fusetune.predictions.kinds import Array

__all__ = ["NOWHERE", "label_counts", "near_counts", "outlines_of"]

NOWHERE = -1
"""Label of what is on no outline."""

Integers = npt.NDArray[np.int64]


def outlines_of(labels_HW: Array, judged_HW: Array) -> Array:
    """`(H, W)` labels of the pixels beside a pixel of another label, of four; `NOWHERE` elsewhere.

    Args:
        labels_HW: Numbers of at least 0 where they are judged.
        judged_HW: Booleans; what is not judged is on no outline, and beside nothing. The image's edge makes
            no outline.

    Example:
        >>> labels = np.array([[0, 0, 1, 1]], dtype=np.int16)
        >>> outlines_of(labels, labels >= 0).tolist()
        [[-1, 0, 1, -1]]
    """
    outlines_HW = np.full_like(labels_HW, NOWHERE)
    for before, after in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differs = labels_HW[before] != labels_HW[after]
        differs &= judged_HW[before]
        differs &= judged_HW[after]
        for side in (before, after):
            np.copyto(outlines_HW[side], labels_HW[side], where=differs)
    return outlines_HW


def near_counts(outlines_HW: Array, others_HW: Array, near: float, num_labels: int) -> Integers:
    """`(L,)` pixels of each label's outline that lie within a distance of the same one's in another map.

    Args:
        outlines_HW: As `outlines_of` gives them.
        others_HW: Likewise.
        near: Largest distance that counts, at least 1.
        num_labels: L.

    Cost:
        Number of outline pixels, each times the pixels around it that are nearer than a match; without
        any, 3.1 near².
    """
    reach = int(near)
    around_HW = np.pad(others_HW, reach, constant_values=NOWHERE)
    width, flat = around_HW.shape[1], around_HW.reshape(-1)
    lines_K, columns_K = np.nonzero(outlines_HW != NOWHERE)
    labels_K = outlines_HW[lines_K, columns_K]
    counts_L = label_counts(labels_K, num_labels)
    side = reach + 1
    roughly_near = _blocks_around(others_HW, side, num_labels)
    hopeful_K = roughly_near[labels_K, lines_K // side, columns_K // side]
    places_K = ((lines_K + reach) * width + columns_K + reach)[hopeful_K]
    far_L = label_counts(labels_K[~hopeful_K], num_labels)
    labels_K = labels_K[hopeful_K]
    for step in _steps(near, width):
        missed_K = flat[places_K + step] != labels_K
        if not missed_K.all():
            places_K, labels_K = places_K[missed_K], labels_K[missed_K]
    return counts_L - far_L - label_counts(labels_K, num_labels)


def label_counts(labels_K: Array, num_labels: int) -> Integers:
    """`(L,)` how often each label occurs."""
    return np.bincount(labels_K, minlength=num_labels)


def _blocks_around(others_HW: Array, side: int, num_labels: int) -> Array:
    """`(L, H / side, W / side)` booleans: does a block or one beside it hold some of the outline?"""
    lines_K, columns_K = np.nonzero(others_HW != NOWHERE)
    shape = [-(-length // side) + 2 for length in others_HW.shape]
    held = np.zeros((num_labels, *shape), dtype=bool)
    held[others_HW[lines_K, columns_K], lines_K // side + 1, columns_K // side + 1] = True
    held = held[:, :-2] | held[:, 1:-1] | held[:, 2:]
    return held[:, :, :-2] | held[:, :, 1:-1] | held[:, :, 2:]


def _steps(near: float, width: int) -> list[int]:
    """Between the positions of pixels within a distance, line after line, the nearest first."""
    reach = int(near)
    away = np.arange(-reach, reach + 1)
    distances = np.hypot(away[:, None], away)
    steps = away[:, None] * width + away
    order = np.argsort(distances, axis=None, kind="stable")
    return steps.reshape(-1)[order][distances.reshape(-1)[order] <= near].tolist()
