# SPDX-License-Identifier: Apache-2.0
"""The mean of several models' predictions of the same rows.

Shapes: N rows, C classes.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from fusetune.predictions.kinds import Columnar, Kind
from fusetune.predictions.segmentation.masks import FusedMask, Masks, MeanRule, mask_like

__all__ = ["mean_prediction"]

P = TypeVar("P", bound=Kind)


def mean_prediction(parts: Sequence[P]) -> P:
    """The mean of each number, added up in double precision; one part is returned as it is.

    Of probabilities, marginals and values alike, not of the raw outputs before them: every model
    has a scale of its own there, and the most confident would decide.

    Args:
        parts: Predictions of the same rows, in the same order, with the same columns; one of any
            kind, several of numbers, or of masks of the same sizes, whose mean is computed where it
            is read.

    Returns:
        Rows and columns as in the parts, in their precision.

    Example:
        >>> from fusetune.predictions.kinds import Probabilities
        >>> one = Probabilities(np.array(["a"]), ("no", "yes"), np.array([[0.25, 0.75]]))
        >>> other = Probabilities(np.array(["a"]), ("no", "yes"), np.array([[0.75, 0.25]]))
        >>> mean_prediction([one, other]).probs_NC
        array([[0.5, 0.5]])
    """
    first, *others = parts
    if not others:
        return first
    assert all(part.columns == first.columns for part in others)
    assert all(np.array_equal(part.ids, first.ids) for part in others)
    if isinstance(first, Masks):
        masks = [part for part in parts if isinstance(part, Masks)]
        return mask_like(first, first.ids, FusedMask.rows(masks, len(first.classes), MeanRule()))
    assert isinstance(first, Columnar)
    arrays = [part.array_NC for part in parts if isinstance(part, Columnar)]
    mean_NC = np.stack(arrays).mean(axis=0, dtype=np.float64)
    return first.with_array(first.columns, mean_NC.astype(first.array_NC.dtype))
