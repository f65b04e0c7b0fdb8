# SPDX-License-Identifier: Apache-2.0
"""Detectors from rows to a report: fine-tuned, fused, judged, saved and asked again."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fusetune.data.datasets.scenes import Scenes
from fusetune.errors import RecipeError
from fusetune.predictions.detection.detections import read_boxes
from fusetune.predictions.detection.objects import Objects
from fusetune.recipe import load_recipe
from support import fusetune

A = {"name": "a", "source": "mini_detection", "model": "resnet", "preprocess": {"size": 48}}
RECIPE = {
    "task": "object_detection",
    "data": {
        "source": "scenes",
        "num_images": 60,
        "size": 48,
        "roles": {"validation": 8, "holdout": 12, "test": 12},
    },
    "members": [
        A,
        {"name": "b", "source": "mini_detection", "model": "inception"},
    ],
    "finetune": {"epochs": 2, "batch_size": 8},
    "fuse": {"methods": ["nms", "weighted_boxes"]},
}


@pytest.mark.slow
def test_detectors_are_fine_tuned_fused_and_asked_again(tmp_path: Path) -> None:
    (tmp_path / "boxes.yaml").write_text(yaml.safe_dump(RECIPE))
    done = fusetune("run", tmp_path / "boxes.yaml", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["task"] == "object_detection" and results["metric"] == "coco_map"
    assert results["rows"] == {"train": 28, "validation": 8, "holdout": 12, "test": 12}
    page = (tmp_path / "run" / "report.html").read_text()
    for section in ("boxes", "precision_recall", "per_class"):
        assert f'id="{section}"' in page
    curve = results["learning_curves"]["a"]
    assert all(0 <= epoch["validation_coco_map"] <= 1 for epoch in curve)
    files = {
        name: read_boxes(tmp_path / "run" / "predictions" / name / "test.parquet")
        for name in ("a", "b", "ensemble")
    }
    for boxes in files.values():
        assert len(boxes) == 12 and not boxes.relative
        assert ((boxes.boxes_K4 >= 0) & (boxes.boxes_K4 <= 48)).all()
    assert files["a"].boxes_K4.max() > 2  # pixels, not shares
    again = fusetune("run", tmp_path / "boxes.yaml", "--out", tmp_path / "run")
    assert again.returncode == 0 and "epoch 1/2" not in again.stdout + again.stderr
    _asked_again(tmp_path, files)


def _asked_again(folder: Path, files) -> None:
    """The saved ensemble says of the test rows what the run said."""
    rows = Scenes(num_images=60, size=48).read_as(Objects)
    where = [rows.ids.tolist().index(name) for name in files["a"].ids.tolist()]
    pixels = np.stack([rows.images.pixels(row) for row in where])
    np.savez(folder / "new.npz", images=pixels)
    done = fusetune("predict", folder / "run", folder / "new.npz", "--out", folder / "new.parquet")
    assert done.returncode == 0, done.stderr
    said = read_boxes(folder / "new.parquet")
    expected = files["ensemble"]
    assert np.diff(said.offsets).tolist() == np.diff(expected.offsets).tolist()
    np.testing.assert_allclose(said.boxes_K4, expected.boxes_K4, atol=1e-3)
    np.testing.assert_allclose(said.scores_K, expected.scores_K, atol=1e-5)


@pytest.mark.slow
def test_a_detector_learns_letterboxed_images_and_finds_objects_in_their_pixels(
    tmp_path: Path,
) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(60):
        height, width = (40, 100) if number % 2 else (90, 60)
        pixels = random.integers(60, 90, (height, width, 3), dtype=np.uint8)
        high, wide = random.integers(12, 24, 2)
        top, left = random.integers(0, height - high), random.integers(0, width - wide)
        pixels[top : top + high, left : left + wide] = 240
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        shares = [(left + wide / 2) / width, (top + high / 2) / height, wide / width, high / height]
        line = " ".join(map(str, [0, *shares]))
        (tmp_path / "images" / f"{number}.txt").write_text(line)
    recipe = {
        "task": "object_detection",
        "data": {
            "source": "boxes",
            "images": str(tmp_path / "images"),
            "names": ["block"],
            "roles": {"validation": 8, "holdout": 12, "test": 16},
        },
        "members": [
            {"source": "mini_detection", "model": "resnet", "preprocess": {"letterbox": True}}
        ],
        "finetune": {"epochs": 30, "batch_size": 8, "optimizer": {"lr": 0.005}},
        "fuse": {"methods": ["nms"], "choose": "nms"},
        "metric": "coco_map50",
    }
    (tmp_path / "boxes.yaml").write_text(yaml.safe_dump(recipe))
    done = fusetune("run", tmp_path / "boxes.yaml", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["members"][0]["scores"]["test"]["coco_map50"] > 0.8
    found = read_boxes(tmp_path / "run" / "predictions" / "ensemble" / "test.parquet")
    files = [tmp_path / "images" / Path(name).name for name in found.ids.tolist()]
    files = [path if path.suffix else path.with_suffix(".png") for path in files]
    asked = fusetune("predict", tmp_path / "run", *files, "--out", tmp_path / "new.parquet")
    assert asked.returncode == 0, asked.stderr
    said = read_boxes(tmp_path / "new.parquet")
    np.testing.assert_allclose(said.boxes_K4, found.boxes_K4, atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"members": [A, {**A, "name": "c"}, {"soup": "uniform_soup", "of": ["a", "c"]}]},
            "is a soup, and task is 'object_detection'",
        ),
        (
            {"data": {"source": "scenes", "roles": {"folds": 3}}},
            "data.roles.folds is 3, and task is 'object_detection'",
        ),
    ],
)
def test_what_needs_an_average_of_boxes_is_refused(changes, message: str) -> None:
    assert load_recipe(RECIPE).task.name == "object_detection"
    with pytest.raises(RecipeError, match=message):
        load_recipe({**RECIPE, **changes})


@pytest.mark.slow
def test_a_classifier_among_detectors_is_refused_before_any_work(tmp_path: Path) -> None:
    recipe = {**RECIPE, "members": [{"source": "mini", "model": "vgg"}]}
    (tmp_path / "boxes.yaml").write_text(yaml.safe_dump(recipe))
    done = fusetune("run", tmp_path / "boxes.yaml", "--out", tmp_path / "run")
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert "'mini-vgg' gives logits" in " ".join(done.stderr.split())
