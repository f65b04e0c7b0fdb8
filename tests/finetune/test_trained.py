# SPDX-License-Identifier: Apache-2.0
"""Which weights are trained in which epoch, and at which rate."""

from dataclasses import replace
from pathlib import Path

import pytest

from fusetune.errors import InvalidValue
from fusetune.finetune.settings import FineTune, Optimizer, Schedule
from fusetune.finetune.torch_optimizer import set_trained
from small_runs import SETTINGS, assert_resumes, finetune, member, untimed, weights

HEAD_FIRST = replace(SETTINGS, train="head_then_full", head_epochs=2)


def changed(work: Path, settings: FineTune) -> set[str]:
    """Names of what a run changed; it keeps its last epoch, whose loss is the lowest here."""
    before = weights(member())
    made, _ = finetune(work, settings)
    return {name for name, value in weights(made).items() if value != before[name]}


def test_the_head_is_trained_first_and_then_everything(tmp_path: Path) -> None:
    made = member()
    trained = []
    for epoch in range(4):
        anew = set_trained(made, HEAD_FIRST, epoch)
        names = {name for name, p in made.model.named_parameters() if p.requires_grad}
        trained.append((anew, names))
        assert made.model.body[1].training == (epoch >= 2)
        assert made.model.fc.training
    everything = {name for name, _ in made.model.named_parameters()}
    head = {"fc.weight", "fc.bias"}
    assert trained == [(True, head), (False, head), (True, everything), (False, everything)]


def test_both_parts_change_what_they_train_by_a_schedule_each(tmp_path: Path) -> None:
    settings = replace(HEAD_FIRST, schedule=Schedule(warmup=0.0))
    early = changed(tmp_path / "early", replace(settings, epochs=3, head_epochs=2, patience=None))
    assert {"fc.weight", "body.0.weight", "body.1.running_mean"} <= early
    _, history = finetune(tmp_path / "both", settings)
    rates = [epoch["lr"] for epoch in untimed(history)]
    peak, progress = SETTINGS.optimizer.peak_lr, (0.0 + 4 / 5) / 2
    assert rates[0] == rates[2] == pytest.approx(peak * settings.schedule.factor(progress))
    assert rates[1] == rates[3] < rates[0]


def test_the_part_of_the_head_is_a_run_of_the_head(tmp_path: Path) -> None:
    _, head = finetune(tmp_path / "head", replace(SETTINGS, train="head", epochs=2))
    _, both = finetune(tmp_path / "both", HEAD_FIRST)
    assert untimed(both)[:2] == untimed(head)


@pytest.mark.parametrize("optimizer", [SETTINGS.optimizer, Optimizer(lr=0.01)])
def test_a_stopped_run_of_two_parts_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: Optimizer
) -> None:
    settings = replace(HEAD_FIRST, optimizer=optimizer)
    assert_resumes(tmp_path, settings, monkeypatch, stops=(2, 3))


def test_patience_does_not_count_epochs_of_the_head_alone(tmp_path: Path) -> None:
    still = Optimizer(name="sgd", lr=1e-12)
    settings = replace(HEAD_FIRST, epochs=9, head_epochs=5, patience=1, optimizer=still)
    _, history = finetune(tmp_path, settings)
    assert len(history.epochs) >= 6


def test_epochs_of_the_head_that_mean_nothing_are_refused() -> None:
    for wrong in (None, 0, 10):
        with pytest.raises(InvalidValue, match=r"head_epochs is .*below epochs \(10\) with train"):
            FineTune(train="head_then_full", head_epochs=wrong)
    with pytest.raises(InvalidValue, match="head_epochs is 2; expected null with train: full"):
        FineTune(head_epochs=2)
