# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with members, found before any work."""

from contextlib import nullcontext

from fusetune.runtime.runner import Call
from fusetune.stages.folds import PromisedPart, promised_parts
from fusetune.stages.members import Context
from fusetune.stages.snapshots import begins_run

__all__ = ["check_members"]


def check_members(context: Context) -> dict[str, int | None]:
    """Load every unfinished member once, so that what cannot work is said before any work.

    Returns:
        Name → bytes that fine-tuning takes, for those that are to be fine-tuned; None on a GPU.

    Raises:
        UsageError: Names the member and says what is wrong.
        MemberFailed: A member's own code raised while it was loaded.
    """
    needs: dict[str, int | None] = {}
    known: dict[str, list[PromisedPart]] = {}
    for entry in context.recipe.members:
        known[entry.name] = promised_parts(context, entry, known)
        waiting = [p.entry.run for p in known[entry.name] if p.steps[-1].finished() is None]
        if entry.soup is not None or not begins_run(entry) or not waiting:
            continue
        context.listen({"phase": "check", "member": entry.name})
        arguments = {
            "source": entry.source,
            "classes": context.prepared.classes,
            "objective": context.objective(),
            "finetune": entry.finetune,
        }
        waits = context.limit is not None and entry.finetune is not None
        with context.limit.loading(*waiting) if context.limit and waits else nullcontext():
            call = Call("fusetune.finetune.steps:check_member", arguments)
            found = context.runner.call(call, context.listen)
        if entry.finetune is not None:
            needs[entry.name] = found["bytes"]
    return needs
