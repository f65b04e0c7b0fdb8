# SPDX-License-Identifier: Apache-2.0
"""Label voting: every member has one vote on every pixel.

Shapes: C classes, H W pixels.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fusetune.errors import unknown_name
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.fuse.segmentation.votes import votes_of
from fusetune.metric import Metric
from fusetune.predictions.kinds import Array, Floats, Kind
from fusetune.predictions.segmentation.masks import FusedMask, Masks, Rule
from fusetune.predictions.stack import Stack, known_classes

__all__ = ["LabelVoting", "VotedMasks"]


@dataclass(frozen=True, kw_only=True)
class LabelVoting(FusionMethod[Masks]):
    """Hard majority: p(c) is the share of the members whose most probable class at the pixel is c.

    Needs no targets. A member's tie is its earlier class; a pixel whose classes are all alike to a
    member is no vote of it, and without any vote the classes are alike.

    Use it where members give labels, or probabilities that cannot be compared. Do not use it with
    two members that differ much: every pixel on which they differ is a tie. `staple` learns from the
    same votes whom to believe.

    Args:
        undecided: Class that pixels get on which two or more classes have the most votes, as
            ITK's label for undecided pixels; None: the earlier of these classes wins.

    Cost:
        Nothing to fit; predicting takes one pass over M C H W numbers.

    Reference:
        Rohlfing, Maurer. "Shape-based averaging". IEEE Transactions on Image Processing, 2007,
        section II: label voting.
    """

    undecided: str | None = None

    accepts: ClassVar[frozenset[type[Kind]]] = frozenset({Masks})
    needs_targets: ClassVar[bool] = False
    fit_copies: ClassVar[float] = 0.0
    reads_labels: ClassVar[bool] = True

    def fit(
        self,
        stack: Stack[Masks],
        targets: Any,  # noqa: ANN401
        metric: Metric[Masks],
        *,
        sample_weights_N: Array | None = None,
    ) -> "VotedMasks":
        """Which members vote; nothing else is read.

        Raises:
            UnknownName: No member knows the class for undecided pixels.
        """
        classes = known_classes(stack.parts, stack.classes)
        if self.undecided is not None and self.undecided not in classes:
            raise unknown_name("class", self.undecided, classes, where="undecided")
        return VotedMasks(members=stack.members, undecided=self.undecided)


@dataclass(frozen=True, kw_only=True, eq=False)
class VotedMasks(Fusion[Masks]):
    """Fitted label voting.

    Args:
        members: Who votes.
        undecided: Class of tied pixels, or None.
    """

    members: tuple[str, ...]
    undecided: str | None

    def __call__(self, stack: Stack[Masks]) -> Masks:
        """Shares of the votes, counted where they are read."""
        stack = stack.select(self.members)
        classes = known_classes(stack.parts, stack.classes)
        places = tuple(tuple(classes.index(name) for name in one.classes) for one in stack.parts)
        undecided = classes.index(self.undecided) if self.undecided in classes else -1
        rule = _Shares(places, len(classes), undecided)
        return Masks(stack.ids, classes, FusedMask.rows(stack.parts, len(classes), rule))


@dataclass(frozen=True)
class _Shares(Rule):
    places: tuple[tuple[int, ...], ...]
    num_classes: int
    undecided: int

    def __call__(self, bands: Iterable[Floats]) -> Floats:
        counts: Any = None
        for band, places in zip(bands, self.places, strict=True):
            votes = votes_of(band, places)
            if counts is None:
                counts = np.zeros((self.num_classes, *votes.shape), dtype=np.float32)
            for place in places:
                counts[place] += votes == place
        sums = counts.sum(axis=0)
        shares: Floats = np.where(sums > 0, counts, 1) / np.where(sums > 0, sums, self.num_classes)
        if self.undecided >= 0:
            tied = ((counts == counts.max(axis=0)).sum(axis=0) > 1) & (sums > 0)
            shares[:, tied] = 0
            shares[self.undecided, tied] = 1
        return shares.astype(np.float32)
