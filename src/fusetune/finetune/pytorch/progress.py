# SPDX-License-Identifier: Apache-2.0
"""What a training run tells of itself while it is under way."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fusetune.finetune.pytorch.checkpoint import State

__all__ = ["epoch_record", "progress"]


def progress(state: State, num_epochs: int, num_rows: int, steps: int) -> dict[str, Any]:
    """The event that a progress bar is drawn from.

    Args:
        state: Of the run.
        num_epochs: Of the run, at most.
        num_rows: Train rows.
        steps: Of one epoch.
    """
    rate = state.rows / max(state.epoch_seconds, 1e-9)
    left = (num_epochs - state.epoch) * num_rows - state.rows
    accuracy = state.epochs[-1].get("validation_accuracy") if state.epochs else None
    return {
        "phase": "finetune",
        "epoch": state.epoch + 1,
        "epochs": num_epochs,
        "done": (state.epoch + state.step / steps) / num_epochs,
        "loss": state.loss_sum / state.rows,
        **({"parts": state.parts} if state.parts > 1 else {}),
        "validation_accuracy": accuracy,
        "images_per_second": rate,
        "seconds_left": left / rate,
    }


def epoch_record(
    state: State, lr: float | Tensor, figures: Mapping[str, float]
) -> dict[str, float]:
    """An epoch's line of the history.

    Args:
        state: At the epoch's end, the epoch counted.
        lr: Of the last step, the head's.
        figures: Of the validation rows, by name.
    """
    return {
        "epoch": state.epoch,
        "lr": float(lr),
        "train_loss": state.loss_sum / state.rows,
        **{f"validation_{name}": value for name, value in figures.items()},
        "images_per_second": state.rows / max(state.epoch_seconds, 1e-9),
    }
