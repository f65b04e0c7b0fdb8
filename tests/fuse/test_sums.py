# SPDX-License-Identifier: Apache-2.0
"""Weighted sums against exact ones, and their independence of place."""

import math

import numpy as np
import pytest

from fusetune.fuse import sums
from fusetune.fuse.sums import GROUP, weighted_sum


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that small arrays have several blocks, and one that is not whole."""
    monkeypatch.setattr(sums, "BLOCK", 64)


@pytest.mark.parametrize("members", [1, 2, GROUP, GROUP + 1, 3 * GROUP])
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 3), (32, 2), (50, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["any", "equal", "counts", "tiny"])
def test_sums_are_exact_but_for_the_last_bits(members, shape, dtype, kind):
    random = np.random.default_rng(members)
    arrays = [random.random(shape).astype(dtype) for _ in range(members)]
    weights_M = {
        "any": random.random(members),
        "equal": np.full(members, 1 / members),
        "counts": random.integers(1, 4, members).astype(float),
        "tiny": 10.0 ** -random.integers(0, 300, members),
    }[kind]
    found = weighted_sum(arrays, weights_M, dtype)
    assert found.shape == shape
    assert found.dtype == dtype
    for place in np.ndindex(shape):
        products = [w * float(array[place]) for w, array in zip(weights_M, arrays, strict=True)]
        tolerance = 10 * float(np.finfo(dtype).eps)
        assert float(found[place]) == pytest.approx(
            math.fsum(products), rel=tolerance, abs=float(np.finfo(dtype).tiny)
        )


def test_permuted_rows_give_the_permuted_sum_bit_for_bit():
    random = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        arrays = [random.random((75, 7)).astype(dtype) for _ in range(GROUP + 3)]
        weights_M = random.random(len(arrays))
        order = random.permutation(75)
        whole = weighted_sum(arrays, weights_M, np.float64)
        permuted = weighted_sum([array[order] for array in arrays], weights_M, np.float64)
        assert permuted.tobytes() == whole[order].tobytes()
        few = weighted_sum([array[:10] for array in arrays], weights_M, np.float64)
        assert few.tobytes() == whole[:10].tobytes()


def test_zero_and_negative_weights():
    one, two = np.array([1.0, np.nan]), np.array([3.0, 5.0])
    assert weighted_sum([one, two], np.array([0.0, -2.0]), float).tolist() == [-6, -10]
    assert weighted_sum([two, two], np.array([-1.0, 3.0]), float).tolist() == [6, 10]
    assert weighted_sum([one, two], np.zeros(2), float).tolist() == [0, 0]


def test_inputs_of_any_layout_and_mixed_precision_stay_as_they_are():
    random = np.random.default_rng(0)
    one, two = random.random((5, 6)).T, random.random((6, 5)).astype(np.float32)
    before = one.copy(), two.copy()
    found = weighted_sum([one, two], np.array([2.0, 3.0]), np.float64)
    np.testing.assert_allclose(found, 2 * one + 3 * two.astype(np.float64), rtol=1e-14)
    assert np.array_equal(one, before[0])
    assert np.array_equal(two, before[1])


def test_many_arrays_of_single_precision_err_by_little():
    random = np.random.default_rng(0)
    arrays = [random.random((500, 3)).astype(np.float32) for _ in range(200)]
    weights_M = random.random(200)
    exact = sum(w * array.astype(float) for w, array in zip(weights_M, arrays, strict=True))
    found = weighted_sum(arrays, weights_M, np.float64)
    errors = np.abs(found / exact - 1)
    assert errors.max() < 5e-7
    assert np.sqrt((errors**2).mean()) < 1e-7
