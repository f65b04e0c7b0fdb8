# SPDX-License-Identifier: Apache-2.0
"""An ONNX network as a member: predicted, fused, saved and asked again where its file is gone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fusetune.data.datasets.scenes import Scenes
from fusetune.predictions.detection.detections import read_boxes
from fusetune.predictions.detection.objects import Objects
from onnx_nets import says_always
from support import fusetune

BOXES = [[[0.5, 0.5, 0.4, 0.4], [0.3, 0.3, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2]]]
LOGITS = [[[1, 0, 9.0], [0, -1, -9], [-2, 1, -9]]]


def recipe(folder: Path, **member: Any) -> Path:
    """Of a network that always says the same, and a small detector."""
    names = Scenes(num_images=8).read_as(Objects).classes
    net = says_always(folder / "net.onnx", LOGITS, BOXES, shape=(1, 3, 48, 48))
    members = [
        {
            "name": "still",
            "source": "onnx",
            "model": "net",
            "weights": net.name,
            "decoder": "detr",
            "classes": [*names[:2], "zeppelin"],
            "finetune": "none",
            **member,
        },
        {"name": "b", "source": "mini_detection", "model": "vgg", "preprocess": {"size": 48}},
    ]
    content = {
        "task": "object_detection",
        "data": {
            "source": "scenes",
            "num_images": 40,
            "size": 48,
            "roles": {"validation": 6, "holdout": 10, "test": 10},
        },
        "members": members,
        "finetune": {"epochs": 1, "batch_size": 8},
        "fuse": {"methods": ["nms", "weighted_boxes"]},
        "parallel": "auto",
    }
    (folder / "net.yaml").write_text(yaml.safe_dump(content))
    return folder / "net.yaml"


@pytest.mark.slow
def test_a_network_is_fused_and_asked_again_without_its_file(tmp_path: Path) -> None:
    done = fusetune("run", recipe(tmp_path), "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [member["status"] for member in results["members"]] == ["ok", "ok"]
    names = Scenes(num_images=8).read_as(Objects).classes
    still = read_boxes(tmp_path / "run" / "predictions" / "still" / "test.parquet")
    assert still.classes == names[:2] and np.diff(still.offsets).tolist() == [6] * 10
    best = still.boxes_K4[0]
    np.testing.assert_allclose(best, [0.3 * 48, 0.3 * 48, 0.7 * 48, 0.7 * 48], rtol=1e-5)
    (tmp_path / "net.onnx").unlink()
    rows = Scenes(num_images=40, size=48).read_as(Objects)
    where = [rows.ids.tolist().index(name) for name in still.ids.tolist()]
    pixels = np.stack([rows.images.pixels(row) for row in where])
    np.savez(tmp_path / "new.npz", images=pixels)
    asked = fusetune(
        "predict", tmp_path / "run", tmp_path / "new.npz", "--out", tmp_path / "new.parquet"
    )
    assert asked.returncode == 0, asked.stderr
    ensemble = read_boxes(tmp_path / "run" / "predictions" / "ensemble" / "test.parquet")
    said = read_boxes(tmp_path / "new.parquet")
    np.testing.assert_allclose(said.boxes_K4, ensemble.boxes_K4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("member", "message"),
    [
        ({"finetune": {"epochs": 1}}, "is an ONNX network, and it is to be fine-tuned"),
        ({"decoder": "yolo"}, "which the decoder yolo does not know"),
        ({"classes": ["a", "b", "c"]}, "knows none of the task's classes"),
    ],
)
def test_what_cannot_work_is_said_before_any_work(
    tmp_path: Path, member: dict[str, Any], message: str
) -> None:
    done = fusetune("run", recipe(tmp_path, **member), "--out", tmp_path / "run")
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert message in " ".join(done.stderr.split())
