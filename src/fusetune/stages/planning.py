# SPDX-License-Identifier: Apache-2.0
"""What a run would do: every step, whether it is done, and why it is not."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median_low
from typing import Literal

from fusetune.entries import MemberEntry
from fusetune.finetune.snapshots import WEIGHTS
from fusetune.recipe import Scout
from fusetune.stages.distilling import NOT_YET, promised_steps
from fusetune.stages.features import feature_steps
from fusetune.stages.folds import best_epochs, folded, join_step
from fusetune.stages.fusion import ensemble_inputs, fuse_step
from fusetune.stages.members import PREDICTION_FILES, Context
from fusetune.stages.outcomes import judge_without_members
from fusetune.stages.scouting import (
    Looked,
    looked_at,
    looking,
    proposed_entries,
    score_step,
    view_step,
)
from fusetune.stages.snapshots import begins_run
from fusetune.store.artifact import JSON, Artifact, Step

__all__ = ["PlannedStep", "planned_steps"]


@dataclass(frozen=True)
class PlannedStep:
    """One step of a run.

    Args:
        step: Its name: `finetune-resnet18`.
        state: `done`; `redo`, if it was done with other inputs, or is damaged; else `todo`.
        why: What changed against the nearest artifact of that step, or is damaged.
    """

    step: str
    state: Literal["done", "todo", "redo"]
    why: str


def planned_steps(context: Context) -> list[PlannedStep]:
    """Every step of the run in its order; no file is changed.

    A damaged artifact is expected to be made again as it was, so that nothing else hangs on it.
    """
    plan = [_planned(context.data_step())]
    recipe = context.recipe
    if not recipe.members:
        assert recipe.scout is not None
        steps, artifact = _scouting(context, recipe.scout)
        plan += [_planned(step) for step in steps]
        if artifact is None or plan[-1].state != "done":
            return plan
        table = json.loads(artifact.path("scout.json").read_text(encoding="utf-8"))
        members = proposed_entries(recipe.scout, table)
        context = replace(context, recipe=replace(recipe, members=members))
    predictions: dict[str, JSON] = {}
    checksums: dict[str, Mapping[str, str]] = {}
    for entry in context.recipe.members:
        shared = map(_planned, feature_steps(context, entry).values())
        plan += [one for one in shared if one not in plan]
        if folded(context, entry):
            planned, predictions[entry.name] = _folded(context, entry)
            plan += planned
            continue
        steps, checksums[entry.name] = promised_steps(context, entry, checksums)
        predict = context.predict_step(entry, checksums[entry.name].get(WEIGHTS, NOT_YET))
        plan += [_planned(step) for step in (*(steps if begins_run(entry) else ()), predict)]
        predictions[entry.name] = _predictions_of(predict)
    return plan + [_planned(step) for step in _fusing(context, predictions)]


def _predict_step(context: Context, entry: MemberEntry, finetune: Step) -> Step:
    made = finetune.promised()
    weights = NOT_YET if made is None else made.checksums["weights.safetensors"]
    return context.predict_step(entry, weights)


def _predictions_of(step: Step) -> str:
    """Fingerprint of the predictions that a step makes."""
    made = step.promised()
    return NOT_YET if made is None else made.fingerprint_of("", suffix=PREDICTION_FILES)


def _folded(context: Context, entry: MemberEntry) -> tuple[list[PlannedStep], str]:
    """The steps of a folded member, and the fingerprint of its predictions."""
    assert context.prepared.folds is not None
    num_folds = len(context.prepared.folds)
    parts = [context.of_part(entry, number) for number in range(num_folds)]
    made = [one.finetune_step(called).promised() for one, called in parts]
    plan: list[PlannedStep] = []
    if context.recipe.data.roles.refit:
        finetuned = [artifact for artifact in made if artifact is not None]
        epochs = median_low(best_epochs(finetuned)) if len(finetuned) == num_folds else None
        parts.append(context.of_part(entry, num_folds, epochs))
    fingerprints = []
    for one, called in parts:
        finetune = one.finetune_step(called)
        predict = _predict_step(one, called, finetune)
        plan += [_planned(finetune), _planned(predict)]
        fingerprints.append(_predictions_of(predict))
    join = join_step(context, entry, fingerprints)
    return [*plan, _planned(join)], _predictions_of(join)


def _fusing(context: Context, predictions: JSON) -> list[Step]:
    judge, settings = judge_without_members(context), context.recipe.fuse
    fuse = fuse_step(context.experiment, judge, settings, predictions, list(predictions))
    fused = fuse.promised()
    inputs = {"fusion": NOT_YET, "predictions": predictions}
    if fused is not None:
        inputs = ensemble_inputs(fused, predictions)
    return [fuse, context.step("ensemble", inputs)]


def _scouting(context: Context, scout: Scout) -> tuple[list[Step], Artifact | None]:
    """Its steps, and the artifact of the last."""
    context = looking(context)
    rows = looked_at(context, scout)
    views = [view_step(context, entry, rows) for entry in scout.candidates]
    looked = [
        Looked(entry, artifact=view.promised())
        for entry, view in zip(scout.candidates, views, strict=True)
    ]
    scored = score_step(context, scout, looked)
    own = {view.folder: view for view in views}  # candidates of one checkpoint share it
    return [*own.values(), scored], scored.promised()


def _planned(step: Step) -> PlannedStep:
    status = step.status()
    return PlannedStep(step.name, status.state, status.why)
