# SPDX-License-Identifier: Apache-2.0
"""What a running command shows on stderr: a bar per member where there is a terminal, else lines."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from fusetune.runtime.runner import Event

__all__ = ["showing"]

PHASES = {
    "data": "Reading and checking the data",
    "store": "Storing the rows",
    "check": "Loading every member once",
    "view": "Looking at the candidates",
    "scout": "Scoring the candidates",
    "fuse": "Fitting and judging the fusions",
    "report": "Drawing the report",
}


@contextmanager
def showing(quiet: bool = False) -> Iterator["Screen"]:
    """A listener for progress events, which draws until the block ends."""
    console = Console(stderr=True, quiet=quiet, highlight=False)
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>4.0f} %"),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, disable=quiet or not sys.stderr.isatty()) as progress:
        yield Screen(console, progress)


class Screen:
    """Draws events; call it with each."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress
        self._bars: dict[str, TaskID] = {}
        self._phase = ""

    def __call__(self, event: Event) -> None:
        """Draw one event."""
        phase, member = str(event.get("phase")), str(event.get("member", ""))
        if phase in PHASES and phase != self._phase:
            self._console.print(f"{PHASES[phase]} ...", style="dim")
        self._phase = phase
        if phase == "finetune":
            self._finetune(member, event)
        elif phase in ("pixels", "features") and member:
            what = {"pixels": "decoding images", "features": "computing features"}[phase]
            self._update(member, event["done"], what)
        elif phase == "predict":
            self._update(member, event.get("done", 0.0), "predicting")
        elif phase == "teach":
            self._update(member, 0.0, "asking its teacher")
        elif phase == "soup":
            self._update(member, 0.0, f"averaging weights, trial {event['tried']}")
        elif phase == "finished":
            self._update(member, 1.0, "done")
        elif phase == "failed":
            self._console.print(f"{member} failed: {event['error']}", style="bold red")
        elif phase == "damaged":
            self._console.print(f"{member}: {event['file']} is damaged: from the beginning")
        elif phase == "not_run":
            self._console.print(f"{member} was not run: {event['error']}", style="bold red")
        elif phase == "untracked":
            line = f"{event['tracker']} failed, and gets no more: {event['error']}"
            self._console.print(line, style="bold red")
        elif phase == "stopped":
            self._console.print(f"{member}: stopped by the time limit in epoch {event['epoch']}")
        elif phase == "redo":
            doing = {"redo": "made again", "todo": "not finished"}[event["state"]]
            self._console.print(f"{event['step']}: {doing}: {event['why']}", style="dim")
        elif phase == "skipped":
            self._console.print(f"{event['step']}: done before", style="dim")

    def _finetune(self, member: str, event: Event) -> None:
        if event.get("end_of_epoch"):
            figures = f"loss {event['train_loss']:.3f}, validation {_validation(event)}"
            rate = f"{event['images_per_second']:,.0f} images/s"
            line = f"{member}: epoch {event['epoch']}/{event['epochs']}, {figures}, {rate}"
            if not self._progress.disable:
                self._update(member, event["epoch"] / event["epochs"], figures)
            elif _worth_a_line(int(event["epoch"]), int(event["epochs"])):
                self._console.print(line)
            return
        figures = f"epoch {event['epoch']}/{event['epochs']}, loss {event['loss']:.3f}"
        if event.get("validation_accuracy") is not None:
            figures += f", validation {100 * event['validation_accuracy']:.1f} %"
        figures += (
            f", {event['images_per_second']:,.0f} images/s, {_duration(event['seconds_left'])} left"
        )
        self._update(member, event["done"], figures)

    def _update(self, member: str, done: float, figures: str) -> None:
        if member not in self._bars:
            self._bars[member] = self._progress.add_task(member, total=1.0, figures="")
        self._progress.update(self._bars[member], completed=done, figures=figures)


def _validation(event: Mapping[str, Any]) -> str:
    if "validation_accuracy" in event:
        return f"{100 * event['validation_accuracy']:.1f} %"
    return f"loss {event['validation_loss']:.3f}"


def _worth_a_line(epoch: int, epochs: int) -> bool:
    """About ten lines per member where no bar can be drawn."""
    return epoch == epochs or epoch % max(1, epochs // 10) == 0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
