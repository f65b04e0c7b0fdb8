# SPDX-License-Identifier: Apache-2.0
"""Segmenters from rows to a report: fine-tuned, fused, judged, saved and asked again."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from drawn_maps import NAMES, draw_maps
from fusetune.errors import RecipeError
from fusetune.predictions.segmentation.files import kept_masks
from fusetune.recipe import load_recipe
from support import fusetune

A = {"name": "a", "source": "mini_segmentation", "model": "resnet_fpn", "preprocess": {"size": 32}}
RECIPE = {
    "task": "semantic_segmentation",
    "data": {
        "source": "masks",
        "images": "images",
        "masks": "masks",
        "names": list(NAMES),
        "roles": {"validation": 6, "holdout": 9, "test": 9},
    },
    "members": [A, {**A, "name": "b", "model": "vgg_unet"}],
    "finetune": {"epochs": 12, "batch_size": 4, "optimizer": {"lr": 0.01}},
    "fuse": {"methods": ["mean", "weighted_mean"]},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of 40 by 60 pixels with a disc and a bar, in two folders."""
    draw_maps(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    "roles", [RECIPE["data"]["roles"], {"test": 9, "folds": 2}], ids=["holdout", "folds"]
)  # type: ignore[index]
def test_segmenters_are_fine_tuned_fused_and_asked_again(folder: Path, roles) -> None:
    recipe = {**RECIPE, "data": {**RECIPE["data"], "roles": roles}}  # type: ignore[dict-item]
    (folder / "maps.yaml").write_text(yaml.safe_dump(recipe))
    done = fusetune("run", folder / "maps.yaml", "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "run" / "results.json").read_text())
    assert results["task"] == "semantic_segmentation" and results["metric"] == "mean_iou"
    assert results["rows"]["test"] == 9 and results["classes"] == ["ground", "disc", "bar"]
    curves = results["learning_curves"].values()
    assert all(0 <= epoch["validation_mean_iou"] <= 1 for curve in curves for epoch in curve)
    scores = {one["name"]: one["scores"]["test"]["mean_iou"] for one in results["members"]}
    assert min(scores.values()) > 0.4
    page = (folder / "run" / "report.html").read_text()
    assert 'id="masks"' in page and page.count(': the image"') == 6
    assert all(len(one["interval"]) == 2 for one in results["per_class"])
    said = {
        name: kept_masks(folder / "run" / "predictions" / name / "test")
        for name in ("a", "b", "ensemble")
    }
    for name, masks in said.items():
        assert len(masks) == 9 and masks.classes == ("ground", "disc", "bar")
        assert {mask.size for mask in masks.masks} == {(40, 60) if name == "ensemble" else (8, 12)}
    again = fusetune("run", folder / "maps.yaml", "--out", folder / "run")
    assert again.returncode == 0 and "epoch 1/12" not in again.stdout + again.stderr
    assert json.loads((folder / "run" / "results.json").read_text()) == results
    _asked_again(folder, said["ensemble"])
    _fused_again(folder, results)


def _asked_again(folder: Path, expected) -> None:
    """The saved ensemble says of the test images what the run said."""
    new = folder / "new"
    for name in expected.ids.tolist():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / f"{name}.png").rename(new / f"{name}.png")
    done = fusetune("predict", folder / "run", new, "--out", folder / "said")
    assert done.returncode == 0, done.stderr
    said = kept_masks(folder / "said")
    assert [Path(name).stem for name in said.ids.tolist()] == [
        Path(name).stem for name in expected.ids.tolist()
    ]
    for one, other in zip(said.masks, expected.masks, strict=True):
        np.testing.assert_allclose(one.array(), other.array(), atol=2e-3)


def _fused_again(folder: Path, results) -> None:
    """What a run shows of its members is what `fuse` reads."""
    shown = folder / "run" / "predictions"
    test = folder / "test_masks"
    for name in kept_masks(shown / "a" / "test").ids.tolist():
        (test / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "masks" / f"{name}.png").rename(test / f"{name}.png")
    done = fusetune(
        "fuse",
        shown / "a" / "test",
        shown / "b" / "test",
        "--targets",
        test,
        "--classes",
        "ground,disc,bar",
        "--out",
        folder / "fused",
        "--method",
        "mean",
    )
    assert done.returncode == 0, done.stderr
    fused = json.loads((folder / "fused" / "results.json").read_text())
    scores = {one["name"]: one["scores"]["test"]["mean_iou"] for one in fused["members"]}
    for one in results["members"]:
        assert scores[one["name"]] == pytest.approx(one["scores"]["test"]["mean_iou"])


def test_soups_of_segmenters_are_refused(tmp_path: Path) -> None:
    soup = {"soup": "uniform_soup", "of": ["a", "b"]}
    assert load_recipe(RECIPE).task.name == "semantic_segmentation"
    with pytest.raises(RecipeError, match="is a soup, and task is 'semantic_segmentation'"):
        load_recipe({**RECIPE, "members": [A, {**A, "name": "b"}, soup]})
