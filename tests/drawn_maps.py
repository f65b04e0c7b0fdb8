# SPDX-License-Identifier: Apache-2.0
"""Images with a disc and a bar, and their label maps, in files: what tests of segmenters share."""

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("ground", "disc", "bar")
SHAPE = (40, 60)  # height and width


def draw_maps(folder: Path, num: int = 40) -> None:
    """Write `images/part<0 or 1>/<number>.png` and `masks/` of the same names, the first line ignored."""
    lines, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for row in range(num):
        random = np.random.default_rng(row)
        labels = np.zeros(SHAPE, dtype=np.uint8)
        start = int(random.integers(4, SHAPE[1] - 10))
        labels[:, start : start + 6] = 2
        y, x = random.uniform(10, SHAPE[0] - 10), random.uniform(10, SHAPE[1] - 10)
        labels[(lines - y) ** 2 + (columns - x) ** 2 < 49] = 1
        values = np.array([120, 190, 50])[labels][..., None] + random.normal(0, 20, (*SHAPE, 3))
        labels[0] = 255
        for what, array in (("images", values.clip(0, 255).astype(np.uint8)), ("masks", labels)):
            path = folder / what / f"part{row % 2}" / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
