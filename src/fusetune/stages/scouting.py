# SPDX-License-Identifier: Apache-2.0
"""Stage before members: look at candidates, score them, propose the subset to fine-tune.

Shapes: N rows, n rows that are looked at, D features, S classes of a checkpoint.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusetune.entries import MemberEntry
from fusetune.errors import FileFailed, FusetuneError, NoMembersLeft
from fusetune.plugins import discover
from fusetune.predictions.folds import hashes
from fusetune.predictions.kinds import Array, Probabilities
from fusetune.predictions.sampling import stratified_sample
from fusetune.predictions.targets import Targets
from fusetune.recipe import Scout
from fusetune.runtime.runner import Call
from fusetune.scout.probe import probe_probs
from fusetune.scout.score import TransferScore, View
from fusetune.scout.subset import propose
from fusetune.stages.checkpoints import made_from
from fusetune.store.artifact import Artifact, Step, canonical, write_json

if TYPE_CHECKING:
    from fusetune.stages.members import Context

__all__ = [
    "ROLES",
    "Looked",
    "known_view",
    "looked_at",
    "looking",
    "proposed_entries",
    "score_step",
    "scout_stage",
    "view_step",
]

ROLES = ("train", "holdout")
"""Probes are fitted on train rows; holdout rows say which of them fuse best."""

BACKWARD = 3.0
"""Seconds of a training step per second of a forward pass: the backward pass takes about two more."""


@dataclass(frozen=True, eq=False)
class Looked:
    """What became of one candidate: its view, or why it failed."""

    entry: MemberEntry
    artifact: Artifact | None = None
    error: str | None = None

    def array(self, name: str) -> Array | None:
        """An array of its view, None where there is none."""
        assert self.artifact is not None
        file = f"{name}.npy"
        return np.load(self.artifact.path(file)) if file in self.artifact.checksums else None

    def path(self, role: str) -> Path:
        """Where the features of a role's rows lie."""
        assert self.artifact is not None
        return self.artifact.path(f"features_{role}.npy")

    def view(self, role: str, targets: Targets) -> View:
        """Its view of a role's rows."""
        features = self.array(f"features_{role}")
        assert features is not None
        probs = self.array(f"source_probs_{role}")
        return View(features, targets.labels_N, len(targets.classes), probs)

    def cost(self) -> dict[str, float]:
        """`predict_per_row` in seconds, and `parameters`."""
        assert self.artifact is not None
        return dict(json.loads(self.artifact.path("cost.json").read_text(encoding="utf-8")))


def scout_stage(context: "Context", scout: Scout, data: Artifact) -> Mapping[str, Any]:
    """Score all candidates and propose some; the content of scout.json.

    Raises:
        NoMembersLeft: Every candidate failed.
    """
    context = looking(context)
    rows = looked_at(context, scout)
    looked = [_look(context, entry, data, rows) for entry in scout.candidates]
    finished = [one for one in looked if one.artifact is not None]
    if not finished:
        reasons = "; ".join(f"'{one.entry.name}': {one.error}" for one in looked)
        raise NoMembersLeft(
            f"every candidate failed ({reasons})", "at least one to propose", "Mend one, run again."
        )
    step = score_step(context, scout, looked)
    artifact = step.finished()
    if artifact is None:
        context.listen({"phase": "scout"})
        folder = step.begin()
        write_json(folder / "scout.json", _scored(context, scout, looked, rows))
        artifact = step.finish()
    context.experiment.publish(artifact.path("scout.json"), "scout.json")
    return dict(json.loads(artifact.path("scout.json").read_text(encoding="utf-8")))


def looking(context: "Context") -> "Context":
    """The context of scouting: where there are folds, one of them, with its train rows and holdout."""
    whole = context.whole
    prepared = whole if whole.folds is None else whole.part(0)
    return replace(context, prepared=prepared, part=None)


def looked_at(context: "Context", scout: Scout) -> dict[str, Array]:
    """Role → positions of the rows that are looked at."""
    return {role: _rows(context, role, scout.settings.rows) for role in ROLES}


def score_step(context: "Context", scout: Scout, looked: Sequence[Looked]) -> Step:
    """The step that scores the views and proposes some."""
    inputs = {
        "rows": context.prepared.fingerprint(),
        "views": {
            o.entry.name: o.artifact.fingerprint_of("", ".npy") for o in looked if o.artifact
        },
        "settings": canonical(scout.settings),
        "metric": canonical(context.recipe.metric),
        "finetune": {entry.name: canonical(entry.finetune) for entry in scout.candidates},
        "failed": [one.entry.name for one in looked if one.error],
    }
    return context.step("scout", inputs)


def known_view(context: "Context", entry: MemberEntry) -> Looked | None:
    """What scouting saw of a member's checkpoint; None if it did not look at it."""
    scout = context.recipe.scout
    if scout is None or all(entry.source != one.source for one in scout.candidates):
        return None
    context = looking(context)
    artifact = view_step(context, entry, looked_at(context, scout)).finished()
    return None if artifact is None else Looked(entry, artifact)


def view_step(context: "Context", entry: MemberEntry, rows: Mapping[str, Array]) -> Step:
    """The step that looks at a candidate; those with one checkpoint share the first one's."""
    assert context.recipe.scout is not None
    inputs = {
        "rows": context.prepared.fingerprint(),
        "looked_at": {role: len(positions) for role, positions in rows.items()},
        "seed": context.recipe.seed,
        **made_from(entry.source),
    }
    return context.step(f"view-{shared_name(context.recipe.scout, entry)}", inputs)


def shared_name(scout: Scout, entry: MemberEntry) -> str:
    """Name of the first candidate with the checkpoint of an entry."""
    return next(one.name for one in scout.candidates if one.source == entry.source)


def proposed_entries(scout: Scout, scouted: Mapping[str, Any]) -> tuple[MemberEntry, ...]:
    """The proposed candidates, as members to fine-tune."""
    entries = {entry.name: entry for entry in scout.candidates}
    return tuple(member for name in scouted["proposed"] for member in entries[name].snapshots())


def _rows(context: "Context", role: str, most: int) -> Array:
    """Positions of the rows that are looked at, by hash of id, of each class in proportion."""
    prepared = context.prepared
    targets, positions = prepared.targets(role), prepared.rows(role)
    order_N = hashes(targets.ids, context.recipe.seed)
    chosen, _ = stratified_sample(targets.strata_N, order_N, most)
    return positions[chosen]


def _look(
    context: "Context", entry: MemberEntry, data: Artifact, rows: Mapping[str, Array]
) -> Looked:
    step = view_step(context, entry, rows)
    try:
        artifact = step.finished()
        if artifact is None:
            context.listen({"phase": "view", "member": entry.name})
            entry.source.check()
            arguments = {"folder": step.begin(), "source": entry.source, "data": data.folder}
            call = Call("fusetune.finetune.views:view_rows", {**arguments, "rows": dict(rows)})
            context.runner.call(call, context.listen)
            artifact = step.finish()
        return Looked(entry, artifact)
    except FileFailed:
        raise
    except FusetuneError as error:
        context.listen({"phase": "failed", "member": entry.name, "error": str(error)})
        return Looked(entry, error=str(error))


def _scored(
    context: "Context", scout: Scout, looked: Sequence[Looked], rows: Mapping[str, Array]
) -> dict[str, Any]:
    metric, settings = context.recipe.metric, scout.settings
    truth = context.prepared.truth
    assert isinstance(truth, Targets)  # load_recipe refuses other tasks
    train, holdout = (truth.take(rows[role]) for role in ROLES)
    probes: dict[str, Probabilities] = {}
    table: list[dict[str, Any]] = []
    for one in looked:
        line: dict[str, Any] = {"name": one.entry.name, "error": one.error}
        table.append(line)
        if one.error is None:
            view, cost = one.view("train", train), one.cost()
            probs_NC = probe_probs(view, one.view("holdout", holdout).features_ND)
            probe = Probabilities(holdout.ids, holdout.classes, probs_NC)
            probes[one.entry.name] = probe
            line |= cost | {"finetune_seconds": _finetune_seconds(context, one.entry, cost)}
            line |= _scores(view) | {"probe": metric.value(metric.statistics(probe, holdout))}
    proposal = propose(
        probes,
        holdout,
        metric,
        most=settings.most,
        cost_penalty=settings.cost_penalty,
        costs={line["name"]: line["predict_per_row"] for line in table if not line["error"]},
    )
    return {
        "metric": metric.name,
        "rows": {role: len(positions) for role, positions in rows.items()},
        "candidates": table,
        "proposed": dict(proposal.weights),
        "fused_probes": proposal.value,
    }


def _scores(view: View) -> dict[str, dict[str, float | None]]:
    """Every score of a view, and the seconds that it took."""
    scores: dict[str, float | None] = {}
    seconds: dict[str, float | None] = {}
    for name, score in discover(TransferScore).items():
        before = time.perf_counter()
        scores[name] = score().of(view)
        seconds[name] = time.perf_counter() - before
    return {"scores": scores, "seconds": seconds}


def _finetune_seconds(
    context: "Context", entry: MemberEntry, cost: Mapping[str, float]
) -> float | None:
    """A rough estimate of what fine-tuning would take here."""
    if entry.finetune is None:
        return None
    train = len(context.prepared.rows("train"))
    pass_s = cost["predict_per_row"] * train
    if entry.finetune.keeps_backbone and entry.finetune.reads_features:
        return pass_s  # once; its head takes next to nothing
    times = context.recipe.data.roles.folds or 1
    return BACKWARD * pass_s * entry.finetune.for_rows(train).num_epochs * times
