# SPDX-License-Identifier: Apache-2.0
"""Features are computed once per checkpoint and rows, by whichever step comes first."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import fusetune as package
from fusetune.pipeline import plan
from fusetune.runtime.runner import Event
from inline import Here, Killed, made

pytestmark = pytest.mark.usefixtures("here")

RECIPE = """
task: image_classification
data: {source: digits, roles: {train: 60, validation: 30, holdout: 60, test: 60}}
finetune:
  epochs: 2
  train: head
  batch_size: 16
  optimizer: {lr: 1e-2}
  augmentation: {flip: false}
members:
  - mini:vgg
  - {source: mini, model: vgg, name: smooth, finetune: {label_smoothing: 0.1, optimizer: {lr: 3e-3}}}
  - {source: mini, model: vgg, name: later, finetune: {train: head_then_full, head_epochs: 1}}
  - {source: mini, model: vgg, name: larger, preprocess: {size: 20}}
  - {source: mini, model: vgg, name: flipped, finetune: {augmentation: {flip: true}}}
  - {source: mini, model: vgg, name: random, weights: none}
  - {source: mini, model: vgg, name: solved, finetune: {train: probe, augmentation: {flip: true}}}
fuse: {methods: [mean]}
"""


def recipe_of(*members: str, **changes: Any) -> dict[str, Any]:
    content = yaml.safe_load(RECIPE)
    named = {
        entry if isinstance(entry, str) else entry["name"]: entry for entry in content["members"]
    }
    return {**content, "members": [named[name] for name in members], **changes}


def files(folder: Path) -> dict[str, bytes]:
    """Everything that a run makes but the timings."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".npy", ".safetensors", ".parquet")
    }


@pytest.mark.slow
def test_members_of_one_checkpoint_share_its_features(tmp_path: Path) -> None:
    out = tmp_path / "run"
    names = ("mini:vgg", "smooth", "later", "larger", "flipped", "random", "solved")
    package.run(recipe_of(*names), out)
    names = sorted(path.name[:-13] for path in out.glob("steps/features-*"))
    assert [name.rpartition("-")[2] for name in names] == ["fitted", "judged"] * 2
    assert len(made("feature_rows")) == 4  # of two checkpoints, by what they see
    read = {entry["folder"].name[9:-13]: entry.get("features") for entry in made("finetune_member")}
    assert read["mini-vgg"] == read["smooth"] == read["later"] == read["solved"]
    assert read["larger"] != read["solved"]
    assert read["flipped"] is read["random"] is None
    predicted = {e["folder"].name[8:-13]: e["made"].features for e in made("predict_member")}
    assert len(predicted["mini-vgg"]) == len(predicted["smooth"]) == 2
    assert predicted["solved"] == predicted["smooth"]
    assert predicted["later"] == predicted["flipped"] == predicted["random"] == ()

    Here.calls.clear()
    package.run(recipe_of("smooth", "mini:vgg"), out)
    assert not made("feature_rows") and not made("finetune_member")
    changed = recipe_of("smooth")
    changed["members"][0]["finetune"]["optimizer"]["lr"] = 2e-3
    package.run(changed, out)
    assert not made("feature_rows")
    assert len(made("finetune_member")) == 1


@pytest.mark.slow
def test_other_rows_weights_or_sizes_have_other_features(tmp_path: Path) -> None:
    def steps(content: dict[str, Any], seed: int = 0) -> set[str]:
        planned = plan(content, tmp_path / "run", seed=seed)
        names = [one.step for one in planned if one.step.startswith("features-")]
        assert len(names) == len(set(names))
        return set(names)

    package.run(recipe_of("mini:vgg"), tmp_path / "run")
    done = {one.step: one.state for one in plan(recipe_of("mini:vgg"), tmp_path / "run")}
    assert set(done.values()) == {"done"}
    assert len(steps(recipe_of("mini:vgg", "smooth", "later"))) == 2
    assert len(steps(recipe_of("mini:vgg", "larger"))) == 4
    assert steps(recipe_of("flipped", "random")) == set()
    (redone,) = {
        (one.state, one.why)
        for one in plan(recipe_of("mini:vgg"), tmp_path / "run", seed=1)
        if one.step.startswith("features-")
    }
    assert redone[0] == "redo" and "rows" in redone[1]


@pytest.mark.slow
def test_a_run_in_the_folder_of_scout_models_reads_its_views(tmp_path: Path) -> None:
    content = recipe_of("mini:vgg", "smooth")
    candidates = content.pop("members")
    content |= {"members": "scout", "scout": {"candidates": candidates, "rows": 40}}
    proposed = package.scout_models(content, out=tmp_path / "run").recipe
    package.run(proposed, tmp_path / "run")
    (view,) = made("view_rows")
    for role, call in zip(("train", "holdout"), made("feature_rows"), strict=True):
        assert call["known"][0][0] == view["folder"] / f"features_{role}.npy"

    Here.calls.clear()  # the recipe that a run leaves says all that its steps hang on
    package.run(tmp_path / "run" / "recipe.yaml", tmp_path / "run")
    assert {name for name, _ in Here.calls} <= {"check_member"}


@pytest.mark.slow
def test_views_of_scouting_are_read_and_not_made_again(tmp_path: Path) -> None:
    content = recipe_of("mini:vgg", "smooth")
    candidates = content.pop("members")
    content |= {"members": "scout", "scout": {"candidates": candidates, "rows": 40}}
    out = tmp_path / "run"
    package.run(content, out)
    (view,) = made("view_rows")  # two candidates of one checkpoint
    calls = made("feature_rows")
    assert len(calls) == 2
    for role, call in zip(("train", "holdout"), calls, strict=True):
        assert call["known"][0][0] == view["folder"] / f"features_{role}.npy"
        assert call["known"][0][0].exists()
        assert [len(part) for part in call["parts"]] == [40, {"train": 50, "holdout": 80}[role]]
        rows = np.load(call["folder"] / "rows.npy")
        places = np.searchsorted(rows, view["rows"][role])
        features = np.load(call["folder"] / "features.npy")
        np.testing.assert_array_equal(features[places], np.load(call["known"][0][0]))
    planned = {one.step: one.state for one in plan(content, out)}
    assert set(planned.values()) == {"done"}
    assert len([name for name in planned if name.startswith("view-")]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("step", ["feature_rows", "finetune_member", "predict_member"])
def test_a_kill_between_the_steps_changes_no_byte(tmp_path: Path, here: Any, step: str) -> None:
    content = recipe_of("mini:vgg", "smooth")
    package.run(content, tmp_path / "whole")
    here.kill_before = step
    with pytest.raises(Killed):
        package.run(content, tmp_path / "killed")
    here.kill_before = ""
    here.calls.clear()
    package.run(content, tmp_path / "killed")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert len(made("feature_rows")) == (2 if step == "feature_rows" else 0)


@pytest.mark.slow
def test_damaged_features_are_made_again_where_they_are_read(tmp_path: Path) -> None:
    out, content = tmp_path / "run", recipe_of("mini:vgg")
    package.run(content, out)
    before = files(out)
    (fitted,) = out.glob("steps/features-*-fitted-*")
    damaged = bytearray((fitted / "features.npy").read_bytes())
    damaged[-5] ^= 1
    (fitted / "features.npy").write_bytes(bytes(damaged))
    events: list[Event] = []
    for folder in out.glob("steps/finetune-*"):
        shutil.rmtree(folder)
    package.run(content, out, listen=events.append)
    redone = [event for event in events if event["phase"] == "redo"]
    assert [event["why"] for event in redone if event["step"].startswith("features-")] == [
        "features.npy is damaged"
    ]
    assert files(out) == before


def test_history_says_nothing_of_features_that_served(tmp_path: Path) -> None:
    results = package.run(recipe_of("mini:vgg"), tmp_path / "run").results
    assert results["members"][0]["status"] == "ok"
    assert not [note for note in results["members"][0]["notes"] if "features" in note]
    (made_of,) = (tmp_path / "run").glob("steps/features-*-fitted-*/about.json")
    assert json.loads(made_of.read_text())["why_not"] is None


@pytest.mark.slow
def test_the_models_of_all_folds_share_features_and_views(tmp_path: Path) -> None:
    content = recipe_of("mini:vgg", "solved")
    candidates = content.pop("members")
    content["data"] = {
        "source": "digits",
        "limit": 90,
        "roles": {"folds": 3, "test": 60, "refit": True},
    }
    content |= {"members": "scout", "scout": {"candidates": candidates, "rows": 20}}
    out = tmp_path / "run"
    run = package.run(content, out)
    assert {member["status"] for member in run.results["members"]} == {"ok"}
    assert len(made("view_rows")) == 1
    fitted, judged = made("feature_rows")  # of two members, four models each
    assert [len(part) for part in fitted["parts"]] == [20, 20, 50]
    assert [path.name for path, _ in fitted["known"]] == [
        "features_train.npy",
        "features_holdout.npy",
    ]
    assert ([len(part) for part in judged["parts"]], judged["known"]) == ([60], [])
    assert len(made("finetune_member")) == len(made("predict_member")) == 2 * 4
    assert {call["features"] for call in made("finetune_member")} == {fitted["folder"]}
    folders = (fitted["folder"], judged["folder"])
    assert {call["made"].features for call in made("predict_member")} == {folders}
    planned = {one.step: one.state for one in plan(content, out)}
    assert set(planned.values()) == {"done"}
    assert len([name for name in planned if name.startswith("features-")]) == 2
