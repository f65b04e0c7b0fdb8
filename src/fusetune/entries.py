# SPDX-License-Identifier: Apache-2.0
"""Entries of a recipe's `members:`, and of the candidates that members are chosen from."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from fusetune.data.roles import Roles
from fusetune.errors import RecipeError, name_some, unknown_name
from fusetune.finetune.settings import FineTune
from fusetune.finetune.snapshots import WEIGHTS, Snapshot, snapshot_names
from fusetune.finetune.soup_entry import SoupOf, check_soup, names_of
from fusetune.fuse.soup import Soup
from fusetune.members.source import Source
from fusetune.plugins import find
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.stack import RESERVED_MEMBERS
from fusetune.task import Task
from fusetune.values import build, build_plugin, mapping, merged, plain, short, text

__all__ = [
    "MemberEntry",
    "candidate_entries",
    "check_averages",
    "check_folds",
    "finetune_block",
    "member_entries",
]


@dataclass(frozen=True, kw_only=True)
class MemberEntry:
    """One member of the ensemble to be.

    Args:
        name: Unique in the run and safe as a file name.
        source: Where its pretrained model comes from; of a soup, its first member's.
        finetune: How it is fine-tuned; None: used as it is, or a soup.
        soup: What it is a soup of; None: no soup.
        snapshot: Which cycle of which fine-tuning it is, where one gives several members; None: the
            fine-tuning is its own.
        in_soup: True for a member of a soup: what is new in it (a head, `weights: none`) is drawn
            from the run's seed alone, so that the soup's members share a start.
    """

    name: str
    source: Source
    finetune: FineTune | None
    soup: SoupOf | None = None
    snapshot: Snapshot | None = None
    in_soup: bool = False

    @property
    def run(self) -> str:
        """Name of the fine-tuning that makes its weights; other members may share it."""
        return self.name if self.snapshot is None else self.snapshot.run

    @property
    def weights(self) -> str:
        """File of its weights among what the fine-tuning writes."""
        return WEIGHTS if self.snapshot is None else self.snapshot.weights

    @property
    def cycles(self) -> int:
        """How many members its fine-tuning gives."""
        return 1 if self.finetune is None else self.finetune.snapshots

    def snapshots(self) -> "tuple[MemberEntry, ...]":
        """The members that its fine-tuning gives: itself, or one per cycle."""
        if self.cycles == 1 or self.snapshot is not None:
            return (self,)
        return tuple(
            replace(self, name=name, snapshot=Snapshot(self.name, number))
            for number, name in enumerate(snapshot_names(self.name, self.cycles), 1)
        )

    def for_rows(self, num: int) -> Self:
        """The same, its number of epochs known; see `FineTune.for_rows`."""
        return (
            self if self.finetune is None else replace(self, finetune=self.finetune.for_rows(num))
        )

    @property
    def made_of(self) -> tuple[str, ...]:
        """Names of the members that have to be made before it."""
        if self.snapshot is not None and self.snapshot.number > 1:
            return snapshot_names(self.run, self.cycles)[:1]
        if self.soup is not None:
            return self.soup.of
        return () if self.teacher is None else (self.teacher,)

    @property
    def teacher(self) -> str | None:
        """Name of the member that it learns from."""
        distill = None if self.finetune is None else self.finetune.distill
        return None if distill is None else distill.teacher


def candidate_entries(
    content: object, default: FineTune | None, folder: Path
) -> tuple[MemberEntry, ...]:
    """Entries like those of `members:`; a `*` in a model's name stands for all that match.

    Raises:
        RecipeError: Nothing matches, and what `members:` would be refused for.
    """
    return member_entries(content, default, folder, where="scout.candidates")


def _matching(block: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The block once for each model whose name matches; the block itself without a pattern."""
    model = str(block.get("model", ""))
    if not set("*?[") & set(model):
        return [dict(block)]
    source = find(Source, text(block.get("source"), f"{where}.source"))
    names = [name for name in source.model_names() if fnmatchcase(name, model)]
    if not names:
        raise RecipeError(
            f"no model of source {block['source']} matches '{model}' ({where})",
            f"some of {name_some(list(source.model_names()))}",
            "Correct the pattern.",
        )
    return [{**block, "model": name} for name in names]


def member_entries(
    content: object, default: FineTune | None, folder: Path, where: str = "members"
) -> tuple[MemberEntry, ...]:
    """The entries of a list; `default` is the recipe's `finetune:`.

    Raises:
        RecipeError: No list, an empty one, an entry without a source, or a name that is taken.
    """
    if not isinstance(content, Sequence) or isinstance(content, str) or not content:
        raise RecipeError(
            f"{where} is {short(content)}",
            "a list of at least one member",
            "Write `- mini:resnet`.",
        )
    entries: list[MemberEntry] = []
    for index, item in enumerate(content):
        place = f"{where}[{index}]"
        block = _as_block(item, place)
        later = [other["name"] for other in content[index + 1 :] if _has_name(other)]
        if "soup" in block and where == "members":
            entries.append(_soup(block, place, entries, later, folder))
            continue
        finetune = default
        if "finetune" in block:
            finetune = finetune_block(block.pop("finetune"), f"{place}.finetune", default, folder)
        given = block.pop("name", None)
        for one in _matching(block, place) if where != "members" else [block]:
            source = build_plugin(Source, "source", one, place, folder)
            cycles = 1 if finetune is None else finetune.snapshots
            name = _member_name(given, source.member_name, place, entries, cycles)
            entry = MemberEntry(name=name, source=source, finetune=finetune)
            _check_teacher(entry, place, entries, later if where == "members" else None)
            entries += entry.snapshots() if where == "members" else (entry,)
    souped = {name for entry in entries if entry.soup is not None for name in entry.soup.of}
    runs = {entry.run for entry in entries if entry.name in souped}
    return tuple(replace(entry, in_soup=entry.run in runs) for entry in entries)


def _as_block(item: object, where: str) -> dict[str, Any]:
    """An entry's keys, those of the shorthand `source:model` too."""
    if not isinstance(item, str):
        return mapping(item, where)
    source_name, colon, model = item.partition(":")
    if not colon:
        raise RecipeError(
            f"{where} is '{item}'",
            "`source:model`",
            "Write for example `torchvision:resnet18`.",
        )
    return {"source": source_name, "model": model}


def _has_name(item: object) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get("name"), str)


def _soup(
    block: dict[str, Any],
    where: str,
    before: Sequence[MemberEntry],
    later: Sequence[str],
    folder: Path,
) -> MemberEntry:
    """A member that averages the weights of members above it."""
    given, of = block.pop("name", None), block.pop("of", None)
    names = names_of(of, where, [entry.name for entry in before], later)
    method = build_plugin(Soup, "soup", block, where, folder)
    soup = SoupOf(method=method, of=tuple(names))
    members = {entry.name: (entry.source, entry.finetune, entry.soup) for entry in before}
    check_soup(soup, where, members)
    name = _member_name(given, method.name, where, before)
    return MemberEntry(name=name, source=members[names[0]][0], finetune=None, soup=soup)


def _check_teacher(
    entry: MemberEntry,
    where: str,
    before: Sequence[MemberEntry],
    later: Sequence[str] | None,
) -> None:
    """Refuse a teacher that is not above; of candidates (`later` is None), any."""
    if entry.teacher is None:
        return
    given, known = f"{where}.finetune.distill.teacher", [other.name for other in before]
    if later is None:
        raise RecipeError(
            f"{given} is '{entry.teacher}', and it is a candidate",
            "candidates that can be fine-tuned each by itself",
            "Scout first, and add `distill:` to a member of the proposed recipe.",
        )
    if entry.teacher not in known and entry.teacher in (*later, entry.name):
        itself = entry.teacher == entry.name
        raise RecipeError(
            f"{given} is '{entry.teacher}', which {'it is itself' if itself else 'stands below it'}",
            "a member that stands above",
            "Name another." if itself else "Move the teacher above its student.",
        )
    if entry.teacher not in known:
        raise unknown_name("member", entry.teacher, known, where=given, error=RecipeError)


def _member_name(
    given: object, default: str, where: str, before: Sequence[MemberEntry], cycles: int = 1
) -> str:
    """A name that is free, as are those of its snapshots."""
    taken = set(RESERVED_MEMBERS)
    for entry in before:
        names = {entry.name, entry.run}
        taken |= names | {member.name for member in entry.snapshots()}

    def clash(name: str) -> str | None:
        names = (name, *snapshot_names(name, cycles))
        return next((one for one in names if one in taken), None)

    if given is None:
        free = (f"{default}-{n}" if n > 1 else default for n in range(1, len(taken) + 2))
        return next(name for name in free if clash(name) is None)
    name = text(given, f"{where}.name")
    if (used := clash(name)) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        which = "which" if used in (name, None) else f"and '{used}', one of its snapshots,"
        reason = "taken" if used else "no safe file name"
        raise RecipeError(
            f"{where}.name is '{name}', {which} is {reason}",
            "a name of its own made of letters, digits, '.', '_' and '-'",
            "Rename it.",
        )
    return name


def finetune_block(
    content: object, where: str, default: FineTune | None, folder: Path
) -> FineTune | None:
    """A `finetune:` block; what a member's block leaves out comes from the recipe's."""
    if content in ("none", None, False):
        return None
    block = mapping(content, where)
    whole = merged({} if default is None else plain(default), block)
    return build(FineTune, whole, where, folder)


def check_folds(members: Sequence[MemberEntry], roles: Roles) -> None:
    """Refuse, with folds, soups, and snapshots that have to be fine-tuned on all rows, too."""
    if roles.folds is None:
        return
    for entry in members:
        if entry.soup is not None:
            raise RecipeError(
                f"'{entry.name}' is a soup, and data.roles.folds is {roles.folds}",
                "a holdout that no model has trained on, by which a soup is chosen",
                "Remove the soup, or remove folds.",
            )
        if entry.snapshot is not None and roles.refit:
            raise RecipeError(
                f"'{entry.run}' has finetune.snapshots, and data.roles.refit is true",
                "one best epoch, at which the model on all rows ends",
                "Remove snapshots, or remove refit: the models of the folds then predict together.",
            )


def check_averages(members: Sequence[MemberEntry], roles: Roles, task: Task) -> None:
    """Refuse what needs an average of predictions, or of weights, that is not there."""
    if task.kind not in (Boxes, Masks):
        return
    if task.kind is Boxes and roles.folds is not None:
        raise RecipeError(
            f"data.roles.folds is {roles.folds}, and task is '{task.name}'",
            "a holdout: boxes of several models of a member have no average",
            "Remove folds.",
        )
    for entry in members:
        if entry.soup is not None:
            raise RecipeError(
                f"'{entry.name}' is a soup, and task is '{task.name}'",
                "members that are fine-tuned: soups of such models are not judged yet",
                "Remove the soup.",
            )
