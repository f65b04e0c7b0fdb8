# SPDX-License-Identifier: Apache-2.0
"""Pools of detectors for tests: seeded ones that look real, and drawn ones full of ties and empties."""

import numpy as np
from hypothesis import strategies as st

from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.ragged import offsets_of
from fusetune.predictions.stack import Stack

SIDE = 640.0


def box_pool(members=3, rows=40, classes=3, *, seed=0, noise=6.0, dtype=np.float64, objects=4):
    """Detectors that miss, shift and invent boxes, each its own way; and the truth."""
    random = np.random.default_rng(seed)
    ids = np.array([f"row{n}" for n in range(rows)])
    names = tuple(f"class{c}" for c in range(classes))
    counts_N = random.poisson(objects, size=rows)
    rows_G = np.repeat(np.arange(rows), counts_N)
    sides_G2 = random.uniform(20, 200, size=(len(rows_G), 2))
    corners_G2 = random.uniform(0, 1, size=sides_G2.shape) * (SIDE - sides_G2)
    truth_G4 = np.concatenate([corners_G2, corners_G2 + sides_G2], axis=1)
    labels_G = random.integers(classes, size=len(rows_G))
    parts = {}
    for m in range(members):
        seen = random.random(len(rows_G)) < 0.85
        quality = random.random(len(rows_G))
        shift_G4 = noise * (1.2 - quality[:, None]) * random.normal(size=truth_G4.shape)
        invented = int(rows * objects * 0.6)
        wrong_sides = random.uniform(20, 200, size=(invented, 2))
        wrong_at = random.uniform(0, 1, size=wrong_sides.shape) * (SIDE - wrong_sides)
        boxes_K4 = np.concatenate(
            [(truth_G4 + shift_G4)[seen], np.concatenate([wrong_at, wrong_at + wrong_sides], 1)]
        )
        boxes_K4 = np.concatenate(
            [
                np.minimum(boxes_K4[:, :2], boxes_K4[:, 2:] - 1),
                np.maximum(boxes_K4[:, 2:], boxes_K4[:, :2] + 1),
            ],
            axis=1,
        )
        sure_K = np.concatenate([0.3 + 0.6 * quality[seen], random.uniform(0, 0.7, invented)])
        power = random.uniform(0.5, 2)
        found = (
            boxes_K4.astype(dtype),
            (sure_K**power).astype(dtype),
            np.concatenate([labels_G[seen], random.integers(classes, size=invented)]),
        )
        rows_K = np.concatenate([rows_G[seen], random.integers(rows, size=invented)])
        parts[f"member{m}"] = Boxes.from_entries(ids, names, rows_K, found)
    truth = Objects(ids, names, offsets_of(counts_N), truth_G4, labels_G)
    return Stack.align(parts, classes=names), truth


def drawn_boxes(draw, most):
    """Up to so many boxes on a coarse grid, eighths as scores: equal ones and ties are common."""
    cell = st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 4)] * 2, st.integers(0, 8))
    cells = draw(st.lists(cell, max_size=most))
    boxes_K4 = np.array([[8 * x, 8 * y, 8 * (x + w), 8 * (y + h)] for x, y, w, h, _ in cells])
    return boxes_K4.reshape(-1, 4), np.array([score / 8 for *_, score in cells])


@st.composite
def box_pools(draw, members=(1, 4), rows=(1, 6), classes=(1, 3), most=5):
    """A stack and its truth; members may order the classes differently and not know some."""
    names = tuple("abc"[: draw(st.integers(*classes))])
    ids = np.array([f"row{n}" for n in range(draw(st.integers(*rows)))])
    dtype = draw(st.sampled_from([np.float32, np.float64]))

    def entries(num_classes):
        found = [drawn_boxes(draw, most) for _ in ids]
        boxes_K4 = np.concatenate([boxes for boxes, _ in found]).astype(dtype)
        scores_K = np.concatenate([scores for _, scores in found]).astype(dtype)
        label = st.integers(0, num_classes - 1)
        size = len(scores_K)
        labels_K = np.array(draw(st.lists(label, min_size=size, max_size=size)), dtype=np.int64)
        return offsets_of([len(scores) for _, scores in found]), boxes_K4, scores_K, labels_K

    parts = {}
    for m in range(draw(st.integers(*members))):
        own = tuple(draw(st.permutations(names)))[: draw(st.integers(1, len(names)))]
        offsets, boxes_K4, scores_K, labels_K = entries(len(own))
        parts[f"member{m}"] = Boxes(ids, own, offsets, boxes_K4, scores_K, labels_K)
    offsets, boxes_K4, scores_K, labels_K = entries(len(names))
    crowd_K = scores_K > 0.8
    truth = Objects(ids, names, offsets, boxes_K4, labels_K, crowd_K=crowd_K)
    return Stack.align(parts, classes=names), truth


def box_arrays(stack):
    """The arrays of a stack, to compare them later."""
    return [
        array.copy()
        for part in stack.parts
        for array in (part.offsets, part.boxes_K4, part.scores_K, part.labels_K)
    ]


def same_bits(one, other):
    """Whether two predictions are the same to the last bit."""
    names = ("ids", "offsets", "boxes_K4", "scores_K", "labels_K")
    return one.classes == other.classes and all(
        getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in names
    )


def as_sets(boxes, digits=5):
    """Row id → its boxes by class name, sorted: what does not depend on the order of ties."""
    found = {name: [] for name in boxes.ids.tolist()}
    lines = zip(boxes.rows_K, boxes.boxes_K4, boxes.scores_K, boxes.labels_K, strict=True)
    for row, box_4, score, label in lines:
        line = (boxes.classes[label], *np.round([*box_4, score], digits).tolist())
        found[boxes.ids[row]].append(line)
    return {name: sorted(lines) for name, lines in found.items()}
