# SPDX-License-Identifier: Apache-2.0
"""Members from folders in the hub's layout, through a whole run and away from those folders."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("transformers")
import timm
from timm.models import save_for_hf
from transformers import AutoModelForImageClassification, ResNetConfig, ViTImageProcessor

import fusetune as library
from support import fusetune

pytestmark = pytest.mark.slow

RECIPE = """
task: image_classification
data: {source: digits, limit: 160, roles: {validation: 30, holdout: 50, test: 60}}
finetune: {epochs: 1, batch_size: 32}
members:
  - {source: timm, model: test_resnet, weights: models/timm}
  - {source: transformers, model: small-resnet, weights: models/transformers}
fuse: {methods: [mean], choose: mean}
"""


def test_a_run_and_its_ensemble(tmp_path: Path) -> None:
    torch.manual_seed(0)
    models = tmp_path / "models"
    save_for_hf(
        timm.create_model("test_resnet", num_classes=7),
        models / "timm",
        safe_serialization=True,
        data_config={"input_size": (3, 32, 32), "crop_pct": 1.0},
    )
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=7
    )
    AutoModelForImageClassification.from_config(config).save_pretrained(models / "transformers")
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(models / "transformers")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    done = fusetune("run", tmp_path / "recipe.yaml", "--out", tmp_path / "run", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [(m["name"], m["status"]) for m in results["members"]] == [
        ("timm-test_resnet", "ok"),
        ("transformers-small-resnet", "ok"),
    ]
    assert "timm" in results["environment"]["packages"]
    assert "transformers" in results["environment"]["packages"]
    again = fusetune("run", tmp_path / "recipe.yaml", "--out", tmp_path / "run", "--json")
    assert again.returncode == 0, again.stderr
    shutil.rmtree(models)
    pixels = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), dtype=np.uint8)
    probs_NC = library.load(tmp_path / "run").predict(pixels).probs_NC
    assert probs_NC.shape == (4, 10)
    assert np.ptp(probs_NC, axis=0).max() > 1e-4
