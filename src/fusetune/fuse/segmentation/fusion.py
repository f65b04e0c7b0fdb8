# SPDX-License-Identifier: Apache-2.0
"""Fusions of masks: averages that pass from member to member, and any fusion of rows, pixel by pixel.

Shapes: M members, N rows, C classes, H W pixels.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fusetune.fuse.method import Fusion
from fusetune.predictions.kinds import Floats, Probabilities
from fusetune.predictions.long_truth import nameless
from fusetune.predictions.segmentation.masks import FusedMask, Masks, Rule
from fusetune.predictions.stack import Stack, known_classes

__all__ = ["PixelWise", "pooled_masks"]


def pooled_masks(parts: Sequence[Masks], weights_M: Floats, classes: tuple[str, ...]) -> Masks:
    """Weighted average of masks of the same rows, which is computed where it is read.

    Band by band, and within a band member by member: what is held does not hang on their number.
    Over classes that a member does not know, the weights renormalize over those that know them,
    and pixels are divided by their sums.

    Args:
        parts: M predictions with identical ids and sizes.
        weights_M: `(M,)` numbers above 0.
        classes: All that any part knows, in the order of the result.

    Cost:
        One pass over M C H W numbers, each time the result is read.
    """
    rule: _Average | _PartialAverage
    order = np.argsort(weights_M, kind="stable").tolist()
    shares = [float(weights_M[index] / np.sum(weights_M)) for index in order]
    if all(part.classes == classes for part in parts):
        rule = _Average(tuple(shares))
    else:
        places = [tuple(classes.index(name) for name in parts[index].classes) for index in order]
        rule = _PartialAverage(tuple(shares), tuple(places), len(classes))
    fused = FusedMask.rows([parts[index] for index in order], len(classes), rule)
    return Masks(parts[0].ids, classes, fused)


@dataclass(frozen=True)
class _Average(Rule):
    """By Horner's rule, as `weighted_sum`: one addition a member, where weights are equal.

    Shares rise.
    """

    shares: tuple[float, ...]

    def __call__(self, bands: Iterable[Floats]) -> Floats:
        coming = iter(bands)
        first = next(coming)
        out = np.empty(first.shape, dtype=first.dtype)
        return self._summed(first, coming, out)

    def write(self, bands: Iterable[Floats], out: Floats) -> None:
        """See `Rule`; nothing but the members' bands is held."""
        coming = iter(bands)
        first = next(coming)
        if out.dtype == first.dtype:
            summed = self._summed(first, coming, out)
            if summed is out:
                return
            out[...] = summed
        else:
            out[...] = self._summed(first, coming, np.empty(first.shape, dtype=first.dtype))

    def _summed(self, first: Floats, others: Iterator[Floats], out: Floats) -> Floats:
        """The average, in `out` or, where a later band is more precise, in a new array."""
        total = first
        for band, (before, share) in zip(others, itertools.pairwise(self.shares), strict=True):
            if np.result_type(out, band) != out.dtype:
                out = out.astype(band.dtype)
            if before != share:
                total = np.multiply(total, before / share, out=out)
            total = np.add(total, band, out=out)
        return np.multiply(total, self.shares[-1], out=out)


@dataclass(frozen=True)
class _PartialAverage(Rule):
    """Where members know different classes: over those that know each, then divided by the sums."""

    shares: tuple[float, ...]
    places: tuple[tuple[int, ...], ...]
    num_classes: int

    def __call__(self, bands: Iterable[Floats]) -> Floats:
        total: Any = None
        mass_C = np.zeros(self.num_classes)
        for band, share, places in zip(bands, self.shares, self.places, strict=True):
            if total is None:
                total = np.zeros((self.num_classes, *band.shape[1:]), dtype=band.dtype)
            for plane, index in zip(band, places, strict=True):
                total[index] += plane * np.asarray(share, dtype=band.dtype)
            mass_C[list(places)] += share
        total /= mass_C.astype(total.dtype).reshape(-1, *[1] * (total.ndim - 1))
        fused: Floats = total / total.sum(axis=0)
        return fused


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelWise(Fusion[Masks]):
    """A fusion of rows, applied to every pixel as if it were one.

    Args:
        fusion: Fitted to class probabilities.
    """

    fusion: Fusion[Probabilities]
    members: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", self.fusion.members)

    def __call__(self, stack: Stack[Masks]) -> Masks:
        """Masks of what the fusion makes of each pixel, computed where they are read."""
        stack = stack.select(self.members)
        classes = known_classes(stack.parts, stack.classes)
        known = tuple(part.classes for part in stack.parts)
        rule = _OfPixels(self.fusion, id(self.fusion), stack.members, known, classes)
        fused = FusedMask.rows(stack.parts, len(classes), rule, together=True)
        return Masks(stack.ids, classes, fused)

    def weights(self) -> dict[str, float] | None:
        """Those of the fusion of rows."""
        return self.fusion.weights()


@dataclass(frozen=True)
class _OfPixels(Rule):
    """Alike only if it is the same fusion: comparing its arrays would cost more than fusing a band."""

    fusion: Fusion[Probabilities] = field(compare=False)
    identity: int
    members: tuple[str, ...]
    known: tuple[tuple[str, ...], ...]
    classes: tuple[str, ...]

    def __call__(self, bands: Iterable[Floats]) -> Floats:
        arrays = list(bands)
        shape = arrays[0].shape[1:]
        named = nameless(int(np.prod(shape)))
        empty = object.__new__(Probabilities)
        parts = tuple(
            Probabilities.trusted(empty, named, classes, band.reshape(len(band), -1).T)
            for band, classes in zip(arrays, self.known, strict=True)
        )
        fused = self.fusion(Stack(self.members, parts, self.classes)).over(self.classes)
        planes: Floats = np.ascontiguousarray(fused.probs_NC.T).reshape(len(self.classes), *shape)
        return planes
