# SPDX-License-Identifier: Apache-2.0
"""Members that learn from others: the step between a teacher's weights and a student's fine-tuning."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fusetune.entries import MemberEntry
from fusetune.errors import MemberFailed
from fusetune.finetune.snapshots import WEIGHTS
from fusetune.finetune.teaching import LESSON
from fusetune.stages.checkpoints import made_from
from fusetune.stages.snapshots import own_files
from fusetune.store.artifact import Artifact, Step

if TYPE_CHECKING:
    from fusetune.stages.members import Context, Outcome

__all__ = ["NOT_YET", "Files", "lesson_of", "promised_steps", "teach_step"]

NOT_YET = "not made yet"
"""Stands for the checksum of what an earlier step is yet to make."""

Files = Mapping[str, str]
"""What a member's fine-tuning gave it: file → checksum; empty before."""


def teach_step(context: "Context", entry: MemberEntry, weights: str) -> Step:
    """The step that predicts the train rows with a student's teacher.

    Args:
        context: The run's.
        entry: The student.
        weights: Checksum of the teacher's weights.
    """
    teacher = next(one for one in context.recipe.members if one.name == entry.teacher)
    inputs = {
        "weights": weights,
        "rows": context.prepared.fingerprint(),
        **made_from(teacher.source),
    }
    return context.step(f"teach-{entry.run}", inputs)


def lesson_of(
    context: "Context",
    entry: MemberEntry,
    before: Mapping[str, "Outcome"],
    made: Callable[[Step, str, Callable[[], dict[str, Any]]], Artifact],
) -> Artifact | None:
    """What a student's teacher says of the train rows; None: it has no teacher.

    Args:
        context: The run's.
        entry: The member.
        before: What became of the members above it.
        made: Makes a step's artifact, if it is not there yet.

    Raises:
        MemberFailed: The teacher has no weights.
    """
    if entry.teacher is None:
        return None
    teacher = before[entry.teacher]
    if teacher.finetuned is None:
        what = "was not run" if teacher.not_run else "failed"
        raise MemberFailed(
            f"its teacher '{entry.teacher}' {what}",
            "a teacher with weights",
            "Mend it and run again, or leave out `distill:`.",
        )
    weights = teacher.finetuned.path(teacher.entry.weights)
    step = teach_step(context, entry, teacher.finetuned.checksums[teacher.entry.weights])
    arguments = {"source": teacher.entry.source, "weights": weights}
    return made(step, "teaching:teach", lambda: arguments)


def promised_steps(
    context: "Context", entry: MemberEntry, known: Mapping[str, Files]
) -> tuple[list[Step], Files]:
    """The steps that make a member's weights, as far as it is known what goes into them.

    Args:
        context: The run's.
        entry: The member.
        known: Files of the members above it.

    Returns:
        The steps, the one that writes the weights last; and the files that this one has written or
        promises, none if it is yet to be done.
    """
    steps, lesson = list[Step](), None
    if entry.teacher is not None:
        steps.append(teach_step(context, entry, known[entry.teacher].get(WEIGHTS, NOT_YET)))
        taught = steps[0].promised()
        lesson = NOT_YET if taught is None else taught.checksums[LESSON]
    if entry.soup is None:
        steps.append(context.finetune_step(entry, lesson))
    else:
        steps.append(context.soup_step(entry, [known[name] for name in entry.soup.of]))
    made = steps[-1].promised()
    return steps, {} if made is None else own_files(entry, made.checksums)
