# SPDX-License-Identifier: Apache-2.0
"""Folders of masks: one file per row, label maps as images or arrays, or probabilities as arrays.

Nothing but the form is read here at first: what the files hold is read when it is needed.

Shapes: C classes, H W pixels, K colors.
"""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusetune.errors import InvalidValue, PredictionError, name_some
from fusetune.predictions.kinds import Array, Floats, as_ids
from fusetune.predictions.segmentation.label_maps import IGNORED, Labels
from fusetune.predictions.segmentation.masks import BAND_BYTES, Mask, Masks, Places, widened
from fusetune.predictions.segmentation.sharing import IMAGES_AT_ONCE

__all__ = [
    "CLASSES_FILE",
    "FileLabels",
    "FileMask",
    "Legend",
    "holds_masks",
    "kept_masks",
    "mask_paths",
    "read_legend",
    "stored_shape",
    "write_legend",
]

IMAGES, ARRAYS = (".png", ".bmp", ".tif", ".tiff", ".gif"), (".npy", ".npz")
CLASSES_FILE = "classes.txt"
DECODED = 8 * IMAGES_AT_ONCE  # label maps that are kept decoded: the truth, and those beside it
UNPACKED = 2 * IMAGES_AT_ONCE  # npz files that are kept in memory
KEPT_BYTES = 4 * BAND_BYTES  # of memory that bands are read into, by each thread
UNUSED = 3  # references to an array that nothing but the list below, its loop and the count know of
_KEPT = threading.local()


@dataclass(frozen=True)
class Legend:
    """What numbers or colors in label maps stand for.

    Args:
        classes: Names of the numbers 0, 1, ...
        colors: Red, green, blue of each, for images in color; empty: numbers only.
        ignored: Number that means that a pixel is of no class; None: none does.
        lenient: Numbers and colors without a class are ignored too, else they are an error.
    """

    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...] = ()
    ignored: int | None = 255
    lenient: bool = False


def holds_masks(path: Path) -> bool:
    """Whether a targets path is one of segmentation: a folder of images or arrays of label maps."""
    if not path.is_dir():
        return False
    endings = {one.suffix.lower() for one in path.rglob("*") if one.name != CLASSES_FILE}
    return bool(endings & {*IMAGES, *ARRAYS}) and not endings & {".xml", ".txt"}


def mask_paths(folder: Path) -> dict[str, Path]:
    """Row id → its file, sorted: the path in the folder without the ending.

    Raises:
        PredictionError: There is no folder or no file in it, or a row has two.
    """
    if not folder.is_dir():
        raise PredictionError(
            f"'{folder}' is no folder", "a folder with a file per image", "Check the path."
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in (*IMAGES, *ARRAYS) or not path.is_file():
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise PredictionError(
                f"'{folder}' has two files for the row '{name}': {found[name].name} and {path.name}",
                "one file per row",
                "Remove one of them.",
            )
        found[name] = path
    if not found:
        raise PredictionError(
            f"'{folder}' holds no masks",
            f"a file per image that ends in {', '.join((*IMAGES[:1], *ARRAYS))}",
            "Write label maps as PNG, or probabilities as npy.",
        )
    return found


def read_legend(folder: Path, names: Sequence[str] = ()) -> Legend | None:
    """The names, and perhaps colors, that a folder says; None where it says none.

    Args:
        folder: Holds `classes.txt`, or lies beside it: a line for each number from 0 on, with a name,
            or a name and three numbers from 0 to 255 (`road 128 64 128`, commas will do).
        names: Names of the numbers, which go before those of the file.

    Raises:
        InvalidValue: A line that is neither, a name twice, or colors of some only.
    """
    for path in (folder / CLASSES_FILE, folder.parent / CLASSES_FILE):
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            fields = [line.replace(",", " ").split() for line in lines if line.strip()]
            colored = [one for one in fields if len(one) > 3 and all(map(str.isdigit, one[-3:]))]
            if colored and len(colored) < len(fields):
                raise InvalidValue(
                    f"'{path}' gives colors to {len(colored)} of {len(fields)} classes",
                    "a color for every class, or for none",
                    "Write `name red green blue` in every line.",
                )
            called = [" ".join(one[:-3] if colored else one) for one in fields]
            colors = [(int(one[-3]), int(one[-2]), int(one[-1])) for one in colored]
            if names and len(names) != len(called):
                raise InvalidValue(
                    f"--classes names {len(names)} classes and '{path}' {len(called)}",
                    "as many",
                    "Leave --classes out, or correct the file.",
                )
            return Legend(_unique(names or called), tuple(colors))
    return Legend(_unique(names)) if names else None


class FileLabels(Labels):
    """A label map in a file: a PNG of numbers or of colors, or an integer array.

    Args:
        path: The file.
        legend: What its numbers and colors stand for.
    """

    def __init__(self, path: Path, legend: Legend) -> None:
        self.path, self.legend = path, legend
        height, width = stored_shape(path)[-2:]
        self.size = (height, width)

    def read(self) -> npt.NDArray[np.int16]:
        """See `Labels`; some are kept decoded.

        Raises:
            PredictionError: A damaged file, colors without a legend of colors, or a number or color
                of no class.
        """
        return _decoded(self.path, self.legend, _stamp(self.path))


class FileMask(Mask):
    """Probabilities or logits in a `.npy` file `(C, H, W)`, read band by band; or `.npz`, read whole.

    Bands are copied from the file, and only single pixels are read from a mapping: a mapped page costs
    more when it is first touched than copying it, and counts as memory taken until it is unmapped.

    Args:
        path: The file.
        logits: Whether a softmax over the classes makes them probabilities.
    """

    def __init__(self, path: Path, *, logits: bool = False) -> None:
        shape = stored_shape(path)
        if len(shape) != 3:
            raise PredictionError(
                f"'{path}' holds an array of the shape {shape}",
                "classes, height and width",
                "Write one plane of numbers per class.",
            )
        super().__init__((shape[1], shape[2]), shape[0])
        self.path, self.logits = path, logits
        self.offset, self.dtype = _plain_layout(path)

    def band(self, top: int, bottom: int) -> Floats:
        """See `Mask`."""
        if self.offset is None or bottom <= top:
            return self._numbers(_mapped(self.path)[:, top:bottom])
        height, width = self.size
        shape = (self.num_classes, bottom - top, width)
        lines = _room(int(np.prod(shape)) * self.dtype.itemsize).view(self.dtype).reshape(shape)
        with _readable(self.path), self.path.open("rb", buffering=0) as file:
            for index, plane in enumerate(lines):
                file.seek(self.offset + (index * height + top) * width * lines.itemsize)
                if file.readinto(plane.data.cast("B")) < plane.nbytes:
                    raise EOFError("the file ends too early")
        return self._numbers(lines)

    def pixels(self, places_P: Places) -> Floats:
        """See `Mask`."""
        return self._numbers(_mapped(self.path).reshape(self.num_classes, -1)[:, places_P])

    def _numbers(self, stored: Array) -> Floats:
        numbers = widened(stored)
        if not self.logits:
            return numbers
        powers = np.exp(numbers - numbers.max(axis=0))
        return np.divide(powers, powers.sum(axis=0), out=powers)


def _room(num_bytes: int) -> npt.NDArray[np.uint8]:
    """Bytes to read into that nobody else holds: memory that was touched before costs half as much."""
    kept: list[npt.NDArray[np.uint8]] = _KEPT.__dict__.setdefault("arrays", [])
    for index, array in enumerate(kept):
        if array.nbytes == num_bytes and sys.getrefcount(array) == UNUSED:
            kept.append(kept.pop(index))
            return array
    made = np.empty(num_bytes, dtype=np.uint8)
    kept.append(made)
    while sum(array.nbytes for array in kept) > KEPT_BYTES and len(kept) > 1:
        kept.pop(0)
    return made


def _plain_layout(path: Path) -> tuple[int | None, np.dtype[Any]]:
    """Where the numbers of a `.npy` file begin, None if they do not lie class after class; their type."""
    mapped = _mapped(path)
    if isinstance(mapped, np.memmap) and mapped.flags.c_contiguous and mapped.size:
        return int(mapped.offset), mapped.dtype
    return None, mapped.dtype


def stored_shape(path: Path) -> tuple[int, ...]:
    """The shape of a file's array; `(H, W)` of an image. Nothing else is read of images and npy.

    Raises:
        PredictionError: A damaged or empty file.
    """
    if path.suffix.lower() in ARRAYS:
        return tuple(_mapped(path).shape)
    from PIL import Image

    with _readable(path), Image.open(path) as image:
        return (image.height, image.width)


def write_legend(folder: Path, legend: Legend) -> None:
    """Write `classes.txt`, which `read_legend` reads."""
    colors: Sequence[Sequence[int]] = legend.colors or [()] * len(legend.classes)
    named = zip(legend.classes, colors, strict=True)
    lines = [" ".join([name, *map(str, color)]) for name, color in named]
    (folder / CLASSES_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def kept_masks(folder: Path) -> Masks:
    """Masks that `writing.write_masks` wrote, sorted by id; their numbers are not checked again."""
    paths = mask_paths(folder)
    legend = read_legend(folder)
    assert legend is not None
    return Masks(as_ids(list(paths)), legend.classes, tuple(map(FileMask, paths.values())))


def _mapped(path: Path) -> Array:
    """The file's array: mapped, or of an `.npz` the only one in it."""
    with _readable(path):
        if path.suffix.lower() == ".npz":
            return _unpacked(path, _stamp(path))
        mapped: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        return mapped


def _stamp(path: Path) -> tuple[int, int]:
    """What tells a file that was written anew from the one that is kept decoded."""
    with _readable(path):
        status = path.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=UNPACKED)
def _unpacked(path: Path, _: tuple[int, int]) -> Array:
    with np.load(path, allow_pickle=False) as arrays:
        if len(arrays.files) != 1:
            raise PredictionError(
                f"'{path}' holds the arrays {name_some(arrays.files)}", "one array", "Write one."
            )
        array: Array = arrays[arrays.files[0]]
        return array


@lru_cache(maxsize=DECODED)
def _decoded(path: Path, legend: Legend, _: tuple[int, int]) -> npt.NDArray[np.int16]:
    """Kept until the file's time of change or size are others."""
    if path.suffix.lower() in ARRAYS:
        numbers = np.asarray(_mapped(path))
        if numbers.ndim != 2 or numbers.dtype.kind not in "iu":
            raise PredictionError(
                f"'{path}' holds an array of the shape {numbers.shape} and type {numbers.dtype}",
                "a label map: whole numbers, height and width",
                "Write the numbers of the classes.",
            )
        return _labels(numbers, legend, path)
    from PIL import Image

    with _readable(path), Image.open(path) as image:
        plain = {"RGBA": "RGB", "CMYK": "RGB", "LA": "L"}.get(image.mode)
        pixels = np.asarray(image.convert(plain) if plain else image)
    if pixels.ndim == 2:
        return _labels(pixels, legend, path)
    return _labels(_numbers_of_colors(pixels, legend, path), legend, path)


def _labels(numbers_HW: Array, legend: Legend, path: Path) -> npt.NDArray[np.int16]:
    if numbers_HW.dtype.kind not in "biu":
        raise PredictionError(
            f"'{path}' is an image of fractions", "whole numbers of classes", "Write these."
        )
    labels = numbers_HW.astype(np.int64)
    if legend.ignored is not None:
        labels[labels == legend.ignored] = IGNORED
        labels_kept = numbers_HW != legend.ignored
    else:
        labels_kept = np.ones(labels.shape, dtype=bool)
    strange = labels_kept & ((labels < 0) | (labels >= len(legend.classes)))
    if strange.any() and not legend.lenient:
        known = f"0 to {len(legend.classes) - 1} ({name_some(legend.classes)})"
        ignored = "" if legend.ignored is None else f", and {legend.ignored} for ignored pixels"
        named = sorted({str(number) for number in numbers_HW[strange].tolist()})
        raise PredictionError(
            f"'{path}' holds the class numbers {name_some(named)} ({int(strange.sum()):,} pixels)",
            known + ignored,
            "Name these classes, give --ignore-index, or pass --repair to ignore such pixels.",
        )
    labels[strange] = IGNORED
    return labels.astype(np.int16)


def _numbers_of_colors(pixels_HWC: Array, legend: Legend, path: Path) -> Array:
    """`(H, W)` numbers of the classes whose colors an image shows; -1 ... for strange colors."""
    if not legend.colors:
        raise PredictionError(
            f"'{path}' is an image in color",
            "an image of class numbers, or a legend of colors",
            f"Write a {CLASSES_FILE} beside it with `name red green blue` in every line.",
        )
    weights = np.array([2**16, 2**8, 1])
    codes_HW = pixels_HWC[..., :3].astype(np.int64) @ weights
    known_K = np.array(legend.colors) @ weights
    order = np.argsort(known_K)
    places = np.minimum(np.searchsorted(known_K[order], codes_HW), len(order) - 1)
    found = known_K[order][places] == codes_HW
    if not found.all() and not legend.lenient and legend.ignored is None:
        raise _strange_colors(pixels_HWC[~found], path)
    black = codes_HW == 0  # the usual color of what is not labeled
    if not (found | black).all() and not legend.lenient:
        raise _strange_colors(pixels_HWC[~found & ~black], path)
    unknown = len(order) if legend.ignored is None else legend.ignored
    return np.where(found, order[places], unknown)


def _strange_colors(pixels_KC: Array, path: Path) -> PredictionError:
    shown = [f"({', '.join(map(str, one))})" for one in np.unique(pixels_KC, axis=0).tolist()]
    return PredictionError(
        f"'{path}' holds the colors {name_some(shown)} ({len(pixels_KC):,} pixels)",
        f"colors that {CLASSES_FILE} names, or black for ignored pixels",
        "Add them, or pass --repair to ignore such pixels.",
    )


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    if repeated := sorted({name for name in names if list(names).count(name) > 1}):
        raise InvalidValue(
            f"the classes {name_some(repeated)} are named twice", "each once", "Rename them."
        )
    return tuple(names)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say which file is damaged."""
    try:
        yield
    except (OSError, ValueError, EOFError, SyntaxError, KeyError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else "no data"
        raise PredictionError(
            f"'{path}' cannot be read ({reason})", "a whole image or array", "Write it again."
        ) from error
