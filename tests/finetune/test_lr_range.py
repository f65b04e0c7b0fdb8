# SPDX-License-Identifier: Apache-2.0
"""The learning-rate range test: what it suggests, and that it leaves no trace."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fusetune.errors import InvalidValue, RecipeError
from fusetune.finetune.engine import Plan
from fusetune.finetune.lr_range import (
    SMOOTHING,
    concluded,
    has_diverged,
    smoothed,
    suggested,
    trial_rates,
)
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.pytorch.loop import Training
from fusetune.finetune.settings import FineTune, Optimizer
from fusetune.values import build
from small_runs import (
    SETTINGS,
    SPLITS,
    Stopped,
    assert_resumes,
    finetune,
    member,
    untimed,
    weights,
)

TESTED = replace(SETTINGS, optimizer=Optimizer(name="sgd", lr="range_test"))


def test_rates_rise_by_one_factor() -> None:
    rates = np.array(trial_rates())
    assert (rates[0], rates[-1]) == pytest.approx((1e-7, 10.0))
    np.testing.assert_allclose(rates[1:] / rates[:-1], 10 ** (8 / 99))


def test_smoothing_is_the_weighted_mean_of_what_was_seen() -> None:
    losses = [3.0, 1.0, 2.0]
    for num, mean in enumerate(smoothed(losses), 1):
        shares = SMOOTHING ** np.arange(num)[::-1]
        assert mean == pytest.approx(np.average(losses[:num], weights=shares))


def test_the_suggestion_is_a_tenth_of_the_rate_of_the_lowest_loss() -> None:
    rates = trial_rates()
    logs = np.log10(rates)
    losses = np.interp(logs, [-7, -4, -2, -1, -0.5, 1], [2.0, 1.9, 1.0, 0.9, 0.9, 9.0]).tolist()
    rate = suggested(rates, losses)
    lowest = int(np.argmin(smoothed(losses)))
    assert rate == pytest.approx(rates[lowest] / 10)
    assert 0.02 < rate < 0.06
    assert suggested(rates, [2.0] * 100) is None
    assert suggested(rates, []) is None


def test_a_test_without_a_fall_takes_the_default_and_says_so() -> None:
    found = concluded([1.0, 1.1, 1.3], default=0.01)
    assert (found.lr, found.fell, found.rates) == (0.01, False, trial_rates()[:3])
    assert found.notes == (
        "the learning-rate range test found no rate that lowers the loss: 0.01 was taken",
    )
    assert concluded([], default=0.01).lr == 0.01


def test_it_ends_at_four_times_the_lowest_loss_or_at_none() -> None:
    assert not has_diverged([1.0, 3.0])
    assert has_diverged([1.0, *[4.5] * 60])
    assert has_diverged([1.0, math.nan]) and has_diverged([1.0, math.inf])


@pytest.mark.parametrize(("name", "train"), [("sgd", "head_then_full"), ("adamw", "full")])
def test_a_run_is_the_one_at_the_rate_that_it_found(tmp_path: Path, name: str, train: str) -> None:
    kind = {"train": train, "head_epochs": 2 if train == "head_then_full" else None}
    settings = replace(SETTINGS, **kind, optimizer=Optimizer(name=name, lr="range_test"))
    tested, history = finetune(tmp_path / "tested", settings)
    found = history.range_test
    assert found.fell and len(found.rates) == len(found.losses) > 20
    known = replace(settings, optimizer=Optimizer(name=name, lr=found.lr))
    plain, again = finetune(tmp_path / "plain", known)
    assert again.range_test is None
    assert weights(tested) == weights(plain)
    assert untimed(history) == untimed(again)
    assert f"took {found.lr:.2g} as the peak" in history.notes[0]
    assert max(epoch["lr"] for epoch in history.epochs) <= found.lr


def test_the_losses_are_those_of_training_at_these_rates(tmp_path: Path) -> None:
    """The first step's loss is that of the model as it was, the next ones fall."""
    _, history = finetune(tmp_path, TESTED)
    losses = history.range_test.losses
    assert losses[0] == pytest.approx(math.log(2) * 1.4, abs=0.4)  # an auxiliary head counts 0.4
    assert min(losses) < 0.7 * losses[0]


def test_the_test_leaves_the_training_as_it_was() -> None:
    from fusetune.finetune.pytorch.lr_range import find_rate

    plan, device = Plan(Classification(), TESTED, 3), torch.device("cpu")
    training = Training(member(), plan, SPLITS, device)
    training.prepare(None)
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    places = [parameter.data_ptr() for parameter in training.model.parameters()]
    find_rate(training)
    assert all(torch.equal(before[n], v) for n, v in training.model.state_dict().items())
    assert places == [parameter.data_ptr() for parameter in training.model.parameters()]
    assert not training.optimizer.state
    assert (training.state.epoch, training.state.step, training.state.rows) == (0, 0, 0)
    found = dict(training.state.range_test)
    find_rate(training)  # known: not done again
    assert training.state.range_test == found
    other = Training(member(), plan, SPLITS, device)
    other.prepare(None)
    torch.manual_seed(99)
    find_rate(other)
    assert other.state.range_test == found


def test_a_stopped_run_keeps_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusetune.finetune.lr_range.STEPS", 12)
    assert_resumes(tmp_path, TESTED, monkeypatch, stops=(2,))
    _, whole = finetune(tmp_path / "whole", TESTED)

    def stop(event: dict[str, object]) -> None:
        if event.get("end_of_epoch") and event["epoch"] == 2:
            raise Stopped

    with pytest.raises(Stopped):
        finetune(tmp_path / "stopped", TESTED, stop)
    monkeypatch.setattr("fusetune.finetune.lr_range.STEPS", 2)  # it is not done again
    _, again = finetune(tmp_path / "stopped", TESTED)
    assert asdict(again.range_test) == asdict(whole.range_test)


def test_learning_rates_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"lr is 0; expected a number above 0, or range_test"):
        Optimizer(lr=0)
    for wrong in ("find", True):
        with pytest.raises(RecipeError, match=r"optimizer\.lr is"):
            build(FineTune, {"optimizer": {"lr": wrong}}, "finetune", tmp_path)
    made = build(FineTune, {"optimizer": {"lr": "range_test"}}, "finetune", tmp_path)
    assert made.optimizer.tests_lr and made.optimizer.peak_lr() == 1e-3
    assert build(FineTune, {"optimizer": {"lr": 1}}, "finetune", tmp_path).optimizer.peak_lr() == 1
