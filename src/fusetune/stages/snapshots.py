# SPDX-License-Identifier: Apache-2.0
"""Members that share one fine-tuning: what the first of them has made is there for the others."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from fusetune.entries import MemberEntry
from fusetune.finetune.snapshots import WEIGHTS

if TYPE_CHECKING:
    from fusetune.stages.members import Outcome

__all__ = ["begins_run", "of_same_run", "own_files"]

CUT_SHORT = "the time limit stopped the fine-tuning that it shares before its cycle ended"


def begins_run(entry: MemberEntry) -> bool:
    """True for every member but the later snapshots of a fine-tuning."""
    return entry.snapshot is None or entry.snapshot.number == 1


def of_same_run(entry: MemberEntry, before: Mapping[str, "Outcome"]) -> "Outcome | None":
    """What a member's fine-tuning came to, where another snapshot of it has come before.

    Args:
        entry: The member.
        before: What became of the members above it.

    Returns:
        Its fine-tuning, not yet predicted with; or why it failed or was not run; None: no other
        member shares its fine-tuning so far.
    """
    other = next((made for made in before.values() if made.entry.run == entry.run), None)
    if other is None or other.finetuned is None:
        return other and replace(other, entry=entry)
    if entry.weights in other.finetuned.checksums:
        return replace(other, entry=entry, predicted=None, error=None)
    return replace(
        other, entry=entry, finetuned=None, predicted=None, error=CUT_SHORT, not_run=True
    )


def own_files(entry: MemberEntry, checksums: Mapping[str, str]) -> dict[str, str]:
    """A fine-tuning's files as they would be if it had given this member alone."""
    others = {name: value for name, value in checksums.items() if not name.startswith("weights")}
    own = {WEIGHTS: checksums[entry.weights]} if entry.weights in checksums else {}
    return others | own
