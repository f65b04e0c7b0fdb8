# SPDX-License-Identifier: Apache-2.0
"""From members' artifacts to what is judged, shown and taken home."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fusetune.atomic import replacing
from fusetune.data.inputs import Images, PixelImages
from fusetune.data.prepare import load_prepared
from fusetune.data.roles import JUDGED_ROLES, ROLES
from fusetune.ensemble import Ensemble, SavedMember, saved_source
from fusetune.evaluate.judge import Judge
from fusetune.finetune.objective import Objective
from fusetune.fuse.method import Fusion
from fusetune.metric import Metric
from fusetune.plugins import find
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.detections import read_boxes
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.files import read_prediction_of
from fusetune.predictions.kinds import Array, Kind
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.segmentation.resampled import resampled
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import GroundTruth, Targets
from fusetune.report.contents import FOLD, THUMBNAILS
from fusetune.report.rows import disputed
from fusetune.stages.box_pictures import save_box_pictures
from fusetune.stages.folds import about_folds, objectives_of
from fusetune.stages.mask_pictures import save_mask_pictures
from fusetune.stages.members import Context, Outcome
from fusetune.store.artifact import Artifact
from fusetune.values import plain

__all__ = [
    "about_run",
    "ensemble_of",
    "judge_of",
    "judge_without_members",
    "member_entries",
    "publish_predictions",
    "save_pictures",
]

DISPUTED_ROWS = 24
THUMBNAIL_PIXELS = 96


def judge_of(context: Context, finished: Sequence[Outcome]) -> Judge:
    """The judged rows with the predictions of the members that finished."""
    prepared, kind = context.prepared, context.recipe.task.kind
    stacks = {}
    for role in prepared.judged_roles:
        predictions = {
            o.entry.name: _of_truth(
                read_prediction_of(o.predicted.folder / f"{role}.parquet", kind),
                prepared.targets(role),
            )
            for o in finished
            if o.predicted is not None
        }
        stacks[role] = Stack.align(
            predictions, ids=prepared.targets(role).ids, classes=prepared.classes
        )
    costs = {o.entry.name: o.cost for o in finished}
    return replace(judge_without_members(context), stacks=stacks, costs=costs)


def _of_truth(prediction: Kind, truth: GroundTruth) -> Kind:
    """Masks of the truth's sizes; all else as it is."""
    if not isinstance(prediction, Masks) or not isinstance(truth, LabelMaps):
        return prediction
    size_of = dict(zip(truth.ids.tolist(), (one.size for one in truth.maps), strict=True))
    return resampled(prediction, [size_of[name] for name in prediction.ids.tolist()])


def judge_without_members(context: Context) -> Judge:
    """The judged rows, and by what predictions of them will be judged."""
    prepared, recipe = context.prepared, context.recipe
    targets = {role: prepared.targets(role) for role in prepared.judged_roles}
    others = [find(Metric, name)() for name in recipe.task.metrics if name != recipe.metric.name]
    return Judge(
        metric=recipe.metric,
        metrics=[recipe.metric, *(one for one in others if _has_value(one, targets))],
        stacks={},
        targets=targets,
        costs={},
        rule=recipe.verdict,
        seed=recipe.seed,
    )


def _has_value(metric: Metric[Any], targets: Mapping[str, Any]) -> bool:
    """False for average precision of small objects, say, where a role has none of them."""
    if Boxes not in metric.accepts:
        return True
    values = []
    for truth in targets.values():
        none = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=np.int64))
        nothing = Boxes.from_entries(truth.ids, truth.classes, none[2], none)
        values.append(metric.value(metric.statistics(nothing, truth)))
    return all(map(math.isfinite, values))


def publish_predictions(context: Context, outcomes: Sequence[Outcome]) -> None:
    """Show the members' predictions; those of members that are not in the run any more go."""
    experiment = context.experiment
    shown = experiment.folder / "predictions"
    finished = {o.entry.name: o.predicted for o in outcomes if o.predicted is not None}
    for folder in shown.iterdir() if shown.exists() else ():
        if folder.name not in finished:
            experiment.withdraw(f"predictions/{folder.name}")
    for name, artifact in finished.items():
        ending = "" if context.recipe.task.kind is Masks else ".parquet"
        for role in JUDGED_ROLES:
            shown_as = f"predictions/{name}/{role}{ending}"
            if role in context.prepared.judged_roles:
                experiment.publish(artifact.folder / f"{role}{ending}", shown_as)
            else:
                experiment.withdraw(shown_as)


def ensemble_of(context: Context, finished: Sequence[Outcome], fusion: Fusion[Any]) -> Ensemble:
    """The members that finished, with their weights, and the chosen fusion."""
    members = {}
    for outcome in finished:
        model, *_ = outcome.models
        source = saved_source(
            outcome.entry.source.portable(), model.content("member.json")["preprocess"]
        )
        members[outcome.entry.name] = SavedMember(
            source,
            tuple(
                one.finetuned.path(one.entry.weights)
                for one in outcome.models
                if one.finetuned is not None
            ),
            objectives=tuple(map(_settings, objectives_of(context, outcome)))
            if len(outcome.models) > 1
            else (),
        )
    settings = _settings(context.objective())
    return Ensemble(context.prepared.classes, settings, members, fusion)


def _settings(objective: Objective[Any]) -> dict[str, Any]:
    return {"objective": objective.name, **plain(objective)}


def member_entries(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Entries of results.json for all members, without their scores."""
    entries = []
    for outcome in outcomes:
        cost = outcome.cost
        soup, source = outcome.entry.soup, outcome.entry.source
        of = f"soup:{soup.method.name}" if soup else f"{source.name}:{source.model}"
        souped = {name: v for name, v in outcome.content("soup.json").items() if name != "seconds"}
        entries.append(
            {
                "name": outcome.entry.name,
                "source": of,
                "status": outcome.status,
                "error": outcome.error,
                "seconds": {"finetune": cost.fit_s, "predict_per_row": cost.predict_s_per_row},
                "parameters": cost.parameters,
                "trained_parameters": outcome.models[0].content("history.json").get("trained"),
                "best_epoch": _best_epoch(outcome),
                "notes": _notes(outcome),
                **({"soup": souped} if souped else {}),
            }
        )
    return entries


def _best_epoch(outcome: Outcome) -> int | list[int | None] | None:
    """The epoch whose weights were kept; of a folded member, one for each fold."""
    kept = [part.content("history.json").get("best_epoch") for part in outcome.folds or [outcome]]
    return kept if outcome.folds else kept[0]


def _notes(outcome: Outcome) -> list[str]:
    """What the user should know of a member; of its folds once, if it is the same of all."""
    notes: dict[str, list[str]] = {}
    for part in outcome.parts:
        said = (
            part.content("member.json").get("notes", []),
            part.content("history.json").get("notes", []),
        )
        for note in (*said[0], *said[1]):
            notes.setdefault(note, []).append(
                part.entry.name.removeprefix(f"{outcome.entry.name}-")
            )
    everywhere = len(outcome.parts)
    found = [n if len(of) == everywhere else f"{', '.join(of)}: {n}" for n, of in notes.items()]
    if outcome.refit is not None:
        epochs = outcome.refit.content("history.json").get("best_epoch")
        found.append(f"refitted on all rows for {epochs} epochs")
    return found


def about_run(context: Context, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Entries of results.json about the task, the rows and the learning curves."""
    prepared, folds = context.prepared, about_folds(context)
    return {
        "task": context.recipe.task.name,
        "classes": list(prepared.classes),
        "rows": {role: len(rows) for role in ROLES if len(rows := prepared.rows(role))},
        **({"folds": folds} if folds else {}),
        "notes": [*prepared.notes, *([folds["note"]] if folds else [])],
        "learning_curves": {
            name: history["epochs"]
            for outcome in outcomes
            for name, part in _curves(outcome).items()
            if (history := part.content("history.json"))
        },
        "range_tests": {
            name: test
            for outcome in outcomes
            for name, part in _curves(outcome).items()
            if (test := part.content("history.json").get("range_test"))
        },
    }


def _curves(outcome: Outcome) -> dict[str, Outcome]:
    """Fine-tunings with a learning curve; that of a model on all rows shows no unseen row."""
    if not outcome.folds:
        return {outcome.entry.name: outcome}
    return {f"{outcome.entry.name}{FOLD}{n}": one for n, one in enumerate(outcome.folds, start=1)}


def save_pictures(context: Context, judge: Judge, data: Artifact, fused: Artifact) -> None:
    """Small pictures for the report: of the test rows on which the members disagree most.

    Of detection and segmentation with what members and the chosen fusion say of them. From the
    stored rows: the user's own files may have gone since.

    Args:
        context: The run.
        judge: The judged rows.
        data: The stored rows.
        fused: What `fuse_stage` made.
    """
    stack, targets, folder = judge.stacks["test"], judge.targets["test"], context.experiment.folder
    prepared = load_prepared(data.folder)
    row_of = {name: row for row, name in enumerate(prepared.ids.tolist())}

    def pixels_of(name: str) -> Array:
        return prepared.images.pixels(row_of[name])

    shown = fused.folder / "predictions" / "test"
    if isinstance(targets, Objects):
        judged = json.loads(fused.path("judged.json").read_text(encoding="utf-8"))
        chosen = judged["chosen"], read_boxes(shown.with_suffix(".parquet"))
        save_box_pictures(folder, stack, targets, chosen, judged["best_member"], pixels_of)
    elif isinstance(targets, LabelMaps):
        save_mask_pictures(folder, stack, targets, shown, pixels_of)
    elif isinstance(targets, Targets):
        members = dict(zip(stack.members, stack.parts, strict=True))
        ids = disputed(members, targets, most=DISPUTED_ROWS)
        rows = np.array([row_of[str(name)] for name in ids], dtype=int)
        with replacing(folder / THUMBNAILS) as temporary:
            pixels = _thumbnails(prepared.images, rows)
            np.savez(temporary, ids=np.asarray(ids, dtype=str), pixels=pixels)


def _thumbnails(images: Images, rows: Array) -> Array:
    """`(K, H, W, 3)` uint8: images of one size keep their shape, others are cropped square."""
    from PIL import Image, ImageOps

    pictures = []
    for row in rows:
        picture = Image.fromarray(np.ascontiguousarray(images.pixels(int(row))))
        if isinstance(images, PixelImages):
            picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        else:
            picture = ImageOps.fit(picture, (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        pictures.append(np.asarray(picture))
    return np.stack(pictures) if pictures else np.zeros((0, 1, 1, 3), dtype=np.uint8)
