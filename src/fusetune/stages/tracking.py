# SPDX-License-Identifier: Apache-2.0
"""Learning curves and scores of a run for TensorBoard, MLflow or Weights & Biases, by accelerate."""

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusetune.errors import InvalidValue, MissingExtra, unknown_name
from fusetune.runtime.runner import Event

__all__ = ["TRACKERS", "check_tracker", "listening", "log_scores", "tracking"]

TRACKERS = ("mlflow", "tensorboard", "wandb")
FOLDER = "tracking"
PROJECT = "fusetune"

Log = Callable[[Mapping[str, float], int | None], None]
"""Takes values by name, and the epoch."""


def check_tracker(name: str) -> None:
    """Find out whether a tracker can be used, before any work.

    Raises:
        UnknownName: There is none of that name.
        MissingExtra: It is not installed.
    """
    if name not in TRACKERS:
        raise unknown_name("tracker", name, TRACKERS)
    if importlib.util.find_spec(name) is None:
        raise MissingExtra(
            f"the tracker {name} is asked for and not installed",
            f"the package {name}",
            f"Run: pip install {name}",
        )


@contextmanager
def tracking(
    name: str, folder: Path, listen: Callable[[Event], None] = lambda event: None
) -> Iterator[Log]:
    """Log to a tracker until the block ends.

    One that fails later on (its server has gone, say) is not worth hours of work: an event says so,
    and the run goes on without it.

    TensorBoard's files, MLflow's unless MLFLOW_TRACKING_URI says where, and those of wandb lie in
    the run folder's `tracking/`.

    Args:
        name: One of `TRACKERS`.
        folder: Of the run, which gives the tracker's run its name.
        listen: Takes that event.

    Raises:
        InvalidValue: The tracker would not begin.
    """
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    settings: dict[str, dict[str, Any]] = {
        "tensorboard": {},
        "mlflow": {"logging_dir": str(place), "run_name": folder.name},
        "wandb": {"dir": str(place), "name": folder.name},
    }
    try:
        accelerator = _begun(name, place, settings[name])
    except Exception as error:  # whatever the tracker and its server raise
        raise InvalidValue(
            f"the tracker {name} would not begin ({_first_line(error)})",
            "one that takes values",
            "Check its settings and its server, or run without --track.",
        ) from error
    failed = False

    def ask(call: Callable[[], None]) -> None:
        nonlocal failed
        if not failed:
            try:
                call()
            except Exception as error:
                failed = True
                listen({"phase": "untracked", "tracker": name, "error": _first_line(error)})

    try:
        yield lambda values, epoch: ask(
            lambda: accelerator.log(dict(values), step=_step(name, epoch))
        )
    finally:
        ask(accelerator.end_training)


def _begun(name: str, place: Path, settings: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """An accelerator that logs to the tracker."""
    from accelerate import Accelerator

    if name == "mlflow" and "MLFLOW_TRACKING_URI" not in os.environ:
        importlib.import_module(name).set_tracking_uri(f"sqlite:///{place.resolve()}/mlflow.db")
    accelerator = Accelerator(log_with=name, project_dir=str(place))
    accelerator.init_trackers(PROJECT, init_kwargs={name: dict(settings)})
    return accelerator


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}".rstrip(": .")


def listening(listen: Callable[[Event], None], log: Log) -> Callable[[Event], None]:
    """The same listener, and each member's learning curve goes to the tracker too."""

    def heard(event: Event) -> None:
        if event.get("end_of_epoch"):
            figures = {key: event[key] for key in event if key not in ("member", "phase", "epochs")}
            numbers = {k: v for k, v in figures.items() if isinstance(v, int | float)}
            log({f"{event['member']}/{k}": v for k, v in numbers.items()}, event["epoch"])
        listen(event)

    return heard


def log_scores(log: Log, results: Mapping[str, Any]) -> None:
    """Log every member's and fusion's scores on test."""
    for entry in (*results["members"], *results["fusions"]):
        if scores := entry["scores"].get("test"):
            log({f"{entry['name']}/test_{metric}": value for metric, value in scores.items()}, None)


def _step(name: str, epoch: int | None) -> int | None:
    """The epoch, but not for wandb: its steps may not go back, as they do from member to member."""
    return None if name == "wandb" else epoch
