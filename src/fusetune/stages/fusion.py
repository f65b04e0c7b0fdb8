# SPDX-License-Identifier: Apache-2.0
"""Stages of a run from the members' predictions on: arrays in, the user's files out.

A run that fine-tuned its members and one that was given prediction files share them; `pipeline.py`
says in which order.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusetune import __version__
from fusetune.calibrated import with_calibrated_members
from fusetune.choose import choose, cross_choose
from fusetune.ensemble import Ensemble
from fusetune.evaluate.advice import advice
from fusetune.evaluate.judge import Candidates, Judge
from fusetune.fuse.fusion import load_fusion, save_fusion
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.fuse.threads import one_thread
from fusetune.predictions.detection.detections import object_columns
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.files import write_prediction, write_targets
from fusetune.predictions.kinds import Array, Kind
from fusetune.predictions.segmentation.files import kept_masks
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.segmentation.published import link_masks
from fusetune.predictions.segmentation.writing import recording
from fusetune.predictions.stack import Stack, rows_of
from fusetune.predictions.targets import GroundTruth, LabelSets, Numbers, Targets
from fusetune.recipe import Fuse
from fusetune.report.contents import gather
from fusetune.report.html import render
from fusetune.store.artifact import (
    JSON,
    Artifact,
    Step,
    canonical,
    fingerprint,
    write_json,
    write_text,
)
from fusetune.store.experiment import Experiment

__all__ = [
    "ensemble_inputs",
    "ensemble_stage",
    "environment",
    "fuse_stage",
    "fuse_step",
    "publish_results",
    "report_stage",
]

RESULTS_VERSION = 1


def fuse_stage(
    experiment: Experiment,
    judge: Judge,
    settings: Fuse,
    predictions: JSON,
) -> Artifact:
    """Fit every fusion on the holdout, choose one, judge all on test.

    Args:
        experiment: The run folder.
        judge: The rows, and by what they are judged.
        settings: What is fitted, and how the answer is chosen.
        predictions: Fingerprints of the members' predictions.

    Writes:
        `judged.json` (see `Judge.results`), `fusion/` (the chosen one), and its predictions as
        `predictions/<role>.parquet`: on test, and cross-fitted on the holdout.
    """
    step = fuse_step(experiment, judge, settings, predictions, judge.stacks["holdout"].members)
    if artifact := step.finished():
        return artifact
    folder = step.begin()
    with one_thread():
        judge.look_at_members()
        candidates = _candidates(judge, settings)
        entries = _judged(judge, candidates, folder / "predictions")
    save_fusion(candidates.fusions[candidates.chosen], folder / "fusion")
    write_json(folder / "judged.json", entries)
    return step.finish()


def _judged(judge: Judge, candidates: Candidates, folder: Path) -> dict[str, Any]:
    """The entries of judged.json; the chosen one's predictions are written, masks while they are judged."""
    chosen, test = candidates.chosen, judge.stacks["test"]
    held_out = candidates.holdout.get(chosen)
    fused = candidates.test.get(chosen)
    if isinstance(test.parts[0], Masks):
        fused = candidates.fusions[chosen](test) if fused is None else fused
        assert isinstance(fused, Masks)
        with recording(folder / "test", fused) as recorded:
            known = {**candidates.test, chosen: recorded}
            entries, _ = judge.results(replace(candidates, test=known))
    else:
        entries, predicted = judge.results(candidates)
        write_prediction(folder / "test.parquet", predicted[chosen])
    if isinstance(held_out, Masks) and held_out is fused:
        link_masks(folder / "holdout", kept_masks(folder / "test"))
    elif held_out is not None:
        write_prediction(folder / "holdout.parquet", held_out)
    return entries


def fuse_step(
    experiment: Experiment,
    judge: Judge,
    settings: Fuse,
    predictions: JSON,
    members: Sequence[str],
) -> Step:
    """The step that `fuse_stage` takes; of the judge's rows it needs the targets only."""
    inputs = {
        "predictions": predictions,
        "targets": {role: _identity(targets) for role, targets in judge.targets.items()},
        "methods": canonical(_methods(members, settings)),
        "choose": settings.choose,
        "calibrate": canonical(settings.calibrate),
        "metrics": canonical([judge.metric, *judge.metrics]),
        "seed": judge.seed,
        "judged": judge.judged,
    }
    return experiment.step("fuse", inputs, version=5)


def _candidates(judge: Judge, settings: Fuse) -> Candidates:
    """Fit every fusion on the holdout and choose; cross-fitted predictions in the stack's order."""
    holdout, targets = judge.stacks["holdout"], judge.targets["holdout"]
    crossed = judge.judged == "cross_fitted"
    made = (cross_choose if crossed else choose)(
        holdout,
        targets,
        judge.metric,
        _methods(holdout.members, settings),
        choose=settings.choose,
        calibrator=settings.calibrate,
        seed=judge.seed,
    )
    ordered = {name: _in_order(fused, holdout) for name, fused in made.cross_fitted.items()}
    if not crossed:
        return Candidates(made.fusions, made.chosen, made.best_member, made.seconds, ordered)
    assert made.honest is not None
    judged = {**ordered, made.chosen: _in_order(made.honest, holdout)}
    before = made.uncalibrated
    return Candidates(
        made.fusions,
        made.chosen,
        made.best_member,
        made.seconds,
        judged,
        judged,
        None if before is None else _in_order(before, holdout),
    )


def _methods(members: Sequence[str], settings: Fuse) -> dict[str, FusionMethod[Any]]:
    """The methods, on calibrated members where the settings say so."""
    common = (
        {}
        if settings.calibrate_members is None
        else dict.fromkeys(members, settings.calibrate_members)
    )
    return with_calibrated_members(settings.methods, {**common, **settings.member_calibrators})


def _in_order(fused: Kind, stack: Stack[Any]) -> Kind:
    return fused.take(rows_of(fused.ids, stack.ids))


def publish_results(
    experiment: Experiment,
    judge: Judge,
    fused: Artifact,
    about: Mapping[str, Any],
    members: list[dict[str, Any]],
) -> dict[str, Any]:
    """Compose results.json, and show it with the targets and the chosen fusion's predictions.

    Args:
        experiment: The run folder.
        judge: The rows that were judged.
        fused: What `fuse_stage` made.
        about: Entries that the caller knows: `task`, `rows`, `learning_curves`, `notes`, ...
        members: Entries of all members without their scores, failed ones included.
    """
    judged = json.loads(fused.path("judged.json").read_text(encoding="utf-8"))
    scored = judged.pop("members")
    judged["verdict"] = judge.verdict(judged)
    del judged["comparison"]
    results = {
        "version": RESULTS_VERSION,
        **about,
        "metric": judge.metric.name,
        "members": [{**entry, **scored.get(entry["name"], {"scores": {}})} for entry in members],
        **judged,
        "environment": environment(),
        "seed": judge.seed,
    }
    results["advice"] = advice(results)
    for role, targets in judge.targets.items():
        write_targets(experiment.folder / "targets" / f"{role}.parquet", targets)
    experiment.publish(fused.folder / "predictions", "predictions/ensemble")
    write_json(experiment.folder / "results.json", results)
    return results


def ensemble_inputs(fused: Artifact, predictions: JSON) -> JSON:
    """What an ensemble depends on: the chosen fusion, and what its members predict."""
    return {"fusion": fused.fingerprint_of("fusion/"), "predictions": predictions}


def ensemble_stage(experiment: Experiment, ensemble: Ensemble, inputs: JSON) -> None:
    """Save the ensemble, and show it."""
    step = experiment.step("ensemble", inputs)
    artifact = step.finished()
    if artifact is None:
        ensemble.save(step.begin())
        artifact = step.finish()
    experiment.publish(artifact.folder, "ensemble")


def chosen_fusion(fused: Artifact) -> Fusion[Any]:
    """The chosen fusion that `fuse_stage` saved."""
    return load_fusion(fused.folder / "fusion")


def report_stage(experiment: Experiment) -> None:
    """Draw the report from what the run folder shows."""
    write_text(experiment.folder / "report.html", render(gather(experiment.folder)))


def environment() -> dict[str, Any]:
    """What the figures were measured with; versions are read without importing anything."""
    versions = {}
    for package in (
        "numpy",
        "scipy",
        "scikit-learn",
        "pyarrow",
        "torch",
        "torchvision",
        "timm",
        "transformers",
        "accelerate",
    ):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "fusetune": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "packages": versions,
    }


def _identity(targets: GroundTruth) -> str:
    if isinstance(targets, Targets):
        content = [list(targets.classes), targets.labels_N.tolist()]
    elif isinstance(targets, LabelSets):
        content = [list(targets.classes), targets.present_NC.tolist()]
    elif isinstance(targets, LabelMaps):
        content = [list(targets.classes), [_hash(one.read()) for one in targets.maps]]
    elif isinstance(targets, Objects):
        lines = {name: column.tolist() for name, column in object_columns(targets).items()}
        content = [list(targets.classes), str(lines)]  # a row without objects holds NaN
    else:
        assert isinstance(targets, Numbers)
        content = [list(targets.names), targets.values_ND.tolist()]
    return fingerprint([targets.ids.tolist(), *content])


def _hash(labels_HW: Array) -> str:
    return hashlib.sha256(labels_HW.tobytes()).hexdigest()
