# SPDX-License-Identifier: Apache-2.0
"""Stages of a run up to the members' predictions; `pipeline.py` says in which order.

Each turns named inputs into one artifact, and is skipped where that artifact is there already.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fusetune.data.prepare import Prepared, load_prepared, part_folder
from fusetune.entries import MemberEntry
from fusetune.errors import DataError, FileFailed, FusetuneError, MemberFailed, name_some
from fusetune.evaluate.cost import Cost, total_cost
from fusetune.finetune.engine import Budget, Plan
from fusetune.finetune.objective import Objective
from fusetune.finetune.randomness import mixed_seed
from fusetune.finetune.snapshots import own_history
from fusetune.finetune.soup_steps import SoupPlan
from fusetune.finetune.teaching import LESSON
from fusetune.plugins import find
from fusetune.recipe import Recipe
from fusetune.runtime.runner import Call, Event, Runner
from fusetune.stages.checkpoints import made_from
from fusetune.stages.distilling import lesson_of
from fusetune.stages.features import FITTED, JUDGED, FeaturesStage, Made, identity
from fusetune.stages.snapshots import of_same_run, own_files
from fusetune.stages.time_limit import TimeLimit
from fusetune.store.artifact import JSON, Artifact, Step, canonical
from fusetune.store.experiment import Experiment

__all__ = ["Context", "Outcome", "Part", "member_stage", "store_data"]

NO_TIME = "the time limit left no time for it"


@dataclass(frozen=True)
class Part:
    """One of the fine-tunings of a folded member.

    Args:
        number: Of its fold, from 0; as many as there are folds: the one on all rows.
        whole: All rows with their folds.
        only_epochs: Of the latter: how many epochs it takes; see `Plan`.
    """

    number: int
    whole: Prepared
    only_epochs: int | None = None


PREDICTION_FILES = (".parquet", ".npy", "classes.txt")
"""Endings of the files that hold a member's predictions, beside what they cost."""


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
        part: Which of a folded member's fine-tunings this is the context of; None: of none.
        side_by_side: How many members are made at the same time.
    """

    recipe: Recipe
    prepared: Prepared
    experiment: Experiment
    runner: Runner
    listen: Callable[[Event], None]
    limit: TimeLimit | None = None
    part: Part | None = None
    side_by_side: int = 1

    def step(self, name: str, inputs: JSON, version: int = 1) -> Step:
        """A step of this run."""
        return self.experiment.step(name, inputs, version)

    def objective(self) -> Objective[Any]:
        """What members are fine-tuned for, fitted to the train rows."""
        assert self.recipe.task.objective is not None  # load_recipe refuses such tasks
        objective = find(Objective, self.recipe.task.objective)()
        prepared, folds = self.prepared, self.prepared.folds
        # What is no single fold's is for all rows, and so is what is checked before any work.
        fitting = prepared if folds is None else prepared.part(len(folds))
        return objective.fitted(fitting.targets("train"))

    def of_part(
        self, entry: MemberEntry, number: int, only_epochs: int | None = None
    ) -> tuple["Context", MemberEntry]:
        """One fine-tuning of a folded member as an ordinary one, of a member of its own.

        Args:
            entry: The folded member.
            number: Of the fold, from 0; as many as there are folds: of the one on all rows.
            only_epochs: How many epochs the latter takes.
        """
        assert self.prepared.folds is not None
        which = "refit" if number == len(self.prepared.folds) else f"fold{number + 1}"
        run = entry.snapshot and replace(entry.snapshot, run=f"{entry.run}-{which}")
        part = Part(number, self.prepared, only_epochs)
        prepared = self.prepared.part(number)
        called = replace(entry, name=f"{entry.name}-{which}", snapshot=run)
        return replace(self, prepared=prepared, part=part), called

    def data_step(self) -> Step:
        """The step that stores the rows."""
        return self.step("data", {"rows": self.prepared.fingerprint()})

    def finetune_step(self, entry: MemberEntry, lesson: str | None = None) -> Step:
        """The step that fine-tunes a member, or keeps it as it is.

        Args:
            entry: The member.
            lesson: Checksum of what its teacher says of the train rows; None: it has no teacher.
        """
        inputs = {
            "rows": self.prepared.fingerprint(),
            **made_from(entry.source),
            "finetune": canonical(entry.finetune),
            "objective": self.recipe.task.objective,
            "seed": self.recipe.seed,
        }
        shared = {"start": "shared"} if entry.in_soup else {}
        taught = {} if lesson is None else {"lesson": lesson}
        more = {} if self.only_epochs is None else {"epochs": self.only_epochs}
        more |= identity(self, entry, FITTED)
        return self.step(f"finetune-{entry.run}", {**inputs, **shared, **taught, **more}, version=2)

    def soup_step(self, entry: MemberEntry, members: Sequence[Mapping[str, str]]) -> Step:
        """The step that averages members' weights; the holdout chooses what is to be chosen.

        Args:
            entry: The soup.
            members: Checksums of each member's files; none of files that are yet to be made.
        """
        assert entry.soup is not None
        inputs = {
            "rows": self.prepared.fingerprint(),
            "soup": canonical(entry.soup),
            "weights": [made.get("weights.safetensors") for made in members],
            "members": [made.get("member.json") for made in members],
            "metric": canonical(self.recipe.metric),
            "objective": self.recipe.task.objective,
        }
        return self.step(f"soup-{entry.name}", inputs)

    def rows_in(self, data: Artifact) -> Path:
        """Where the members' processes read the rows, with the roles that they have here."""
        return data.folder if self.part is None else part_folder(data.folder, self.part.number)

    @property
    def whole(self) -> Prepared:
        """All rows with their folds, if they have any."""
        return self.prepared if self.part is None else self.part.whole

    @property
    def only_epochs(self) -> int | None:
        """How many epochs the one model on all rows takes; None: it is another."""
        return None if self.part is None else self.part.only_epochs

    @property
    def start_seed(self) -> int:
        """The seed of what is new in every member of a soup."""
        return mixed_seed(self.recipe.seed, "start")

    def predict_step(self, entry: MemberEntry, weights: str) -> Step:
        """The step that predicts all judged rows with a member, given its weights' checksum."""
        inputs = {
            "weights": weights,
            "rows": self.prepared.fingerprint(),
            **made_from(entry.source),
            **identity(self, entry, FITTED, JUDGED),
        }
        return self.step(f"predict-{entry.name}", inputs)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one member: its artifacts, or why it failed or was not run.

    A soup's step is its fine-tuning. A folded member's fine-tunings are `folds`, and `refit` where
    one more model is fine-tuned on all rows.
    """

    entry: MemberEntry
    finetuned: Artifact | None = None
    predicted: Artifact | None = None
    error: str | None = None
    not_run: bool = False
    folds: tuple["Outcome", ...] = ()
    refit: "Outcome | None" = None

    @property
    def parts(self) -> tuple["Outcome", ...]:
        """Its fine-tunings: itself, unless it is folded."""
        refit = () if self.refit is None else (self.refit,)
        return (*self.folds, *refit) or (self,)

    @property
    def models(self) -> tuple["Outcome", ...]:
        """Those of its fine-tunings whose weights predict new rows."""
        return self.parts if self.refit is None else (self.refit,)

    @property
    def status(self) -> str:
        """`ok`, `failed` or `not_run`, as in results.json."""
        return "not_run" if self.not_run else "ok" if self.error is None else "failed"

    def content(self, name: str) -> dict[str, Any]:
        """The content of one of its JSON files, empty if it did not come to that."""
        for artifact in (self.finetuned, self.predicted):
            if artifact is not None and name in artifact.checksums:
                content = dict(json.loads(artifact.path(name).read_text(encoding="utf-8")))
                if name == "history.json" and self.entry.snapshot is not None:
                    return own_history(content, self.entry.snapshot.number)
                return content
        return {}

    def predictions_fingerprint(self) -> str:
        """Hash of its predictions; what they cost is not in it."""
        assert self.predicted is not None
        return self.predicted.fingerprint_of("", suffix=PREDICTION_FILES)

    @property
    def cost(self) -> Cost:
        """What it costs to make and to run; a soup's making is its members' and its own."""
        made = [part.content("history.json") or part.content("soup.json") for part in self.parts]
        fitted = total_cost(Cost(fit_s=entry.get("seconds")) for entry in made)
        run = total_cost(
            Cost(
                predict_s_per_row=measured.get("predict_per_row"),
                parameters=measured.get("parameters"),
            )
            for measured in (model.content("cost.json") for model in self.models)
        )
        return replace(run, fit_s=fitted.fit_s)


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


def member_stage(
    context: Context, entry: MemberEntry, data: Artifact, before: Mapping[str, Outcome]
) -> Outcome:
    """Fine-tune or average a member, and predict all judged rows with it.

    A failure is an outcome too.

    Args:
        context: The run's.
        entry: The member.
        data: The stored rows.
        before: What became of the members above it.
    """

    def listen(event: Event) -> None:
        context.listen({"member": entry.name, **event})

    made = _maker(context, entry, data, listen)
    known, objective = of_same_run(entry, before), context.objective()
    if known is not None and known.error is not None:
        listen({"phase": known.status, "error": known.error})
        return known
    finetuned = None if known is None else known.finetuned
    features = FeaturesStage(context, entry, made)
    try:
        if finetuned is None:
            lesson = lesson_of(context, entry, before, made)
            step, function, told = _weights_step(context, entry, objective, before, lesson)
            finetuned = made(step, function, lambda: features.to_finetune(told))
        step = context.predict_step(entry, finetuned.checksums[entry.weights])
        weights = finetuned.path(entry.weights)
        predicted = made(
            step, "steps:predict_member", lambda: features.to_predict(weights, objective)
        )
    except FileFailed:
        raise  # no other member would have room
    except NoTimeLeft:
        listen({"phase": "not_run", "error": NO_TIME})
        return Outcome(entry, error=NO_TIME, not_run=True)
    except FusetuneError as error:
        listen({"phase": "failed", "error": str(error)})
        return Outcome(entry, finetuned=finetuned, error=str(error))
    listen({"phase": "finished"})
    return Outcome(entry, finetuned=finetuned, predicted=predicted)


def _maker(
    context: Context, entry: MemberEntry, data: Artifact, listen: Callable[[Event], None]
) -> Made:
    """What runs the steps of a member, unless they are finished."""

    def made(step: Step, function: str, arguments: Callable[[], Mapping[str, Any]]) -> Artifact:
        if artifact := step.finished():
            listen({"phase": "skipped", "step": step.name})
            return artifact
        known = arguments()  # which may make other steps
        listen({"phase": "begun", "step": step.name})
        common = {"folder": step.begin(), "source": entry.source, "data": context.rows_in(data)}
        call = Call(f"fusetune.finetune.{function}", {**common, **known})
        stopped = context.runner.call(call, listen)
        if stopped is not None:
            listen({"phase": "stopped", "epoch": stopped[0] + 1, "step": stopped[1]})
            return step.set_aside({"stopped": list(stopped)})
        return step.finish()

    return made


class NoTimeLeft(Exception):
    """A member's turn came too late."""


def _budget(context: Context, entry: MemberEntry) -> Budget:
    """The time of a member whose turn it is; its snapshots are predicted in it too.

    Raises:
        NoTimeLeft: There is not enough.
    """
    assert context.limit is not None
    rows = sum(len(context.prepared.rows(role)) for role in context.prepared.judged_roles)
    budget = context.limit.budget(entry.run, rows * entry.cycles, context.side_by_side)
    if budget is None:
        raise NoTimeLeft
    return budget


def _weights_step(
    context: Context,
    entry: MemberEntry,
    objective: Objective[Any],
    before: Mapping[str, Outcome],
    lesson: Artifact | None,
) -> tuple[Step, str, dict[str, Any]]:
    """The step that makes a member's weights, its function, and what that is told to do.

    Raises:
        NoTimeLeft: The time limit leaves too little for it.
        MemberFailed: A member of a soup has no weights.
    """
    if entry.soup is not None:
        members = [before[name] for name in entry.soup.of]
        return _souping(context, entry, objective, members)
    seed = mixed_seed(context.recipe.seed, entry.run)
    start_seed = context.start_seed if entry.in_soup else None
    plan = None
    if entry.finetune is not None:
        teacher = None if lesson is None else lesson.path(LESSON)
        plan = Plan(
            objective,
            entry.finetune,
            seed,
            start_seed,
            teacher=teacher,
            only_epochs=context.only_epochs,
        )
    step = context.finetune_step(entry, None if lesson is None else lesson.checksums[LESSON])
    if context.limit is not None and not step.finished():
        budget = _budget(context, entry)
        plan = None if plan is None else replace(plan, budget=budget)
    return step, "steps:finetune_member", {"plan": plan}


def _souping(
    context: Context, entry: MemberEntry, objective: Objective[Any], members: Sequence[Outcome]
) -> tuple[Step, str, dict[str, Any]]:
    """The step that averages members' weights."""
    assert entry.soup is not None
    made = [(one.entry, one.finetuned) for one in members if one.finetuned is not None]
    if len(made) < len(members):
        failed = [member.entry.name for member in members if member.finetuned is None]
        raise MemberFailed(
            f"{name_some(failed)} of its members failed",
            "weights of every member of a soup",
            "Mend it and run again, or leave it out of the soup.",
        )
    souped = SoupPlan(
        soup=entry.soup,
        sources=tuple(member.source for member, _ in made),
        folders=tuple(artifact.folder for _, artifact in made),
        weights=tuple(artifact.path(member.weights) for member, artifact in made),
        start_seed=context.start_seed,
        objective=objective,
        metric=context.recipe.metric,
    )
    files = [own_files(member, artifact.checksums) for member, artifact in made]
    return context.soup_step(entry, files), "soup_steps:soup_members", {"plan": souped}
