# SPDX-License-Identifier: Apache-2.0
"""Scenes of shapes, drawn from a seed.

Shapes: K objects of a scene, H = W pixels.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusetune.predictions.kinds import Floats

__all__ = ["SHAPES", "Scene", "draw_scene"]

SHAPES = ("circle", "cross", "ring", "square", "triangle")
MOST = 6  # objects of a scene
SMALL, LARGE = 1 / 8, 2 / 5  # side of an object, as a share of the image's
VISIBLE = 0.5  # share of an object's own pixels that the ones in front of it have to leave
NOISE = 18.0  # standard deviation, of 255 levels
TRIES = 20

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn image.

    Args:
        pixels: `(H, W, 3)` uint8.
        boxes_K4: `(K, 4)` around what each object would show if nothing stood before it.
        labels: `(K,)` positions in `SHAPES`.
    """

    pixels: npt.NDArray[np.uint8]
    boxes_K4: Floats
    labels: npt.NDArray[np.int64]


def draw_scene(size: int, seed: int, number: int) -> Scene:
    """Scene `number` of a seed.

    Args:
        size: Side in pixels.
        seed: Of all scenes.
        number: Which one.
    """
    random = np.random.default_rng([seed, number])
    canvas = _ground(size, random)
    masks: list[Mask] = []
    boxes: list[list[float]] = []
    labels: list[int] = []
    for _ in range(int(random.integers(1, MOST + 1))):
        for _ in range(TRIES):
            label = int(random.integers(len(SHAPES)))
            mask = _shape(SHAPES[label], size, random)
            if all((old & ~mask).sum() >= VISIBLE * old.sum() for old in masks):
                break
        else:
            continue
        tint = canvas[mask].mean(axis=0) + random.choice([-1, 1]) * random.uniform(25, 90, 3)
        canvas = np.where(mask[..., None], tint + 0.3 * (canvas - canvas.mean()), canvas)
        masks = [old & ~mask for old in masks]
        masks.append(mask)
        labels.append(label)
        boxes.append(_box(mask))
    noisy = canvas + NOISE * random.standard_normal(canvas.shape)
    pixels = np.round(np.clip(noisy, 0, 255)).astype(np.uint8)
    return Scene(pixels, np.array(boxes), np.array(labels, dtype=np.int64))


def _ground(size: int, random: np.random.Generator) -> Floats:
    """`(H, W, 3)` two waves across each other and patches, in three tints."""
    ys, xs = np.mgrid[0:size, 0:size] / size
    ground = np.zeros((size, size, 3))
    for _ in range(3):
        angle, waves = random.uniform(0, np.pi), random.uniform(2, 12)
        phase = 2 * np.pi * (waves * (xs * np.cos(angle) + ys * np.sin(angle)) + random.random())
        ground += np.sin(phase)[..., None] * random.uniform(-25, 25, 3)
    patches = random.uniform(-30, 30, (6, 6, 3))
    cells = np.minimum((np.stack([ys, xs]) * 6).astype(int), 5)
    return ground + patches[cells[0], cells[1]] + random.uniform(70, 185, 3)


def _shape(name: str, size: int, random: np.random.Generator) -> Mask:
    """`(H, W)` True where a turned shape of random size and place is."""
    side = size * random.uniform(SMALL, LARGE)
    wide, high = side * random.uniform(0.75, 1.3), side
    x, y = random.uniform(side / 2, size - side / 2, 2)
    angle = random.uniform(-0.4, 0.4)
    ys, xs = np.mgrid[0:size, 0:size] + 0.5
    across = ((xs - x) * np.cos(angle) + (ys - y) * np.sin(angle)) / (wide / 2)
    down = (-(xs - x) * np.sin(angle) + (ys - y) * np.cos(angle)) / (high / 2)
    radius, most = np.hypot(across, down), np.maximum(np.abs(across), np.abs(down))
    masks = {
        "circle": radius <= 1,
        "ring": (radius <= 1) & (radius >= 0.55),
        "square": most <= 0.9,
        "cross": (most <= 1) & (np.minimum(np.abs(across), np.abs(down)) <= 0.3),
        "triangle": (np.abs(down) <= 1) & (np.abs(across) <= (down + 1) / 2),
    }
    return masks[name]


def _box(mask: Mask) -> list[float]:
    """Left, top, right and bottom around a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return [float(edge) for edge in edges]
