# SPDX-License-Identifier: Apache-2.0
"""Folders of masks and their label maps, read and lined up; and masks of new images.

Shapes: C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.errors import InvalidValue, PredictionError, counted, name_some
from fusetune.predictions.kinds import SUM_TOLERANCE, Ids, as_ids
from fusetune.predictions.reading import Form
from fusetune.predictions.segmentation.files import (
    ARRAYS,
    FileLabels,
    FileMask,
    Legend,
    mask_paths,
    read_legend,
    stored_shape,
)
from fusetune.predictions.segmentation.label_maps import LabelMaps, LabelMask, class_counts
from fusetune.predictions.segmentation.masks import Mask, Masks, Size, check_mask
from fusetune.predictions.segmentation.resampled import ResampledMask
from fusetune.predictions.stack import Stack, misaligned, rows_of
from fusetune.predictions.tables import named_errors
from fusetune.predictions.truth import Truth

__all__ = ["MaskOptions", "new_masks", "read_masks"]

FORMS = ("labels", "probabilities", "logits")


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """What the user says of folders of masks.

    Args:
        forms: Member → `labels`, `probabilities` or `logits`, where it is not to be inferred.
        classes: Names of the class numbers; empty: those of `classes.txt`.
        ignored: Number that means that a pixel is of no class; 255, as in Pascal VOC and Cityscapes.
        repair: Ignore numbers and colors of no class, and stretch masks of another shape than
            their image's; else each is an error.
        missing: Leave out masks of images that the targets do not have; else they are an error.
    """

    forms: Mapping[str, str]
    classes: Sequence[str] = ()
    ignored: int | None = 255
    repair: bool = False
    missing: bool = False


def read_masks(
    folders: Mapping[str, Path], targets: Path, options: MaskOptions
) -> tuple[Stack[Any], Truth, dict[str, Form], tuple[str, ...]]:
    """Members' masks of the images whose label maps the targets hold; every file is checked once.

    Masks of another size than the label map, but of its shape, are resampled to it.

    Args:
        folders: Member → folder with a file per image, called like the label maps.
        targets: Folder of label maps, with `classes.txt` in it or beside it.
        options: What cannot be told from the files.

    Returns:
        The stack, the truth, how each member was read, and what the user should know.

    Raises:
        PredictionError: Files that cannot be read or do not fit together; each is named.
    """
    legend = read_legend(targets, options.classes)
    if legend is None:
        raise PredictionError(
            f"nothing names the classes of '{targets}'",
            f"a classes.txt in '{targets}' or beside it, with a name in every line",
            "Write it, or give --classes.",
        )
    legend = replace(legend, ignored=options.ignored, lenient=options.repair)
    truth, notes = _read_truth(targets, legend)
    parts: dict[str, Masks] = {}
    forms: dict[str, Form] = {}
    for name, folder in folders.items():
        paths = _wanted(name, mask_paths(folder), truth.ids, options.missing)
        own = read_legend(folder)
        own = replace(own or legend, ignored=options.ignored, lenient=options.repair)
        if not own.colors:
            own = replace(own, colors=legend.colors if own.classes == legend.classes else ())
        ignored = () if options.ignored is None else (str(options.ignored),)
        said = _form(name, paths, options.forms)
        form = Form(said, classes=own.classes, numbers=ignored)
        with named_errors(folder):
            sizes = {row: one.size for row, one in zip(truth.ids.tolist(), truth.maps, strict=True)}
            parts[name], resampled = _member(paths, form, own, sizes, stretch=options.repair)
        forms[name] = form
        if resampled:
            were = "was" if resampled == 1 else "were"
            notes.append(
                f"{counted(resampled, 'mask')} of {name} {were} resampled to the size of their image."
            )
    stack = Stack.align(parts, ids=truth.ids, classes=truth.classes)
    return stack, Truth(truth, Masks), forms, tuple(notes)


def new_masks(folders: Mapping[str, Path], forms: Mapping[str, Form]) -> dict[str, Masks]:
    """Masks of new images by the members of a fusion of folders, read as those folders were.

    Each image has the size of its largest mask.

    Raises:
        PredictionError: Files that cannot be read or do not fit together.
    """
    found = {name: mask_paths(folder) for name, folder in folders.items()}
    first = next(iter(found))
    ids = as_ids(list(found[first]))
    sizes: dict[str, Size] = {}
    for name, paths in found.items():
        for row, path in _wanted(name, paths, ids, False).items():
            height, width = stored_shape(path)[-2:]
            sizes[row] = max(sizes.get(row, (0, 0)), (height, width))
    made = {}
    for name, paths in found.items():
        form = forms[name]
        legend = read_legend(folders[name]) or Legend(form.classes)
        legend = replace(legend, ignored=int(form.numbers[0]) if form.numbers else None)
        with named_errors(folders[name]):
            made[name], _ = _member(paths, form, legend, sizes, stretch=False)
    return made


def _read_truth(folder: Path, legend: Legend) -> tuple[LabelMaps, list[str]]:
    paths = mask_paths(folder)
    maps = [FileLabels(path, legend) for path in paths.values()]
    counts = [class_counts(one.read(), len(legend.classes)) for one in maps]
    counts_NC = np.array(counts, dtype=np.int64)
    if not counts_NC.sum():
        raise PredictionError(
            f"no pixel in '{folder}' has a class", "label maps of classes", "Check the numbers."
        )
    truth = LabelMaps(as_ids(list(paths)), legend.classes, tuple(maps), counts_NC)
    return truth, []


def _wanted(name: str, paths: Mapping[str, Path], ids: Ids, missing: bool) -> dict[str, Path]:
    """The files of the targets' rows, in their order."""
    own = as_ids(list(paths))
    absent, strange = ids[rows_of(own, ids) < 0], own[rows_of(ids, own) < 0]
    if len(absent) or (len(strange) and not missing):
        raise misaligned(name, (len(own), len(ids)), absent, strange)
    return {row: paths[row] for row in ids.tolist()}


def _form(name: str, paths: Mapping[str, Path], given: Mapping[str, str]) -> str:
    """What a member's files hold, told from the first."""
    if (form := given.get(name)) is not None:
        if form not in FORMS:
            raise InvalidValue(
                f"--form {name}={form} was given", f"one of {', '.join(FORMS)}", "Correct it."
            )
        return form
    path = next(iter(paths.values()))
    if path.suffix.lower() not in ARRAYS or len(stored_shape(path)) == 2:
        return "labels"
    band = FileMask(path).band(0, 1)
    sums = band.sum(axis=0)
    probabilities = bool((band >= 0).all() and (np.abs(sums - 1) <= SUM_TOLERANCE).all())
    return "probabilities" if probabilities or not band.size else "logits"


def _member(
    paths: Mapping[str, Path],
    form: Form,
    legend: Legend,
    sizes: Mapping[str, Size],
    *,
    stretch: bool,
) -> tuple[Masks, int]:
    """A member's masks, checked and resampled, and how many were."""
    masks: list[Mask] = []
    resampled = 0
    for row, path in paths.items():
        mask = _mask(path, form, legend)
        if mask.num_classes != len(legend.classes):
            raise PredictionError(
                f"'{path}' holds {counted(mask.num_classes, 'plane')}",
                f"{len(legend.classes)}, one for each class: {name_some(legend.classes)}",
                "Write a classes.txt into the member's folder that names its classes.",
            )
        check_mask(row, mask)
        if mask.size != sizes[row]:
            _check_shape(path, mask.size, sizes[row], stretch)
            mask, resampled = ResampledMask(mask, sizes[row]), resampled + 1
        masks.append(mask)
    return Masks(as_ids(list(paths)), legend.classes, tuple(masks)), resampled


def _mask(path: Path, form: Form, legend: Legend) -> Mask:
    if form.form != "labels":
        if path.suffix.lower() not in ARRAYS:
            raise PredictionError(
                f"'{path}' is an image, and its member's form is {form.form}",
                "an npy or npz file",
                "Give files of one form per member.",
            )
        return FileMask(path, logits=form.form == "logits")
    labels = FileLabels(path, legend)
    labels.read()  # damage and strange numbers are found before any work
    return LabelMask(labels, len(legend.classes))


def _check_shape(path: Path, own: Size, wanted: Size, stretch: bool) -> None:
    """Refuse another shape: of the two sides, one would be off by more than a pixel of the mask."""
    off = abs(own[0] * wanted[1] - own[1] * wanted[0])
    if 0 in own or (off > max(wanted) and not stretch):
        raise PredictionError(
            f"'{path}' is of {own[0]} x {own[1]} pixels, and its image of {wanted[0]} x {wanted[1]}",
            "masks of their image's shape; another size is resampled",
            "Predict the whole image, or pass --repair to stretch the mask.",
        )
