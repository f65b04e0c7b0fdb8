# SPDX-License-Identifier: Apache-2.0
"""What fine-tuning does where the recipe leaves it open."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fusetune as package
from fusetune.errors import InvalidValue
from fusetune.finetune.objective import Objective
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.objectives.multilabel import Multilabel
from fusetune.finetune.pytorch.optimizer import default_lr
from fusetune.finetune.settings import FineTune, Optimizer
from fusetune.values import read_yaml
from small_runs import SETTINGS, finetune, weights
from support import SHORT


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs"),
    [(260, 32, 40), (320, 32, 40), (600, 32, 22), (1280, 32, 10), (50_000, 32, 10), (600, 64, 40)],
)
def test_epochs_take_the_usual_number_of_steps_within_bounds(
    rows: int, batch_size: int, epochs: int
) -> None:
    assert FineTune(batch_size=batch_size).for_rows(rows).num_epochs == epochs


def test_given_epochs_are_kept_and_open_ones_bound_what_hangs_on_them() -> None:
    given = FineTune(epochs=3)
    assert given.for_rows(5) == FineTune(epochs=3, ema=0.98)
    assert FineTune(train="head_then_full", head_epochs=9).for_rows(9999).num_epochs == 10
    with pytest.raises(InvalidValue, match=r"head_epochs is 10; expected .* below epochs \(10\)"):
        FineTune(train="head_then_full", head_epochs=10)
    with pytest.raises(InvalidValue, match="epochs is 0"):
        FineTune(epochs=0)


def test_the_usual_rate_is_lower_for_networks_with_layer_normalization() -> None:
    plain, normed = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    assert default_lr(plain, Optimizer()) == 1e-3
    assert default_lr(normed, Optimizer()) == 5e-5
    assert default_lr(normed, Optimizer(lr=0.3)) == 0.3
    assert default_lr(normed, Optimizer(name="sgd")) == 0.01
    assert default_lr(torch.nn.ReLU(), Optimizer(lr="range_test")) == 1e-3  # where a test fails


@pytest.mark.slow
def test_a_run_says_how_many_epochs_it_took(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(SHORT)
    content = {**read_yaml(path), "members": ["mini:vgg"], "finetune": {"batch_size": 128}}
    content["fuse"] = {"methods": ["mean"], "choose": "mean"}
    run = package.run(content, tmp_path / "run")
    (member,) = read_yaml(run.folder / "recipe.yaml")["members"]
    assert member["finetune"]["epochs"] == 40  # one step each
    assert len(run.results["learning_curves"]["mini-vgg"]) == 40


@pytest.mark.parametrize(
    ("objective", "settings", "head_kept", "smoothing"),
    [
        (Classification(), FineTune(), False, 0.1),
        (Classification(), FineTune(), True, 0),
        (Classification(), FineTune(label_smoothing=0.3), True, 0.3),
        (Classification(), FineTune(label_smoothing=0), False, 0),
        (Classification(), FineTune(train="probe"), False, 0),
        (Multilabel(), FineTune(), False, 0),
    ],
)
def test_labels_of_classes_with_a_new_head_are_smoothed(
    objective: Objective[Any], settings: FineTune, head_kept: bool, smoothing: float
) -> None:
    usual = objective.usual_smoothing
    known = settings.for_head(kept=head_kept, usual_smoothing=usual)
    assert known == replace(settings, label_smoothing=smoothing)


def test_the_usual_smoothing_is_what_a_new_head_is_trained_by(tmp_path: Path) -> None:
    usual, same, other = (
        weights(finetune(tmp_path / name, replace(SETTINGS, epochs=1, **keys))[0])
        for name, keys in (
            ("usual", {}),
            ("same", {"label_smoothing": 0.1}),
            ("other", {"label_smoothing": 0}),
        )
    )
    assert usual == same != other
