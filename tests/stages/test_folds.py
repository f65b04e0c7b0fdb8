# SPDX-License-Identifier: Apache-2.0
"""Members that hang together, with folds: fold by fold, so that nobody has seen the rows of a fold."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusetune
from fusetune.errors import RecipeError
from fusetune.pipeline import plan
from fusetune.predictions.files import read_probabilities
from fusetune.recipe import load_recipe
from inline import made

pytestmark = pytest.mark.usefixtures("here")

FOLDS = 2


def recipe_of(*members: dict[str, Any], **roles: Any) -> dict[str, Any]:
    return {
        "task": "image_classification",
        "data": {"source": "digits", "limit": 120, "roles": {"folds": FOLDS, "test": 60, **roles}},
        "finetune": {"epochs": 2, "augmentation": {"flip": False}},
        "members": [{"source": "mini", "preprocess": {"size": 8}, **member} for member in members],
        "fuse": {"methods": ["mean"]},
    }


TEACHER = {"model": "vgg", "name": "teacher"}
STUDENT = {"model": "resnet", "name": "student", "finetune": {"distill": {"teacher": "teacher"}}}
CYCLES = {"model": "vgg", "name": "net", "finetune": {"snapshots": 2}}


@pytest.mark.slow
@pytest.mark.parametrize("refit", [False, True])
def test_a_student_learns_in_each_fold_from_the_teacher_of_that_fold(
    tmp_path: Path, refit: bool
) -> None:
    recipe = recipe_of(TEACHER, STUDENT, refit=refit)
    run = fusetune.run(recipe, tmp_path / "run")
    parts = [*(f"fold{number + 1}" for number in range(FOLDS)), *(["refit"] if refit else [])]
    taught = {entry["folder"].name[:-13]: entry for entry in made("teach")}
    assert list(taught) == [f"teach-student-{part}" for part in parts]
    student = {entry["folder"].name[:-13]: entry for entry in made("finetune_member")}
    for part in parts:
        lesson = taught[f"teach-student-{part}"]
        assert lesson["weights"].parent.name[:-13] == f"finetune-teacher-{part}"
        assert lesson["data"] == student[f"finetune-student-{part}"]["data"]
        teacher = student[f"finetune-student-{part}"]["plan"].teacher
        assert teacher == lesson["folder"] / "outputs.npy"
    assert [member["status"] for member in run.results["members"]] == ["ok", "ok"]
    assert {one.state for one in plan(recipe, tmp_path / "run")} == {"done"}


@pytest.mark.slow
def test_snapshots_share_the_fine_tuning_of_each_fold(tmp_path: Path) -> None:
    recipe = recipe_of(CYCLES)
    before = [one.step for one in plan(recipe, tmp_path / "run")]
    run = fusetune.run(recipe, tmp_path / "run")
    begun = [entry["folder"].name[:-13] for entry in made("finetune_member")]
    assert begun == ["finetune-net-fold1", "finetune-net-fold2"]
    assert [name for name in before if name.startswith("finetune")] == begun
    assert [name for name in before if name.startswith(("predict", "join"))] == [
        "predict-net-1-fold1", "predict-net-1-fold2", "join-net-1",
        "predict-net-2-fold1", "predict-net-2-fold2", "join-net-2",
    ]  # fmt: skip
    assert {one.state for one in plan(recipe, tmp_path / "run")} == {"done"}
    predicted = {entry["folder"].name[:-13]: entry for entry in made("predict_member")}
    assert predicted["predict-net-2-fold1"]["made"].weights.name == "weights-2.safetensors"
    assert [member["best_epoch"] for member in run.results["members"]] == [[1, 1], [2, 2]]
    ensemble = fusetune.load(tmp_path / "run")
    images = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    stack = ensemble.predict_members(images)
    assert not np.allclose(*(part.probs_NC for part in stack.parts))
    for member in ("net-1", "net-2"):
        path = tmp_path / "run" / "predictions" / member / "holdout.parquet"
        assert len(read_probabilities(path).ids) == 120
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["rows"]["holdout"] == 120


@pytest.mark.slow
def test_a_teacher_that_fails_in_a_later_fold_stops_its_student_at_once(tmp_path: Path) -> None:
    broken = {**TEACHER, "finetune": {"optimizer": {"lr": 1e30}, "clip_norm": None}}
    run = fusetune.run(recipe_of({"model": "vgg"}, broken, STUDENT), tmp_path / "run")
    assert [member["status"] for member in run.results["members"]] == ["ok", "failed", "failed"]
    assert run.results["members"][2]["error"].startswith(
        "fold 1 of 2: its teacher 'teacher' failed"
    )


def test_snapshots_are_refused_where_one_model_is_fine_tuned_on_all_rows() -> None:
    with pytest.raises(RecipeError, match=r"'net' has finetune.snapshots, and .*refit is true"):
        load_recipe(recipe_of(CYCLES, refit=True))
