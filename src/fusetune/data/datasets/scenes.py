# SPDX-License-Identifier: Apache-2.0
"""Drawn scenes of shapes on textured ground, for object detection without files and network.

Shapes: N rows, K objects of all rows, H = W pixels.
"""

from dataclasses import dataclass

import numpy as np

from fusetune.data.dataset import Dataset, Rows
from fusetune.data.drawing import SHAPES, draw_scene
from fusetune.data.inputs import PixelImages
from fusetune.errors import DataError, InvalidValue
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.ragged import offsets_of
from fusetune.predictions.targets import GroundTruth

__all__ = ["Scenes"]

SMALLEST = 32


@dataclass(frozen=True, kw_only=True)
class Scenes(Dataset):
    """Square images of one to six shapes of five classes, some behind others, on textured ground.

    Shapes are turned, tinted like the ground to a varying degree, and as large as an eighth to two
    fifths of the image; noise lies over all. Small detectors learn them in minutes, and err.

    Args:
        num_images: Number of scenes.
        size: Side of the images in pixels, at least 32.
        scene_seed: Of the drawing; scene n is the same whatever their number.

    Raises:
        InvalidValue: No scene, a smaller side, or a negative seed.

    Example:
        >>> rows = Scenes(num_images=3, size=32).read_as(Objects)
        >>> rows.ids.tolist(), rows.classes
        (['scene-0000', 'scene-0001', 'scene-0002'], ('circle', 'cross', 'ring', 'square', 'triangle'))
    """

    num_images: int = 500
    size: int = 64
    scene_seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("num_images", 1), ("size", SMALLEST), ("scene_seed", 0)):
            if (value := getattr(self, name)) < least:
                raise InvalidValue(
                    f"data.{name} is {value}",
                    f"a whole number of at least {least}",
                    f"Write {name}: {max(least, getattr(Scenes, name))}.",
                )

    def read(self) -> Rows:
        """Refused: no scene has one class.

        Raises:
            DataError: Always.
        """
        raise DataError(
            "the source scenes gives objects and their boxes",
            "task: object_detection",
            "Change the task, or use the source digits.",
        )

    def read_as(self, truth: type[GroundTruth]) -> Rows:
        """All scenes with `Objects`; the same arguments give the same bytes."""
        if truth is not Objects:
            return super().read_as(truth)
        scenes = [draw_scene(self.size, self.scene_seed, row) for row in range(self.num_images)]
        ids = np.array([f"scene-{row:04d}" for row in range(self.num_images)])
        objects = Objects(
            ids,
            SHAPES,
            offsets_of(np.array([len(scene.labels) for scene in scenes])),
            np.concatenate([scene.boxes_K4 for scene in scenes]),
            np.concatenate([scene.labels for scene in scenes]),
            sizes_N2=np.full((self.num_images, 2), float(self.size)),
        )
        pixels = PixelImages(np.stack([scene.pixels for scene in scenes]))
        return Rows(ids, pixels, classes=SHAPES, truth=objects)
