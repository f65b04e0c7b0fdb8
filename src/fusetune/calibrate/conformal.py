# SPDX-License-Identifier: Apache-2.0
"""The finite-sample quantile that split conformal prediction rests on.

Shapes: N rows.
"""

import math

import numpy as np

from fusetune.errors import PredictionError, counted
from fusetune.predictions.kinds import Floats

__all__ = ["conformal_quantile"]

ROUNDING = 1e-9  # (n + 1) * 0.9 may come out a few bits above a whole number


def conformal_quantile(scores_N: Floats, coverage: float) -> float:
    """The ceil((N + 1) coverage)-th smallest of N scores.

    If a new row's score is exchangeable with these, it is at most this number with a probability
    of at least `coverage`, and, without ties, of less than coverage + 1 / (N + 1).

    Args:
        scores_N: `(N,)` scores of rows that fitted nothing else; larger is stranger.
        coverage: Wanted share of new rows, between 0 and 1.

    Raises:
        PredictionError: N is below coverage / (1 - coverage): no score is large enough.

    Reference:
        Vovk, Gammerman, Shafer. Algorithmic Learning in a Random World. Springer, 2005.

    Example:
        >>> conformal_quantile(np.arange(1.0, 20.0), 0.9)
        18.0
    """
    rank = math.ceil((len(scores_N) + 1) * coverage - ROUNDING)
    if rank > len(scores_N):
        fewest = math.ceil(coverage / (1 - coverage) - ROUNDING)
        raise PredictionError(
            f"{counted(len(scores_N), 'row')} cannot promise a coverage of {coverage:g}",
            f"at least {fewest} rows, of which even the strangest is then covered",
            "Give more rows, or ask for a lower coverage.",
        )
    return float(np.partition(scores_N, rank - 1)[rank - 1])
