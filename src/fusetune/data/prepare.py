# SPDX-License-Identifier: Apache-2.0
"""Rows that are checked, divided into roles, and stored once for all members.

Whatever is wrong with data is found here, before any work.

Shapes: N rows, C classes.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.data.checks import (
    check_copies,
    check_dealt,
    check_roles,
    check_rows,
    image_digests,
)
from fusetune.data.dataset import Dataset, Rows
from fusetune.data.folds import Folds, deal_folds
from fusetune.data.inputs import Images, concat_images, load_images
from fusetune.data.readable import readable_images
from fusetune.data.roles import JUDGED_ROLES, ROLES, Integers, Roles, Strings, assign_roles
from fusetune.data.stored_truth import arrays_of, joined, names_of, truth_of
from fusetune.errors import DataError, counted, name_some, unknown_name
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Ids, Kind, Marginals, Probabilities, Values
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.targets import GroundTruth, LabelSets, Numbers, Targets

LABEL_FILES = "truth-data"
"""The array of encoded label maps, which may be large."""

__all__ = ["Prepared", "divide", "load_prepared", "part_folder", "prepare"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """Checked rows, each with one role.

    Args:
        images: N readable images.
        truth: Classes, sets of labels, numbers, objects or label maps of all rows, and their names;
            each class occurs in train.
        roles_N: `(N,)` one of train, validation, holdout, test.
        notes: What the user should know: ids that were prefixed, copies that were dropped.
        folds: Where members are fine-tuned without one fold of the rows at a time; all rows that
            are not for testing are then `holdout`. None: they are fine-tuned once.
        derived: Fingerprint of the rows that this is a `part` of, and which; empty: of none.
    """

    images: Images
    truth: GroundTruth
    roles_N: Strings
    notes: tuple[str, ...] = ()
    folds: Folds | None = None
    derived: str = ""

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def ids(self) -> Ids:
        """`(N,)` unique row names."""
        return self.truth.ids

    @property
    def classes(self) -> tuple[str, ...]:
        """C names of the classes, or of the numbers."""
        return names_of(self.truth)

    def rows(self, role: str) -> Integers:
        """Positions of a role's rows, in the order of the rows."""
        assert role in ROLES, role
        return np.flatnonzero(self.roles_N == role)

    @property
    def judged_roles(self) -> tuple[str, ...]:
        """Roles that have rows and train no member; with folds there is no validation for all."""
        return tuple(role for role in JUDGED_ROLES if (self.roles_N == role).any())

    def part(self, number: int | None) -> "Prepared":
        """The rows as one of a member's K fine-tunings sees them: ordinary rows with roles.

        Args:
            number: Of a fold, from 0: its own rows are the holdout. K: the one model on all rows,
                which are its train rows. None: these rows.
        """
        if number is None:
            return self
        assert self.folds is not None
        whole = number == len(self.folds)
        roles_N = self.folds.refit_roles() if whole else self.folds.roles_KN[number]
        derived = f"{self.fingerprint()} part {'all' if whole else number}"
        return replace(self, roles_N=roles_N, folds=None, derived=derived)

    def targets(self, role: str) -> Any:  # noqa: ANN401 - the task knows which
        """The truth of a role's rows, in the task's form."""
        return self.truth.take(self.rows(role))

    def fingerprint(self) -> str:
        """SHA-256 of ids, truth, classes, roles and images, as 64 hexadecimal digits.

        The same content at another path has the same fingerprint; one other pixel has another.
        Computed once: `store_data` finds files that change later.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(self.derived.encode())
        if self.derived:
            return digest.hexdigest()
        classes, arrays = arrays_of(self.truth)
        names = [self.ids.tolist(), self.roles_N.tolist(), list(classes)]
        digest.update(json.dumps(names).encode())
        for array in arrays.values():
            digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
        digest.update(b"".join(self.images.digests()))
        if self.folds is not None:
            digest.update(json.dumps(self.folds.roles_KN.tolist()).encode())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write into an existing, empty folder; equal content gives equal bytes."""
        classes, arrays = arrays_of(self.truth)
        self.images.save(folder)
        np.save(folder / "ids.npy", self.ids)
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        np.save(folder / "roles.npy", self.roles_N)
        if self.folds is not None:
            np.save(folder / "folds.npy", self.folds.folds_N)
            for number in range(len(self.folds) + 1):
                part = part_folder(folder, number)
                part.mkdir()
                np.save(part / "roles.npy", self.part(number).roles_N)
        text = {"truth": type(self.truth).__name__, "classes": classes, "notes": self.notes}
        (folder / "prepared.json").write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


def part_folder(folder: Path, number: int) -> Path:
    """Where `Prepared.save` writes a part of folded rows."""
    return folder / f"part-{number}"


def load_prepared(folder: Path) -> Prepared:
    """Rows as `Prepared.save` wrote them, the images memory-mapped; or a part of folded ones."""
    if not (folder / "prepared.json").exists() and (folder / "roles.npy").exists():
        roles_N = np.load(folder / "roles.npy")
        return replace(load_prepared(folder.parent), roles_N=roles_N, folds=None)
    text = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
    ids = np.load(folder / "ids.npy")
    arrays = {
        path.stem: np.load(path, mmap_mode="r" if path.stem == LABEL_FILES else None)
        for path in folder.glob("truth*.npy")
    }
    folds = None
    if (folder / "folds.npy").exists():
        folds_N = np.load(folder / "folds.npy")
        parts = [part_folder(folder, k) / "roles.npy" for k in range(int(folds_N.max()) + 1)]
        folds = Folds(folds_N, np.stack([np.load(path) for path in parts]))
    return Prepared(
        images=load_images(folder),
        truth=truth_of(text["truth"], ids, tuple(text["classes"]), arrays),
        roles_N=np.load(folder / "roles.npy"),
        notes=tuple(text["notes"]),
        folds=folds,
    )


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
            (`Marginals`), numbers (`Values`), objects (`Boxes`) or label maps (`Masks`).

    Returns:
        The used rows in the order of the sources. Images that decode to one size, and to at most
        1 GiB together, are held decoded; others stay encoded.

    Raises:
        DataError: A path that is not there, an unreadable image, a missing label, an id twice, the
            same bytes in two roles, an empty role, or a class without train rows; it is named.
        InvalidValue: Roles or a limit that no rows can satisfy.
    """
    others: dict[type[Kind], type[GroundTruth]] = {
        Marginals: LabelSets,
        Values: Numbers,
        Boxes: Objects,
        Masks: LabelMaps,
    }
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
    if roles.folds is None:
        check_roles(truth, roles_N)
        check_copies(rows, truth, roles_N)
        return Prepared(rows.images, truth, roles_N, notes)
    check_dealt(truth, roles_N, roles.folds)
    folds = deal_folds(rows.ids, truth.strata_N, roles_N, roles, seed=seed)
    for number, fold_roles_N in enumerate(folds.roles_KN, start=1):
        check_roles(truth, fold_roles_N, f" of fold {number}")
    check_copies(rows, truth, np.where(roles_N == "test", "test", folds.names()))
    return Prepared(rows.images, truth, roles_N, notes, folds)


def _combine(parts: Mapping[str, Rows]) -> tuple[Rows, Strings, tuple[str, ...]]:
    """All rows as one, with the roles that splits and role columns give, and notes."""
    for split, rows in parts.items():
        if split not in ("all", *ROLES):
            raise unknown_name("part of data", split, ROLES)
        check_rows(rows, f"data.{split}" if split != "all" else "data")
    if "all" not in parts and "train" not in parts:
        raise DataError(
            f"data has {name_some(parts)} and no train rows",
            "a data set called train beside the official splits",
            "Add data.train, or give one data set with shares of roles.",
        )
    given_N = np.concatenate([_given_roles(split, rows) for split, rows in parts.items()])
    ids = [rows.ids for rows in parts.values()]
    notes = tuple(note for rows in parts.values() for note in rows.notes)
    if len(np.unique(np.concatenate(ids))) < sum(map(len, ids)):
        ids = [np.char.add(f"{split}/", rows.ids) for split, rows in parts.items()]
        notes += ("the splits share ids, so every id has its split's name in front",)
    labels = [rows.labels for rows in parts.values() if rows.labels is not None]
    declared = dict.fromkeys(name for rows in parts.values() for name in rows.classes)
    named = np.concatenate(ids)
    truths = [rows.truth for rows in parts.values() if rows.truth is not None]
    rows = Rows(
        ids=named,
        images=concat_images([rows.images for rows in parts.values()]),
        labels=np.concatenate(labels) if labels else None,
        classes=tuple(declared),
        truth=joined(truths, named) if truths else None,
    )
    return rows, given_N, notes


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
    digests = image_digests(rows.images)
    first: dict[bytes, int] = {}
    kept = [
        row
        for row in order
        if (earlier := first.setdefault(digests[row], row)) == row
        or (fixed_N[row] and given_N[row] == given_N[earlier])
    ]
    return np.sort(np.array(kept, dtype=np.int64))
