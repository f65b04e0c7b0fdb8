# SPDX-License-Identifier: Apache-2.0
"""STAPLE: how far to believe each member on each class, learned from the image's votes alone.

Shapes: M members, C classes, H W pixels, P chosen pixels.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from fusetune.errors import InvalidValue
from fusetune.fuse.forms import WeightedAverage
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.fuse.raters import Raters, combinations, posterior_of, rate
from fusetune.fuse.segmentation.votes import votes_of
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Floats, Kind
from fusetune.predictions.segmentation.masks import ComputedMask, Mask, Masks, Places
from fusetune.predictions.segmentation.sharing import made_once
from fusetune.predictions.stack import Stack, known_classes

__all__ = ["RatedMasks", "Staple"]


@dataclass(frozen=True, kw_only=True)
class Staple(FusionMethod[Masks]):
    """Simultaneous truth and performance level estimation, image by image. Needs no targets.

    p(c) ∝ prior(c) · product over members of P(member's vote | true class c): each member's
    confusion matrix is the one that makes the votes on this image most likely, by
    expectation-maximization from the shares of the votes; the prior is the members' own shares of
    the classes in the image. Votes are the most probable classes, and a pixel whose classes are all
    alike to a member is no vote of it; in an image without any vote the classes are alike.

    A member that misses a class, or calls it too often, is still believed on the others. Pixels are
    taken one by one: nothing says that neighbors belong together. Do not use it with members that err
    together, which confirm each other, nor where probabilities count: with several members they
    are nearly 0 or 1. A class that few pixels have, as most images have some, may be given up. One
    member alone passes through.

    Args:
        max_rounds: Most rounds of expectation-maximization; 100, where ITK's users usually stop it.
        tolerance: Stop when no entry of a confusion matrix moves by more; 1e-7 is the root of the
            1e-14 by which ITK stops.

    Cost:
        One pass over the members of an image, then U M C^2 multiplications a round for the U
        different combinations of votes in it (thousands), and another pass where it is read.

    Reference:
        Warfield, Zou, Wells. "Simultaneous truth and performance level estimation (STAPLE)". IEEE
        Transactions on Medical Imaging, 2004. Rohlfing, Russakoff, Maurer. "Performance-based
        classifier combination in atlas-based image segmentation using expectation-maximization
        parameter estimation". Same journal and year: several labels. With two classes this gives
        ITK's numbers; with more, ITK starts from the majority's confusion matrices instead.
    """

    max_rounds: int = 100
    tolerance: float = 1e-7

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Masks})
    needs_targets: ClassVar[bool] = False
    fit_copies: ClassVar[float] = 0.0
    reads_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        wrong = {
            "max_rounds": (self.max_rounds < 1, "a whole number of at least 1"),
            "tolerance": (not 0 <= self.tolerance < 1, "a number from 0 to 1"),
        }
        for name, (bad, expected) in wrong.items():
            if bad:
                raise InvalidValue(
                    f"{name} is {getattr(self, name)}",
                    expected,
                    "Change it, or leave it out for the default.",
                )

    def fit(
        self,
        stack: Stack[Masks],
        targets: Any,  # noqa: ANN401
        metric: Metric[Masks],
        *,
        sample_weights_N: Array | None = None,
    ) -> "RatedMasks | WeightedAverage":
        """Which members vote: the rest is learned from every image anew."""
        if len(stack.members) == 1:
            return WeightedAverage.of({stack.members[0]: 1})
        return RatedMasks(
            members=stack.members, max_rounds=self.max_rounds, tolerance=self.tolerance
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class RatedMasks(Fusion[Masks]):
    """Members whose confusion matrices are learned from each image.

    Args:
        members: Who votes.
        max_rounds: See `Staple`.
        tolerance: See `Staple`.
    """

    members: tuple[str, ...]
    max_rounds: int
    tolerance: float

    def __call__(self, stack: Stack[Masks]) -> Masks:
        """Posteriors of the true classes, computed where they are read."""
        stack = stack.select(self.members)
        classes = known_classes(stack.parts, stack.classes)
        places = tuple(tuple(classes.index(name) for name in one.classes) for one in stack.parts)

        def rated(votes: Iterable[Any]) -> Raters:
            found = combinations(votes)
            return rate(found, len(classes), max_rounds=self.max_rounds, tolerance=self.tolerance)

        rows = zip(*(part.masks for part in stack.parts), strict=True)
        fused = tuple(
            made_once(
                (self, masks, places), partial(_RatedMask, masks, places, len(classes), rated)
            )
            for masks in rows
        )
        return Masks(stack.ids, classes, fused)


class _RatedMask(ComputedMask):
    """One image; of what is learned from it, only the confusion matrices are kept."""

    def __init__(
        self,
        masks: tuple[Mask, ...],
        places: tuple[tuple[int, ...], ...],
        num_classes: int,
        rated: Callable[[Iterable[Any]], Raters],
    ) -> None:
        super().__init__(masks[0].size, num_classes)
        self.masks, self.places, self.rated = masks, places, rated
        self.raters: Raters | None = None

    def computed(self, top: int, bottom: int) -> Floats:
        """See `ComputedMask`."""
        return self._posterior(mask.band(top, bottom) for mask in self.masks)

    def pixels(self, places_P: Places) -> Floats:
        """See `Mask`."""
        return self._posterior(mask.sample(places_P)[:, None] for mask in self.masks)[:, 0]

    def _posterior(self, bands: Iterable[Floats]) -> Floats:
        if self.raters is None:
            self.raters = self.rated(self._whole_votes())
        votes = (votes_of(band, places) for band, places in zip(bands, self.places, strict=True))
        found = combinations(votes)
        posterior_UC = posterior_of(found.labels_UM, self.raters.chances_MCC, self.raters.prior_C)
        planes_CU = np.ascontiguousarray(posterior_UC.T.astype(np.float32))
        posterior: Floats = planes_CU[:, found.which_HW]
        return posterior

    def _whole_votes(self) -> Iterable[Any]:
        for mask, places in zip(self.masks, self.places, strict=True):
            bands = [votes_of(band, places) for _, band in mask.bands()]
            yield np.concatenate(bands) if bands else np.zeros(mask.size, dtype=np.int16)
