# SPDX-License-Identifier: Apache-2.0
"""What a recipe may say, and how it is understood; see end_to_end/test_bad_inputs.py for the rest."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from fusetune.errors import FusetuneError
from fusetune.finetune.settings import FineTune
from fusetune.recipe import Recipe, as_mapping, load_recipe, save_recipe

BASE: dict[str, Any] = {
    "task": "image_classification",
    "data": {"source": "digits"},
    "members": ["mini:resnet"],
}


def loaded(**changes: Any) -> Recipe:
    return load_recipe({**BASE, **changes})


def refused(match: str, **changes: Any) -> None:
    with pytest.raises(FusetuneError, match=match):
        loaded(**changes)


def written(folder: Path, text: str) -> Recipe:
    (folder / "recipe.yaml").write_text(text)
    return load_recipe(folder / "recipe.yaml")


def test_the_shortest_recipe_has_every_default() -> None:
    recipe = loaded()
    (entry,) = recipe.members
    assert (entry.name, entry.finetune) == ("mini-resnet", FineTune())
    assert list(recipe.fuse.methods) == [
        "vote",
        "mean",
        "weighted_mean",
        "log_pool",
        "stacking",
        "greedy_selection",
    ]
    assert (recipe.fuse.choose, recipe.metric.name, recipe.seed) == ("auto", "accuracy", 0)
    assert recipe.verdict.min_gain == 0


def test_a_members_finetune_changes_only_what_it_says() -> None:
    recipe = loaded(
        finetune={"epochs": 3, "optimizer": {"name": "sgd", "lr": 0.1}},
        members=[
            "mini:vgg",
            {"source": "mini", "model": "resnet", "finetune": {"optimizer": {"lr": 0.2}}},
            {"source": "mini", "model": "inception", "finetune": "none"},
        ],
    )
    top, own, none = (entry.finetune for entry in recipe.members)
    assert top is not None and own is not None
    assert (top.epochs, top.optimizer.name, top.optimizer.lr) == (3, "sgd", 0.1)
    assert (own.epochs, own.optimizer.name, own.optimizer.lr) == (3, "sgd", 0.2)
    assert none is None


def test_without_finetuning_on_top_a_member_can_still_ask_for_it() -> None:
    members = ["mini:vgg", {"source": "mini", "model": "resnet", "finetune": {"epochs": 2}}]
    plain, tuned = (entry.finetune for entry in loaded(finetune="none", members=members).members)
    assert plain is None
    assert tuned is not None
    assert tuned.epochs == 2


def test_names_are_made_unique_and_given_ones_have_to_be() -> None:
    names = [entry.name for entry in loaded(members=["mini:vgg", "mini:vgg", "mini:vgg"]).members]
    assert names == ["mini-vgg", "mini-vgg-2", "mini-vgg-3"]
    member = {"source": "mini", "model": "vgg"}
    refused("which is taken", members=[{**member, "name": "a"}, {**member, "name": "a"}])
    refused("which is taken", members=[{**member, "name": "ensemble"}])
    refused("no safe file name", members=[{**member, "name": "../up"}])


def test_paths_start_at_the_recipes_folder(tmp_path: Path) -> None:
    recipe = written(
        tmp_path,
        "task: image_classification\ndata: {source: folder, path: photos}\n"
        "members:\n- {source: module, model: nets.Net, weights: net.pt, preprocess: {size: 8}}\n",
    )
    assert recipe.data.datasets["all"].path == tmp_path / "photos"  # type: ignore[attr-defined]
    source = recipe.members[0].source
    assert source.weights == tmp_path / "net.pt"
    assert source.import_from == tmp_path  # type: ignore[attr-defined]


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    text = yaml.safe_dump(BASE) + "finetune: {optimizer: {lr: 1e-3, weight_decay: 5E-4}}\n"
    settings = written(tmp_path, text).members[0].finetune
    assert settings is not None
    assert (settings.optimizer.lr, settings.optimizer.weight_decay) == (0.001, 0.0005)


def test_the_environment_is_expanded_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICTURES", "/data/pictures")
    recipe = loaded(data={"source": "folder", "path": "${PICTURES}/cats"})
    assert recipe.data.datasets["all"].path == Path("/data/pictures/cats")  # type: ignore[attr-defined]


def test_official_splits_and_their_limit() -> None:
    splits = {
        "train": {"source": "digits", "limit": 500},
        "test": {"source": "digits", "noise": 0.1},
    }
    data = loaded(data={**splits, "roles": {"validation": 0.1}}).data
    assert list(data.datasets) == ["train", "test"]
    assert data.limit == 500
    assert data.roles.validation == 0.1


def test_methods_and_metrics_take_their_settings() -> None:
    recipe = loaded(
        fuse={"methods": ["mean", {"method": "greedy_selection", "rounds": 7}], "choose": "mean"},
        metric={"metric": "expected_calibration_error", "bins": 5},
    )
    assert recipe.fuse.methods["greedy_selection"].rounds == 7  # type: ignore[attr-defined]
    assert recipe.metric.bins == 5  # type: ignore[attr-defined]
    assert recipe.fuse.choose == "mean"


def test_the_resolved_recipe_says_the_same(tmp_path: Path) -> None:
    recipe = loaded(
        seed=3,
        data={"source": "digits", "noise": 0.2, "limit": 900, "roles": {"test": 200}},
        members=["mini:vgg", {"source": "mini", "model": "resnet", "finetune": "none"}],
        verdict={"min_gain": 0.01, "max_cost_ratio": 4},
    )
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert as_mapping(load_recipe(tmp_path / "recipe.yaml")) == as_mapping(recipe)


def test_folds_are_roles_and_leave_no_rows_to_choose_a_soup_by() -> None:
    roles = {"folds": 5, "refit": True}
    recipe = loaded(data={"source": "digits", "roles": roles})
    assert (recipe.data.roles.folds, recipe.data.roles.refit) == (5, True)
    assert load_recipe(as_mapping(recipe)).data.roles == recipe.data.roles
    a = {"name": "a", "source": "mini", "model": "resnet"}
    soup = {"soup": "wise_ft", "of": ["a"]}
    refused(
        "'wise_ft' is a soup, and data.roles.folds is 5.*Remove the soup, or remove folds",
        data={"source": "digits", "roles": roles},
        members=[a, soup],
    )
    refused("data.roles.folds is 2.5", data={"source": "digits", "roles": {"folds": 2.5}})


def test_what_is_refused_is_named_with_its_place() -> None:
    refused(r"no key is called 'sede' \(in the recipe\).*Did you mean 'seed'", sede=1)
    refused(r"no key is called 'path' \(in data\)", data={"source": "digits", "path": "x"})
    refused(
        r"no key is called 'modle' \(in members\[0\]\)",
        members=[{"source": "mini", "modle": "vgg"}],
    )
    refused(r"members\[0\] lacks 'model'", members=[{"source": "mini"}])
    refused(r"members\[0\] is 'resnet18'; expected `source:model`", members=["resnet18"])
    refused(r"members is \[\]", members=[])
    refused("members is 'mini:vgg'", members="mini:vgg")
    refused("names 'mean' twice", fuse={"methods": ["mean", "mean"]})
    refused("no choice is called 'stacking'", fuse={"methods": ["mean"], "choose": "stacking"})
    refused("fuse.methods is 'mean'", fuse={"methods": "mean"})
    refused("data has neither", data={})
    refused("data.limit is 0", data={"source": "digits", "limit": 0})
    refused("seed is True; expected a number", seed=True)
    refused("seed is 1.5", seed=1.5)
    refused("finetune is 'all'", finetune="all")
    refused("finetune.schedule.warmup is 1.5", finetune={"schedule": {"warmup": 1.5}})
    refused("finetune.optimizer.betas", finetune={"optimizer": {"betas": [0.9]}})
    refused("task is 3", task=3)
    refused(
        "preprocess.size is 0",
        members=[{"source": "mini", "model": "vgg", "preprocess": {"size": 0}}],
    )


def test_a_recipe_that_is_no_mapping_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(FusetuneError, match="a block of `key: value` lines"):
        written(tmp_path, "- a\n- b\n")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FusetuneError, match="no UTF-8 text"):
        load_recipe(tmp_path / "binary.yaml")
    with pytest.raises(FusetuneError, match="line 2"):
        written(tmp_path, "task: a\n  b: [\n")


def test_a_metric_must_judge_what_the_members_give() -> None:
    refused("'rmse' judges Values; expected a metric of Probabilities", metric="rmse")
    assert loaded(metric="balanced_accuracy").metric.name == "balanced_accuracy"
