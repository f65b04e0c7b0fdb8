# SPDX-License-Identifier: Apache-2.0
"""Label maps beside the images that they are of, kept as PNG files in memory or in a mapped array.

Shapes: N rows, C classes, B bytes of all files, H W pixels.
"""

import io
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fusetune.errors import DataError, counted, name_some, unknown_name
from fusetune.predictions.kinds import Array, Ids
from fusetune.predictions.segmentation.label_maps import (
    IGNORED,
    LabelMap,
    LabelMaps,
    Labels,
    class_counts,
)

__all__ = [
    "ResizedLabels",
    "StoredLabels",
    "chosen_classes",
    "encoded_maps",
    "in_memory",
    "of_shown_classes",
    "places_of",
    "resized_maps",
    "stored",
    "stored_maps",
]

DECODED = 8  # label maps that are kept decoded
MOST_CLASSES = 255  # that one byte tells apart, beside ignored pixels

Bytes = npt.NDArray[np.uint8]


class StoredLabels(Labels):
    """A label map as a PNG of numbers: the class's position plus 1, 0 for ignored pixels.

    Args:
        data: `(B,)` of all files, one after another.
        span: Where this one begins and ends.
        size: Height and width.
    """

    def __init__(self, data: Bytes, span: tuple[int, int], size: tuple[int, int]) -> None:
        self.data, self.span, self.size = data, span, size

    @property
    def encoded(self) -> bytes:
        """The file's bytes."""
        return self.data[self.span[0] : self.span[1]].tobytes()

    def read(self) -> LabelMap:
        """See `Labels`; some are kept decoded."""
        return _decoded(self.encoded)


class ResizedLabels(Labels):
    """A label map at another size: of each new pixel the class of the old one at its center.

    Args:
        labels: Of at least one pixel.
        size: New height and width.
    """

    def __init__(self, labels: Labels, size: tuple[int, int]) -> None:
        self.labels, self.size = labels, size

    def read(self) -> LabelMap:
        """See `Labels`."""
        lines, columns = (
            np.floor((np.arange(new) + 0.5) * (old / new)).astype(np.int64)
            for old, new in zip(self.labels.size, self.size, strict=True)
        )
        return self.labels.read()[lines[:, None], columns]


def resized_maps(truth: LabelMaps, side: int) -> LabelMaps:
    """The same label maps as squares, whatever their shape; `counts_NC` stays that of all pixels."""
    maps = tuple(ResizedLabels(one, (side, side)) for one in truth.maps)
    return LabelMaps(truth.ids, truth.classes, maps, truth.counts_NC)


def stored_maps(
    ids: Ids, classes: tuple[str, ...], data: Bytes, arrays: tuple[Array, Array, Array]
) -> LabelMaps:
    """Label maps that `encoded_maps` stored.

    Args:
        ids: `(N,)` row names.
        classes: C class names.
        data: `(B,)` of all files.
        arrays: `(N + 1,)` offsets, `(N, 2)` heights and widths, `(N, C)` numbers of pixels.
    """
    offsets, sizes_N2, counts_NC = arrays
    maps = tuple(
        StoredLabels(data, (int(offsets[n]), int(offsets[n + 1])), (int(height), int(width)))
        for n, (height, width) in enumerate(sizes_N2.tolist())
    )
    return LabelMaps(ids, classes, maps, counts_NC)


def encoded_maps(truth: LabelMaps) -> dict[str, Array]:
    """`data`, `offsets`, `sizes_N2` and `counts_NC`, as `stored_maps` takes them; equal maps, equal bytes."""
    files = [
        one.encoded if isinstance(one, StoredLabels) else _encoded(one.read()) for one in truth.maps
    ]
    return {
        "data": np.frombuffer(b"".join(files), dtype=np.uint8),
        "offsets": np.cumsum([0, *map(len, files)], dtype=np.int64),
        "sizes_N2": np.array([one.size for one in truth.maps], dtype=np.int64).reshape(-1, 2),
        "counts_NC": truth.counts_NC,
    }


def in_memory(truth: LabelMaps, classes: tuple[str, ...]) -> LabelMaps:
    """The same maps, stored, over other classes; pixels of a class that is not there are ignored."""
    place = places_of(truth.classes, classes)
    return stored(truth.ids, classes, (place[one.read() + 1] for one in truth.maps))


def places_of(old: Sequence[str], new: Sequence[str]) -> LabelMap:
    """By old position plus 1: new position, or that of ignored pixels."""
    kept = [new.index(name) if name in new else IGNORED for name in old]
    return np.array([IGNORED, *kept], dtype=np.int16)


def stored(ids: Ids, classes: tuple[str, ...], maps: Iterable[LabelMap]) -> LabelMaps:
    """Label maps from arrays `(H, W)`, of which one is held at a time."""
    files, counts, sizes = [], [], []
    for labels in maps:
        files.append(_encoded(labels))
        counts.append(class_counts(labels, len(classes)))
        sizes.append(labels.shape)
    data = np.frombuffer(b"".join(files), dtype=np.uint8)
    offsets = np.cumsum([0, *map(len, files)], dtype=np.int64)
    sizes_N2 = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    counts_NC = np.array(counts, dtype=np.int64).reshape(-1, len(classes))
    return stored_maps(ids, classes, data, (offsets, sizes_N2, counts_NC))


def chosen_classes(known: tuple[str, ...], chosen: Sequence[str] | None) -> tuple[str, ...]:
    """The classes that count.

    Raises:
        UnknownName: A chosen class that is not known.
        DataError: More than one byte tells apart.
    """
    for name in chosen or ():
        if name not in known:
            raise unknown_name("class", name, known, where="in data.classes", error=DataError)
    wanted = known if chosen is None else tuple(chosen)
    if len(wanted) > MOST_CLASSES:
        raise DataError(
            f"there are {counted(len(wanted), 'class')}",
            f"at most {MOST_CLASSES}",
            "Name those that count in data.classes.",
        )
    return wanted


def of_shown_classes(truth: LabelMaps) -> tuple[LabelMaps, tuple[str, ...]]:
    """The maps over the classes that have any pixel, and a note on those that have none.

    Raises:
        DataError: None has.
    """
    pixels_C = truth.counts_NC.sum(axis=0)
    kept = tuple(n for n, pixels in zip(truth.classes, pixels_C, strict=True) if pixels)
    if not kept:
        raise DataError(
            "the label maps show 0 classes",
            "pixels that have one",
            "Check which numbers stand for classes.",
        )
    empty = [name for name in truth.classes if name not in kept]
    if not empty:
        return truth, ()
    note = f"{counted(len(empty), 'class')} without a pixel left out: {name_some(empty)}"
    return in_memory(truth, kept), (note,)


def _encoded(labels_HW: LabelMap) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray((labels_HW + 1).astype(np.uint8)).save(file, "PNG", compress_level=3)
    return file.getvalue()


@lru_cache(maxsize=DECODED)
def _decoded(encoded: bytes) -> LabelMap:
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image).astype(np.int16) - np.int16(1)
