# SPDX-License-Identifier: Apache-2.0
"""Weights of the rows that something is fitted on.

Shapes: N rows.
"""

import numpy as np

from fusetune.errors import InvalidValue, PredictionError
from fusetune.predictions.kinds import Array, Floats, Ids

__all__ = ["row_weights"]


def row_weights(ids: Ids, sample_weights_N: Array | None, fitted: str) -> Floats:
    """`(N,)` weights of the rows with mean 1, so that their scale does not matter.

    Args:
        ids: `(N,)` names of the rows, for the error.
        sample_weights_N: `(N,)` finite numbers of at least 0, one of them above 0; None: all 1.
        fitted: What is fitted on the rows, for the error ("the fusion").

    Raises:
        PredictionError: There are no rows to fit on.
        InvalidValue: A weight is negative or not finite, or all are 0.

    Example:
        >>> row_weights(np.array(["a", "b"]), np.array([3, 1]), "the fusion")
        array([1.5, 0.5])
    """
    if not len(ids):
        raise PredictionError(
            "no holdout row is given",
            f"at least one row to fit {fitted} on",
            "Give predictions and targets of rows that trained no member.",
        )
    if sample_weights_N is None:
        return np.ones(len(ids))
    weights_N = np.asarray(sample_weights_N, dtype=np.float64)
    assert weights_N.shape == (len(ids),)
    bad_N = ~np.isfinite(weights_N) | (weights_N < 0)
    if bad_N.any() or not weights_N.any():
        row = int(bad_N.argmax())
        raise InvalidValue(
            f"the sample weight of row '{ids[row]}' is {weights_N[row]}",
            "finite weights of at least 0, one of them above 0",
            "Correct the weights, or leave them out to count every row alike.",
        )
    return weights_N / weights_N.mean()
