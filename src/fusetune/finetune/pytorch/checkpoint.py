# SPDX-License-Identifier: Apache-2.0
"""What a killed run finds again: one file, written atomically, read without unpickling code.

It ends with a checksum: `torch.load` itself takes a changed byte for a weight.
"""

import hashlib
import io
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fusetune.atomic import replacing

__all__ = ["Checkpoints", "State", "Stateful", "read_checkpoint", "write_checkpoint"]

SAVING_SHARE = 0.05  # of the time, at most, for checkpoints at the ends of epochs
DIGEST_BYTES = 32  # SHA-256, at the end, where readers of zip files pass over it


@dataclass
class State:
    """Everything that changes while training; saved as one file, so never half of it."""

    precision: str
    parts: int = 1
    range_test: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    rows: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    best_epoch: int = 0
    best: tuple[float, float] = (-math.inf, -math.inf)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    epochs: list[dict[str, float]] = field(default_factory=list)
    snapshots: list[dict[str, Any]] = field(default_factory=list)

    @property
    def kept(self) -> tuple[int, dict[str, Tensor]]:
        """The best epoch and its weights; with cycles, of the last one that has ended."""
        if not self.snapshots:
            return self.best_epoch, self.best_weights
        last = self.snapshots[-1]
        return last["about"]["best_epoch"], last["weights"]

    def end_cycle(self, epochs: range) -> None:
        """Put the best epoch's weights among the snapshots, and look for the next one.

        Args:
            epochs: Of the cycle, counted from 0.
        """
        about = {
            "first_epoch": epochs.start + 1,
            "last_epoch": self.epoch,
            "best_epoch": self.best_epoch,
        }
        self.snapshots.append({"about": about, "weights": self.best_weights})
        self.best, self.best_weights = (-math.inf, -math.inf), {}


class Stateful(Protocol):
    """A model, an optimizer, an average: what gives and takes its state."""

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors and plain values."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> object:
        """Go on from a state."""


class Checkpoints:
    """Writes checkpoints, and knows whether one at the end of an epoch pays.

    Attributes:
        last: When one was written, or training began, by `time.perf_counter()`.
    """

    def __init__(self) -> None:
        self.last, self._seconds = time.perf_counter(), 0.0

    @property
    def pays(self) -> bool:
        """False where epochs pass faster than a checkpoint is written."""
        return time.perf_counter() - self.last > self._seconds / SAVING_SHARE

    def write(self, path: Path, state: State, parts: Mapping[str, Stateful]) -> None:
        """Write the state and that of every part, by name."""
        before = time.perf_counter()
        write_checkpoint(path, state, parts)
        self.last = time.perf_counter()
        self._seconds = self.last - before


def write_checkpoint(path: Path, state: State, parts: Mapping[str, Stateful]) -> None:
    """Write the state and that of every part, by name."""
    content = {
        "state": vars(state),
        **{name: part.state_dict() for name, part in parts.items()},
    }
    with replacing(path) as temporary, temporary.open("w+b") as file:
        torch.save(content, file)  # to a file of ours: its errors say what the system said
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0, io.SEEK_END)
        file.write(digest)


def read_checkpoint(path: Path, parts: Mapping[str, Stateful]) -> State | None:
    """Give every part its state back, and return the whole's; None if a byte is not as written."""
    with path.open("rb") as file:
        end = file.seek(0, io.SEEK_END) - DIGEST_BYTES
        file.seek(0)
        digest, left = hashlib.sha256(), end
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        if file.read() != digest.digest():
            return None
        file.seek(0)
        content = torch.load(file, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(content[name])
    return State(**content["state"])
