# SPDX-License-Identifier: Apache-2.0
"""What a run would do: every step, whether it is done, and why it is not."""

import json
from dataclasses import dataclass, replace
from typing import Literal

from fusetune.finetune.snapshots import WEIGHTS
from fusetune.recipe import Scout
from fusetune.stages.distilling import NOT_YET
from fusetune.stages.features import feature_steps
from fusetune.stages.folds import PromisedPart, folded, join_step, promised_parts
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
    known: dict[str, list[PromisedPart]] = {}
    for entry in context.recipe.members:
        shared = map(_planned, feature_steps(context, entry).values())
        plan += [one for one in shared if one not in plan]
        known[entry.name] = promised_parts(context, entry, known)
        predicted = []
        for part in known[entry.name]:
            weights = part.files.get(WEIGHTS, NOT_YET)
            predict = part.context.predict_step(part.entry, weights)
            own = part.steps if begins_run(part.entry) else ()
            plan += [_planned(step) for step in (*own, predict)]
            predicted.append(_predictions_of(predict))
        if folded(context, entry):
            join = join_step(context, entry, predicted)
            plan.append(_planned(join))
            predicted = [_predictions_of(join)]
        (predictions[entry.name],) = predicted
    return plan + [_planned(step) for step in _fusing(context, predictions)]


def _predictions_of(step: Step) -> str:
    """Fingerprint of the predictions that a step makes."""
    made = step.promised()
    return NOT_YET if made is None else made.fingerprint_of("", suffix=PREDICTION_FILES)


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
