# SPDX-License-Identifier: Apache-2.0
"""Memory runs out: batches are divided, results keep their meaning, and what cannot work is said."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fusetune.data.inputs import PixelImages
from fusetune.errors import MemberFailed
from fusetune.finetune.engine import History, Plan, Split
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.pytorch.memory import finetune_bytes, is_out_of_memory
from fusetune.finetune.settings import Augmentation, FineTune, Optimizer
from fusetune.members.member import Member, Preprocess
from fusetune.predictions.targets import Targets

CLASSES = ("dark", "light")
PREPROCESS = Preprocess(size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
SETTINGS = FineTune(
    epochs=2,
    batch_size=8,
    optimizer=Optimizer(name="sgd", lr=0.05),
    augmentation=Augmentation(flip=True, crop_padding=1, mixup=0.2),
)


class Stopped(Exception):
    """Raised by a listener to stop a run in the middle."""


class Net(nn.Module):
    """A net without batch statistics, on a device with room for some rows only."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.most = room, 0
        self.body = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.most = max(self.most, len(images))
        return self.fc(self.body(images).relu().mean(dim=(2, 3)))


def split(name: str, num: int) -> Split:
    rng = np.random.default_rng(len(name))
    labels = np.arange(num) % 2
    pixels = rng.normal(100 + 60 * labels[:, None, None, None], 40, (num, 8, 8, 3))
    ids = np.array([f"{name}-{i}" for i in range(num)])
    return Split(PixelImages(pixels.clip(0, 255).astype(np.uint8)), Targets(ids, CLASSES, labels))


SPLITS = (split("train", 43), split("validation", 16))


def finetune(work: Path, room: int, report: Any = lambda event: None) -> tuple[Net, History]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net(room)
    member = Member(
        model=model, engine="torch", classes=CLASSES, preprocess=PREPROCESS, head=("fc",)
    )
    plan = Plan(Classification(), SETTINGS, seed=3)
    return model, Torch().finetune(member, plan, SPLITS, work, report)


@pytest.mark.slow
def test_a_batch_in_parts_takes_the_same_steps_and_says_so(tmp_path: Path) -> None:
    events: list[Mapping[str, Any]] = []
    whole, plain = finetune(tmp_path / "whole", 1000)
    parted, history = finetune(tmp_path / "parted", 3, events.append)
    assert parted.most == 3 and whole.most == 16
    for name, value in whole.state_dict().items():
        assert torch.allclose(parted.state_dict()[name], value, atol=1e-6)
    losses = [[epoch["train_loss"] for epoch in h.epochs] for h in (plain, history)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert plain.notes == ()
    assert "added up over 4 parts" in history.notes[0]
    assert any(event.get("parts") == 4 for event in events)


@pytest.mark.slow
def test_a_run_in_parts_that_is_stopped_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, _ = finetune(tmp_path / "whole", 3)

    def stop(event: Mapping[str, Any]) -> None:
        if event.get("end_of_epoch") and event["epoch"] == 2:
            raise Stopped

    with pytest.raises(Stopped):
        finetune(tmp_path / "stopped", 3, stop)
    resumed, _ = finetune(tmp_path / "stopped", 3)
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in resumed.state_dict().items())


def test_no_room_for_two_rows_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        MemberFailed, match=r"two rows at a time; expected room .* 8 pixels\. Lower"
    ):
        finetune(tmp_path, 1)


def test_other_errors_are_not_taken_for_it(tmp_path: Path) -> None:
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    model = nn.Linear(5, 2)
    member = Member(
        model=model, engine="torch", classes=CLASSES, preprocess=PREPROCESS, head=("fc",)
    )
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Torch().finetune(member, Plan(Classification(), SETTINGS, 0), SPLITS, tmp_path, print)


def test_averages_are_part_of_the_memory_that_is_asked_for() -> None:
    model = Net(1000)
    member = Member(
        model=model, engine="torch", classes=CLASSES, preprocess=PREPROCESS, head=("fc",)
    )
    weights = sum(parameter.nbytes for parameter in model.parameters())
    none = finetune_bytes(member, FineTune(ema=0))
    assert none > 5 * weights
    for averaged in (FineTune(), FineTune(swa=0.25)):
        assert finetune_bytes(member, averaged) == none + weights


@pytest.mark.slow
def test_predictions_are_made_in_smaller_batches(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net(1000)
    member = Member(
        model=model, engine="torch", classes=CLASSES, preprocess=PREPROCESS, head=("fc",)
    )
    whole = Torch().outputs(member, SPLITS[0].images, lambda event: None)
    model.room, model.most = 5, 0
    assert np.allclose(Torch().outputs(member, SPLITS[0].images, lambda event: None), whole)
    assert 1 < model.most <= 5
