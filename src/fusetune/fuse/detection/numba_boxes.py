# SPDX-License-Identifier: Apache-2.0
"""The loops of fusing boxes, over groups of boxes of one row and class by falling score.

Boxes have any number of axes: first the low ends of all, then the high ends.

Shapes: K boxes, G groups, L clusters, M members.
"""

import numpy as np

from fusetune.predictions.compiled import compiled
from fusetune.predictions.detection.objects import Flags
from fusetune.predictions.kinds import Floats
from fusetune.predictions.ragged import Offsets

__all__ = ["SUMS", "decayed", "kept_greedily", "main_boxes", "running_clusters"]

SUMS = 6  # of a cluster: scores, weights, boxes, best score, distinct members and their weights


@compiled
def _area(boxes_K4: Floats, k: int) -> float:
    """Product of the sides of a box, of as many axes as it has."""
    axes = boxes_K4.shape[1] // 2
    area = boxes_K4[k, axes] - boxes_K4[k, 0]
    for axis in range(1, axes):
        area *= boxes_K4[k, axes + axis] - boxes_K4[k, axis]
    return float(area)


@compiled
def _areas(boxes_K4: Floats) -> Floats:
    areas_K = np.empty(len(boxes_K4))
    for k in range(len(boxes_K4)):
        areas_K[k] = _area(boxes_K4, k)
    return areas_K


@compiled
def _overlap(
    boxes_K4: Floats, one: int, others_L4: Floats, other: int, areas: tuple[float, float]
) -> float:
    """Intersection over union of two boxes, whose areas are known."""
    axes = boxes_K4.shape[1] // 2
    both = 1.0
    for axis in range(axes):
        low = max(boxes_K4[one, axis], others_L4[other, axis])
        side = min(boxes_K4[one, axes + axis], others_L4[other, axes + axis]) - low
        if side <= 0:
            return 0.0
        both *= side
    return both / (areas[0] + areas[1] - both)


@compiled
def running_clusters(
    starts: Offsets,
    boxes_K4: Floats,
    of_K: tuple[Floats, Floats, Offsets],
    least_G: Floats,
    most: int,
) -> tuple[Offsets, Floats, Floats, Offsets]:
    """Each box joins the cluster whose mean box it overlaps most, if by more than asked for.

    Args:
        starts: `(G + 1,)` where each group begins.
        boxes_K4: `(K, 4)` boxes.
        of_K: Their scores times weights, weights, and members.
        least_G: `(G,)` overlaps that a box must exceed.
        most: Number of members M.

    Returns:
        Of L clusters: `(L,)` groups, `(L, 4)` mean boxes by score, `(L, 6)` sums (see `SUMS`); and
        `(K,)` the cluster of each box.

    Cost: Boxes times clusters within each group.
    """
    scores_K, weights_K, members_K = of_K
    groups_L, cluster_K = np.empty(len(boxes_K4), np.int64), np.empty(len(boxes_K4), np.int64)
    means_L4, totals_L4 = np.empty_like(boxes_K4), np.zeros_like(boxes_K4)
    sums_L6, seen_LM = np.zeros((len(boxes_K4), 6)), np.zeros((len(boxes_K4), most), np.bool_)
    areas_K, areas_L = _areas(boxes_K4), np.empty(len(boxes_K4))
    end = 0
    for g in range(len(starts) - 1):
        begin = end
        for k in range(starts[g], starts[g + 1]):
            best, most_overlap = -1, least_G[g]
            for one in range(begin, end):
                overlap = _overlap(boxes_K4, k, means_L4, one, (areas_K[k], areas_L[one]))
                if overlap > most_overlap:
                    best, most_overlap = one, overlap
            if best < 0:
                best = end
                end += 1
                groups_L[best] = g
                means_L4[best] = boxes_K4[k]
            _move(means_L4[best], totals_L4[best], boxes_K4[k], sums_L6[best, 0], scores_K[k])
            areas_L[best] = _area(means_L4, best)
            sums_L6[best, 0] += scores_K[k]
            sums_L6[best, 1] += weights_K[k]
            sums_L6[best, 2] += 1
            sums_L6[best, 3] = max(sums_L6[best, 3], scores_K[k])
            if not seen_LM[best, members_K[k]]:
                seen_LM[best, members_K[k]] = True
                sums_L6[best, 4] += 1
                sums_L6[best, 5] += weights_K[k]
            cluster_K[k] = best
    return groups_L[:end], means_L4[:end], sums_L6[:end], cluster_K


@compiled
def _move(mean_4: Floats, total_4: Floats, box_4: Floats, before: float, score: float) -> None:
    """Take a box into a running mean; a first one stays as it is, and a score of 0 moves nothing."""
    for side in range(len(box_4)):
        total_4[side] += score * box_4[side]
        if before > 0:
            mean_4[side] = total_4[side] / (before + score)


@compiled
def main_boxes(
    starts: Offsets, boxes_K4: Floats, scores_K: Floats, least: float
) -> tuple[Offsets, Floats]:
    """Clusters around the boxes that no better one overlaps, and their means by score and overlap.

    Returns:
        `(L,)` the main box of each cluster, and `(L, 4)` the means.
    """
    mains_L = np.empty(len(boxes_K4), np.int64)
    totals_L4 = np.zeros_like(boxes_K4)
    masses_L = np.zeros(len(boxes_K4))
    areas_K = _areas(boxes_K4)
    end = 0
    for g in range(len(starts) - 1):
        begin = end
        for k in range(starts[g], starts[g + 1]):
            best, most_overlap = -1, least
            for one in range(begin, end):
                main = mains_L[one]
                overlap = _overlap(boxes_K4, k, boxes_K4, main, (areas_K[k], areas_K[main]))
                if overlap > most_overlap:
                    best, most_overlap = one, overlap
            if best < 0:
                best, most_overlap = end, 1.0
                mains_L[end] = k
                end += 1
            mass = scores_K[k] * most_overlap
            masses_L[best] += mass
            for side in range(boxes_K4.shape[1]):
                totals_L4[best, side] += mass * boxes_K4[k, side]
    means_L4 = np.empty((end, boxes_K4.shape[1]))
    for one in range(end):
        for side in range(boxes_K4.shape[1]):
            means_L4[one, side] = boxes_K4[mains_L[one], side]
            if masses_L[one] > 0:
                means_L4[one, side] = totals_L4[one, side] / masses_L[one]
    return mains_L[:end], means_L4


@compiled
def kept_greedily(starts: Offsets, boxes_K4: Floats, most: float) -> Flags:
    """`(K,)` boxes that no better kept one overlaps by more than `most`."""
    kept_K = np.ones(len(boxes_K4), np.bool_)
    areas_K = _areas(boxes_K4)
    for g in range(len(starts) - 1):
        for k in range(starts[g], starts[g + 1]):
            if kept_K[k]:
                for other in range(k + 1, starts[g + 1]):
                    if (
                        kept_K[other]
                        and _overlap(boxes_K4, k, boxes_K4, other, (areas_K[k], areas_K[other]))
                        > most
                    ):
                        kept_K[other] = False
    return kept_K


@compiled
def decayed(
    starts: Offsets, boxes_K4: Floats, scores_K: Floats, most: float, sigma: float
) -> Floats:
    """`(K,)` scores, lowered for each better box that overlaps, the best remaining one in turn.

    Args:
        starts: `(G + 1,)` where each group begins.
        boxes_K4: `(K, 4)` boxes.
        scores_K: `(K,)` scores.
        most: With `sigma` 0: overlaps above it lower the score, by the factor 1 - overlap.
        sigma: Above 0: every overlap lowers it, by exp(-overlap² / sigma).
    """
    scores_K = scores_K.copy()
    areas_K = _areas(boxes_K4)
    waits_K = np.ones(len(boxes_K4), np.bool_)
    for g in range(len(starts) - 1):
        for _ in range(starts[g], starts[g + 1]):
            best = -1
            for k in range(starts[g], starts[g + 1]):
                if waits_K[k] and (best < 0 or scores_K[k] > scores_K[best]):
                    best = k
            waits_K[best] = False
            for k in range(starts[g], starts[g + 1]):
                if not waits_K[k]:
                    continue
                overlap = _overlap(boxes_K4, best, boxes_K4, k, (areas_K[best], areas_K[k]))
                if sigma > 0:
                    scores_K[k] *= np.exp(-overlap * overlap / sigma)
                elif overlap > most:
                    scores_K[k] *= 1 - overlap
    return scores_K
