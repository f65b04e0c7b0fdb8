# SPDX-License-Identifier: Apache-2.0
"""Snapshots: one fine-tuning whose cycles each give a member."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["WEIGHTS", "Snapshot", "own_history", "snapshot_names", "snapshot_weights"]

WEIGHTS = "weights.safetensors"
"""File of the weights that a fine-tuning without cycles writes."""


@dataclass(frozen=True)
class Snapshot:
    """Which cycle of which fine-tuning a member is.

    Args:
        run: Name of the fine-tuning, as the recipe has it.
        number: Of the cycle, from 1.
    """

    run: str
    number: int

    @property
    def weights(self) -> str:
        """File of its weights."""
        return snapshot_weights(self.number)


def snapshot_weights(number: int) -> str:
    """File of the weights of a cycle, counted from 1."""
    return f"weights-{number}.safetensors"


def snapshot_names(run: str, snapshots: int) -> tuple[str, ...]:
    """Names of the members that a fine-tuning gives.

    Example:
        >>> snapshot_names("vgg", 3), snapshot_names("vgg", 1)
        (('vgg-1', 'vgg-2', 'vgg-3'), ('vgg',))
    """
    if snapshots == 1:
        return (run,)
    return tuple(f"{run}-{number}" for number in range(1, snapshots + 1))


def own_history(history: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What history.json says of one snapshot: its own epochs, and its part of the seconds.

    Args:
        history: Of the whole fine-tuning.
        number: Of the snapshot's cycle, from 1; all snapshots bear even parts of the cost.
    """
    own, seconds = history["snapshots"][number - 1], history["seconds"]
    first, last = own["first_epoch"], own["last_epoch"]
    return {
        **history,
        "epochs": [epoch for epoch in history["epochs"] if first <= epoch["epoch"] <= last],
        "best_epoch": own["best_epoch"],
        "seconds": seconds / len(history["snapshots"]),
    }
