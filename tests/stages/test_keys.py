# SPDX-License-Identifier: Apache-2.0
"""A change in what a step hangs on redoes it, also where the weights that it reads stay as they were."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import fusetune
from inline import made

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("here")]

DATA = {"source": "digits", "roles": {"train": 60, "validation": 30, "holdout": 60, "test": 60}}
NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, num_classes)

    def forward(self, images):
        return self.linear((images).flatten(1))
"""


def recipe_of(*members: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": "image_classification",
        "data": DATA,
        "finetune": {"epochs": 1, "augmentation": {"flip": False}},
        "members": list(members),
        "fuse": {"methods": ["mean"]},
    }


def loss_of(run: fusetune.Run, member: str) -> float:
    (found,) = (one for one in run.results["members"] if one["name"] == member)
    return float(found["scores"]["test"]["log_loss"])


def test_other_views_of_new_rows_are_predicted_anew(tmp_path: Path) -> None:
    vgg = {"source": "mini", "model": "vgg", "name": "vgg", "preprocess": {"size": 8}}
    before = fusetune.run(recipe_of(vgg), tmp_path / "run")
    flipped = recipe_of({**vgg, "preprocess": {"size": 8, "test_flip": True}})
    after = fusetune.run(flipped, tmp_path / "run")
    assert len(made("predict_member")) == 2
    assert loss_of(after, "vgg") != loss_of(before, "vgg")
    anew = fusetune.run(flipped, tmp_path / "anew")
    assert loss_of(after, "vgg") == loss_of(anew, "vgg")


def test_other_code_of_a_network_predicts_anew(tmp_path: Path) -> None:
    code, weights = tmp_path / "nets_of_keys.py", tmp_path / "net.safetensors"
    code.write_text(NET)
    rng = np.random.default_rng(0)
    shapes = {"linear.weight": (10, 192), "linear.bias": (10,)}
    save_file({name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}, weights)
    net = {
        "source": "module",
        "model": "nets_of_keys.Net",
        "import_from": str(tmp_path),
        "weights": str(weights),
        "classes": list("0123456789"),
        "preprocess": {"size": 8},
        "name": "net",
        "finetune": "none",
    }
    fusetune.run(recipe_of(net), tmp_path / "run")
    code.write_text(NET.replace("(images)", "(-images)"))
    fusetune.run(recipe_of(net), tmp_path / "run")
    assert len(made("predict_member")) == 2


def test_a_teacher_with_another_view_teaches_another_lesson(tmp_path: Path) -> None:
    vgg = {"source": "mini", "model": "vgg", "name": "vgg", "preprocess": {"size": 8}}
    student = {"source": "mini", "model": "resnet", "finetune": {"distill": {"teacher": "vgg"}}}
    fusetune.run(recipe_of(vgg, student), tmp_path / "run")
    vgg["preprocess"] = {"size": 8, "test_flip": True}
    fusetune.run(recipe_of(vgg, student), tmp_path / "run")
    assert len(made("teach")) == 2


def test_corrected_targets_are_scouted_anew(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    images = rng.integers(0, 120, (80, 8, 8, 3)) + 100 * labels[:, None, None, None]
    recipe = recipe_of() | {
        "data": {"source": "arrays", "path": str(tmp_path / "rows.npz")},
        "members": "scout",
        "scout": {"candidates": ["mini:*"]},
    }

    def scouted(labels: Any) -> dict[str, Any]:
        np.savez(tmp_path / "rows.npz", images=images.astype(np.uint8), labels=labels.astype(str))
        found = fusetune.scout_models(recipe, out=tmp_path / "run")
        return {line["name"]: line["scores"] for line in found.table["candidates"]}

    before = scouted(labels)
    labels[:2] = labels[1::-1].copy()  # one of each class: the same rows are looked at
    assert scouted(labels) != before


def test_the_estimate_of_a_candidates_fine_tuning_follows_its_settings(tmp_path: Path) -> None:
    recipe = recipe_of() | {"members": "scout", "scout": {"candidates": ["mini:vgg"]}}

    def estimated(epochs: int) -> float:
        changed = {**recipe, "finetune": {**recipe["finetune"], "epochs": epochs}}
        found = fusetune.scout_models(changed, out=tmp_path / "run")
        return float(found.table["candidates"][0]["finetune_seconds"])

    assert estimated(4) == pytest.approx(4 * estimated(1))
    assert len(made("view_rows")) == 1
