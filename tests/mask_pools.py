# SPDX-License-Identifier: Apache-2.0
"""Pools of masks for tests: drawn ones full of ties and zeros, and seeded ones that look real."""

import numpy as np
from hypothesis import strategies as st

from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.stack import Stack

NAMES = ("road", "sky", "tree", "car")


def whole(masks):
    """Row → its probabilities `(C, H, W)`."""
    return [mask.array() for mask in masks.masks]


def same_bits(one, other):
    return (
        one.classes == other.classes
        and np.array_equal(one.ids, other.ids)
        and all(a.tobytes() == b.tobytes() for a, b in zip(whole(one), whole(other), strict=True))
    )


def labels_of(masks):
    return [np.asarray(masks.classes)[array.argmax(axis=0)].tolist() for array in whole(masks)]


@st.composite
def mask_pools(draw, members=(1, 4), rows=(1, 4), classes=(2, 4), *, unknown=True):
    """A stack and targets: images of different sizes, quarters as probabilities, ignored pixels."""
    names = NAMES[: draw(st.integers(*classes))]
    num_rows = draw(st.integers(*rows))
    ids = np.array([f"image{n}" for n in range(num_rows)])
    sizes = [(draw(st.integers(1, 4)), draw(st.integers(1, 5))) for _ in range(num_rows)]
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    parts = {}
    for m in range(draw(st.integers(*members))):
        own = tuple(draw(st.permutations(names)))
        if unknown:
            own = own[: draw(st.integers(1, len(own)))]
        shares = np.full(len(own), 1 / len(own))
        arrays = [
            np.moveaxis(random.multinomial(4, shares, size=size), -1, 0).astype(np.float32) / 4
            for size in sizes
        ]
        parts[f"member{m}"] = Masks.from_arrays(ids, own, arrays)
    maps = [random.integers(-1, len(names), size=size) for size in sizes]
    maps[0][0, 0] = draw(st.integers(0, len(names) - 1))
    return Stack.align(parts, classes=names), LabelMaps.from_arrays(ids, names, maps)


def mask_pool(members=3, rows=6, size=(12, 16), classes=3, *, seed=0, noise=1.0):
    """A stack of members that err alone, each less sure than the one before, and its targets."""
    random = np.random.default_rng(seed)
    names, ids = NAMES[:classes], np.array([f"image{n}" for n in range(rows)])
    maps = []
    for _ in range(rows):
        corner = random.random((classes, 2, 1, 1)) * np.array(size).reshape(2, 1, 1)
        distances = np.hypot(*(corner - np.mgrid[: size[0], : size[1]]).swapaxes(0, 1))
        maps.append(distances.argmin(axis=0))
    parts = {}
    for m in range(members):
        arrays = []
        for truth in maps:
            logits = 2 * np.moveaxis(np.eye(classes)[truth], -1, 0)
            logits = logits + (noise + m / 2) * random.normal(size=logits.shape)
            exp = np.exp(logits - logits.max(axis=0))
            arrays.append((exp / exp.sum(axis=0)).astype(np.float32))
        parts[f"member{m}"] = Masks.from_arrays(ids, names, arrays)
    return Stack.align(parts, classes=names), LabelMaps.from_arrays(ids, names, maps)
