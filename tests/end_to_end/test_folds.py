# SPDX-License-Identifier: Apache-2.0
"""Members with folds through whole runs: honest out-of-fold predictions, refits, kills, failures."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import fusetune as library
from fusetune.data.datasets.digits import Digits
from fusetune.predictions.files import read_columnar, read_probabilities, read_targets
from fusetune.predictions.kinds import Array, Values
from fusetune.stages.time_limit import TimeLimit
from support import SHORT, fusetune

pytestmark = pytest.mark.slow

FOLDED = ["mini-resnet", "mini-vgg"]


def with_folds(**roles: Any) -> dict[str, Any]:
    """The short recipe with two members and three folds."""
    content: dict[str, Any] = yaml.safe_load(SHORT)
    content["data"] |= {"limit": 240, "roles": {"folds": 3, "test": 300, **roles}}
    content["members"] = ["mini:resnet", {"source": "mini", "model": "vgg"}]
    return content


@pytest.fixture(scope="module")
def folded_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; one of its members fails in its first fold. Tests leave it as it is."""
    out = tmp_path_factory.mktemp("folds") / "folded"
    recipe = with_folds()
    broken = {"name": "broken", "source": "mini", "model": "resnet"}
    broken["finetune"] = {"optimizer": {"lr": 1e30}, "clip_norm": None}
    library.run({**recipe, "members": [*recipe["members"], broken]}, out)
    return out


def results(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "results.json").read_text()))


def probs(path: Path) -> Array:
    return read_probabilities(path).probs_NC


def shown(run: Path) -> dict[str, bytes]:
    """What a run shows of predictions, and its ensemble."""
    paths = [*run.glob("predictions/*/*.parquet"), *run.glob("ensemble/**/*.*")]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def step(run: Path, name: str) -> Path:
    (found,) = run.glob(f"steps/{name}-{'[0-9a-f]' * 12}")
    return found


def test_the_union_of_the_folds_takes_the_holdouts_place(folded_run: Path) -> None:
    found = results(folded_run)
    assert found["rows"] == {"holdout": 240, "test": 300}
    assert found["folds"]["number"] == 3
    assert [sum(rows.values()) for rows in found["folds"]["rows"]] == [240] * 3
    assert sum(rows["holdout"] for rows in found["folds"]["rows"]) == 240
    targets = read_targets(folded_run / "targets" / "holdout.parquet")
    for member in found["members"][:2]:
        assert member["status"] == "ok"
        assert set(member["scores"]) == {"holdout", "test"}
        assert member["best_epoch"] == [3, 3, 3]
        shown_as = folded_run / "predictions" / member["name"]
        union = read_probabilities(shown_as / "holdout.parquet")
        assert union.ids.tolist() == targets.ids.tolist()
        parts = [step(folded_run, f"predict-{member['name']}-fold{k}") for k in (1, 2, 3)]
        alone: dict[str, Array] = {}
        for part in parts:
            fold = read_probabilities(part / "holdout.parquet")
            alone |= dict(zip(fold.ids.tolist(), fold.probs_NC, strict=True))
        assert np.array_equal(union.probs_NC, np.array([alone[name] for name in union.ids]))
        mean_NC = np.mean([probs(part / "test.parquet").astype(float) for part in parts], axis=0)
        assert np.allclose(probs(shown_as / "test.parquet"), mean_NC, atol=1e-7)
        costs = [json.loads((part / "cost.json").read_text()) for part in parts]
        cost = sum(one["predict_per_row"] for one in costs)
        assert member["seconds"]["predict_per_row"] == pytest.approx(cost)
        assert member["parameters"] == sum(one["parameters"] for one in costs)
        made = [step(folded_run, f"finetune-{member['name']}-fold{k}") for k in (1, 2, 3)]
        seconds = [json.loads((one / "history.json").read_text())["seconds"] for one in made]
        assert member["seconds"]["finetune"] == pytest.approx(sum(seconds))


def test_a_fold_that_fails_is_named_and_the_member_left_out(folded_run: Path) -> None:
    broken = results(folded_run)["members"][2]
    assert broken["status"] == "failed"
    assert broken["error"].startswith("fold 1 of 3: its training loss is no longer finite")
    assert not list(folded_run.glob("steps/finetune-broken-fold2-*"))


def test_the_report_says_what_the_holdout_is(folded_run: Path) -> None:
    page = (folded_run / "report.html").read_text()
    assert "no holdout was set aside" in page
    assert "the mean of its 3 models" in page
    assert "predicted out of 3 folds" in page
    assert "mini-resnet, fold 3" in page
    assert page.count("kept epoch 3") == 6


def test_new_rows_are_predicted_by_all_models_from_python_and_the_command_line(
    folded_run: Path, tmp_path: Path
) -> None:
    rows = Digits(noise=0.2).read()
    test = read_probabilities(folded_run / "predictions" / "ensemble" / "test.parquet")
    positions = [rows.ids.tolist().index(name) for name in test.ids]
    pixels = np.stack([rows.images.pixels(row) for row in positions])
    ensemble = library.load(folded_run)
    stack = ensemble.predict_members(pixels)
    for name, part in zip(stack.members, stack.parts, strict=True):
        stored = probs(folded_run / "predictions" / name / "test.parquet")
        assert np.array_equal(part.probs_NC, stored)
    fused = ensemble.predict(pixels)
    assert np.allclose(fused.array_NC, test.probs_NC, atol=1e-6)
    (tmp_path / "new").mkdir()
    for name, image in zip(test.ids[:5], pixels, strict=False):
        Image.fromarray(image).save(tmp_path / "new" / f"{name}.png")
    out = tmp_path / "new.csv"
    done = fusetune("predict", folded_run, tmp_path / "new", "--out", out)
    assert done.returncode == 0, done.stderr
    assert np.allclose(np.sort(probs(out), axis=0), np.sort(test.probs_NC[:5], axis=0), atol=1e-6)


def test_a_plan_lists_every_fold(tmp_path: Path, folded_run: Path) -> None:
    parts = [f"mini-resnet-fold{k}" for k in (1, 2, 3)]
    recipe = {**with_folds(refit=True), "members": ["mini:resnet"]}
    fresh = library.plan(recipe, tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()
    expected = ["data"]
    expected += [f"{does}-{part}" for part in parts for does in ("finetune", "predict")]
    expected += ["finetune-mini-resnet-refit", "predict-mini-resnet-refit"]
    expected += ["join-mini-resnet", "fuse", "ensemble"]
    assert [one.step for one in fresh] == expected
    assert {one.state for one in fresh} == {"todo"}
    states = {one.step: one.state for one in library.plan(recipe, folded_run)}
    assert {states[f"finetune-{part}"] for part in parts} == {"done"}
    assert states["finetune-mini-resnet-refit"] == "todo"
    assert states["join-mini-resnet"] == "redo"
    damaged = Path(shutil.copytree(folded_run, tmp_path / "damaged"))
    (step(damaged, "predict-mini-resnet-fold2") / "test.parquet").write_bytes(b"")
    again = {one.step: one for one in library.plan(with_folds(), damaged)}
    assert again["predict-mini-resnet-fold2"].why == "test.parquet is damaged"
    assert again["predict-mini-resnet-fold1"].state == "done"
    assert again["join-mini-resnet"].state == "done"


def test_a_refit_uses_the_folds_that_are_there_and_predicts_by_one_model(
    folded_run: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(folded_run, tmp_path / "run"))
    events: list[Mapping[str, Any]] = []
    found = library.run(with_folds(refit=True), out, listen=events.append).results
    begun = [event["step"] for event in events if event.get("phase") == "begun"]
    expected = [f"{does}-{name}-refit" for name in FOLDED for does in ("finetune", "predict")]
    assert begun == expected
    assert found["folds"]["refit"] is True
    assert "fine-tuned on all of these rows" in (out / "report.html").read_text()
    for member in found["members"]:
        epochs = median_low(member["best_epoch"])
        assert f"refitted on all rows for {epochs} epochs" in member["notes"]
        name = member["name"]
        parts = [step(out, f"predict-{name}-{part}") for part in ("fold1", "refit")]
        shown_as = out / "predictions" / name
        assert np.array_equal(probs(shown_as / "test.parquet"), probs(parts[1] / "test.parquet"))
        before = folded_run / "predictions" / name / "holdout.parquet"
        assert (shown_as / "holdout.parquet").read_bytes() == before.read_bytes()
        one, refit = (json.loads((part / "cost.json").read_text()) for part in parts)
        assert member["parameters"] == refit["parameters"] == one["parameters"]
        assert (out / "ensemble" / "members" / f"{name}.safetensors").exists()
    assert not (out / "ensemble" / "folds").exists()
    assert library.load(out).predict(np.zeros((2, 8, 8, 3), np.uint8)).array_NC.shape == (2, 10)


def stopping(when: Callable[[Mapping[str, Any]], bool]) -> Callable[[Mapping[str, Any]], None]:
    def listen(event: Mapping[str, Any]) -> None:
        if when(event):
            raise KeyboardInterrupt

    return listen


def moments() -> Iterable[Callable[[Mapping[str, Any]], bool]]:
    """Between two folds, within one, within the refit, and after the predictions are joined."""
    for member, phase in (
        ("mini-resnet-fold2", "begun"),
        ("mini-resnet-fold3", "finetune"),
        ("mini-vgg-refit", "finetune"),
    ):
        yield lambda event, member=member, phase=phase: (  # type: ignore[misc]
            (event.get("member"), event.get("phase")) == (member, phase)
            and (phase != "finetune" or bool(event.get("end_of_epoch")))
        )
    yield lambda event: event.get("phase") == "fuse"


def test_a_run_that_is_stopped_between_and_within_folds_ends_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    recipe = with_folds(refit=True)
    whole = library.run(recipe, tmp_path / "whole").folder
    out = tmp_path / "stopped"
    for moment in moments():
        with pytest.raises(KeyboardInterrupt):
            library.run(recipe, out, listen=stopping(moment))
        assert not (out / "results.json").exists()
    library.run(recipe, out)
    assert shown(out) == shown(whole)


def test_a_fold_without_time_leaves_the_member_not_run_and_the_same_run_finishes_it(
    tmp_path: Path, folded_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, budget = [], TimeLimit.budget

    def no_time(self: TimeLimit, member: str, rows: int, side_by_side: int) -> Any:
        asked.append((member, rows))
        return None if member == "mini-vgg-fold2" else budget(self, member, rows, side_by_side)

    monkeypatch.setattr(TimeLimit, "budget", no_time)
    found = library.run(with_folds(), tmp_path, time_limit="1h").results
    left_out = found["members"][1]
    assert [member["status"] for member in found["members"]] == ["ok", "not_run"]
    assert left_out["error"] == "fold 2 of 3: the time limit left no time for it"
    names = [f"{name}-fold{k}" for name in FOLDED for k in (1, 2, 3)]
    assert [name for name, _ in asked] == names[:5]  # the third fold is not worth its time
    assert all(300 + 80 < rows < 300 + 80 + 40 for _, rows in asked)
    library.run(with_folds(), tmp_path)
    for name in FOLDED:
        for role in ("holdout", "test"):
            file = f"predictions/{name}/{role}.parquet"
            assert (tmp_path / file).read_bytes() == (folded_run / file).read_bytes()


MEMORY = """
import torch

class Memory(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = torch.nn.Linear(192, num_classes)

    def forward(self, images):
        return self.fc(images.flatten(1))
"""


def memorizing(folder: Path) -> dict[str, Any]:
    """A member that learns rows by heart, on images whose labels are drawn by lot."""
    (folder / "memory.py").write_text(MEMORY)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (360, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "data.npz", images=images, labels=random.integers(0, 2, 360))
    member = {"name": "memory", "source": "module", "model": "memory.Memory", "weights": "none"}
    member |= {"import_from": str(folder), "preprocess": {"size": 8}}
    return {
        "task": "image_classification",
        "data": {
            "source": "arrays",
            "path": str(folder / "data.npz"),
            "roles": {"folds": 3, "test": 60},
        },
        "finetune": {
            "epochs": 60,
            "batch_size": 16,
            "optimizer": {"name": "adamw", "lr": 0.01},
            "augmentation": {"flip": False},
        },
        "members": [member],
    }


def test_a_member_that_learns_by_heart_knows_no_row_out_of_fold(tmp_path: Path) -> None:
    recipe = memorizing(tmp_path)
    found = library.run(recipe, tmp_path / "run").results
    (member,) = found["members"]
    # 300 rows: chance is 50 ± 3 points.
    assert abs(member["scores"]["holdout"]["accuracy"] - 0.5) < 0.12
    # The same rows, by the mean of models most of which were trained on them (until the epoch that
    # rows they had not seen chose).
    targets = read_targets(tmp_path / "run" / "targets" / "holdout.parquet")
    with np.load(tmp_path / "data.npz") as arrays:
        pixels = arrays["images"][targets.ids.astype(int)]
    (known,) = library.load(tmp_path / "run").predict_members(pixels).parts
    truth = [targets.classes[label] for label in targets.labels_N]
    assert np.mean(known.labels() == truth) > 0.7


def test_the_rows_of_a_fold_have_no_say_in_its_weights(tmp_path: Path) -> None:
    """Other pixels and labels of one fold's rows change every model but that fold's."""
    recipe = memorizing(tmp_path)
    recipe["finetune"]["epochs"] = 2
    recipe["data"]["roles"]["stratify"] = False  # else the labels deal the rows
    library.run(recipe, tmp_path / "one")
    fold = read_probabilities(step(tmp_path / "one", "predict-memory-fold2") / "holdout.parquet")
    with np.load(tmp_path / "data.npz") as arrays:
        images, labels = arrays["images"].copy(), arrays["labels"].copy()
    mine = fold.ids.astype(int)
    images[mine], labels[mine] = 255 - images[mine], 1 - labels[mine]
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    library.run(recipe, tmp_path / "two")
    same = [
        (step(tmp_path / "one", name) / "weights.safetensors").read_bytes()
        == (step(tmp_path / "two", name) / "weights.safetensors").read_bytes()
        for name in (f"finetune-memory-fold{k}" for k in (1, 2, 3))
    ]
    assert same == [False, True, False]


def test_numbers_are_standardized_by_each_folds_own_rows(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = ["image,shade"]
    for number in range(90):
        shade = random.integers(40, 250)
        pixels = np.full((8, 8, 3), shade) + random.integers(-20, 5, (8, 8, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{shade}")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    table = {"source": "table", "path": str(tmp_path / "rows.csv"), "id": "image"}
    recipe = {
        "task": "image_regression",
        "data": {**table, "label": ["shade"], "roles": {"folds": 3, "test": 30}},
        "finetune": {"epochs": 2, "batch_size": 8},
        "members": ["mini:resnet", "mini:vgg"],
        "parallel": 2,
    }
    out = tmp_path / "run"
    library.run(recipe, out)
    saved = json.loads((out / "ensemble" / "ensemble.json").read_text())
    assert set(saved["folds"]) == set(FOLDED)
    means = [objective["mean"][0] for objective in saved["folds"]["mini-resnet"]]
    assert len(set(means)) == 3
    stored = read_columnar(out / "predictions" / "mini-resnet" / "test.parquet", Values)
    paths = [str(tmp_path / name) for name in stored.ids]
    again = library.load(out).predict_members(paths)["mini-resnet"]
    assert np.allclose(again.array_NC, stored.array_NC, rtol=1e-5)


def test_candidates_are_looked_at_in_one_fold(tmp_path: Path) -> None:
    content = {**with_folds(), "members": "scout", "scout": {"candidates": ["mini:*"], "most": 1}}
    first = library.plan(content, tmp_path)
    assert first[-1].step == "scout"
    run = library.run(content, tmp_path)
    scouted = json.loads((tmp_path / "scout.json").read_text())
    rows = run.results["folds"]["rows"][0]
    assert scouted["rows"] == {"train": rows["train"], "holdout": rows["holdout"]}
    plan = {one.step: one.state for one in library.plan(content, tmp_path)}
    assert set(plan.values()) == {"done"}
    (name,) = scouted["proposed"]
    assert f"finetune-{name}-fold3" in plan


def test_a_member_that_is_used_as_it_is_has_one_model(tmp_path: Path) -> None:
    recipe = memorizing(tmp_path)
    recipe["finetune"]["epochs"] = 1
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    linear = torch.nn.Linear(192, 2)
    save_file({"fc.weight": linear.weight, "fc.bias": linear.bias}, tmp_path / "w.safetensors")
    fixed = {**recipe["members"][0], "name": "fixed", "finetune": "none", "head": "keep"}
    fixed |= {"weights": str(tmp_path / "w.safetensors"), "classes": ["0", "1"]}
    recipe["members"].append(fixed)
    library.run(recipe, tmp_path / "run")
    steps = {one.step for one in library.plan(recipe, tmp_path / "run")}
    assert {"finetune-fixed", "predict-fixed", "join-memory"} <= steps
    assert "finetune-fixed-fold1" not in steps
    ensemble = tmp_path / "run" / "ensemble"
    assert (ensemble / "members" / "fixed.safetensors").exists()
    assert len(list((ensemble / "folds" / "memory").iterdir())) == 3
    assert len(library.load(ensemble).predict_members(np.zeros((1, 8, 8, 3), np.uint8)).parts) == 2
