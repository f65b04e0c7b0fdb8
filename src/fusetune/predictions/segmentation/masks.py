# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation: the class probabilities of every pixel, read band by band when needed.

A mask of 1024 x 2048 pixels and 19 classes takes 160 MB, so that no prediction of many rows fits into
memory: each row's mask is an object that gives bands of its lines, or single pixels, from an array,
from a file, or from what a fusion makes of other masks.

Shapes: N rows, C classes, H W pixels, P chosen pixels.
"""

import abc
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from fusetune.errors import PredictionError, name_some
from fusetune.predictions.kinds import SUM_TOLERANCE, Array, Floats, Ids, Kind, as_ids
from fusetune.predictions.segmentation.sharing import made_once, once_inside, sharing

__all__ = [
    "BAND_BYTES",
    "ArrayMask",
    "ComputedMask",
    "FusedMask",
    "Mask",
    "Masks",
    "MeanRule",
    "OrderedMask",
    "Places",
    "Rule",
    "Size",
    "begins",
    "check_mask",
    "mask_like",
    "widened",
]

# Of a member's band: it stays in a core's cache, and calls cost little beside it.
BAND_BYTES = 2**20
TOGETHER_BYTES = 16 * 2**20  # of the bands of all members that a fusion has to see side by side

Size = tuple[int, int]
"""Height and width."""
Places = npt.NDArray[np.int64]
M = TypeVar("M", bound="Masks")


class Mask(abc.ABC):
    """One row's probabilities `(C, H, W)`, of which any band of lines can be had.

    Args:
        size: Height and width.
        num_classes: C.
    """

    def __init__(self, size: Size, num_classes: int) -> None:
        self.size, self.num_classes = size, num_classes
        self._sample: tuple[Places, Floats] | None = None

    @abc.abstractmethod
    def band(self, top: int, bottom: int) -> Floats:
        """`(C, bottom - top, W)` probabilities of single or double precision; not to be changed."""

    def pixels(self, places_P: Places) -> Floats:
        """`(C, P)` probabilities of some pixels, by their positions line after line."""
        width = max(1, self.size[1])
        lines_P = places_P // width
        parts: list[Floats] = []
        order = np.argsort(lines_P, kind="stable")
        for top, bottom in self.spans():
            first, last = np.searchsorted(lines_P[order], [top, bottom])
            if first < last:
                band = self.band(top, bottom).reshape(self.num_classes, -1)
                parts.append(band[:, places_P[order[first:last]] - top * width])
        if not parts:
            return np.empty((self.num_classes, 0), dtype=np.float32)
        found = np.empty((self.num_classes, len(places_P)), dtype=parts[0].dtype)
        found[:, order] = np.concatenate(parts, axis=1)
        return found

    def sample(self, places_P: Places) -> Floats:
        """As `pixels`, kept for the next time: fits ask for the same pixels again and again."""
        if self._sample is None or not begins(self._sample[0], places_P):
            self._sample = (places_P, self.pixels(places_P))
        return self._sample[1][:, : len(places_P)]

    def spans(self, num_bytes: int = BAND_BYTES) -> Iterator[tuple[int, int]]:
        """The first line, and the one after the last, of bands of about so many bytes."""
        height, width = self.size
        lines = max(1, num_bytes // max(1, 4 * width * self.num_classes))
        for top in range(0, height, lines):
            yield top, min(top + lines, height)

    def bands(self) -> Iterator[tuple[int, Floats]]:
        """All bands, each with the number of its first line."""
        for top, bottom in self.spans():
            with sharing():
                band = self.band(top, bottom)
            yield top, band

    def array(self) -> Floats:
        """`(C, H, W)` probabilities, all at once, as a copy."""
        dtype = self.band(0, 1).dtype if 0 not in self.size else np.dtype(np.float32)
        whole = np.empty((self.num_classes, *self.size), dtype=dtype)
        for top, bottom in self.spans():
            with sharing():
                self.write(top, bottom, whole[:, top:bottom])
        return whole

    def write(self, top: int, bottom: int, out: Floats) -> None:
        """Write a band into an array of its shape and precision."""
        out[...] = self.band(top, bottom)

    def decided(self, top: int, bottom: int) -> npt.NDArray[np.int16]:
        """`(bottom - top, W)` positions of the most probable classes; the earlier one wins a tie."""
        band = self.band(top, bottom)
        best, labels = band[0].copy(), np.zeros(band.shape[1:], dtype=np.int16)
        for index in range(1, len(band)):
            labels[band[index] > best] = index
            np.maximum(best, band[index], out=best)
        return labels


class ArrayMask(Mask):
    """A mask in memory, or a part of a mapped file.

    Args:
        array_CHW: `(C, H, W)`; kept as given. Half precision is widened band by band.
    """

    def __init__(self, array_CHW: Floats) -> None:
        super().__init__((array_CHW.shape[1], array_CHW.shape[2]), array_CHW.shape[0])
        self.array_CHW = array_CHW

    def band(self, top: int, bottom: int) -> Floats:
        """See `Mask`; a view, where the precision is single or double."""
        return widened(self.array_CHW[:, top:bottom])

    def pixels(self, places_P: Places) -> Floats:
        """See `Mask`."""
        return widened(self.array_CHW.reshape(self.num_classes, -1)[:, places_P])


class ComputedMask(Mask):
    """A mask that is computed from others where it is read, once for all who read it side by side."""

    def band(self, top: int, bottom: int) -> Floats:
        """See `Mask`; kept inside of `sharing`."""
        return once_inside((self, top, bottom), lambda: self.computed(top, bottom))

    @abc.abstractmethod
    def computed(self, top: int, bottom: int) -> Floats:
        """The band, anew."""


class OrderedMask(Mask):
    """The same mask with its classes in another order, and perhaps more of them, which are 0.

    Args:
        mask: The mask.
        places: Position of each of its classes among the new ones.
        num_classes: Number of the new ones.
    """

    def __init__(self, mask: Mask, places: Sequence[int], num_classes: int) -> None:
        super().__init__(mask.size, num_classes)
        self.mask, self.places = mask, list(places)

    def band(self, top: int, bottom: int) -> Floats:
        """See `Mask`."""
        return self._placed(self.mask.band(top, bottom))

    def pixels(self, places_P: Places) -> Floats:
        """See `Mask`."""
        return self._placed(self.mask.sample(places_P))

    def _placed(self, numbers: Floats) -> Floats:
        placed = np.zeros((self.num_classes, *numbers.shape[1:]), dtype=numbers.dtype)
        placed[self.places] = numbers
        return placed


class Rule(abc.ABC):
    """How several masks become one, pixel by pixel; equal rules do the same."""

    @abc.abstractmethod
    def __call__(self, bands: Iterable[Floats]) -> Floats:
        """From the masks' probabilities, `(C_m, ...)` each, which come one by one, to `(C, ...)`."""

    def write(self, bands: Iterable[Floats], out: Floats) -> None:
        """As calling it, into an array of the result's shape and precision."""
        out[...] = self(bands)


@dataclass(frozen=True)
class MeanRule(Rule):
    """The mean of masks with the same classes."""

    def __call__(self, bands: Iterable[Floats]) -> Floats:
        """See `Rule`."""
        others = iter(bands)
        total, number = next(others).copy(), 1
        for band in others:
            total += band
            number += 1
        total /= number
        return total


class FusedMask(ComputedMask):
    """What a rule makes of several masks of one size, pixel by pixel, when it is asked for.

    Args:
        masks: M masks.
        num_classes: C of the result.
        rule: What is made of them.
        together: The rule holds all of them at once: bands are then cut so that their sum stays
            small, whatever M is.
    """

    def __init__(
        self,
        masks: Sequence[Mask],
        num_classes: int,
        rule: Rule,
        *,
        together: bool = False,
    ) -> None:
        super().__init__(masks[0].size, num_classes)
        assert len({mask.size for mask in masks}) == 1
        self.masks, self.rule, self.together = tuple(masks), rule, together

    @classmethod
    def rows(
        cls, parts: Sequence["Masks"], num_classes: int, rule: Rule, *, together: bool = False
    ) -> "tuple[FusedMask, ...]":
        """A mask for each row of the parts; where the rule has fused the same masks before, that one.

        A fusion, and what blends it with others, so share what they have found out.
        """
        rows = zip(*(part.masks for part in parts), strict=True)
        return tuple(
            made_once((rule, masks), partial(cls, masks, num_classes, rule, together=together))
            for masks in rows
        )

    def computed(self, top: int, bottom: int) -> Floats:
        """See `ComputedMask`."""
        if not self.together or bottom - top <= (lines := self._lines()):
            return self.rule(mask.band(top, bottom) for mask in self.masks)
        edges = [*range(top, bottom, lines), bottom]
        parts = (
            self.rule(mask.band(*edge) for mask in self.masks) for edge in itertools.pairwise(edges)
        )
        return np.concatenate(list(parts), axis=1)

    def write(self, top: int, bottom: int, out: Floats) -> None:
        """See `Mask`."""
        if self.together:
            super().write(top, bottom, out)
        else:
            self.rule.write((mask.band(top, bottom) for mask in self.masks), out)

    def pixels(self, places_P: Places) -> Floats:
        """See `Mask`."""
        return self.rule(mask.sample(places_P) for mask in self.masks)

    def _lines(self) -> int:
        line_bytes = 4 * self.size[1] * sum(mask.num_classes for mask in self.masks)
        return max(1, TOGETHER_BYTES // max(1, line_bytes))


@dataclass(frozen=True, eq=False)
class Masks(Kind):
    """Class probabilities of the pixels of every row's image, with class **names**.

    Rows may have images of different sizes. Nothing is read before it is needed, and then band by
    band. A class that the member does not know is absent from `classes`: missing, not 0.

    Args:
        ids: `(N,)` unique row names.
        classes: C unique class names, in the order of the masks' classes.
        masks: N masks of C classes each; that their numbers are probabilities is checked where they
            come from (`from_arrays`, and the readers of files).
    """

    ids: Ids
    classes: tuple[str, ...]
    masks: tuple[Mask, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", as_ids(self.ids))
        object.__setattr__(self, "classes", tuple(str(name) for name in self.classes))
        object.__setattr__(self, "masks", tuple(self.masks))
        classes = self.classes
        if len(set(classes)) < len(classes) or not classes:
            raise PredictionError(
                f"the classes are {name_some(classes)}",
                "at least one class, each named once",
                "Rename or remove classes.",
            )
        assert len(self.ids) == len(self.masks)
        assert all(mask.num_classes == len(classes) for mask in self.masks)

    @classmethod
    def from_arrays(cls, ids: Ids, classes: Sequence[str], arrays: Sequence[Floats]) -> Self:
        """Masks in memory.

        Args:
            ids: `(N,)` unique row names.
            classes: C unique class names.
            arrays: N arrays `(C, H, W)` of probabilities; kept as given (no copy).

        Raises:
            PredictionError: An array of another shape, or numbers that are no probabilities; the
                row is named.
        """
        ids, masks = as_ids(ids), []
        for name, array in zip(ids.tolist(), arrays, strict=True):
            array = np.asarray(array)
            if array.dtype.kind != "f":
                array = array.astype(np.float32)
            if array.ndim != 3 or len(array) != len(classes):
                raise PredictionError(
                    f"the mask of row '{name}' has the shape {array.shape}",
                    f"{len(classes)} classes, then height and width",
                    "Give one plane of probabilities per class.",
                )
            masks.append(ArrayMask(array))
            check_mask(name, masks[-1])
        return cls(ids, tuple(classes), tuple(masks))

    @property
    def columns(self) -> tuple[str, ...]:
        """The classes."""
        return self.classes

    def take(self, rows: Array) -> Self:
        """The masks of some rows, by position or by mask, in the order given."""
        positions = np.arange(len(self))[rows]
        return mask_like(self, self.ids[rows], [self.masks[n] for n in positions.tolist()])

    def chunks(self, memory_bytes: int) -> Iterator[Self]:
        """Consecutive pieces of at most `memory_bytes` of masks (at least one row)."""
        start, taken = 0, 0
        for row, mask in enumerate(self.masks):
            size = 4 * mask.num_classes * mask.size[0] * mask.size[1]
            if row > start and taken + size > memory_bytes:
                yield self.take(np.arange(start, row))
                start, taken = row, 0
            taken += size
        if start < len(self):
            yield self.take(np.arange(start, len(self)))

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """One prediction from pieces with the same classes in the same order and disjoint rows."""
        assert parts and len({part.classes for part in parts}) == 1
        ids = as_ids(np.concatenate([part.ids for part in parts]))
        return mask_like(parts[0], ids, [mask for part in parts for mask in part.masks])

    def over(self, columns: tuple[str, ...]) -> Self:
        """The same masks with the classes in another order, and perhaps more of them, which are 0."""
        if columns == self.classes:
            return self
        places = [columns.index(name) for name in self.classes]
        ordered = tuple(
            made_once(
                (mask, *places, len(columns)), partial(OrderedMask, mask, places, len(columns))
            )
            for mask in self.masks
        )
        return type(self)(self.ids, columns, ordered)


def mask_like(like: M, ids: Ids, masks: Sequence[Mask]) -> M:
    """Other rows of the same classes, which were checked: not checked again."""
    made = object.__new__(type(like))
    for name, value in (("ids", ids), ("classes", like.classes), ("masks", tuple(masks))):
        object.__setattr__(made, name, value)
    return made


def check_mask(name: str, mask: Mask) -> None:
    """Refuse numbers that are no probabilities; sums may be off by 1e-3, as half precision has them.

    Raises:
        PredictionError: NaN, a negative number, or classes that do not sum to 1; the row and the
            first such pixel are named.
    """
    for top, band in mask.bands():
        sums_HW = band.sum(axis=0, dtype=np.float64)
        good_HW = (np.abs(sums_HW - 1) <= SUM_TOLERANCE) & (band.min(axis=0) >= 0)
        if not good_HW.all():
            line, column = np.argwhere(~good_HW)[0].tolist()
            shown = ", ".join(f"{value:.4g}" for value in band[:6, line, column])
            raise PredictionError(
                f"the pixel at line {top + line}, column {column} of row '{name}' holds "
                f"({shown}{', ...' * (len(band) > 6)}), which sum to {sums_HW[line, column]:.4g}",
                "finite probabilities of at least 0 that sum to 1",
                "Apply a softmax over the classes, or say that the member's form is logits.",
            )


def widened(numbers: Array) -> Floats:
    """The numbers in single or double precision."""
    return numbers if numbers.dtype in (np.float32, np.float64) else numbers.astype(np.float32)


def begins(longer: Places, shorter: Places) -> bool:
    """Whether the shorter places are the first of the longer ones."""
    return len(longer) >= len(shorter) and np.array_equal(longer[: len(shorter)], shorter)
