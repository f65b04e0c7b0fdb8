# SPDX-License-Identifier: Apache-2.0
"""Interface of a data set source, and the rows it gives."""

import abc
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusetune.data.inputs import Images
from fusetune.errors import DataError, counted, name_some
from fusetune.plugins import plugin_name
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Array, Ids
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.targets import GroundTruth, LabelSets, Numbers

__all__ = ["Dataset", "Rows", "check_ids", "check_path"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Labelled rows as a source gives them, not yet divided into roles.

    Args:
        ids: `(N,)` unique row names: given, or the relative path, or the row's position.
        images: N images, not yet checked to be readable.
        labels: `(N,)` class names, "" where one is missing; None where the source has none (new
            images to predict).
        roles: `(N,)` role names from a role column, "" where it says nothing; None: no column.
        classes: Class names in the source's own order; empty: the names that occur, sorted, as
            numbers where all are whole numbers.
        truth: Numbers, label sets, objects or label maps of the same rows, in the labels' place.
        notes: What the user should know of the reading.
    """

    ids: Ids
    images: Images
    labels: npt.NDArray[np.str_] | None = None
    roles: npt.NDArray[np.str_] | None = None
    classes: tuple[str, ...] = ()
    truth: GroundTruth | None = None
    notes: tuple[str, ...] = ()

    def take(self, rows: Array) -> "Rows":
        """Some rows, by position or by mask, in the order given."""
        labels = None if self.labels is None else self.labels[rows]
        roles = None if self.roles is None else self.roles[rows]
        truth = None if self.truth is None else self.truth.take(rows)
        return replace(
            self,
            ids=self.ids[rows],
            images=self.images.take(rows),
            labels=labels,
            roles=roles,
            truth=truth,
        )

    def __len__(self) -> int:
        return len(self.ids)


class Dataset(abc.ABC):
    """Where labelled rows come from. Plug-ins are frozen, keyword-only dataclasses."""

    @property
    def name(self) -> str:
        """Name in recipes: the plug-in's file."""
        return plugin_name(type(self))

    @abc.abstractmethod
    def read(self) -> Rows:
        """Read all rows; images stay encoded where the source has them so.

        Raises:
            DataError: A path that is not there, a missing label, a repeated id, a wrong shape or
                column; the offender is named.
        """

    def read_as(self, truth: type[GroundTruth]) -> Rows:
        """All rows with `Numbers`, `LabelSets`, `Objects` or `LabelMaps`; few sources have such.

        Raises:
            DataError: As `read`, or the source knows nothing but one class per image.
        """
        words = {
            Numbers: "numbers",
            LabelSets: "sets of labels",
            Objects: "boxes of objects",
            LabelMaps: "a class for every pixel",
        }
        remedy = "Use the source table, with label naming the columns."
        if truth is Objects:
            remedy = "Use the source boxes, with images and annotations."
        if truth is LabelMaps:
            remedy = "Use the source masks, with images and masks."
        raise DataError(
            f"the source {self.name} gives one class per image",
            f"one that gives {words.get(truth, truth.__name__)}, as the task wants",
            remedy,
        )


def check_path(path: Path, where: str = "data.path") -> Path:
    """The path, if something is there.

    Raises:
        DataError: Nothing is there; the part of the path that does exist is named.
    """
    if path.exists():
        return path
    above = next((folder for folder in path.absolute().parents if folder.is_dir()), path.parent)
    names = sorted(entry.name for entry in above.iterdir() if not entry.name.startswith("."))
    held = f"holds {name_some(names)}" if names else "is empty"
    raise DataError(
        f"{where} is '{path}', which does not exist",
        "a file or folder that is there",
        f"The folder '{above}' {held}.",
    )


def check_ids(ids: Ids, where: str) -> None:
    """Refuse empty and repeated ids.

    Raises:
        DataError: The ids are counted and named.
    """
    if (ids == "").any():
        raise DataError(
            f"the id is empty in {counted(int((ids == '').sum()), 'row')} of {where}",
            "an id of its own for every row",
            "Fill the id column, or name another one.",
        )
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        raise DataError(
            f"ids occur more than once in {where} ({int((counts > 1).sum()):,} of them): "
            f"{name_some(unique[counts > 1])}",
            "an id of its own for every row",
            "Remove the repeated rows, or name another id column.",
        )
