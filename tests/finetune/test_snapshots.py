# SPDX-License-Identifier: Apache-2.0
"""Snapshots: cycles of the learning rate, each of which gives a member."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fusetune.entries import member_entries
from fusetune.errors import InvalidValue, RecipeError
from fusetune.finetune.engine import Budget, Plan
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.settings import FineTune, Schedule
from fusetune.finetune.snapshots import own_history
from fusetune.finetune.stopping import Stopwatch
from fusetune.recipe import as_mapping, load_recipe
from fusetune.stages.scouting import proposed_entries
from small_runs import (
    SETTINGS,
    SPLITS,
    assert_resumes,
    finetune,
    member,
    untimed,
    validation_loss,
    weights,
)

CYCLES = replace(SETTINGS, epochs=5, snapshots=2, schedule=Schedule(warmup=0.0))


def snapshots(work: Path) -> list[dict[str, bytes]]:
    files = [work / f"weights-{number}.safetensors" for number in (1, 2, 3)]
    return [
        {name: value.tobytes() for name, value in load_file(path).items()}
        for path in files
        if path.exists()
    ]


def test_every_cycle_falls_from_the_peak_to_nearly_zero(tmp_path: Path) -> None:
    cycles = [CYCLES.scheduled_epochs(epoch) for epoch in range(5)]
    assert cycles == [range(2)] * 2 + [range(2, 5)] * 3
    _, history = finetune(tmp_path, CYCLES)
    peak, steps = SETTINGS.optimizer.peak_lr(), 5

    def last_of(epoch: int, num: int) -> float:
        progress = (epoch * steps + steps - 1) / (num * steps)
        return peak * (1 + math.cos(math.pi * progress)) / 2

    expected = [last_of(0, 2), last_of(1, 2), last_of(0, 3), last_of(1, 3), last_of(2, 3)]
    assert [epoch["lr"] for epoch in history.epochs] == pytest.approx(expected)


def test_the_first_cycle_is_a_run_of_its_own(tmp_path: Path) -> None:
    made, history = finetune(tmp_path / "cycles", CYCLES)
    alone, first = finetune(tmp_path / "alone", replace(CYCLES, epochs=2, snapshots=1))
    found = snapshots(tmp_path / "cycles")
    assert len(found) == 2
    assert found[0] == weights(alone)
    assert found[1] == weights(made) != found[0]
    assert untimed(history)[:2] == untimed(first)
    assert history.snapshots[0] == {
        "first_epoch": 1,
        "last_epoch": 2,
        "best_epoch": first.best_epoch,
    }


def test_a_snapshot_is_the_best_epoch_of_its_cycle(tmp_path: Path) -> None:
    made, history = finetune(tmp_path, CYCLES)
    losses = [epoch["validation_loss"] for epoch in history.epochs]
    for number, (start, stop) in enumerate(((0, 2), (2, 5)), 1):
        Torch().load(made, tmp_path / f"weights-{number}.safetensors")
        assert validation_loss(made) == pytest.approx(min(losses[start:stop]), abs=1e-7)
        best = history.snapshots[number - 1]["best_epoch"]
        assert losses[best - 1] == min(losses[start:stop])


@pytest.mark.parametrize("more", [{}, {"ema": 0.8}])
def test_a_stopped_run_ends_with_the_same_snapshots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, float]
) -> None:
    assert_resumes(tmp_path, replace(CYCLES, **more), monkeypatch, stops=(2, 3))
    whole = snapshots(tmp_path / "whole")
    assert len(whole) == 2
    for folder in tmp_path.iterdir():
        assert snapshots(folder) == whole


@pytest.mark.parametrize(("stopped_in", "kept"), [(1, [1]), (2, [1]), (3, [1]), (5, [1])])
def test_a_run_out_of_time_gives_the_snapshots_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_in: int, kept: list[int]
) -> None:
    """Of the first cycle what there is, of later ones nothing before their end."""

    def is_over(self: Stopwatch, epoch: int, step: int, rows: int, seconds: float) -> bool:
        self.stopped = (epoch, step) if epoch == stopped_in - 1 and step == 2 else None
        return self.stopped is not None

    monkeypatch.setattr(Stopwatch, "is_over", is_over)
    monkeypatch.setattr("fusetune.finetune.pytorch.loop.REPORT_SECONDS", 0.0)
    made = member()
    plan = Plan(Classification(), CYCLES, seed=3, budget=Budget(0.0, 1))
    history = Torch().finetune(made, plan, SPLITS, tmp_path, lambda event: None)
    assert len(history.snapshots) == len(snapshots(tmp_path)) == len(kept)
    assert history.snapshots[0]["last_epoch"] == min(2, max(1, stopped_in - 1))
    assert history.best_epoch == history.snapshots[-1]["best_epoch"] <= 2
    assert f"the weights of epoch {history.best_epoch} were kept" in history.notes[-1]
    assert weights(made) == snapshots(tmp_path)[-1]
    if stopped_in > 2:
        whole = tmp_path / "whole"
        monkeypatch.undo()
        finetune(whole, CYCLES)
        assert snapshots(tmp_path) == snapshots(whole)[:1]
        resumed = Torch().finetune(
            member(), replace(plan, budget=None), SPLITS, tmp_path, lambda event: None
        )
        assert snapshots(tmp_path) == snapshots(whole)
        assert len(resumed.snapshots) == 2


def test_a_snapshots_history_is_its_cycles() -> None:
    history = {
        "epochs": [{"epoch": number} for number in range(1, 6)],
        "seconds": 9.0,
        "best_epoch": 5,
        "snapshots": [
            {"first_epoch": 1, "last_epoch": 2, "best_epoch": 2},
            {"first_epoch": 3, "last_epoch": 5, "best_epoch": 4},
        ],
    }
    second = own_history(history, 2)
    assert [epoch["epoch"] for epoch in second["epochs"]] == [3, 4, 5]
    assert (second["best_epoch"], second["seconds"]) == (4, 4.5)


def entries(content: list[object]) -> list[str]:
    made = member_entries(content, FineTune(), Path.cwd())
    return [entry.name for entry in made]


def test_every_cycle_is_a_member_by_a_name_of_its_own() -> None:
    three = {"source": "mini", "model": "vgg", "finetune": {"snapshots": 3}}
    assert entries([{**three, "name": "a"}, "mini:vgg"]) == ["a-1", "a-2", "a-3", "mini-vgg"]
    assert entries([three, "mini:vgg"]) == [f"mini-vgg-{n}" for n in (1, 2, 3)] + ["mini-vgg-4"]
    assert entries(["mini:vgg", three])[1:] == [f"mini-vgg-2-{n}" for n in (1, 2, 3)]
    made = member_entries([{**three, "name": "a"}], FineTune(), Path.cwd())
    assert {entry.run for entry in made} == {"a"}
    assert [entry.weights for entry in made] == [f"weights-{n}.safetensors" for n in (1, 2, 3)]


def test_a_soup_may_be_of_snapshots_which_then_share_a_start() -> None:
    two = {"source": "mini", "model": "vgg", "name": "a", "finetune": {"snapshots": 2}}
    soup = {"soup": "uniform_soup", "of": ["a-1", "a-2"]}
    made = member_entries([two, "mini:resnet", soup], FineTune(), Path.cwd())
    assert [entry.in_soup for entry in made] == [True, True, False, False]
    with pytest.raises(RecipeError, match="no member is called 'a'"):
        entries([two, {**soup, "of": ["a", "a-1"]}])


def test_names_that_are_a_snapshots_are_taken() -> None:
    two = {"source": "mini", "model": "vgg", "name": "a", "finetune": {"snapshots": 2}}
    with pytest.raises(RecipeError, match=r"members\[1\].name is 'a-2', which is taken"):
        entries([two, {"source": "mini", "model": "vgg", "name": "a-2"}])
    with pytest.raises(RecipeError, match="is 'a', and 'a-2', one of its snapshots, is taken"):
        entries([{"source": "mini", "model": "vgg", "name": "a-2"}, two])
    with pytest.raises(RecipeError, match="is 'a', which is taken"):
        entries([two, {"source": "mini", "model": "vgg", "name": "a"}])


def test_settings_without_a_meaning_for_cycles_are_refused() -> None:
    with pytest.raises(InvalidValue, match=r"snapshots is 11; .* at most epochs \(10\)"):
        FineTune(snapshots=11)
    with pytest.raises(InvalidValue, match="snapshots is 0"):
        FineTune(snapshots=0)
    for wrong, message in (
        ({"schedule": Schedule(name="constant")}, "schedule.name is constant; expected cosine"),
        ({"train": "gradual", "head_epochs": 2}, "train is gradual; expected full, head, .*"),
        ({"train": "probe"}, "train is probe; expected full, head, lora or probe_then_full"),
        ({"patience": 2}, "patience is 2; expected null"),
        ({"swa": 0.5}, r"swa is 0\.5; expected 0"),
    ):
        with pytest.raises(InvalidValue, match=f"{message} with snapshots: 2"):
            FineTune(snapshots=2, **wrong)


def test_a_resolved_recipe_has_the_fine_tuning_once(tmp_path: Path) -> None:
    cycles = {"source": "mini", "model": "vgg", "name": "a", "finetune": {"snapshots": 2}}
    content = {"task": "image_classification", "data": {"source": "digits"}}
    recipe = load_recipe({**content, "members": [cycles, "mini:resnet"]})
    resolved = as_mapping(recipe)
    assert [member["name"] for member in resolved["members"]] == ["a", "mini-resnet"]
    again = load_recipe(resolved)
    assert again.members == recipe.members
    scouting = {"members": "scout", "scout": {"candidates": [cycles, "mini:resnet"]}}
    scout = load_recipe({**content, **scouting}).scout
    assert scout is not None and [entry.name for entry in scout.candidates] == ["a", "mini-resnet"]
    proposed = proposed_entries(scout, {"proposed": ["mini-resnet", "a"]})
    assert [entry.name for entry in proposed] == ["mini-resnet", "a-1", "a-2"]
