# SPDX-License-Identifier: Apache-2.0
"""Learning curves and scores of a run for TensorBoard, MLflow or Weights & Biases, by accelerate."""

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusetune.errors import MissingExtra, unknown_name
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
def tracking(name: str, folder: Path) -> Iterator[Log]:
    """Log to a tracker until the block ends.

    TensorBoard's files, MLflow's unless MLFLOW_TRACKING_URI says where, and those of wandb lie in
    the run folder's `tracking/`.

    Args:
        name: One of `TRACKERS`.
        folder: Of the run, which gives the tracker's run its name.
    """
    from accelerate import Accelerator

    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    settings = {
        "tensorboard": {},
        "mlflow": {"logging_dir": str(place), "run_name": folder.name},
        "wandb": {"dir": str(place), "name": folder.name},
    }
    if name == "mlflow" and "MLFLOW_TRACKING_URI" not in os.environ:
        importlib.import_module(name).set_tracking_uri(f"sqlite:///{place.resolve()}/mlflow.db")
    accelerator = Accelerator(log_with=name, project_dir=str(place))
    accelerator.init_trackers(PROJECT, init_kwargs={name: settings[name]})
    try:
        yield lambda values, epoch: accelerator.log(dict(values), step=_step(name, epoch))
    finally:
        accelerator.end_training()


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
