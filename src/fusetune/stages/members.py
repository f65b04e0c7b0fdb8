# SPDX-License-Identifier: Apache-2.0
"""Stages of a run up to the members' predictions; `pipeline.py` says in which order.

Each turns named inputs into one artifact, and is skipped where that artifact is there already.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from fusetune.data.prepare import Prepared, load_prepared
from fusetune.entries import MemberEntry
from fusetune.errors import DataError, FileFailed, FusetuneError
from fusetune.evaluate.cost import Cost
from fusetune.finetune.engine import Plan
from fusetune.finetune.objective import Objective
from fusetune.finetune.randomness import mixed_seed
from fusetune.finetune.steps import JUDGED_ROLES
from fusetune.plugins import find
from fusetune.recipe import Recipe
from fusetune.runtime.runner import Call, Event, Runner
from fusetune.stages.time_limit import TimeLimit
from fusetune.store.artifact import JSON, Artifact, Step, canonical, file_checksum
from fusetune.store.experiment import Experiment

__all__ = ["Context", "Outcome", "check_members", "member_stage", "store_data"]

NO_TIME = "the time limit left no time for it"


@dataclass(frozen=True, eq=False)
class Context:
    """What every stage of one run works with.

    Args:
        recipe: Validated.
        prepared: Checked rows with roles.
        experiment: The run folder.
        runner: Where members' steps run.
        listen: Takes progress events.
        limit: The time that the run has; None: as much as it takes.
    """

    recipe: Recipe
    prepared: Prepared
    experiment: Experiment
    runner: Runner
    listen: Callable[[Event], None]
    limit: TimeLimit | None = None

    def step(self, name: str, inputs: JSON, version: int = 1) -> Step:
        """A step of this run."""
        return self.experiment.step(name, inputs, version)

    def objective(self) -> Objective[Any]:
        """What members are fine-tuned for, fitted to the train rows."""
        assert self.recipe.task.objective is not None  # load_recipe refuses such tasks
        objective = find(Objective, self.recipe.task.objective)()
        return objective.fitted(self.prepared.targets("train"))

    def data_step(self) -> Step:
        """The step that stores the rows."""
        return self.step("data", {"rows": self.prepared.fingerprint()})

    def finetune_step(self, entry: MemberEntry) -> Step:
        """The step that fine-tunes a member, or keeps it as it is."""
        inputs = {
            "rows": self.prepared.fingerprint(),
            "source": canonical(entry.source),
            "files": [file_checksum(p) if p.is_file() else None for p in entry.source.files()],
            "finetune": canonical(entry.finetune),
            "objective": self.recipe.task.objective,
            "seed": self.recipe.seed,
        }
        return self.step(f"finetune-{entry.name}", inputs)

    def predict_step(self, entry: MemberEntry, weights: str) -> Step:
        """The step that predicts all judged rows with a member, given its weights' checksum."""
        inputs = {
            "weights": weights,
            "rows": self.prepared.fingerprint(),
        }
        return self.step(f"predict-{entry.name}", inputs)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one member: its artifacts, or why it failed or was not run."""

    entry: MemberEntry
    finetuned: Artifact | None = None
    predicted: Artifact | None = None
    error: str | None = None
    not_run: bool = False

    @property
    def status(self) -> str:
        """`ok`, `failed` or `not_run`, as in results.json."""
        return "not_run" if self.not_run else "ok" if self.error is None else "failed"

    def content(self, name: str) -> dict[str, Any]:
        """The content of one of its JSON files, empty if it did not come to that."""
        for artifact in (self.finetuned, self.predicted):
            if artifact is not None and name in artifact.checksums:
                return dict(json.loads(artifact.path(name).read_text(encoding="utf-8")))
        return {}

    def predictions_fingerprint(self) -> str:
        """Hash of its predictions; what they cost is not in it."""
        assert self.predicted is not None
        return self.predicted.fingerprint_of("", suffix=".parquet")

    @property
    def cost(self) -> Cost:
        """What it costs to make and to run."""
        measured = self.content("cost.json")
        return Cost(
            fit_s=self.content("history.json").get("seconds"),
            predict_s_per_row=measured.get("predict_per_row"),
            parameters=measured.get("parameters"),
        )


def check_members(context: Context) -> None:
    """Load every unfinished member once, so that what cannot work is said before any work.

    Raises:
        UsageError: Names the member and says what is wrong.
        MemberFailed: A member's own code raised while it was loaded.
    """
    for entry in context.recipe.members:
        if context.finetune_step(entry).finished():
            continue
        context.listen({"phase": "check", "member": entry.name})
        arguments = {
            "source": entry.source,
            "classes": context.prepared.classes,
            "objective": context.objective(),
            "finetuned": entry.finetune is not None,
        }
        waits = context.limit is not None and entry.finetune is not None
        with context.limit.loading(entry.name) if context.limit and waits else nullcontext():
            call = Call("fusetune.finetune.steps:check_member", arguments)
            context.runner.call(call, context.listen)


def store_data(context: Context) -> Artifact:
    """Store the rows where the members' processes read them; then nobody needs the user's files.

    Raises:
        DataError: A file went or changed meanwhile.
    """
    step = context.data_step()
    if artifact := step.finished():
        return artifact
    context.listen({"phase": "store"})
    folder = step.begin()
    context.prepared.save(folder)
    if load_prepared(folder).fingerprint() != context.prepared.fingerprint():
        raise DataError(
            "the images changed while they were stored",
            "files that stay as they are until then",
            "Run again when nothing writes to them.",
        )
    return step.finish()


def member_stage(context: Context, entry: MemberEntry, data: Artifact) -> Outcome:
    """Fine-tune a member and predict all judged rows with it; a failure is an outcome too."""

    def listen(event: Event) -> None:
        context.listen({"member": entry.name, **event})

    def made(step: Step, function: str, arguments: Mapping[str, Any]) -> Artifact:
        if artifact := step.finished():
            listen({"phase": "skipped", "step": step.name})
            return artifact
        listen({"phase": "begun", "step": step.name})
        common = {"folder": step.begin(), "source": entry.source, "data": data.folder}
        call = Call(f"fusetune.finetune.steps:{function}", {**common, **arguments})
        stopped = context.runner.call(call, listen)
        if stopped is not None:
            listen({"phase": "stopped", "epoch": stopped[0] + 1, "step": stopped[1]})
            return step.set_aside({"stopped": list(stopped)})
        return step.finish()

    finetuned: Artifact | None = None
    try:
        objective, step = context.objective(), context.finetune_step(entry)
        budget = None
        if context.limit is not None and not step.finished():
            rows = sum(len(context.prepared.rows(role)) for role in JUDGED_ROLES)
            if not (budget := context.limit.budget(entry.name, rows)):
                listen({"phase": "not_run", "error": NO_TIME})
                return Outcome(entry, error=NO_TIME, not_run=True)
        seed = mixed_seed(context.recipe.seed, entry.name)
        plan = None if entry.finetune is None else Plan(objective, entry.finetune, seed, budget)
        finetuned = made(step, "finetune_member", {"plan": plan})
        step = context.predict_step(entry, finetuned.checksums["weights.safetensors"])
        weights = finetuned.path("weights.safetensors")
        predicted = made(step, "predict_member", {"weights": weights, "objective": objective})
    except FileFailed:
        raise  # no other member would have room
    except FusetuneError as error:
        listen({"phase": "failed", "error": str(error)})
        return Outcome(entry, finetuned=finetuned, error=str(error))
    listen({"phase": "finished"})
    return Outcome(entry, finetuned=finetuned, predicted=predicted)
