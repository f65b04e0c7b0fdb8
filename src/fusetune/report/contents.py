# SPDX-License-Identifier: Apache-2.0
"""What a report is made of: plain data, read from a finished run folder.

Shapes: M members, H W pixels.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.errors import InvalidValue, UnknownName
from fusetune.evaluate.cost import Cost
from fusetune.evaluate.verdict import Judged, Verdict
from fusetune.plugins import find
from fusetune.predictions.kinds import (
    Array,
    Columnar,
    Floats,
    Kind,
    Marginals,
    Probabilities,
    Values,
)
from fusetune.predictions.targets import LabelSets, Numbers, Targets
from fusetune.report.box_pictures import BoxPictures, read_box_pictures
from fusetune.report.mask_pictures import MaskPictures, read_mask_pictures
from fusetune.report.rows import JudgedRows, read_rows
from fusetune.task import Task

__all__ = ["Calibration", "Contents", "Contributions", "Epoch", "Pairs", "Predictor", "gather"]

THUMBNAILS = Path("images/test/thumbnails.npz")
FOLD = ", fold "
"""Stands between a member's name and the number of its fold in the name of a learning curve."""
MEASURES = ("agreement", "disagreement", "double_fault", "q_statistic", "error_correlation")
ROWS: Mapping[type[Kind], str] = {Probabilities: "test", Marginals: "labels", Values: "numbers"}


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A member or a fusion, with what is known of it.

    Args:
        name: Its name in the run.
        origin: The member's source, or the fusion's method.
        status: `ok`, `failed` or `not_run`.
        error: Why it failed or was not run.
        scores: Role → metric → value.
        intervals: Metric → ends of the interval on test.
        p_value: Of a fusion: of its gain over the best member; None where that is it.
        p_holm: The same, corrected for all fusions.
        cost: Its own: a fusion's without its members.
        weights: Of a fusion: member → weight; None where a single number cannot say it.
        blend: Of a fusion of fusions: candidate → weight.
        runs: Of a fusion: the members that have to run for it.
        notes: What the user should know of the member's loading.
        best_epoch: The epoch whose weights were kept; several of a folded member.
    """

    name: str
    origin: str = ""
    status: str = "ok"
    error: str | None = None
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    p_value: float | None = None
    p_holm: float | None = None
    cost: Cost = field(default_factory=Cost)
    weights: Mapping[str, float] | None = None
    blend: Mapping[str, float] | None = None
    runs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    best_epoch: int | Sequence[int] | None = None


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of a member's learning curve; None: not recorded."""

    epoch: int
    train_loss: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    lr: float | None = None
    images_per_second: float | None = None


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """A measure of all pairs of members: its mean, and `(M, M)` values where they are few."""

    members: tuple[str, ...]
    mean: float | None
    matrix_MM: Floats | None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What calibrating the chosen predictor changed on the judged rows.

    Args:
        method: Name of the calibrator.
        before: Metric → value.
        after: Likewise.
        bins: Of a reliability diagram before: `rows`, `confidence`, `accuracy`; empty for kinds
            that have none.
    """

    method: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    bins: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Contributions:
    """What members contribute to the fused score; see `evaluate.contribution`.

    Args:
        of: `weights` of the chosen fusion, or `mean`.
        members: Member → `leave_one_out`, `shapley` and its `standard_error`.
        score_all: Score of all together.
        score_none: Score of knowing no member.
        rows: How many rows were judged.
        permutations: How many orders were drawn; 0: exact.
    """

    of: str
    members: Mapping[str, Mapping[str, float]]
    score_all: float
    score_none: float
    rows: int
    permutations: int


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Everything the page shows. What is empty or None leaves its section out.

    Args:
        run_name: Name of the run folder.
        task: Name of the task.
        metric: Name of the metric that the user is judged by.
        rows: Role → number of rows.
        folds: How many folds the holdout rows were predicted out of; 0: they were set aside.
        members: In the recipe's order, failed ones included.
        fusions: In the recipe's order.
        chosen: Name of the chosen predictor.
        best_member: Name of the member that looked best on the holdout.
        verdict: None where nothing could be compared.
        curves: Member → its epochs.
        range_tests: Member → `rates`, `losses`, `lr` and `fell` of its learning-rate range test.
        judged: What the judged rows are: `test`, `cross_fitted` or `in_sample`; see `Comparison`.
        advice: What to do with these members, in sentences.
        diversity: Measure → its values for pairs of members.
        oracle_accuracy: Share of decisions that at least one member gets right.
        calibration: None where nothing was calibrated.
        contributions: None where they were not computed.
        per_class: Of detections and masks: entries of `evaluate.per_class`.
        by_size: Likewise of detections, for sizes of objects.
        precision_recall: Likewise, curves of the chosen one and members.
        test: Predictions of the judged rows, where they have one class each.
        labels: Where they have any number of labels.
        numbers: Where they have numbers.
        thumbnails: Row id → `(H, W, 3)` uint8 pixels.
        box_pictures: Of detection, where images are at hand.
        mask_pictures: Of segmentation.
        recipe: The resolved recipe, as YAML.
        environment: Versions, machine, threads.
        seed: Of the run.
        notes: What the user should know of the data and the choice.
    """

    run_name: str
    task: str
    metric: str
    rows: Mapping[str, int] = field(default_factory=dict)
    folds: int = 0
    members: tuple[Predictor, ...] = ()
    fusions: tuple[Predictor, ...] = ()
    chosen: str = ""
    best_member: str = ""
    verdict: Verdict | None = None
    curves: Mapping[str, tuple[Epoch, ...]] = field(default_factory=dict)
    range_tests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    judged: Judged = "test"
    advice: tuple[str, ...] = ()
    diversity: Mapping[str, Pairs] = field(default_factory=dict)
    oracle_accuracy: float | None = None
    calibration: Calibration | None = None
    contributions: Contributions | None = None
    per_class: tuple[Mapping[str, Any], ...] = ()
    by_size: tuple[Mapping[str, Any], ...] = ()
    precision_recall: Mapping[str, Any] = field(default_factory=dict)
    test: JudgedRows[Probabilities, Targets] | None = None
    labels: JudgedRows[Marginals, LabelSets] | None = None
    numbers: JudgedRows[Values, Numbers] | None = None
    thumbnails: Mapping[str, Array] = field(default_factory=dict)
    box_pictures: BoxPictures | None = None
    mask_pictures: MaskPictures | None = None
    recipe: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def predictors(self) -> tuple[Predictor, ...]:
        """Members, then fusions."""
        return self.members + self.fusions

    @property
    def rows_name(self) -> str:
        """What the judged rows are called: only rows that fitted nothing are test rows."""
        return "test rows" if self.judged == "test" else "rows"

    def kept_epoch(self, curve: str) -> int | None:
        """The epoch whose weights were kept, of a curve of a member or of one of its folds."""
        if (member := self.predictor(curve)) is not None:
            return member.best_epoch if isinstance(member.best_epoch, int) else None
        name, _, fold = curve.rpartition(FOLD)
        member = self.predictor(name)
        found = member.best_epoch if member is not None else None
        return found[int(fold) - 1] if isinstance(found, Sequence) else None

    def predictor(self, name: str) -> Predictor | None:
        """The member or fusion of that name."""
        return next((one for one in self.predictors if one.name == name), None)


def gather(run_folder: Path | str) -> Contents:
    """Read a finished run folder; files that are not there leave their part out.

    Raises:
        InvalidValue: The folder holds no results.json that can be read.
    """
    folder = Path(run_folder)
    results = _read_results(folder)
    members = tuple(_member(entry) for entry in results.get("members", []))
    kind = _kind(results.get("task", ""))
    shown = [one.name for one in members if one.status == "ok"]
    rows = _judged_rows(folder, kind, shown) if not results.get("memory_bytes") else {}
    return Contents(
        run_name=folder.resolve().name,
        task=results.get("task", ""),
        metric=results["metric"],
        rows=results.get("rows", {}),
        folds=(results.get("folds") or {}).get("number", 0),
        members=members,
        fusions=tuple(_fusion(entry, members) for entry in results.get("fusions", [])),
        chosen=results.get("chosen") or "",
        best_member=results.get("best_member") or "",
        verdict=Verdict.from_results(results) if results.get("verdict") else None,
        curves={
            name: tuple(_epoch(line) for line in lines)
            for name, lines in (results.get("learning_curves") or {}).items()
            if lines
        },
        range_tests=results.get("range_tests") or {},
        judged=results.get("judged", "test"),
        advice=tuple(results.get("advice") or ()),
        diversity=_diversity(results),
        oracle_accuracy=results.get("oracle_accuracy"),
        calibration=_calibration(results.get("calibration")),
        contributions=Contributions(**entry) if (entry := results.get("contributions")) else None,
        **_parts(results),
        **rows,
        **_pictures(folder),
        recipe=_text(folder / "recipe.yaml"),
        environment=_flattened(results.get("environment") or {}),
        seed=results.get("seed"),
        notes=tuple(results.get("notes") or ()),
    )


def _parts(results: Mapping[str, Any]) -> dict[str, Any]:
    """What of detections and masks is told part by part."""
    return {
        "per_class": tuple(results.get("per_class") or ()),
        "by_size": tuple(results.get("by_size") or ()),
        "precision_recall": results.get("precision_recall") or {},
    }


def _pictures(folder: Path) -> dict[str, Any]:
    return {
        "thumbnails": _read_thumbnails(folder / THUMBNAILS),
        "box_pictures": read_box_pictures(folder),
        "mask_pictures": read_mask_pictures(folder),
    }


def _judged_rows(folder: Path, kind: type[Kind], members: list[str]) -> dict[str, Any]:
    """What the sections on single rows show; nothing for kinds that have no such section.

    Of a run of files larger than memory they would hold too many.
    """
    return {ROWS[kind]: read_rows(folder, kind, members)} if issubclass(kind, Columnar) else {}


def _read_results(folder: Path) -> dict[str, Any]:
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        results["metric"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = "cannot be read" if path.exists() else "is not there"
        raise InvalidValue(
            f"'{path}' {found}",
            "the results of a finished run",
            "Give the folder of a run that ended well, or run its recipe again.",
        ) from error
    assert isinstance(results, dict)
    return results


def _member(entry: Mapping[str, Any]) -> Predictor:
    seconds = entry.get("seconds") or {}
    cost = Cost(
        fit_s=seconds.get("finetune"),
        predict_s_per_row=seconds.get("predict_per_row"),
        parameters=entry.get("parameters"),
    )
    return Predictor(
        name=entry["name"],
        origin=entry.get("source") or "",
        status=entry.get("status", "ok"),
        error=entry.get("error"),
        cost=cost,
        notes=tuple(entry.get("notes") or ()),
        best_epoch=entry.get("best_epoch"),
        **_scored(entry),
    )


def _fusion(entry: Mapping[str, Any], members: tuple[Predictor, ...]) -> Predictor:
    seconds, weights = entry.get("seconds") or {}, entry.get("weights")
    runs = [one.name for one in members if one.status == "ok"]
    if weights:
        runs = [name for name in runs if weights.get(name, 0) > 0]
    return Predictor(
        name=entry["name"],
        origin=entry.get("method") or "",
        cost=Cost(fit_s=seconds.get("fit"), predict_s_per_row=seconds.get("predict_per_row")),
        weights=weights,
        blend=entry.get("blend"),
        p_value=entry.get("p_value"),
        p_holm=entry.get("p_holm"),
        runs=tuple(entry.get("members") or runs),
        **_scored(entry),
    )


def _scored(entry: Mapping[str, Any]) -> dict[str, Any]:
    intervals = entry.get("intervals") or {}
    return {
        "scores": entry.get("scores") or {},
        "intervals": {name: (float(ends[0]), float(ends[1])) for name, ends in intervals.items()},
    }


def _epoch(line: Mapping[str, Any]) -> Epoch:
    return Epoch(**{name: line[name] for name in Epoch.__dataclass_fields__ if name in line})


def _diversity(results: Mapping[str, Any]) -> dict[str, Pairs]:
    """The measures that a run of several members has."""
    return {
        name: Pairs(
            members=tuple(entry["members"]),
            mean=entry.get("mean"),
            matrix_MM=None if entry["matrix"] is None else np.asarray(entry["matrix"], float),
        )
        for name in MEASURES
        if (entry := results.get(name)) and len(entry["members"]) > 1
    }


def _calibration(entry: Mapping[str, Any] | None) -> Calibration | None:
    if not entry:
        return None
    return Calibration(
        method=entry["method"],
        before=entry["before"],
        after=entry["after"],
        bins=(entry.get("reliability") or {}).get("before", {}),
    )


def _flattened(environment: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in environment.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{name} ")
        else:
            flat[prefix + name] = (
                ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            )
    return flat


def _kind(task: str) -> type[Kind]:
    """What members of a task give; class probabilities if its plug-in is not installed."""
    try:
        return find(Task, task).kind
    except UnknownName:
        return Probabilities


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _read_thumbnails(path: Path) -> dict[str, Array]:
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        pairs = zip(arrays["ids"], arrays["pixels"], strict=True)
        return {str(name): pixels for name, pixels in pairs}
