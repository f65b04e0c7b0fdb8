# SPDX-License-Identifier: Apache-2.0
"""What a member's probabilities say at each pixel, as a vote for one class.

Shapes: C classes.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fusetune.predictions.kinds import Floats

__all__ = ["votes_of"]


def votes_of(band: Floats, places: Sequence[int]) -> npt.NDArray[np.int16]:
    """Place of the most probable class of each pixel; -1 where all of several classes are alike.

    Args:
        band: `(C, ...)` probabilities.
        places: Where each of the C classes stands among all; the one with the lowest wins a tie.

    Example:
        >>> votes_of(np.array([[0.2, 0.5, 0.4], [0.8, 0.5, 0.6]]), [3, 1]).tolist()
        [1, -1, 1]
    """
    order = sorted(range(len(band)), key=lambda index: places[index])
    best, least = band[order[0]].copy(), band[order[0]].copy()
    votes = np.full(best.shape, places[order[0]], dtype=np.int16)
    for index in order[1:]:
        votes[band[index] > best] = places[index]
        np.maximum(best, band[index], out=best)
        np.minimum(least, band[index], out=least)
    if len(band) > 1:
        votes[best == least] = -1
    return votes
