# SPDX-License-Identifier: Apache-2.0
"""The mean of several models' predictions, of every kind."""

import numpy as np
import pytest

from fusetune.predictions.averages import mean_prediction
from fusetune.predictions.kinds import Array, Columnar, Marginals, Probabilities, Values

IDS = np.array(["a", "b"])


@pytest.mark.parametrize(
    ("kind", "one_NC", "other_NC"),
    [
        (Probabilities, [[0.2, 0.8], [1, 0]], [[0.6, 0.4], [0.5, 0.5]]),
        (Marginals, [[0.2, 0.3], [1, 1]], [[0, 0.1], [0, 1]]),
        (Values, [[-3, 1e9], [0, 2]], [[5, 3e9], [7, 2]]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_the_mean_of_each_number(
    kind: type[Columnar], one_NC: list[Array], other_NC: list[Array], dtype: type
) -> None:
    arrays = [np.array(array, dtype=dtype) for array in (one_NC, other_NC)]
    parts = [kind(IDS, ("x", "y"), array) for array in arrays]  # type: ignore[call-arg]
    found = mean_prediction(parts)
    assert type(found) is kind
    assert found.ids.tolist() == ["a", "b"]
    assert found.columns == ("x", "y")
    assert found.array_NC.dtype == dtype
    assert np.allclose(found.array_NC, (arrays[0].astype(float) + arrays[1]) / 2)
    assert mean_prediction(parts[:1]) is parts[0]


def test_levels_of_quantiles_stay() -> None:
    values_ND = np.array([[1.0, 2.0], [3.0, 4.0]])
    part = Values(IDS, ("q0.1", "q0.9"), values_ND, levels=(0.1, 0.9))
    assert mean_prediction([part, part]).levels == (0.1, 0.9)
