# SPDX-License-Identifier: Apache-2.0
"""The loops of COCO's evaluation; see `matches.py`.

Shapes: K detections, G objects, T overlaps asked for, A ranges of area, N rows, C classes, R
weightings of the rows, Q levels of recall.
"""

import numpy as np

from fusetune.predictions.compiled import compiled
from fusetune.predictions.kinds import Floats
from fusetune.predictions.objects import Flags
from fusetune.predictions.ragged import Offsets

__all__ = ["match", "mean_precisions", "mean_recalls", "nearest"]

EPS = float(np.spacing(1))
CERTAIN = 1 - 1e-10  # an overlap of 1 is asked for as this: sides are differences

Found = tuple[Floats, Offsets, Offsets]
Truths = tuple[Floats, Flags, Flags, Floats]


@compiled
def overlap(one_4: Floats, other_4: Floats, crowd: bool) -> float:
    """Intersection over union; over the first box's own area if the other is a crowd."""
    wide = min(one_4[2], other_4[2]) - max(one_4[0], other_4[0])
    high = min(one_4[3], other_4[3]) - max(one_4[1], other_4[1])
    if wide <= 0 or high <= 0:
        return 0.0
    both = wide * high
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
    ranked: tuple[Offsets, Offsets],
    bits_T: Offsets,
    counts: tuple[Floats, Floats],
    levels_Q: Floats,
) -> Floats:
    """`(R, C)` precision, its mean over overlaps and levels of recall; NaN without objects.

    Args:
        ranked: `(K, 3)` row and the two bit fields of each detection, by class and falling score;
            `(C + 1,)` where each class begins.
        bits_T: The bits of the overlaps that count, all of one range of areas.
        counts: `(R, N)` weights of the rows; `(R, C)` weighted numbers of objects.
        levels_Q: Levels of recall, rising from 0.
    """
    entries_K3, starts = ranked
    weights_RN, objects_RC = counts
    means_RC = np.full(objects_RC.shape, np.nan)
    for r in range(objects_RC.shape[0]):
        for c in range(objects_RC.shape[1]):
            if objects_RC[r, c] > 0:
                own_K3 = entries_K3[starts[c] : starts[c + 1]]
                summed = _precisions(own_K3, bits_T, weights_RN[r], objects_RC[r, c], levels_Q)
                means_RC[r, c] = summed / (len(bits_T) * len(levels_Q))
    return means_RC


@compiled
def _precisions(
    entries_K3: Offsets, bits_T: Offsets, weights_N: Floats, total: float, levels_Q: Floats
) -> float:
    """Sum over overlaps and levels of the best precision of any ranking that reaches each.

    From the last detection back to the first, so that the best of the longer rankings is known.
    Precision is highest where a ranking ends with a match, so only there it is computed.
    """
    seen, any_bit = 0.0, np.int64(0)
    right_T, without_T = np.zeros(len(bits_T)), np.zeros(len(bits_T))
    for bit in bits_T:
        any_bit |= bit
    for k in range(len(entries_K3)):
        weight = weights_N[entries_K3[k, 0]]
        seen += weight
        if (entries_K3[k, 1] | entries_K3[k, 2]) & any_bit:
            for t in range(len(bits_T)):
                if entries_K3[k, 2] & bits_T[t]:
                    without_T[t] += weight
                elif entries_K3[k, 1] & bits_T[t]:
                    right_T[t] += weight
    level_T = np.zeros(len(bits_T), np.int64)
    for t in range(len(bits_T)):
        while level_T[t] < len(levels_Q) and levels_Q[level_T[t]] <= right_T[t] / total:
            level_T[t] += 1
    best_T, summed = np.zeros(len(bits_T)), 0.0
    for k in range(len(entries_K3) - 1, -1, -1):
        weight = weights_N[entries_K3[k, 0]]
        if weight > 0.0 and (entries_K3[k, 1] | entries_K3[k, 2]) & any_bit:
            for t in range(len(bits_T)):
                if entries_K3[k, 2] & bits_T[t]:
                    without_T[t] -= weight
                elif entries_K3[k, 1] & bits_T[t]:
                    precision = right_T[t] / (seen - without_T[t] + EPS)
                    best_T[t] = max(best_T[t], precision)
                    right_T[t] = max(0.0, right_T[t] - weight)
                    while level_T[t] > 0 and levels_Q[level_T[t] - 1] > right_T[t] / total:
                        summed += best_T[t]
                        level_T[t] -= 1
        seen -= weight
    return summed + float((best_T * level_T).sum())


@compiled
def mean_recalls(
    ranked: tuple[Offsets, Offsets], bits_T: Offsets, counts: tuple[Floats, Floats]
) -> Floats:
    """`(R, C)` recall of all detections, its mean over overlaps; see `mean_precisions`."""
    entries_K3, starts = ranked
    weights_RN, objects_RC = counts
    means_RC = np.full(objects_RC.shape, np.nan)
    for r in range(objects_RC.shape[0]):
        for c in range(objects_RC.shape[1]):
            if not objects_RC[r, c] > 0:
                continue
            summed = 0.0
            for bit in bits_T:
                for k in range(starts[c], starts[c + 1]):
                    if entries_K3[k, 1] & bit and not entries_K3[k, 2] & bit:
                        summed += weights_RN[r, entries_K3[k, 0]]
            means_RC[r, c] = summed / (objects_RC[r, c] * len(bits_T))
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
