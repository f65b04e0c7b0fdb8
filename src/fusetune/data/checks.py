# SPDX-License-Identifier: Apache-2.0
"""What is wrong with rows and roles, said before any work.

Shapes: N rows, C classes.
"""

from collections import defaultdict

import numpy as np

from fusetune.data.dataset import Rows, check_ids
from fusetune.data.inputs import Images
from fusetune.data.roles import JUDGED_ROLES, ROLES, Strings
from fusetune.data.stored_truth import contents_of, names_of, present_classes
from fusetune.errors import DataError, counted, name_some
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.targets import GroundTruth, Numbers, Targets

__all__ = [
    "check_copies",
    "check_dealt",
    "check_roles",
    "check_rows",
    "image_digests",
]


def check_rows(rows: Rows, where: str) -> None:
    """Refuse a source without rows, without labels, or with an id twice."""
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


def check_dealt(truth: GroundTruth, roles_N: Strings, folds: int) -> None:
    """Refuse classes with fewer rows than folds: none of the folds may lack them."""
    if not isinstance(truth, Targets):
        return  # a label's rows are counted fold by fold
    counts_C = np.bincount(truth.labels_N[roles_N != "test"], minlength=len(truth.classes))
    rare = [name for name, count in zip(truth.classes, counts_C, strict=True) if count < folds]
    if rare:
        least = int(counts_C.min())
        raise DataError(
            f"roles.folds is {folds}, and {name_some(rare)} has as few as "
            f"{counted(least, 'row')} that are not for testing",
            "at least one row of every class in every fold",
            (f"Lower roles.folds to {least}, add rows" if least > 1 else "Add rows")
            + ", or remove these classes.",
        )


def check_roles(truth: GroundTruth, roles_N: Strings, of: str = "") -> None:
    """Refuse empty roles, and classes that no train row has; `of` says of which fold."""
    for role in ROLES:
        if not (roles_N == role).any():
            raise DataError(
                f"the role {role}{of} has no rows ({counted(len(roles_N), 'row')} in all)",
                "at least one row in each of train, validation, holdout and test",
                f"Give roles.{role} as a number of rows, or add rows.",
            )
    if isinstance(truth, Numbers):
        return
    if isinstance(truth, Objects):
        _check_objects(truth, roles_N)
    if isinstance(truth, LabelMaps):
        _check_pixels(truth, roles_N)
    train = truth.take(roles_N == "train")
    classes, present = names_of(train), present_classes(train)
    absent = [name for code, name in enumerate(classes) if code not in present]
    if absent:
        raise DataError(
            f"no train row{of} has the class {name_some(absent)}",
            f"train rows of all {len(classes)} classes",
            "Add such rows, raise the limit, or remove these classes.",
        )


def _check_objects(truth: Objects, roles_N: Strings) -> None:
    """Refuse judged roles without any object: average precision has no value on them."""
    for role in JUDGED_ROLES:
        if (roles_N == role).any() and not present_classes(truth.take(roles_N == role)):
            raise DataError(
                f"no row of the role {role} shows an object",
                "objects in each of train, validation, holdout and test",
                f"Give roles.{role} more rows, or add annotated images.",
            )


def _check_pixels(truth: LabelMaps, roles_N: Strings) -> None:
    """Refuse judged roles without any pixel of a class."""
    for role in JUDGED_ROLES:
        if (roles_N == role).any() and not truth.counts_NC[roles_N == role].any():
            raise DataError(
                f"every pixel of the role {role} is ignored",
                "pixels of classes in each of train, validation, holdout and test",
                f"Give roles.{role} more rows, or label more images.",
            )


def check_copies(rows: Rows, truth: GroundTruth, roles_N: Strings) -> None:
    """Refuse byte-identical images in two roles."""
    copies: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(image_digests(rows.images)):
        copies[digest].append(row)
    leaks = [group for group in copies.values() if len(set(roles_N[group].tolist())) > 1]
    if leaks:
        pairs = "; ".join(
            " = ".join(f"'{rows.ids[row]}' ({roles_N[row]})" for row in group[:3])
            for group in leaks[:3]
        )
        content = contents_of(truth)
        torn = sum(len(np.unique(content[group], axis=0)) > 1 for group in leaks)
        raise DataError(
            f"the same bytes stand in two roles for {counted(len(leaks), 'image')}: {pairs}"
            + (f"; {torn:,} of them with two labels" * bool(torn)),
            "every image in one role only, as a score on trained rows says nothing",
            "Remove the copies, or set roles.duplicates: keep_first.",
        )


def image_digests(images: Images) -> list[bytes]:
    """A digest of each image's bytes; a file that went meanwhile is named."""
    try:
        return images.digests()
    except OSError as error:
        raise DataError(
            f"the image '{error.filename}' cannot be read ({error.strerror})",
            "files that stay where they are while fusetune reads them",
            "Check that the file is there and may be read.",
        ) from error
