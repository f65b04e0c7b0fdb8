# SPDX-License-Identifier: Apache-2.0
"""Rows that are checked, divided into roles, and stored once for all members.

Whatever is wrong with data is found here, before any work.

Shapes: N rows, C classes.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.data.dataset import Dataset, Rows, check_ids
from fusetune.data.inputs import Images, concat_images, load_images
from fusetune.data.readable import readable_images
from fusetune.data.roles import ROLES, Integers, Roles, Strings, assign_roles
from fusetune.errors import DataError, counted, name_some, unknown_name
from fusetune.predictions.kinds import Array, Ids, Kind, Marginals, Probabilities, Values
from fusetune.predictions.targets import GroundTruth, LabelSets, Numbers, Targets

__all__ = ["Prepared", "divide", "load_prepared", "prepare"]

TRUTHS = (Targets, LabelSets, Numbers)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Checked rows, each with one role.

    Args:
        images: N readable images.
        truth: Classes, sets of labels or numbers of all rows, and their names; each class occurs
            in train.
        roles_N: `(N,)` one of train, validation, holdout, test.
        notes: What the user should know: ids that were prefixed, copies that were dropped.
    """

    images: Images
    truth: GroundTruth
    roles_N: Strings
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def ids(self) -> Ids:
        """`(N,)` unique row names."""
        return self.truth.ids

    @property
    def classes(self) -> tuple[str, ...]:
        """C names of the classes, or of the numbers."""
        return _arrays(self.truth)[0]

    def rows(self, role: str) -> Integers:
        """Positions of a role's rows, in the order of the rows."""
        assert role in ROLES, role
        return np.flatnonzero(self.roles_N == role)

    def targets(self, role: str) -> Any:  # noqa: ANN401 - the task knows which
        """The truth of a role's rows: `Targets`, `LabelSets` or `Numbers`, as the task has it."""
        return self.truth.take(self.rows(role))

    def fingerprint(self) -> str:
        """SHA-256 of ids, truth, classes, roles and images, as 64 hexadecimal digits.

        The same content at another path has the same fingerprint; one other pixel has another.
        Computed once: `store_data` finds files that change later.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        classes, array = _arrays(self.truth)
        names = [self.ids.tolist(), self.roles_N.tolist(), list(classes)]
        digest.update(json.dumps(names).encode())
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
        digest.update(b"".join(self.images.digests()))
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write into an existing, empty folder; equal content gives equal bytes."""
        classes, array = _arrays(self.truth)
        self.images.save(folder)
        np.save(folder / "ids.npy", self.ids)
        np.save(folder / "truth.npy", array)
        np.save(folder / "roles.npy", self.roles_N)
        text = {"truth": type(self.truth).__name__, "classes": classes, "notes": self.notes}
        (folder / "prepared.json").write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


def load_prepared(folder: Path) -> Prepared:
    """Rows as `Prepared.save` wrote them, the images memory-mapped."""
    text = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
    kind = {cls.__name__: cls for cls in TRUTHS}[text["truth"]]
    ids, array = np.load(folder / "ids.npy"), np.load(folder / "truth.npy")
    return Prepared(
        images=load_images(folder),
        truth=kind(ids, tuple(text["classes"]), array),
        roles_N=np.load(folder / "roles.npy"),
        notes=tuple(text["notes"]),
    )


def _arrays(truth: GroundTruth) -> tuple[tuple[str, ...], Array]:
    """Column names, and the array of what is true in each row."""
    if isinstance(truth, Targets):
        return truth.classes, truth.labels_N
    if isinstance(truth, LabelSets):
        return truth.classes, truth.present_NC
    assert isinstance(truth, Numbers)
    return truth.names, truth.values_ND


def prepare(
    datasets: Mapping[str, Dataset],
    roles: Roles,
    limit: int | None = None,
    seed: int = 0,
    kind: type[Kind] = Probabilities,
) -> Prepared:
    """Read, check and divide the rows.

    Args:
        datasets: `{"all": data set}`, or official splits: `train`, and any of `validation`,
            `holdout` and `test`. Roles without a split (or a role column) are taken from `train`.
            Where two splits share an id, all ids get their split's name in front.
        roles: Sizes of the roles, and what happens to duplicates.
        limit: Most rows that may be train, validation or holdout, of those that are divided.
        seed: Of the division.
        kind: What members will predict, which says what is to be read: classes, sets of labels
            (`Marginals`) or numbers (`Values`).

    Returns:
        The used rows in the order of the sources. Images that decode to one size, and to at most
        1 GiB together, are held decoded; others stay encoded.

    Raises:
        DataError: A path that is not there, an unreadable image, a missing label, an id twice, the
            same bytes in two roles, an empty role, or a class without train rows; it is named.
        InvalidValue: Roles or a limit that no rows can satisfy.
    """
    others: dict[type[Kind], type[GroundTruth]] = {Marginals: LabelSets, Values: Numbers}
    truth = others.get(kind)
    parts = {
        split: data.read() if truth is None else data.read_as(truth)
        for split, data in datasets.items()
    }
    divided = divide(parts, roles, limit, seed)
    images = readable_images(divided.ids, divided.images)
    return replace(divided, images=images)


def divide(
    parts: Mapping[str, Rows], roles: Roles, limit: int | None = None, seed: int = 0
) -> Prepared:
    """Check and divide rows that were read; as `prepare`, but images are not opened.

    Raises:
        FusetuneError: As `prepare`, except for unreadable images.
    """
    rows, given_N, notes = _combine(parts)
    truth: GroundTruth = _coded(rows) if rows.truth is None else rows.truth
    if roles.duplicates == "keep_first":
        kept = _first_copies(rows, given_N)
        if len(kept) < len(rows):
            notes += (f"{counted(len(rows) - len(kept), 'copy')} of other rows' images left out",)
        rows, given_N, truth = rows.take(kept), given_N[kept], truth.take(kept)
    roles_N = assign_roles(rows.ids, truth.strata_N, roles, seed=seed, given_N=given_N, limit=limit)
    used = np.flatnonzero(roles_N != "")
    rows, truth, roles_N = rows.take(used), truth.take(used), roles_N[used]
    _check_roles(truth, roles_N)
    _check_copies(rows, truth, roles_N)
    return Prepared(rows.images, truth, roles_N, notes)


def _combine(parts: Mapping[str, Rows]) -> tuple[Rows, Strings, tuple[str, ...]]:
    """All rows as one, with the roles that splits and role columns give, and notes."""
    for split, rows in parts.items():
        if split not in ("all", *ROLES):
            raise unknown_name("part of data", split, ROLES)
        _check_rows(rows, f"data.{split}" if split != "all" else "data")
    if "all" not in parts and "train" not in parts:
        raise DataError(
            f"data has {name_some(parts)} and no train rows",
            "a data set called train beside the official splits",
            "Add data.train, or give one data set with shares of roles.",
        )
    given_N = np.concatenate([_given_roles(split, rows) for split, rows in parts.items()])
    ids = [rows.ids for rows in parts.values()]
    notes: tuple[str, ...] = ()
    if len(np.unique(np.concatenate(ids))) < sum(map(len, ids)):
        ids = [np.char.add(f"{split}/", rows.ids) for split, rows in parts.items()]
        notes = ("the splits share ids, so every id has its split's name in front",)
    labels = [rows.labels for rows in parts.values() if rows.labels is not None]
    declared = dict.fromkeys(name for rows in parts.values() for name in rows.classes)
    named = np.concatenate(ids)
    truths = [rows.truth for rows in parts.values() if rows.truth is not None]
    rows = Rows(
        ids=named,
        images=concat_images([rows.images for rows in parts.values()]),
        labels=np.concatenate(labels) if labels else None,
        classes=tuple(declared),
        truth=_joined(truths, named) if truths else None,
    )
    return rows, given_N, notes


def _joined(parts: Sequence[Numbers | LabelSets], ids: Ids) -> Numbers | LabelSets:
    """The truth of several splits; a label that a split does not know is in none of its rows."""
    first = parts[0]
    if isinstance(first, LabelSets):
        sets = [part for part in parts if isinstance(part, LabelSets)]
        classes = tuple(dict.fromkeys(name for part in sets for name in part.classes))
        return LabelSets(ids, classes, np.concatenate([part.over(classes) for part in sets]))
    numbers = [part for part in parts if isinstance(part, Numbers)]
    if other := next((part for part in numbers if part.names != first.names), None):
        raise DataError(
            f"the splits have the numbers {name_some(first.names)} and {name_some(other.names)}",
            "the same columns, in one order, in every split",
            "Name the same columns in the label of each.",
        )
    return Numbers(ids, first.names, np.concatenate([part.values_ND for part in numbers]))


def _check_rows(rows: Rows, where: str) -> None:
    if not len(rows):
        raise DataError(f"{where} has no rows", "at least one row per role", "Check its path.")
    if rows.labels is None and rows.truth is None:
        raise DataError(
            f"{where} has no labels",
            "a class name for every row",
            "Give a folder per class, or a table with a label column.",
        )
    unlabeled = rows.ids[rows.labels == ""] if rows.labels is not None else rows.ids[:0]
    if len(unlabeled):
        raise DataError(
            f"the label is missing in {counted(len(unlabeled), 'row')} of {where}: {name_some(unlabeled)}",
            "a class name for every row",
            "Label these rows, or remove them.",
        )
    check_ids(rows.ids, where)


def _given_roles(split: str, rows: Rows) -> Strings:
    if split != "all":
        return np.full(len(rows), split, dtype="U10")
    if rows.roles is None:
        return np.full(len(rows), "", dtype="U10")
    for name in np.unique(rows.roles).tolist():
        if name not in ("", *ROLES):
            raise unknown_name("role", name, ROLES, where="in the role column", error=DataError)
    return rows.roles.astype("U10")


def _coded(rows: Rows) -> Targets:
    """The labels as targets; of the class names the declared ones first, in their order."""
    assert rows.labels is not None
    names, codes_N = np.unique(rows.labels, return_inverse=True)
    others = _in_order(name for name in names.tolist() if name not in set(rows.classes))
    classes = (*rows.classes, *others)
    if len(classes) < 2:
        raise DataError(
            f"all rows have the label {name_some(classes)}",
            "at least two classes",
            "Name the column that holds the classes, or the folder above the class folders.",
        )
    position = {name: code for code, name in enumerate(classes)}
    labels_N = np.array([position[name] for name in names.tolist()])[codes_N]
    return Targets(rows.ids, classes, labels_N)


def _in_order(names: Iterable[str]) -> list[str]:
    """Sorted; as numbers where all are whole numbers."""
    names = list(names)
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _first_copies(rows: Rows, given_N: Strings) -> Integers:
    """Positions of rows to keep: of equal images the first, and all that share a given role."""
    fixed_N = ~np.isin(given_N, ("", "train"))
    rank = {role: index for index, role in enumerate(("test", "holdout", "validation"))}
    order = sorted(range(len(rows)), key=lambda row: rank.get(str(given_N[row]), len(rank)))
    digests = _digests(rows.images)
    first: dict[bytes, int] = {}
    kept = [
        row
        for row in order
        if (earlier := first.setdefault(digests[row], row)) == row
        or (fixed_N[row] and given_N[row] == given_N[earlier])
    ]
    return np.sort(np.array(kept, dtype=np.int64))


def _check_roles(truth: GroundTruth, roles_N: Strings) -> None:
    for role in ROLES:
        if not (roles_N == role).any():
            raise DataError(
                f"the role {role} has no rows ({counted(len(roles_N), 'row')} in all)",
                "at least one row in each of train, validation, holdout and test",
                f"Give roles.{role} as a number of rows, or add rows.",
            )
    if isinstance(truth, Numbers):
        return
    train = truth.take(roles_N == "train")
    classes, array = _arrays(train)
    if isinstance(train, LabelSets):
        present = set(np.flatnonzero(array.any(axis=0)).tolist())
    else:
        present = set(array.tolist())
    absent = [name for code, name in enumerate(classes) if code not in present]
    if absent:
        raise DataError(
            f"no train row has the class {name_some(absent)}",
            f"train rows of all {len(classes)} classes",
            "Add such rows, raise the limit, or remove these classes.",
        )


def _check_copies(rows: Rows, truth: GroundTruth, roles_N: Strings) -> None:
    """Refuse byte-identical images in two roles."""
    copies: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(_digests(rows.images)):
        copies[digest].append(row)
    leaks = [group for group in copies.values() if len(set(roles_N[group].tolist())) > 1]
    if leaks:
        pairs = "; ".join(
            " = ".join(f"'{rows.ids[row]}' ({roles_N[row]})" for row in group[:3])
            for group in leaks[:3]
        )
        content = _arrays(truth)[1]
        torn = sum(len(np.unique(content[group], axis=0)) > 1 for group in leaks)
        raise DataError(
            f"the same bytes stand in two roles for {counted(len(leaks), 'image')}: {pairs}"
            + (f"; {torn:,} of them with two labels" * bool(torn)),
            "every image in one role only, as a score on trained rows says nothing",
            "Remove the copies, or set roles.duplicates: keep_first.",
        )


def _digests(images: Images) -> list[bytes]:
    try:
        return images.digests()
    except OSError as error:
        raise DataError(
            f"the image '{error.filename}' cannot be read ({error.strerror})",
            "files that stay where they are while fusetune reads them",
            "Check that the file is there and may be read.",
        ) from error
