# SPDX-License-Identifier: Apache-2.0
"""Whole runs of members that are fine-tuned in special ways: each predicts like any other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import fusetune
from fusetune.data.datasets.digits import Digits
from fusetune.errors import UsageError

pytestmark = pytest.mark.slow

HEAD = """
task: image_classification
data: {source: digits, noise: 0.2, roles: {train: 120, validation: 40, holdout: 120, test: 300}}
finetune: {epochs: 3, batch_size: 32, augmentation: {flip: false}}
fuse: {methods: [mean], choose: mean}
"""


def run(folder: Path, members: str) -> dict[str, Any]:
    """Results of a run in `folder/run`."""
    (folder / "recipe.yaml").write_text(HEAD + members)
    fusetune.run(folder / "recipe.yaml", out=folder / "run")
    return dict(json.loads((folder / "run" / "results.json").read_text()))


def assert_ensemble_predicts_as_the_run_did(folder: Path) -> None:
    rows = Digits(noise=0.2).read()
    published = pq.read_table(folder / "run/predictions/ensemble/test.parquet").to_pydict()
    position = {name: row for row, name in enumerate(rows.ids.tolist())}
    pixels = np.stack([rows.images.pixels(position[name]) for name in published["id"]])
    expected_NC = np.stack([published[str(c)] for c in range(10)], axis=1)
    found = fusetune.load(folder / "run").predict(pixels)
    np.testing.assert_allclose(found.probs_NC, expected_NC, atol=1e-5)


def test_members_with_adapters(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    results = run(
        tmp_path,
        """
members:
  - {source: mini, model: resnet, finetune: {train: lora, lora: {rank: 2}}}
  - {source: mini, model: vgg, finetune: {train: lora, ema: 0.9}}
  - {source: mini, model: vgg, name: all}
""",
    )
    resnet, vgg, whole = results["members"]
    assert [member["status"] for member in results["members"]] == ["ok"] * 3
    assert 0 < resnet["trained_parameters"] < resnet["parameters"] / 4
    assert vgg["parameters"] == whole["parameters"] == whole["trained_parameters"]
    assert any("low-rank adapters on" in note for note in resnet["notes"])
    assert_ensemble_predicts_as_the_run_did(tmp_path)


def test_targets_that_are_not_there_are_said_before_any_work(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    lora = "{train: lora, lora: {targets: [query]}}"
    with pytest.raises(UsageError, match="no layer is called 'query'"):
        run(tmp_path, f"members: [{{source: mini, model: vgg, finetune: {lora}}}]")
    assert not (tmp_path / "run").exists()
