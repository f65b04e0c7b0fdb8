# SPDX-License-Identifier: Apache-2.0
"""When fine-tuning has to stop: before a member's time is up, or because it diverged."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from fusetune.errors import MemberFailed
from fusetune.finetune.engine import Budget
from fusetune.finetune.settings import FineTune

__all__ = ["Stopwatch", "diverged", "goes_on"]

FORWARD = 0.5
"""Seconds per predicted row by those per trained row, at most: a step is a forward pass and a
backward pass, which takes about two more. Used until the first validation is measured."""

MARGIN = 1.2
"""Of what validating and predicting will take, for what differs from row to row."""


class Stopwatch:
    """Compares the time that is left with what a member still has to do, at measured speeds.

    Args:
        budget: None: it never stops.
        validation_rows: Number of rows that are predicted after every epoch.
    """

    def __init__(self, budget: Budget | None, validation_rows: int) -> None:
        self.stopped: tuple[int, int] | None = None
        self._budget, self._validation_rows = budget, validation_rows
        self._predict_s_per_row: float | None = None

    def is_over(self, epoch: int, step: int, rows: int, seconds: float) -> bool:
        """True if training has to stop after this many epochs and steps of the next one.

        Args:
            epoch: Finished epochs.
            step: Finished steps of the next one.
            rows: Rows of these steps.
            seconds: Seconds that these steps took.
        """
        if self._budget is None:
            return False
        per_row = self._predict_s_per_row or FORWARD * seconds / rows
        todo_s = MARGIN * per_row * (self._validation_rows + self._budget.rows)
        if time.monotonic() + todo_s < self._budget.ends_at:
            return False
        self.stopped = (epoch, step)
        return True

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Measures what predicting the validation rows takes."""
        before = time.perf_counter()
        yield
        self._predict_s_per_row = (time.perf_counter() - before) / self._validation_rows

    def forget_validating(self) -> None:
        """What was measured is not what predicting will take: the backbone did not run."""
        self._predict_s_per_row = None

    def notes(self, epochs: int, best_epoch: int) -> tuple[str, ...]:
        """What the user has to know if the budget stopped it."""
        if self.stopped is None:
            return ()
        return (
            f"the time limit stopped fine-tuning in epoch {self.stopped[0] + 1} of {epochs}; the "
            f"weights of epoch {best_epoch} were kept, and a run without a limit goes on from there",
        )


def goes_on(settings: FineTune, num_epochs: int, epoch: int, best_epoch: int) -> bool:
    """False after the last epoch, or if early stopping says so; epochs of the head alone do not count.

    Args:
        settings: Of the run.
        num_epochs: Of the run, at most.
        epoch: Finished epochs.
        best_epoch: The best one of them, from 1.
    """
    if settings.patience is None:
        return epoch < num_epochs
    waited = epoch - max(best_epoch, settings.head_epochs or 0)
    return epoch < num_epochs and waited < settings.patience


def diverged(which: str, epoch: int) -> MemberFailed:
    """The error for a loss that is no longer finite."""
    return MemberFailed(
        f"its {which} loss is no longer finite in epoch {epoch}",
        "a loss that falls",
        "Lower finetune.optimizer.lr, or set finetune.clip_norm.",
    )
