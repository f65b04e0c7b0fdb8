# SPDX-License-Identifier: Apache-2.0
"""The fine-tuning loop: it learns, it resumes to the same bits, it says when it diverges."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusetune.errors import MemberFailed
from fusetune.finetune.engine import Plan, Split
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.judging import Judging
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.pytorch.checkpoint import State, read_checkpoint, write_checkpoint
from fusetune.finetune.pytorch.inputs import ModelInput
from fusetune.finetune.settings import Augmentation, FineTune, Optimizer, Schedule
from fusetune.members.member import Preprocess
from fusetune.predictions.targets import Targets
from small_runs import (
    PREPROCESS,
    SETTINGS,
    SPLITS,
    Stopped,
    assert_resumes,
    finetune,
    member,
    split,
    untimed,
    weights,
)


def test_it_learns_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    made, history = finetune(tmp_path)
    losses = [epoch["validation_loss"] for epoch in history.epochs]
    assert len(losses) == 4
    assert history.best_epoch == 1 + int(np.argmin(losses))
    test = split("held-out", 200)
    outputs = Torch().outputs(made, test.images, lambda event: None)
    assert Classification().scores(outputs, test.targets.labels_N)["accuracy"] > 0.9
    validation = Torch().outputs(made, SPLITS[1].images, lambda event: None)
    scores = Classification().scores(validation, SPLITS[1].targets.labels_N)
    assert scores["loss"] == pytest.approx(min(losses), abs=1e-7)


def test_a_fixed_epoch_is_kept_whatever_the_validation_rows_say(tmp_path: Path) -> None:
    """As it is in a whole run then: rates are scheduled for all epochs."""
    rate = Optimizer(name="sgd", lr=2.0)  # soon too sure
    settings = replace(SETTINGS, optimizer=rate, ema=0)
    whole, seen = member(), dict[int, dict[str, bytes]]()

    def listen(event: Mapping[str, Any]) -> None:
        if event.get("end_of_epoch"):
            seen[event["epoch"]] = weights(whole)

    plan = Plan(Classification(), settings, seed=3)
    history = Torch().finetune(whole, plan, SPLITS, tmp_path / "whole", listen)
    assert len(set(map(str, seen.values()))) == 4
    for epochs in (1, 2, 3):
        short, fixed = member(), replace(plan, only_epochs=epochs)
        work = tmp_path / str(epochs)
        found = Torch().finetune(short, fixed, SPLITS, work, lambda event: None)
        assert found.best_epoch == len(found.epochs) == epochs
        assert untimed(found) == untimed(history)[:epochs]
        assert weights(short) == seen[epochs]
    assert history.best_epoch == 1  # what the validation rows say of it


def test_two_runs_give_the_same_bits_whatever_the_global_random_state(tmp_path: Path) -> None:
    one, _ = finetune(tmp_path / "a")
    torch.manual_seed(99)
    np.random.seed(99)
    before = torch.random.get_rng_state()
    two, _ = finetune(tmp_path / "b")
    assert weights(one) == weights(two)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_run_stopped_after_an_epoch_ends_with_the_same_bits(
    tmp_path: Path, stop_after: int
) -> None:
    whole, history = finetune(tmp_path / "whole")

    def stop(event: Mapping[str, Any]) -> None:
        if event.get("end_of_epoch") and event["epoch"] == stop_after + 1:
            raise Stopped  # the checkpoint of this epoch is not written yet

    with pytest.raises(Stopped):
        finetune(tmp_path / "stopped", report=stop)
    assert (tmp_path / "stopped" / "checkpoint.pt").exists()
    resumed, again = finetune(tmp_path / "stopped")
    assert weights(resumed) == weights(whole)
    assert again.best_epoch == history.best_epoch
    assert untimed(again) == untimed(history)


def test_a_run_stopped_within_an_epoch_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = finetune(tmp_path / "whole")
    monkeypatch.setattr("fusetune.finetune.pytorch.loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("fusetune.finetune.pytorch.loop.REPORT_SECONDS", 0.0)
    steps = []

    def stop(event: Mapping[str, Any]) -> None:
        steps.append(event)
        if len(steps) == 9:  # five batches and the epoch's end before, three batches after
            raise Stopped

    with pytest.raises(Stopped):
        finetune(tmp_path / "stopped", report=stop)
    resumed, _ = finetune(tmp_path / "stopped")
    assert weights(resumed) == weights(whole)


EVERYTHING = Augmentation(
    flip=True,
    crop_padding=1,
    resized_crop=0.5,
    rand_augment=1,
    color_jitter=0.2,
    cutout=2,
    mixup=0.2,
    cutmix=1.0,
)


def test_a_run_with_every_augmentation_stopped_within_an_epoch_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, epochs=2, augmentation=EVERYTHING, label_smoothing=0.1)
    whole, _ = finetune(tmp_path / "whole", settings)
    monkeypatch.setattr("fusetune.finetune.pytorch.loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("fusetune.finetune.pytorch.loop.REPORT_SECONDS", 0.0)

    def stop(event: Mapping[str, Any]) -> None:
        if event["epoch"] == 2 and event["done"] > 0.75:
            raise Stopped

    with pytest.raises(Stopped):
        finetune(tmp_path / "stopped", settings, report=stop)
    resumed, _ = finetune(tmp_path / "stopped", settings)
    assert weights(resumed) == weights(whole)


def test_balance_changes_training_and_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rare = SPLITS[0].targets.labels_N.copy()
    rare[np.flatnonzero(rare)[5:]] = 0
    train = Split(SPLITS[0].images, Targets(SPLITS[0].ids, SPLITS[0].targets.classes, rare))
    monkeypatch.setattr("small_runs.SPLITS", (train, SPLITS[1]))
    names = ("class_weights", "sampling")
    made = [finetune(tmp_path / n, replace(SETTINGS, **{n: "balanced"}))[0] for n in names]
    plain, _ = finetune(tmp_path / "plain")
    assert len({str(weights(member)) for member in (*made, plain)}) == 3
    both = replace(SETTINGS, class_weights="balanced", sampling="balanced")
    assert_resumes(tmp_path, both, monkeypatch, stops=(3,))


def test_another_seed_or_augmentation_gives_other_weights(tmp_path: Path) -> None:
    one, _ = finetune(tmp_path / "a")
    plain = FineTune(
        epochs=4, batch_size=8, optimizer=SETTINGS.optimizer, augmentation=Augmentation(flip=False)
    )
    two, _ = finetune(tmp_path / "b", plain)
    assert weights(one) != weights(two)


def test_early_stopping_waits_for_its_patience(tmp_path: Path) -> None:
    still = FineTune(epochs=9, batch_size=8, patience=2, optimizer=Optimizer(name="sgd", lr=1e-12))
    _, history = finetune(tmp_path, still)
    assert len(history.epochs) - history.best_epoch == 2 or len(history.epochs) == 9


def test_the_epoch_is_chosen_by_the_figure_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = [(0.9, 0.5), (0.7, 0.8), (0.5, 0.7), (0.6, 0.8), (0.8, 0.8), (float("nan"), 0.9)]

    def finetuned(stop_by: str, patience: int | None) -> Any:
        said = iter(figures)
        monkeypatch.setattr(
            Classification,
            "scores",
            lambda *_: dict(zip(("loss", "accuracy"), next(said), strict=True)),
        )
        settings = replace(SETTINGS, epochs=6, stop_by=stop_by, patience=patience)
        _, history = finetune(tmp_path / f"{stop_by}-{patience}", settings)
        return history.best_epoch, len(history.epochs)

    assert finetuned("loss", None) == (3, 6)
    assert finetuned("accuracy", None) == (4, 6)  # the lower loss of three as accurate
    assert finetuned("loss", 1) == (3, 4)
    assert finetuned("accuracy", 1) == (2, 3)


def test_any_metric_may_choose_the_epoch(tmp_path: Path) -> None:
    _, history = finetune(tmp_path, replace(SETTINGS, epochs=6, stop_by="brier"))
    values = [epoch["validation_brier"] for epoch in history.epochs]
    assert history.best_epoch == 1 + values.index(min(values))


def test_an_epoch_without_a_value_is_worse_than_any() -> None:
    judging = Judging(
        Classification(), "roc_auc", Targets(np.array(["a"]), ("x", "y"), np.array([1])), ("x", "y")
    )
    figures = judging.figures(np.array([[0.0, 1.0]]))
    assert np.isnan(figures["roc_auc"])
    assert judging.goodness(figures)[0] == -np.inf
    assert judging.goodness({"loss": np.nan})[0] == -np.inf


def test_accuracy_may_choose_and_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_resumes(tmp_path, replace(SETTINGS, stop_by="accuracy"), monkeypatch, stops=(2,))


def test_head_only_leaves_the_body_and_its_statistics(tmp_path: Path) -> None:
    before = weights(member())
    made, _ = finetune(
        tmp_path, FineTune(epochs=2, batch_size=8, train="head", optimizer=SETTINGS.optimizer)
    )
    changed = {name for name, value in weights(made).items() if value != before[name]}
    assert changed == {"fc.weight", "fc.bias"}


def test_a_diverged_run_says_so_and_what_to_do(tmp_path: Path) -> None:
    wild = FineTune(
        epochs=3, batch_size=8, clip_norm=None, optimizer=Optimizer(name="sgd", lr=1e30)
    )
    with pytest.raises(
        MemberFailed, match=r"no longer finite in epoch 1; expected a loss that falls\. Lower"
    ):
        finetune(tmp_path, wild)


def test_predictions_do_not_hang_on_batch_mates_or_training_mode() -> None:
    made = member()
    made.model.train()
    images = SPLITS[0].images
    whole = Torch().outputs(made, images, lambda event: None)
    alone = Torch().outputs(made, images.take(np.array([5])), lambda event: None)
    assert np.allclose(whole[5], alone[0], atol=1e-6)
    assert made.model.training


def test_the_schedule_warms_up_and_falls() -> None:
    cosine = Schedule(name="cosine", warmup=0.1)
    assert cosine.factor(0.05) == pytest.approx(0.5)
    assert cosine.factor(0.1) == 1.0
    assert cosine.factor(0.55) == pytest.approx(0.5)
    assert cosine.factor(1.0) == pytest.approx(0.0)
    assert Schedule(name="constant", warmup=0.0).factor(0.9) == 1.0
    assert [Schedule(name=n).rising for n in ("cosine", "one_cycle", "constant")] == [
        0.3,
        0.3,
        0.05,
    ]


def test_one_cycle_is_pytorchs() -> None:
    steps = 1000
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=steps + 1, cycle_momentum=False
    )
    cycle = Schedule(name="one_cycle")
    for step in range(steps):
        assert cycle.factor(step / steps) == pytest.approx(reference.get_last_lr()[0], abs=0.003)
        optimizer.step()
        reference.step()
    assert cycle.factor(0.0) == pytest.approx(1 / 25)
    assert cycle.factor(0.3) == 1.0
    assert cycle.factor(1.0) == pytest.approx(1 / 250_000)
    assert Schedule(name="one_cycle", warmup=0.0).factor(0.0) == 1.0


def test_normalizing_and_resizing_follow_the_member() -> None:
    def model_input(size: int, resize: int | None = None) -> ModelInput:
        made = Preprocess(size=size, resize=resize, mean=(0, 0, 0), std=(1, 1, 1))
        return ModelInput(made, torch.device("cpu"))

    pixels = torch.full((2, 8, 8, 3), 255, dtype=torch.uint8)
    white = ModelInput(PREPROCESS, torch.device("cpu"))(pixels)
    assert white.shape == (2, 3, 8, 8)
    assert torch.allclose(white, torch.tensor(2.0))
    assert model_input(20, 24)(pixels).shape == (2, 3, 20, 20)
    assert model_input(8)(torch.zeros((1, 8, 12, 3), dtype=torch.uint8)).shape == (1, 3, 8, 8)


def test_a_damaged_checkpoint_is_told_and_not_read(tmp_path: Path) -> None:
    """Wherever it is: torch itself reads most changed bytes without a word."""
    path = tmp_path / "whole.pt"
    layer, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    write_checkpoint(path, State(precision="fp32", epoch=3), {"layer": layer})
    content = path.read_bytes()
    found = read_checkpoint(path, {"layer": other})
    assert found is not None and found.epoch == 3
    assert torch.equal(other.weight, layer.weight)
    for place in range(0, len(content), 7):
        changed = content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]
        path.write_bytes(changed)
        assert read_checkpoint(path, {"layer": other}) is None
    for length in (0, 10, len(content) - 1):
        path.write_bytes(content[:length])
        assert read_checkpoint(path, {"layer": other}) is None

    whole, _ = finetune(tmp_path / "whole")
    events: list[Mapping[str, Any]] = []
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "checkpoint.pt").write_bytes(changed)
    again, _ = finetune(tmp_path / "damaged", report=events.append)
    assert {"phase": "damaged", "file": "checkpoint.pt"} in events
    assert weights(again) == weights(whole)


@pytest.mark.parametrize("epochs_before", [0, 2])
def test_a_budget_that_is_over_keeps_the_best_epoch_and_the_way_on(
    tmp_path: Path, epochs_before: int
) -> None:
    whole, history = finetune(tmp_path / "whole")
    ends_at = time.monotonic() + 1e6

    class Ending:
        """A budget that is over after some epochs."""

        rows = 1

        @property
        def ends_at(self) -> float:
            return ends_at

    def listen(event: Mapping[str, Any]) -> None:
        nonlocal ends_at
        if event.get("end_of_epoch") and event["epoch"] == epochs_before:
            ends_at = 0.0

    ends_at = ends_at if epochs_before else 0.0
    made = member()
    plan = Plan(Classification(), SETTINGS, seed=3, budget=Ending())  # type: ignore[arg-type]
    stopped = Torch().finetune(made, plan, SPLITS, tmp_path / "cut", listen)
    assert stopped.stopped is not None
    assert stopped.stopped[0] == epochs_before
    assert len(stopped.epochs) == max(epochs_before, 1)
    assert f"stopped fine-tuning in epoch {epochs_before + 1} of 4" in stopped.notes[0]
    losses = [epoch["validation_loss"] for epoch in stopped.epochs]
    validation = Torch().outputs(made, SPLITS[1].images, lambda event: None)
    scores = Classification().scores(validation, SPLITS[1].targets.labels_N)
    assert scores["loss"] == pytest.approx(min(losses), abs=1e-7)
    resumed, again = finetune(tmp_path / "cut")
    assert weights(resumed) == weights(whole)
    assert again.best_epoch == history.best_epoch
    assert again.stopped is None
    assert again.notes == ()
