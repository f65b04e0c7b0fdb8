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


def test_a_rate_from_a_test_is_shown(tmp_path: Path) -> None:
    member = "{source: mini, model: vgg, finetune: {optimizer: {lr: range_test}}}"
    results = run(tmp_path, f"members: [{member}]")
    (note,) = [note for note in results["members"][0]["notes"] if "range test" in note]
    history = json.loads(next(tmp_path.glob("run/steps/finetune-*/history.json")).read_text())
    found = history["range_test"]
    assert f"took {found['lr']:.2g} as the peak" in note
    assert len(found["rates"]) == len(found["losses"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert note in page and "Learning-rate range tests" in page


def test_snapshots_are_members(tmp_path: Path) -> None:
    members = """
members:
  - {source: mini, model: resnet, name: cycles, finetune: {snapshots: 2, epochs: 4}}
  - {source: mini, model: vgg}
  - {name: soup, soup: uniform_soup, of: [cycles-1, cycles-2]}
"""
    (tmp_path / "recipe.yaml").write_text(HEAD + members)
    before = [step.step for step in fusetune.plan(tmp_path / "recipe.yaml", tmp_path / "run")]
    assert before[1:5] == [
        "finetune-cycles",
        "predict-cycles-1",
        "predict-cycles-2",
        "finetune-mini-vgg",
    ]
    results = run(tmp_path, members)
    names = [member["name"] for member in results["members"]]
    assert names == ["cycles-1", "cycles-2", "mini-vgg", "soup"]
    assert [member["status"] for member in results["members"]] == ["ok"] * 4
    first, second = results["members"][:2]
    assert first["best_epoch"] <= 2 < second["best_epoch"]
    assert first["seconds"]["finetune"] == second["seconds"]["finetune"]
    assert first["scores"] != second["scores"]
    curves = results["learning_curves"]
    assert [epoch["epoch"] for epoch in curves["cycles-2"]] == [3, 4]
    assert len(list(tmp_path.glob("run/steps/finetune-cycles-*"))) == 1
    assert_ensemble_predicts_as_the_run_did(tmp_path)
    after = fusetune.plan(tmp_path / "recipe.yaml", tmp_path / "run")
    assert [(step.step, step.state) for step in after] == [(name, "done") for name in before]
    again = fusetune.plan(tmp_path / "run" / "recipe.yaml", tmp_path / "run")
    assert {step.state for step in again} == {"done"}


STUDENTS = """
members:
  - {source: mini, model: resnet, name: teacher, finetune: {epochs: 2}}
  - {source: mini, model: vgg, name: student, finetune: {distill: {teacher: teacher}}}
  - {source: mini, model: vgg, name: alone}
"""


def test_a_student_is_made_again_when_its_teacher_changes(tmp_path: Path) -> None:
    recipe, folder = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(HEAD + STUDENTS)
    before = [step.step for step in fusetune.plan(recipe, folder)]
    assert before[1:6] == [
        "finetune-teacher",
        "predict-teacher",
        "teach-student",
        "finetune-student",
        "predict-student",
    ]
    results = run(tmp_path, STUDENTS)
    assert [member["status"] for member in results["members"]] == ["ok"] * 3
    _, student, alone = results["members"]
    assert student["scores"] != alone["scores"]
    assert any("was taught by 'teacher', with weight 0.5" in note for note in student["notes"])
    (said,) = tmp_path.glob("run/steps/teach-student-*/outputs.npy")
    assert np.load(said).shape == (120, 10) and np.load(said).dtype == np.float32
    assert_ensemble_predicts_as_the_run_did(tmp_path)
    states = {step.step: step.state for step in fusetune.plan(folder / "recipe.yaml", folder)}
    assert list(states) == before and set(states.values()) == {"done"}
    recipe.write_text(HEAD + STUDENTS.replace("epochs: 2", "epochs: 1"))
    planned = {step.step: step for step in fusetune.plan(recipe, folder)}
    redone = {name for name, step in planned.items() if step.state != "done"}
    assert redone == {*before[1:6], "fuse", "ensemble"}
    assert "lesson" in planned["finetune-student"].why


def test_a_student_of_a_teacher_that_failed_fails_and_says_why(tmp_path: Path) -> None:
    teacher = "{source: mini, model: resnet, name: t, finetune: {optimizer: {lr: 1e30}}}"
    student = "{source: mini, model: vgg, name: s, finetune: {distill: {teacher: t}}}"
    results = run(tmp_path, f"members: [{teacher}, {student}, mini:vgg]")
    statuses = [member["status"] for member in results["members"]]
    assert statuses == ["failed", "failed", "ok"]
    assert "its teacher 't' failed; expected a teacher with weights" in str(
        results["members"][1]["error"]
    )
