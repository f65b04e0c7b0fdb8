# SPDX-License-Identifier: Apache-2.0
"""Averages of the weights: what they are, that they are what is judged and kept, and resuming."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fusetune.errors import InvalidValue
from fusetune.finetune.pytorch.averages import Averages
from fusetune.finetune.settings import FineTune, Optimizer
from small_runs import SETTINGS, assert_resumes, finetune, untimed, validation_loss, weights


def walk(model: nn.Module, steps: int) -> list[torch.Tensor]:
    """Random weights, one after the other."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, generator=generator) for _ in range(steps)]


def followed_by(model: nn.Module, settings: FineTune) -> Averages:
    averages = Averages(settings)
    averages.follow(model)
    return averages


@pytest.mark.parametrize("decay", [0.5, None])
def test_ema_follows_every_fourth_step_and_begins_fast(decay: float | None) -> None:
    model = nn.Linear(3, 2)
    averages = followed_by(model, FineTune(ema=decay))
    expected = model.weight.detach().clone()
    for step, value in enumerate(walk(model, 40), start=1):
        model.weight.data.copy_(value)
        averages.after_step()
        if step % 4 == 0:
            kept = min(decay or 0.98, (1 + step) / (10 + step)) ** 4
            expected = kept * expected + (1 - kept) * value
    with averages.in_place_of_weights():
        assert torch.allclose(model.weight, expected, atol=1e-6)
    assert torch.equal(model.weight, value)


def test_ema_takes_in_an_epochs_last_steps() -> None:
    model = nn.Linear(3, 2)
    averages, start = followed_by(model, FineTune(ema=0.98)), model.weight.detach().clone()
    (value,) = walk(model, 1)
    model.weight.data.copy_(value)
    averages.after_step()
    with averages.in_place_of_weights():
        assert torch.equal(model.weight, value)  # there is no average yet
    averages.after_epoch(0)
    with averages.in_place_of_weights():
        assert torch.allclose(model.weight, (2 / 11) * start + (9 / 11) * value, atol=1e-6)


def test_swa_is_the_mean_of_the_last_epochs() -> None:
    model = nn.Linear(3, 2)
    settings = FineTune(epochs=8, swa=0.5)
    averages, reference = followed_by(model, settings), AveragedModel(model)
    for epoch, value in enumerate(walk(model, 8)):
        model.weight.data.copy_(value)
        averages.after_step()
        averages.after_epoch(epoch)
        if epoch >= 4:
            reference.update_parameters(model)
        with averages.in_place_of_weights():
            wanted = value if epoch < 4 else reference.module.weight
            assert torch.allclose(model.weight, wanted, atol=1e-6)


def test_batch_statistics_are_averaged_and_masks_and_counters_left_alone() -> None:
    model = nn.BatchNorm1d(2)
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    averages = followed_by(model, FineTune(epochs=2, swa=0.99))
    for epoch, mean in enumerate((1.0, 3.0)):
        model.running_mean.fill_(mean)
        model.num_batches_tracked.fill_(epoch)
        averages.after_epoch(epoch)
    with averages.in_place_of_weights():
        assert model.running_mean.tolist() == [2.0, 2.0]
        assert model.num_batches_tracked == 1
        assert model.mask.tolist() == [0.0, -torch.inf]


def test_what_is_frozen_is_not_followed_until_it_is_trained() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[:2].eval().requires_grad_(False)
    averages = followed_by(model, FineTune(ema=0.9))
    assert set(averages.means) == {"2.weight", "2.bias"}
    for _ in range(4):
        averages.after_step()
    model.train().requires_grad_(True)
    averages.follow(model)
    assert len(averages.means) == 8
    start = model[0].weight.detach().clone()
    model[0].weight.data.fill_(1.0)
    for _ in range(4):
        averages.after_step()
    kept = (9 / 18) ** 4
    with averages.in_place_of_weights():
        assert torch.allclose(model[0].weight, kept * start + (1 - kept), atol=1e-6)


def test_averages_are_the_default_but_beside_swa() -> None:
    assert FineTune().ema_decay == 0.98
    assert FineTune(swa=0.25).ema_decay == 0
    assert FineTune(ema=0).ema_decay == 0
    assert FineTune().for_rows(100).ema == 0.98
    assert FineTune(swa=0.25, epochs=4).for_rows(100).ema == 0


@pytest.mark.parametrize("averaged", [{}, {"ema": 0.9}, {"swa": 0.75}])
def test_averages_are_judged_and_kept_and_change_no_step(
    tmp_path: Path, averaged: dict[str, float]
) -> None:
    plain, plain_history = finetune(tmp_path / "plain", replace(SETTINGS, ema=0))
    made, history = finetune(tmp_path / "averaged", replace(SETTINGS, **averaged))
    losses = [[e["train_loss"] for e in untimed(h)] for h in (plain_history, history)]
    assert losses[0] == losses[1]
    assert weights(made) != weights(plain)
    kept = history.epochs[history.best_epoch - 1]["validation_loss"]
    assert validation_loss(made) == pytest.approx(kept, abs=1e-7)
    assert kept != plain_history.epochs[history.best_epoch - 1]["validation_loss"]


def test_a_run_that_keeps_no_average_though_one_was_asked_for_says_so(tmp_path: Path) -> None:
    still = replace(SETTINGS, epochs=8, swa=0.25, patience=1, optimizer=Optimizer(lr=1e-12))
    _, history = finetune(tmp_path / "still", still)
    assert history.best_epoch < 7
    (note,) = (note for note in history.notes if "swa" in note)
    assert f"epoch {history.best_epoch} were kept, which are no average" in note
    assert "of epoch 7 and after" in note
    _, history = finetune(tmp_path / "averaged", replace(SETTINGS, swa=0.75))
    assert history.best_epoch > 1
    assert not [note for note in history.notes if "swa" in note]


@pytest.mark.parametrize(
    "averaged", [{}, {"swa": 0.75}, {"train": "head_then_full", "head_epochs": 2}]
)
def test_a_stopped_run_resumes_its_averages(
    tmp_path: Path, averaged: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_resumes(tmp_path, replace(SETTINGS, **averaged), monkeypatch, stops=(2, 4))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(
        InvalidValue, match=r"finetune.ema is 1.0; expected a number in \[0, 1\), or null"
    ):
        FineTune(ema=1.0)
    with pytest.raises(InvalidValue, match=r"finetune.swa is 1; expected a share in \[0, 1\)"):
        FineTune(swa=1)
    with pytest.raises(InvalidValue, match=r"finetune.swa is 0.2; expected 0 with ema: 0.9"):
        FineTune(swa=0.2, ema=0.9)
