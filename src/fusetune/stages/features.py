# SPDX-License-Identifier: Apache-2.0
"""Stage before fine-tuning a head alone: what its frozen checkpoint makes of the rows, computed once.

Members that differ in how their heads are trained share it, and rows that scouting looked at are
not run again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusetune.entries import MemberEntry
from fusetune.finetune.objective import Objective
from fusetune.finetune.steps import Finetuned
from fusetune.plugins import find
from fusetune.predictions.kinds import Array
from fusetune.stages.checkpoints import made_from
from fusetune.stages.scouting import known_view, looked_at, looking
from fusetune.store.alone import alone
from fusetune.store.artifact import Artifact, Step, fingerprint

if TYPE_CHECKING:
    from fusetune.stages.members import Context

__all__ = ["FITTED", "JUDGED", "FeaturesStage", "Made", "feature_steps", "identity"]

FITTED, JUDGED = "fitted", "judged"
"""Two artifacts: a member that trains more than its head later on reads the first one only. With
folds, the first is of all rows that are not for testing, so that the models of all folds share it."""

Made = Callable[[Step, str, Callable[[], Mapping[str, Any]]], Artifact]
"""Runs a step's function with what the last argument gives, unless the step is finished."""


def feature_steps(context: "Context", entry: MemberEntry) -> dict[str, Step]:
    """The steps whose features a member reads, by which rows they are of; none for most members.

    A network of random weights is another one for every member: it shares nothing.
    """
    if entry.finetune is None or not entry.finetune.reads_features:
        return {}
    task = context.recipe.task
    if entry.source.weights == "none" or find(Objective, task.objective or "").takes != "logits":
        return {}
    given = entry.source.preprocess
    sees_views = given is not None and bool(given.test_flip or given.test_shift)
    by_features = entry.finetune.keeps_backbone and not sees_views
    return {which: _step(context, entry, which) for which in (FITTED, JUDGED)[: 1 + by_features]}


def identity(context: "Context", entry: MemberEntry, *which: str) -> dict[str, Any]:
    """What a step that reads these features depends on; nothing if the member has none of them."""
    steps = feature_steps(context, entry)
    read = {name: steps[name].folder.name for name in which if name in steps}
    return {"features": read} if len(read) == len(which) else {}


@dataclass(frozen=True, eq=False)
class FeaturesStage:
    """Computes the features that a member's steps read, when they come to read them.

    Args:
        context: The run's.
        entry: The member.
        made: Runs a step's function with its arguments, unless the step is finished.
    """

    context: "Context"
    entry: MemberEntry
    made: Made

    def to_finetune(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of what makes the weights: what it is told, and features for few members.

        Those for predicting are computed, too: what a time limit leaves is then known.
        """
        folders = self._folders()
        features = {"features": folders[FITTED]} if folders else {}
        return {**told, **features}

    def to_predict(self, weights: Path, objective: Objective[Any]) -> dict[str, Any]:
        """Arguments of predicting; no features of members whose backbones are trained."""
        by_features = JUDGED in feature_steps(self.context, self.entry)
        folders = tuple(self._folders().values()) if by_features else ()
        return {"made": Finetuned(weights, folders), "objective": objective}

    def _folders(self) -> dict[str, Path]:
        steps = feature_steps(self.context, self.entry)
        return {which: self._folder(which, step) for which, step in steps.items()}

    def _folder(self, which: str, step: Step) -> Path:
        with alone(step.root, step.folder.name):  # members are made side by side
            if (artifact := step.finished()) is None:
                arguments = partial(self._arguments, which)
                artifact = self.made(step, "feature_steps:feature_rows", arguments)
            return artifact.folder

    def _arguments(self, which: str) -> dict[str, Any]:
        parts, known = _parts(self.context, self.entry, which), []
        if (view := known_view(self.context, self.entry)) is not None:
            per_row = view.cost()["predict_per_row"]
            known = [(view.path(role), per_row) for role in _looked_roles(self.context, which)]
        return {"parts": parts, "known": known}


def _step(context: "Context", entry: MemberEntry, which: str) -> Step:
    """Named after the checkpoint and its settings, as members share it."""
    checkpoint = made_from(entry.source)
    inputs = {
        "rows": context.whole.fingerprint(),
        "parts": [len(part) for part in _parts(context, entry, which)],
        **checkpoint,
    }
    name = f"features-{entry.source.member_name}-{fingerprint(checkpoint['source'])[:6]}-{which}"
    return context.step(name, inputs)


def _parts(context: "Context", entry: MemberEntry, which: str) -> list[Array]:
    """The rows, those first that scouting looks at; each part is run through the model by itself."""
    whole = context.whole
    fitted = ["train", "validation", *(["holdout"] if whole.folds is not None else [])]
    rows = np.flatnonzero(np.isin(whole.roles_N, fitted) == (which == FITTED))
    scout = context.recipe.scout
    if scout is None or all(entry.source != one.source for one in scout.candidates):
        return [rows]
    looked = looked_at(looking(context), scout)
    first = [looked[role] for role in _looked_roles(context, which)]
    rest = np.setdiff1d(rows, np.concatenate([rows[:0], *first]))
    return [*first, rest] if len(rest) else first


def _looked_roles(context: "Context", which: str) -> tuple[str, ...]:
    """Whose rows scouting looks at, of those of an artifact."""
    if context.whole.folds is None:
        return ("train",) if which == FITTED else ("holdout",)
    return ("train", "holdout") if which == FITTED else ()
