# SPDX-License-Identifier: Apache-2.0
"""A member with folds: fine-tuned K times, its out-of-fold predictions joined to one holdout.

Each of its fine-tunings is an ordinary one on ordinary rows with roles, in which the rows of its
fold are the holdout. What is new is here: that there are several, and what becomes of them. A teacher teaches
its student fold by fold, so that neither has seen the rows of the fold, and snapshots share their
fine-tuning in each.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

from fusetune.data.prepare import Prepared
from fusetune.entries import MemberEntry
from fusetune.errors import counted
from fusetune.finetune.objective import Objective
from fusetune.predictions.averages import mean_prediction
from fusetune.predictions.files import read_prediction_of, write_prediction
from fusetune.predictions.kinds import Kind
from fusetune.predictions.stack import rows_of
from fusetune.stages.distilling import Files, promised_steps
from fusetune.stages.members import Context, Outcome, member_stage
from fusetune.store.artifact import JSON, Artifact, Step

__all__ = [
    "PromisedPart",
    "about_folds",
    "best_epochs",
    "folded",
    "folded_member_stage",
    "join_step",
    "objectives_of",
    "promised_parts",
]


def folded(context: Context, entry: MemberEntry) -> bool:
    """True for a member that is fine-tuned once per fold; one that is used as it is needs none."""
    return context.prepared.folds is not None and entry.finetune is not None


def folded_member_stage(
    context: Context, entry: MemberEntry, data: Artifact, before: Mapping[str, Outcome]
) -> Outcome:
    """Fine-tune a member once per fold, and predict all judged rows.

    Holdout rows are predicted by the one model that neither trained on them nor chose its epoch by
    them, test rows by the mean of all models, or with `refit` by one more, on all rows.

    One fine-tuning that fails, or has no time, is the member's failure: its other folds are not
    worth their time then.

    Args:
        context: The run's.
        entry: The member.
        data: The stored rows.
        before: What became of the members above it.
    """
    num_folds = _num_folds(context)
    made: list[Outcome] = []
    for number in range(num_folds):
        above = _parts_of(entry, before, number)
        made.append(member_stage(*context.of_part(entry, number), data, above))
        if made[-1].error is not None:
            return _failed(context, entry, made, f"fold {number + 1} of {num_folds}")
    refit = None
    if context.recipe.data.roles.refit:
        epochs = median_low(best_epochs(_finetuned(made)))
        above = _parts_of(entry, before, num_folds)
        refit = member_stage(*context.of_part(entry, num_folds, epochs), data, above)
        if refit.error is not None:
            return _failed(context, entry, [*made, refit], "the model on all rows")
    outcome = Outcome(entry, folds=tuple(made), refit=refit)
    step = join_step(context, entry, [part.predictions_fingerprint() for part in outcome.parts])
    joined = step.finished() or _joined(context, step, outcome)
    return Outcome(entry, predicted=joined, folds=tuple(made), refit=refit)


def _parts_of(entry: MemberEntry, before: Mapping[str, Outcome], number: int) -> dict[str, Outcome]:
    """What became of one part of the members above; of a teacher that failed, the whole failure."""

    def part(outcome: Outcome) -> Outcome:
        failed_teacher = outcome.error is not None and outcome.entry.name == entry.teacher
        if number < len(outcome.folds) and not failed_teacher:
            return outcome.folds[number]
        return outcome.refit or outcome  # which is the same for all parts, or not there

    return {name: part(outcome) for name, outcome in before.items()}


def _failed(context: Context, entry: MemberEntry, made: Sequence[Outcome], which: str) -> Outcome:
    if context.limit is not None:
        context.limit.give_up(_names(context, entry))
    return Outcome(
        entry,
        error=f"{which}: {made[-1].error}",
        not_run=made[-1].not_run,
        folds=tuple(made),
    )


def join_step(context: Context, entry: MemberEntry, parts: JSON) -> Step:
    """The step that joins what a member's models predict, given fingerprints of that."""
    refit = context.recipe.data.roles.refit
    inputs = {"rows": context.prepared.fingerprint(), "parts": parts, "refit": refit}
    return context.step(f"join-{entry.name}", inputs)


def _joined(context: Context, step: Step, outcome: Outcome) -> Artifact:
    """Predictions of the union of the folds, in the order of the rows, and of the test rows."""
    folder, holdout = step.begin(), context.prepared.targets("holdout")
    parts = [_read(context, part, "holdout") for part in outcome.folds]
    union = type(parts[0]).concat(parts)
    write_prediction(folder / "holdout.parquet", union.take(rows_of(union.ids, holdout.ids)))
    tests = [_read(context, model, "test") for model in outcome.models]
    write_prediction(folder / "test.parquet", mean_prediction(tests))
    return step.finish()


def _read(context: Context, part: Outcome, role: str) -> Kind:
    assert part.predicted is not None
    return read_prediction_of(part.predicted.folder / f"{role}.parquet", context.recipe.task.kind)


def best_epochs(finetuned: Iterable[Artifact]) -> list[int]:
    """The epochs whose weights the folds' models kept."""
    histories = [artifact.folder / "history.json" for artifact in finetuned]
    return [json.loads(path.read_text(encoding="utf-8"))["best_epoch"] for path in histories]


def objectives_of(context: Context, outcome: Outcome) -> tuple[Objective[Any], ...]:
    """What turns the outputs of each of its models into predictions: fitted to its train rows."""
    if not outcome.folds or outcome.refit is not None:
        return (context.objective(),)
    parts = [context.of_part(outcome.entry, number) for number in range(len(outcome.folds))]
    return tuple(part.objective() for part, _ in parts)


@dataclass(frozen=True, eq=False)
class PromisedPart:
    """One fine-tuning of a member, as far as it is known what goes into it.

    Args:
        context: Of this part.
        entry: The member, as it is called here.
        steps: Those that make its weights, the one that writes them last.
        files: What that one has written or promises.
    """

    context: Context
    entry: MemberEntry
    steps: Sequence[Step]
    files: Files


def promised_parts(
    context: Context, entry: MemberEntry, known: Mapping[str, Sequence[PromisedPart]]
) -> list[PromisedPart]:
    """The fine-tunings of a member: one, or with folds one for each and the one on all rows.

    Args:
        context: The run's.
        entry: The member.
        known: Those of the members above it.
    """

    def promised(one: Context, called: MemberEntry, number: int) -> PromisedPart:
        above = {
            name: parts[number if len(parts) > 1 else 0].files for name, parts in known.items()
        }
        return PromisedPart(one, called, *promised_steps(one, called, above))

    if not folded(context, entry):
        return [promised(context, entry, 0)]
    num = _num_folds(context)
    parts = [promised(*context.of_part(entry, number), number) for number in range(num)]
    if context.recipe.data.roles.refit:
        made = [artifact for part in parts if (artifact := part.steps[-1].promised()) is not None]
        epochs = median_low(best_epochs(made)) if len(made) == num else None
        parts.append(promised(*context.of_part(entry, num, epochs), num))
    return parts


def about_folds(context: Context) -> dict[str, Any] | None:
    """The entry `folds` of results.json: how many, and how large; None without folds."""
    folds = context.prepared.folds
    if folds is None:
        return None
    parts = [context.prepared.part(number) for number in range(len(folds))]
    return {
        "number": len(folds),
        "refit": context.recipe.data.roles.refit,
        "rows": [
            {role: len(part.rows(role)) for role in ("train", "validation", "holdout")}
            for part in parts
        ],
        "note": _note(context.prepared, len(folds), context.recipe.data.roles.refit),
    }


def _note(prepared: Prepared, folds: int, refit: bool) -> str:
    new = (
        "by one more model, fine-tuned on all of these rows for as many epochs as these models kept "
        "(their median)"
        if refit
        else f"by the mean of its {folds} models"
    )
    rows = counted(len(prepared.rows("holdout")), "row")
    return (
        f"no holdout was set aside: a member predicts each of the {rows} that are not for testing "
        f"by the one of {folds} models that was neither trained on it nor chose its epoch by it, "
        f"and new rows {new}"
    )


def _num_folds(context: Context) -> int:
    assert context.prepared.folds is not None
    return len(context.prepared.folds)


def _names(context: Context, entry: MemberEntry) -> list[str]:
    """Names of all its fine-tunings."""
    return [context.of_part(entry, k)[1].run for k in range(_num_folds(context) + 1)]


def _finetuned(made: Sequence[Outcome]) -> list[Artifact]:
    return [one.finetuned for one in made if one.finetuned is not None]
