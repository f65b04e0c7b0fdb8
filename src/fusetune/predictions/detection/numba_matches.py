# SPDX-License-Identifier: Apache-2.0
"""The loops of COCO's evaluation; see `matches.py`.

Shapes: K detections, G objects, T overlaps asked for, A ranges of area, N rows, C classes, R
weightings of the rows, Q levels of recall.
"""

import numpy as np

from fusetune.predictions.compiled import compiled
from fusetune.predictions.detection.objects import Flags
from fusetune.predictions.kinds import Floats
from fusetune.predictions.ragged import Offsets

__all__ = ["match", "mean_precisions", "mean_recalls", "nearest"]

EPS = float(np.spacing(1))
CERTAIN = 1 - 1e-10  # an overlap of 1 is asked for as this: sides are differences

NEAR = 1 + 1e-9  # products that are this near are looked at more closely
Found = tuple[Floats, Offsets, Offsets]
Truths = tuple[Floats, Flags, Flags, Floats]

Ranked = tuple[Offsets, Offsets]
Marked = tuple[Offsets, Offsets]


@compiled
def overlap(one_4: Floats, other_4: Floats, crowd: bool) -> float:
    """Intersection over union; over the first box's own area if the other is a crowd."""
    wide = min(one_4[2], other_4[2]) - max(one_4[0], other_4[0])
    high = min(one_4[3], other_4[3]) - max(one_4[1], other_4[1])
    if wide <= 0 or high <= 0:
        return 0.0
    both = wide * high
    if both <= 0:  # the product of tiny sides
        return 0.0
    whole = (one_4[2] - one_4[0]) * (one_4[3] - one_4[1])
    if not crowd:
        whole += (other_4[2] - other_4[0]) * (other_4[3] - other_4[1]) - both
    return float(both / whole)


@compiled
def match(found: Found, objects: Truths, overlaps_T: Floats, areas_A2: Floats) -> Offsets:
    """`(K, 2)` bits a * T + t: is the detection matched, and does it not count?

    Args:
        found: `(K, 4)` boxes, in groups of one row and class, by falling score; and `(K,)` where
            each one's objects begin and end.
        objects: `(G, 4)` boxes, `(G,)` crowds, `(G,)` ignored, `(G,)` areas.
        overlaps_T: Least overlaps of a match.
        areas_A2: Ends of the ranges of area, inclusive.
    """
    boxes_K4, begin_K, end_K = found
    others_G4, crowd_G, ignored_G, areas_G = objects
    bits_K2 = np.zeros((len(boxes_K4), 2), np.int64)
    first = 0
    while first < len(boxes_K4):
        begin, end = begin_K[first], end_K[first]
        last = first + 1
        while last < len(boxes_K4) and begin_K[last] == begin and end_K[last] == end:
            last += 1
        overlaps = np.zeros((last - first, end - begin))
        for k in range(first, last):
            for g in range(begin, end):
                overlaps[k - first, g - begin] = overlap(boxes_K4[k], others_G4[g], crowd_G[g])
        for a in range(len(areas_A2)):
            low, high = areas_A2[a, 0], areas_A2[a, 1]
            ignored = ignored_G[begin:end] | (areas_G[begin:end] < low)
            ignored |= areas_G[begin:end] > high
            for t in range(len(overlaps_T)):
                bit = np.int64(1) << (a * len(overlaps_T) + t)
                least = min(overlaps_T[t], CERTAIN)
                matches = _greedy(overlaps, crowd_G[begin:end], ignored, least)
                for k in range(first, last):
                    g = matches[k - first]
                    if g > -1:
                        bits_K2[k, 0] |= bit
                        if ignored[g]:
                            bits_K2[k, 1] |= bit
                        continue
                    wide = boxes_K4[k, 2] - boxes_K4[k, 0]
                    area = wide * (boxes_K4[k, 3] - boxes_K4[k, 1])
                    if area < low or area > high:
                        bits_K2[k, 1] |= bit
        first = last
    return bits_K2


@compiled
def _greedy(overlaps: Floats, crowds: Flags, ignored: Flags, least: float) -> Offsets:
    """The object that each detection takes, in their order, -1 for none.

    The one that overlaps most of those that count; only where there is none, of those that do not.
    A crowd can be taken again; of equal overlaps the later object is taken.
    """
    matches = np.full(len(overlaps), -1)
    taken = np.zeros(len(ignored), np.bool_)
    for k in range(len(overlaps)):
        for unwanted in (False, True):
            most = least
            for g in range(len(ignored)):
                if ignored[g] != unwanted or (taken[g] and not crowds[g]):
                    continue
                if overlaps[k, g] >= most:
                    most = overlaps[k, g]
                    matches[k] = g
            if matches[k] > -1:
                taken[matches[k]] = True
                break
    return matches


@compiled
def mean_precisions(
    ranked: Ranked, found: tuple[Marked, Marked], counts: tuple[Floats, Floats], levels_Q: Floats
) -> Floats:
    """`(R, C)` precision, its mean over overlaps and levels of recall; NaN without objects.

    Args:
        ranked: `(K,)` the row of each detection, by class and falling score; `(C + 1,)` where each
            class begins.
        found: The places of detections that are right, and of those that do not count, overlap by
            overlap; each with `(T, C + 1)` where an overlap's and class's places begin.
        counts: `(R, N)` weights of the rows; `(R, C)` weighted numbers of objects.
        levels_Q: Levels of recall, rising from 0.
    """
    rows_K, starts = ranked
    hits, outs = found
    weights_RN, objects_RC = counts
    means_RC = np.full(objects_RC.shape, np.nan)
    weights_K, seen_K = np.empty(len(rows_K)), np.empty(len(rows_K))
    num_overlaps = len(hits[1])
    for r in range(objects_RC.shape[0]):
        for c in range(objects_RC.shape[1]):
            if not objects_RC[r, c] > 0:
                continue
            seen = 0.0
            for k in range(starts[c], starts[c + 1]):
                weights_K[k] = weights_RN[r, rows_K[k]]
                seen += weights_K[k]
                seen_K[k] = seen
            summed = 0.0
            for t in range(num_overlaps):
                right = hits[0][hits[1][t, c] : hits[1][t, c + 1]]
                aside = outs[0][outs[1][t, c] : outs[1][t, c + 1]]
                summed += _precisions((right, aside), weights_K, seen_K, objects_RC[r, c], levels_Q)
            means_RC[r, c] = summed / (num_overlaps * len(levels_Q))
    return means_RC


@compiled
def _precisions(
    found: tuple[Offsets, Offsets],
    weights_K: Floats,
    seen_K: Floats,
    total: float,
    levels_Q: Floats,
) -> float:
    """Sum over the levels of the best precision of any ranking that reaches each.

    From the last right detection back to the first, so that the best of the longer rankings is
    known: precision is highest where a ranking ends with a right one. Quotients are taken only where
    a product says that precision may be above the best, or recall below the level.
    """
    hits, outs = found
    right = without = best = summed = 0.0
    for place in hits:
        right += weights_K[place]
    for place in outs:
        without += weights_K[place]
    level, out = 0, len(outs) - 1
    while level < len(levels_Q) and levels_Q[level] <= right / total:
        level += 1
    below = levels_Q[level - 1] * total * NEAR
    for index in range(len(hits) - 1, -1, -1):
        place = hits[index]
        while out >= 0 and outs[out] > place:
            without -= weights_K[outs[out]]
            out -= 1
        counted = seen_K[place] - without + EPS
        if right * NEAR >= best * counted:
            best = max(best, right / counted)
        right = max(0.0, right - weights_K[place])
        while right < below and levels_Q[level - 1] > right / total:
            summed += best
            level -= 1
            below = levels_Q[level - 1] * total * NEAR
    return summed + best * level


@compiled
def mean_recalls(ranked: Ranked, hits: Marked, counts: tuple[Floats, Floats]) -> Floats:
    """`(R, C)` recall of all detections, its mean over overlaps; see `mean_precisions`."""
    weights_RN, objects_RC = counts
    means_RC = np.full(objects_RC.shape, np.nan)
    for r in range(objects_RC.shape[0]):
        for c in range(objects_RC.shape[1]):
            if not objects_RC[r, c] > 0:
                continue
            right = 0.0
            for t in range(len(hits[1])):
                for place in hits[0][hits[1][t, c] : hits[1][t, c + 1]]:
                    right += weights_RN[r, ranked[0][place]]
            means_RC[r, c] = right / (objects_RC[r, c] * len(hits[1]))
    return means_RC


@compiled
def nearest(
    boxes_K4: Floats, begin_K: Offsets, end_K: Offsets, others_G4: Floats
) -> tuple[Offsets, Floats]:
    """`(K,)` the object that each box overlaps most among its own, and that overlap, 0 for none."""
    at_K, overlap_K = np.zeros(len(boxes_K4), np.int64), np.zeros(len(boxes_K4))
    for k in range(len(boxes_K4)):
        for g in range(begin_K[k], end_K[k]):
            found = overlap(boxes_K4[k], others_G4[g], False)
            if found > overlap_K[k]:
                at_K[k], overlap_K[k] = g, found
    return at_K, overlap_K
