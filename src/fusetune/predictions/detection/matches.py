# SPDX-License-Identifier: Apache-2.0
"""Detections beside true objects, matched as COCO does: at ten overlaps and four ranges of area.

A row's statistics are entries of five numbers, padded with zeros to the widest row:

* a detection: 1 + its class among the targets', score, rank in its row and class, and two bit
  fields: is it matched, and does it not count (bit 10 a + t for the range a and overlap t)?
* the objects of a class: minus that class, and their number in each of the four ranges.

Shapes: N rows, S statistics of a row, K detections, G objects, T overlaps, A ranges of area, C
classes, R weightings of the rows.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from fusetune.errors import PredictionError
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Floats
from fusetune.predictions.ragged import Offsets, offsets_of
from fusetune.predictions.threads import in_threads

__all__ = [
    "AREAS",
    "AREAS_A2",
    "LEVELS_Q",
    "OVERLAPS_T",
    "Area",
    "Summary",
    "best_cut",
    "class_values",
    "match_statistics",
    "matched_bits",
    "precision_curves",
    "summary_values",
]

OVERLAPS_T = np.linspace(0.5, 0.95, 10)
LEVELS_Q = np.linspace(0.0, 1.0, 101)
AREAS = {"all": 0, "small": 1, "medium": 2, "large": 3}
AREAS_A2 = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]], dtype=np.float64)
MOST = 100  # detections of a row and class that count
ENTRY = 5
WORK = 2**22  # entries of resamples for one thread: some hundredths of a second
RECENT = 2  # predictions whose statistics are kept: twelve metrics share one matching

Area = Literal["all", "small", "medium", "large"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Which of COCO's statistics.

    Args:
        recall: Mean recall of all detections, else the mean precision over 101 levels of recall.
        overlap: The one overlap that a match needs; None: the mean over 0.5, 0.55, ..., 0.95.
        area: Of which objects, by their area: below 32², up to 96², above.
        most: Detections of a row and class that count, by falling score; at most 100.
    """

    recall: bool = False
    overlap: float | None = None
    area: Area = "all"
    most: int = MOST

    @property
    def bits_T(self) -> Offsets:
        """The bits that count."""
        overlaps = [
            t
            for t, value in enumerate(OVERLAPS_T)
            if self.overlap is None or abs(value - self.overlap) < 1e-9
        ]
        return np.array([1 << (10 * AREAS[self.area] + t) for t in overlaps], dtype=np.int64)


def match_statistics(prediction: Boxes, targets: Objects) -> Floats:
    """`(N, S)` numbers per row, from which all twelve statistics follow; see the module.

    Detections of classes that the targets do not have cannot be judged, and are left out.
    """
    return _kept(prediction, targets)


@lru_cache(maxsize=RECENT)
def _kept(prediction: Boxes, targets: Objects) -> Floats:
    assert np.array_equal(prediction.ids, targets.ids), "prediction and targets differ in rows"
    kept_K, bits_K2, ranks_K = matched_bits(prediction, targets)
    position = {name: index for index, name in enumerate(targets.classes)}
    classes_C = np.array([position.get(name, -1) for name in prediction.classes] or [-1])
    found_K5 = np.stack(
        [
            1.0 + classes_C[prediction.labels_K[kept_K]],
            prediction.scores_K[kept_K].astype(np.float64),
            ranks_K,
            bits_K2[:, 0],
            bits_K2[:, 1],
        ],
        axis=1,
    )
    rows_K = prediction.rows_K[kept_K]
    objects_K5, owners_K = _object_counts(targets)
    statistics_NS = _padded(
        np.concatenate([rows_K, owners_K]), np.concatenate([found_K5, objects_K5]), len(targets)
    )
    statistics_NS.flags.writeable = False
    return statistics_NS


def matched_bits(prediction: Boxes, targets: Objects) -> tuple[Offsets, Offsets, Offsets]:
    """The detections that can count, and how each is matched.

    Returns:
        `(K,)` positions of up to 100 detections of each row and class that the targets have, by
        row, class and falling score; their `(K, 2)` bits; their `(K,)` ranks.
    """
    if prediction.boxes_K4.shape[1] != 4:
        raise PredictionError(
            f"the boxes have {prediction.boxes_K4.shape[1]} numbers",
            "four: left, top, right, bottom",
            "Segments and volumes can be fused, but are not judged.",
        )
    from fusetune.predictions.detection.numba_matches import match

    num_classes = len(targets.classes)
    position = {name: index for index, name in enumerate(targets.classes)}
    classes_C = np.array([position.get(name, -1) for name in prediction.classes] or [-1])
    labels_K = classes_C[prediction.labels_K]
    keys_K = prediction.rows_K * num_classes + labels_K
    order = np.lexsort((-prediction.scores_K, keys_K))
    order = order[labels_K[order] >= 0]
    keys_K = keys_K[order]
    ranks_K = np.arange(len(order)) - np.searchsorted(keys_K, keys_K)
    counts_K = ranks_K < MOST
    order, keys_K, ranks_K = order[counts_K], keys_K[counts_K], ranks_K[counts_K]
    keys_G = targets.rows_K * num_classes + targets.labels_K
    turn_G = np.argsort(keys_G, kind="stable")
    begin_K = np.searchsorted(keys_G[turn_G], keys_K)
    end_K = np.searchsorted(keys_G[turn_G], keys_K, side="right")
    assert targets.crowd_K is not None and targets.ignored_K is not None
    assert targets.areas_K is not None
    bits_K2 = match(
        (prediction.boxes_K4[order].astype(np.float64), begin_K, end_K),
        (
            targets.boxes_K4[turn_G],
            targets.crowd_K[turn_G],
            targets.ignored_K[turn_G],
            targets.areas_K[turn_G],
        ),
        OVERLAPS_T,
        AREAS_A2,
    )
    return order, bits_K2, ranks_K


def class_values(summary: Summary, statistics_NS: Floats, weights_RN: Floats) -> Floats:
    """`(R, C)` values of each class under R weightings of the rows; NaN where it has no objects."""
    from fusetune.predictions.detection.numba_matches import mean_precisions, mean_recalls

    weights_RN = np.ascontiguousarray(weights_RN, dtype=np.float64)
    found = _ranking(summary, statistics_NS, weights_RN)
    ranked, hits, outs = (found.rows_K, found.starts), found.hits, found.outs

    def some(part: slice) -> Floats:
        counts = (weights_RN[part], found.objects_RC[part])
        if summary.recall:
            return mean_recalls(ranked, hits, counts)
        return mean_precisions(ranked, (hits, outs), counts, LEVELS_Q)

    return np.concatenate(in_threads(some, _parts(len(weights_RN), len(found.rows_K))))


def precision_curves(summary: Summary, statistics_NS: Floats) -> Floats:
    """`(C, Q)` precision at 101 levels of recall, its mean over overlaps; NaN without objects.

    The best that a ranking of at least that recall reaches, and 0 where none does: the mean of a
    class's curve is its average precision (`class_values`).
    """
    found = _ranking(summary, statistics_NS, np.ones((1, len(statistics_NS))))
    objects_C = found.objects_RC[0]
    curves_CQ = np.where(objects_C[:, None] > 0, np.zeros(len(LEVELS_Q)), np.nan)
    for label in np.flatnonzero(objects_C > 0):
        start = found.starts[label]
        for t in range(len(summary.bits_T)):
            right, aside = (
                places[edges[t, label] : edges[t, label + 1]]
                for places, edges in (found.hits, found.outs)
            )
            counted = right - start + 1 - np.searchsorted(aside, right)
            best = np.maximum.accumulate((np.arange(1, len(right) + 1) / counted)[::-1])[::-1]
            reached = np.arange(1, len(right) + 1) / objects_C[label]
            first_Q = np.searchsorted(reached, LEVELS_Q)
            curves_CQ[label] += np.append(best, 0.0)[first_Q] / len(summary.bits_T)
    return curves_CQ


def best_cut(statistics_NS: Floats) -> float:
    """The least score to be shown: with the boxes from it on, F1 at an overlap of a half is highest.

    Over all classes together; infinity where no box is right.
    """
    _, entries_K5 = _entries(statistics_NS)
    objects = float(entries_K5[entries_K5[:, 0] < 0, 1].sum())
    found_K5 = entries_K5[entries_K5[:, 0] > 0]
    found_K5 = found_K5[np.argsort(-found_K5[:, 1], kind="stable")]
    right_K, aside_K = (found_K5[:, 3:].astype(np.int64) & 1).T > 0
    hits_K = np.cumsum(right_K & ~aside_K)
    if not len(hits_K) or not hits_K[-1]:
        return float("inf")
    score_K = 2 * hits_K / (np.cumsum(~aside_K) + objects)
    last_K = np.append(found_K5[1:, 1] < found_K5[:-1, 1], True)  # of equal scores all or none
    return float(found_K5[np.where(last_K, score_K, -1).argmax(), 1])


@dataclass(frozen=True, eq=False)
class _Ranking:
    """Detections of all rows by class and falling score, and what is right among them.

    Args:
        rows_K: `(K,)` the row of each detection.
        starts: `(C + 1,)` where each class begins.
        hits: Places of the right ones, overlap by overlap; see `_marked`.
        outs: Places of those that do not count.
        objects_RC: `(R, C)` weighted numbers of objects.
    """

    rows_K: Offsets
    starts: Offsets
    hits: tuple[Offsets, Offsets]
    outs: tuple[Offsets, Offsets]
    objects_RC: Floats


def _ranking(summary: Summary, statistics_NS: Floats, weights_RN: Floats) -> _Ranking:
    rows_K, entries_K5 = _entries(statistics_NS)
    detections, objects = entries_K5[:, 0] > 0, entries_K5[:, 0] < 0
    num_classes = int(np.abs(entries_K5[:, 0]).max(initial=0))
    objects_RC = np.zeros((len(weights_RN), num_classes))
    labels_G = (-entries_K5[objects, 0] - 1).astype(np.int64)
    numbers_G = entries_K5[objects, 1 + AREAS[summary.area]]
    for label in np.unique(labels_G):
        own_G = labels_G == label
        objects_RC[:, label] = weights_RN[:, rows_K[objects][own_G]] @ numbers_G[own_G]
    detections &= entries_K5[:, 2] < summary.most
    rows_K, entries_K5 = rows_K[detections], entries_K5[detections]
    order = np.lexsort((-entries_K5[:, 1], entries_K5[:, 0]))  # ties stay in the rows' order
    labels_K = entries_K5[order, 0].astype(np.int64) - 1
    starts = np.searchsorted(labels_K, np.arange(num_classes + 1)).astype(np.int64)
    hits_K, outs_K = entries_K5[order, 3:].astype(np.int64).T
    return _Ranking(
        rows_K[order],
        starts,
        _marked(hits_K & ~outs_K, summary.bits_T, starts),
        _marked(outs_K, summary.bits_T, starts),
        objects_RC,
    )


def _marked(bits_K: Offsets, bits_T: Offsets, starts: Offsets) -> tuple[Offsets, Offsets]:
    """Places of the detections with each bit, bit by bit; `(T, C + 1)` where each class's begin."""
    places = [np.flatnonzero(bits_K & bit) for bit in bits_T]
    ends = offsets_of(np.array([len(one) for one in places]))
    begins = [np.searchsorted(one, starts) + end for one, end in zip(places, ends, strict=False)]
    return np.concatenate(places), np.stack(begins).astype(np.int64)


def _parts(resamples: int, num_entries: int) -> list[slice]:
    """Resamples to be computed at a time: all, or where they take long a few for each thread."""
    step = max(1, min(resamples, WORK // max(1, num_entries)))
    return [slice(start, start + step) for start in range(0, max(1, resamples), step)]


def summary_values(summary: Summary, statistics_NS: Floats, weights_RN: Floats) -> Floats:
    """`(R,)` means of the classes that have objects; NaN where none has."""
    values_RC = class_values(summary, statistics_NS, weights_RN)
    known_RC = ~np.isnan(values_RC)
    with np.errstate(invalid="ignore"):
        means_R: Floats = np.where(known_RC, values_RC, 0).sum(axis=1) / known_RC.sum(axis=1)
    return means_R


def _object_counts(targets: Objects) -> tuple[Floats, Offsets]:
    """`(K, 5)` entries of the rows' classes, and the row of each."""
    assert targets.ignored_K is not None and targets.areas_K is not None
    counted = ~targets.ignored_K
    keys = (targets.rows_K * len(targets.classes) + targets.labels_K)[counted]
    areas_G = targets.areas_K[counted]
    unique, which = np.unique(keys, return_inverse=True)
    entries_K5 = np.zeros((len(unique), ENTRY))
    entries_K5[:, 0] = -1.0 - unique % max(1, len(targets.classes))
    for a, (low, high) in enumerate(AREAS_A2):
        inside_G = (areas_G >= low) & (areas_G <= high)
        entries_K5[:, 1 + a] = np.bincount(which, inside_G, minlength=len(unique))
    return entries_K5, unique // max(1, len(targets.classes))


def _padded(rows_K: Offsets, entries_K5: Floats, num_rows: int) -> Floats:
    counts_N = np.bincount(rows_K, minlength=num_rows)
    order = np.argsort(rows_K, kind="stable")
    ends_N = np.cumsum(counts_N)
    places_K = np.arange(len(order)) - np.repeat(ends_N - counts_N, counts_N)
    padded = np.zeros((num_rows, int(counts_N.max(initial=0)), ENTRY))
    padded[rows_K[order], places_K] = entries_K5[order]
    return padded.reshape(num_rows, padded.shape[1] * ENTRY)


def _entries(statistics_NS: Floats) -> tuple[Offsets, Floats]:
    padded = statistics_NS.reshape(len(statistics_NS), statistics_NS.shape[1] // ENTRY, ENTRY)
    rows_K, places_K = np.nonzero(padded[:, :, 0])
    return rows_K, padded[rows_K, places_K]
