# SPDX-License-Identifier: Apache-2.0
"""A kill in every phase of a short run; `scripts/kill_test.py --kills 50` does more on the demo."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from PIL import Image

from drawn_maps import NAMES, draw_maps
from fusetune.predictions.segmentation.writing import write_masks
from mask_pools import mask_pool


def script(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(
    short_recipe: Path, tmp_path: Path
) -> None:
    command = ["run", str(short_recipe)]
    script("kill_test").kill_and_compare(command, tmp_path, kills=6, seed=1)


DETECTION = {
    "task": "object_detection",
    "data": {
        "source": "scenes",
        "num_images": 60,
        "size": 32,
        "roles": {"validation": 8, "holdout": 16, "test": 16},
    },
    "members": [
        {"source": "mini_detection", "model": "resnet", "preprocess": {"size": 32}},
        {"source": "mini_detection", "model": "vgg", "preprocess": {"size": 32}},
    ],
    "finetune": {"epochs": 3, "batch_size": 8, "augmentation": {"flip": True}},
    "fuse": {"methods": ["nms", "weighted_boxes"]},
}


@pytest.mark.slow
def test_a_detection_run_killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    recipe = tmp_path / "boxes.yaml"
    recipe.write_text(yaml.safe_dump(DETECTION))
    script("kill_test").kill_and_compare(["run", str(recipe)], tmp_path, kills=4, seed=2)


SEGMENTATION = {
    "task": "semantic_segmentation",
    "data": {
        "source": "masks",
        "images": "images",
        "masks": "masks",
        "names": list(NAMES),
        "roles": {"folds": 2, "test": 9},
    },
    "members": [
        {"source": "mini_segmentation", "model": "resnet_fpn", "preprocess": {"size": 32}},
        {"source": "mini_segmentation", "model": "vgg_unet", "preprocess": {"size": 32}},
    ],
    "finetune": {"epochs": 3, "batch_size": 8, "augmentation": {"flip": True}},
    "fuse": {"methods": ["mean", "weighted_mean"]},
}


@pytest.mark.slow
def test_a_segmentation_run_killed_at_random_moments_ends_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    draw_maps(tmp_path, 32)
    recipe = tmp_path / "maps.yaml"
    recipe.write_text(yaml.safe_dump(SEGMENTATION))
    script("kill_test").kill_and_compare(["run", str(recipe)], tmp_path, kills=4, seed=4)


@pytest.mark.slow
def test_fusing_masks_that_is_killed_ends_with_the_same_bytes(tmp_path: Path) -> None:
    stack, truth = mask_pool(rows=16, size=(64, 96))
    for name, part in zip(stack.members, stack.parts, strict=True):
        write_masks(tmp_path / name, part)
    maps = tmp_path / "maps"
    maps.mkdir()
    for name, labels in zip(truth.ids.tolist(), truth.maps, strict=True):
        Image.fromarray(labels.read().astype(np.uint8)).save(maps / f"{name}.png")
    members = [str(tmp_path / name) for name in stack.members]
    methods = ["--method", "staple", "--method", "weighted_mean"]
    command = ["fuse", *members, "--targets", str(maps), "--classes", ",".join(truth.classes)]
    script("kill_test").kill_and_compare([*command, *methods], tmp_path, kills=4, seed=3)
