# SPDX-License-Identifier: Apache-2.0
"""A whole run with the options of fine-tuning that are off by default."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import fusetune
from fusetune.data.datasets.digits import Digits

pytestmark = pytest.mark.slow

RECIPE = """
task: image_classification
data: {source: digits, noise: 0.2, roles: {train: 120, validation: 40, holdout: 120, test: 300}}
finetune: {epochs: 4, batch_size: 32, augmentation: {flip: false}, schedule: {name: one_cycle}}
members:
  - source: mini
    model: resnet
    preprocess: {test_flip: true, test_shift: 1}
    finetune: {train: gradual, head_epochs: 2, layer_decay: 0.8, ema: 0.9, stop_by: accuracy}
  - source: mini
    model: vgg
    preprocess: {test_flip: true}
    finetune: {train: head_then_full, head_epochs: 1, swa: 0.5, class_weights: balanced, sampling: balanced}
fuse: {methods: [mean], choose: mean}
"""


def test_a_run_with_them_predicts_new_rows_as_it_predicted_its_own(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    fusetune.run(tmp_path / "recipe.yaml", out=tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [member["status"] for member in results["members"]] == ["ok", "ok"]
    rows = Digits(noise=0.2).read()
    published = pq.read_table(tmp_path / "run/predictions/ensemble/test.parquet").to_pydict()
    position = {name: row for row, name in enumerate(rows.ids.tolist())}
    pixels = np.stack([rows.images.pixels(position[name]) for name in published["id"]])
    expected_NC = np.stack([published[str(c)] for c in range(10)], axis=1)
    ensemble = fusetune.load(tmp_path / "run")
    np.testing.assert_allclose(ensemble.predict(pixels).probs_NC, expected_NC, atol=1e-5)
    mirrored = np.ascontiguousarray(pixels[:, :, ::-1])
    np.testing.assert_allclose(ensemble.predict(mirrored).probs_NC, expected_NC, atol=1e-5)
