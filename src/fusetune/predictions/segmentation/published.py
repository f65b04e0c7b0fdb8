# SPDX-License-Identifier: Apache-2.0
"""Folders that show a member's masks without a second copy of its files."""

from pathlib import Path

from fusetune.atomic import link_or_copy, replacing_folder
from fusetune.predictions.segmentation.files import (
    FileLabels,
    FileMask,
    Legend,
    write_legend,
)
from fusetune.predictions.segmentation.label_maps import LabelMask
from fusetune.predictions.segmentation.masks import Mask, Masks
from fusetune.predictions.segmentation.writing import write_masks

__all__ = ["link_masks"]


def link_masks(folder: Path, masks: Masks) -> None:
    """Show the files that masks are read from under the rows' names, as hard links, with `classes.txt`.

    Where some mask is of another size than its file, all are written anew; see `write_masks`.

    Args:
        folder: Replaced if it is there.
        masks: As `read_masks` or `kept_masks` gave them.
    """
    files = [_file_of(mask) for mask in masks.masks]
    own = [file for file in files if file is not None]
    if len(own) < len(files):
        write_masks(folder, masks)
        return
    with replacing_folder(folder) as made:
        legend = Legend(masks.classes)
        for name, file in zip(masks.ids.tolist(), own, strict=True):
            target = made / f"{name}{file.path.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(file.path, target)
            legend = file.legend if isinstance(file, FileLabels) else legend
        write_legend(made, legend)


def _file_of(mask: Mask) -> FileMask | FileLabels | None:
    """Whose file says just what the mask does; None where it is made of others."""
    if isinstance(mask, LabelMask) and isinstance(mask.labels, FileLabels):
        return mask.labels
    return mask if isinstance(mask, FileMask) else None
