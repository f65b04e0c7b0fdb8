# SPDX-License-Identifier: Apache-2.0
"""Masks into files, by themselves or while others read them.

Shapes: C classes, H W pixels.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fusetune.atomic import replacing_folder
from fusetune.predictions.kinds import Floats
from fusetune.predictions.segmentation.files import Legend, write_legend
from fusetune.predictions.segmentation.masks import ComputedMask, Mask, Masks, Places, mask_like
from fusetune.predictions.segmentation.sharing import IMAGES_AT_ONCE, sharing
from fusetune.predictions.threads import in_threads

__all__ = ["recording", "write_mask_pieces", "write_masks"]


def write_masks(folder: Path, masks: Masks) -> None:
    """Write `<id>.npy` with half-precision probabilities `(C, H, W)` for every row, and `classes.txt`.

    The folder appears when it is complete.

    Args:
        folder: Replaced if it is there.
        masks: What to write; computed and written band by band, some rows at a time.
    """
    write_mask_pieces(folder, masks.classes, [masks])


def write_mask_pieces(folder: Path, classes: Sequence[str], pieces: Iterable[Masks]) -> None:
    """As `write_masks`, from pieces with these classes, of which one is held at a time."""
    with replacing_folder(folder) as made:
        for masks in pieces:
            in_threads(_RecordedMask.finish, _recorded(made, masks), most=IMAGES_AT_ONCE)
        write_legend(made, Legend(tuple(classes)))


@contextmanager
def recording(folder: Path, masks: Masks) -> Iterator[Masks]:
    """The same masks, which are written as by `write_masks` while they are read inside.

    What is not read, or not from the first line to the last, is computed and written at the end.

    Args:
        folder: Replaced if it is there; appears at the end.
        masks: What to write.
    """
    with replacing_folder(folder) as made:
        recorded = _recorded(made, masks)
        yield mask_like(masks, masks.ids, recorded)
        in_threads(_RecordedMask.finish, recorded, most=IMAGES_AT_ONCE)
        write_legend(made, Legend(masks.classes))


def _recorded(folder: Path, masks: Masks) -> "list[_RecordedMask]":
    named = zip(masks.ids.tolist(), masks.masks, strict=True)
    return [_RecordedMask(mask, folder / f"{name}.npy") for name, mask in named]


class _RecordedMask(ComputedMask):
    """A mask that writes its bands to a file, as long as they come one after the other."""

    def __init__(self, mask: Mask, path: Path) -> None:
        super().__init__(mask.size, mask.num_classes)
        self.mask, self.path = mask, path
        self.written = self.start = 0  # lines, and where the first one begins

    def computed(self, top: int, bottom: int) -> Floats:
        """See `ComputedMask`."""
        band = self.mask.band(top, bottom)
        if top == self.written < bottom:
            self._write(band)
            self.written = bottom
        return band

    def pixels(self, places_P: Places) -> Floats:
        """See `Mask`."""
        return self.mask.sample(places_P)

    def finish(self) -> None:
        """Write the lines that nobody has read."""
        if 0 in self.size:
            self._begin()
            return
        for _, bottom in self.spans():
            if self.written < bottom:
                with sharing():
                    self.computed(self.written, bottom)

    def _begin(self) -> None:
        shape = (self.num_classes, *self.size)
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            self.start = file.tell()

    def _write(self, band: Floats) -> None:
        if not self.written:
            self._begin()
        height, width = self.size
        with self.path.open("rb+") as file:
            for index, lines in enumerate(band.astype(np.float16)):
                file.seek(self.start + 2 * width * (index * height + self.written))
                file.write(np.ascontiguousarray(lines).data)
