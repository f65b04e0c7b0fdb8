# SPDX-License-Identifier: Apache-2.0
"""From members' artifacts to what is judged, shown and taken home."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fusetune.atomic import replacing
from fusetune.data.inputs import Images, PixelImages
from fusetune.data.prepare import load_prepared
from fusetune.ensemble import Ensemble, SavedMember, saved_source
from fusetune.evaluate.judge import Judge
from fusetune.finetune.steps import JUDGED_ROLES
from fusetune.fuse.method import Fusion
from fusetune.metric import Metric
from fusetune.plugins import find
from fusetune.predictions.files import read_columnar
from fusetune.predictions.kinds import Array, Columnar
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets
from fusetune.report.contents import THUMBNAILS
from fusetune.report.rows import disputed
from fusetune.stages.members import Context, Outcome
from fusetune.store.artifact import Artifact
from fusetune.store.experiment import Experiment
from fusetune.values import plain

__all__ = [
    "about_run",
    "ensemble_of",
    "judge_of",
    "judge_without_members",
    "member_entries",
    "publish_predictions",
    "save_thumbnails",
]

DISPUTED_ROWS = 24
THUMBNAIL_PIXELS = 96


def judge_of(context: Context, finished: Sequence[Outcome]) -> Judge:
    """The judged rows with the predictions of the members that finished."""
    prepared, kind = context.prepared, context.recipe.task.kind
    assert issubclass(kind, Columnar)
    stacks = {}
    for role in JUDGED_ROLES:
        predictions = {
            o.entry.name: read_columnar(o.predicted.path(f"{role}.parquet"), kind)
            for o in finished
            if o.predicted is not None
        }
        stacks[role] = Stack.align(
            predictions, ids=prepared.targets(role).ids, classes=prepared.classes
        )
    costs = {o.entry.name: o.cost for o in finished}
    return replace(judge_without_members(context), stacks=stacks, costs=costs)


def judge_without_members(context: Context) -> Judge:
    """The judged rows, and by what predictions of them will be judged."""
    prepared, recipe = context.prepared, context.recipe
    names = dict.fromkeys((recipe.metric.name, *recipe.task.metrics))
    return Judge(
        metric=recipe.metric,
        metrics=[recipe.metric if n == recipe.metric.name else find(Metric, n)() for n in names],
        stacks={},
        targets={role: prepared.targets(role) for role in JUDGED_ROLES},
        costs={},
        rule=recipe.verdict,
        seed=recipe.seed,
    )


def publish_predictions(experiment: Experiment, outcomes: Sequence[Outcome]) -> None:
    """Show the members' predictions; those of members that are not in the run any more go."""
    shown = experiment.folder / "predictions"
    finished = {o.entry.name: o.predicted for o in outcomes if o.predicted is not None}
    for folder in shown.iterdir() if shown.exists() else ():
        if folder.name not in finished:
            experiment.withdraw(f"predictions/{folder.name}")
    for name, artifact in finished.items():
        for role in JUDGED_ROLES:
            experiment.publish(
                artifact.path(f"{role}.parquet"), f"predictions/{name}/{role}.parquet"
            )


def ensemble_of(context: Context, finished: Sequence[Outcome], fusion: Fusion[Any]) -> Ensemble:
    """The members that finished, with their weights, and the chosen fusion."""
    members = {}
    for outcome in finished:
        assert outcome.finetuned is not None
        preprocess = outcome.content("member.json")["preprocess"]
        source = saved_source(outcome.entry.source.portable(), preprocess)
        members[outcome.entry.name] = SavedMember(
            source, outcome.finetuned.path(outcome.entry.weights)
        )
    objective = context.objective()
    settings = {"objective": objective.name, **plain(objective)}
    return Ensemble(context.prepared.classes, settings, members, fusion)


def member_entries(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Entries of results.json for all members, without their scores."""
    entries = []
    for outcome in outcomes:
        cost, history = outcome.cost, outcome.content("history.json")
        soup, source = outcome.entry.soup, outcome.entry.source
        of = f"soup:{soup.method.name}" if soup else f"{source.name}:{source.model}"
        souped = {name: v for name, v in outcome.content("soup.json").items() if name != "seconds"}
        notes = [*outcome.content("member.json").get("notes", []), *history.get("notes", [])]
        entries.append(
            {
                "name": outcome.entry.name,
                "source": of,
                "status": outcome.status,
                "error": outcome.error,
                "seconds": {"finetune": cost.fit_s, "predict_per_row": cost.predict_s_per_row},
                "parameters": cost.parameters,
                "trained_parameters": history.get("trained"),
                "best_epoch": history.get("best_epoch"),
                "notes": notes,
                **({"soup": souped} if souped else {}),
            }
        )
    return entries


def about_run(context: Context, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Entries of results.json about the task, the rows and the learning curves."""
    prepared = context.prepared
    return {
        "task": context.recipe.task.name,
        "classes": list(prepared.classes),
        "rows": {role: len(prepared.rows(role)) for role in ("train", *JUDGED_ROLES)},
        "notes": list(prepared.notes),
        "learning_curves": {
            o.entry.name: history["epochs"]
            for o in outcomes
            if (history := o.content("history.json"))
        },
        "range_tests": {
            o.entry.name: test
            for o in outcomes
            if (test := o.content("history.json").get("range_test"))
        },
    }


def save_thumbnails(context: Context, judge: Judge, data: Artifact) -> None:
    """Small pictures of the test rows on which the members disagree most, for the report.

    From the stored rows: the user's own files may have gone since.
    """
    stack, targets = judge.stacks["test"], judge.targets["test"]
    if not isinstance(targets, Targets):
        return  # numbers and label sets have no such rows in the report
    members = dict(zip(stack.members, stack.parts, strict=True))
    ids = disputed(members, targets, most=DISPUTED_ROWS)
    prepared = load_prepared(data.folder)
    row_of = {name: row for row, name in enumerate(prepared.ids.tolist())}
    rows = np.array([row_of[str(name)] for name in ids], dtype=int)
    with replacing(context.experiment.folder / THUMBNAILS) as temporary:
        np.savez(
            temporary, ids=np.asarray(ids, dtype=str), pixels=_thumbnails(prepared.images, rows)
        )


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
