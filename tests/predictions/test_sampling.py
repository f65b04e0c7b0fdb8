# SPDX-License-Identifier: Apache-2.0
"""Samples of rows that stand for all of them, and amounts of memory as people write them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusetune.errors import InvalidValue
from fusetune.predictions.memory import Budget, bytes_of
from fusetune.predictions.sampling import stratified_sample


@given(
    strata=st.lists(st.integers(0, 4), min_size=1, max_size=200),
    size=st.integers(50, 250),
    seed=st.integers(0, 5),
)
def test_every_stratum_keeps_its_weight(strata, size, seed):
    random = np.random.default_rng(seed)
    strata_N, order_N = np.array(strata), random.permutation(len(strata))
    weights_N = random.uniform(0.5, 2, len(strata))
    rows, weights_n = stratified_sample(strata_N, order_N, size, weights_N)
    assert (np.diff(rows) > 0).all()
    assert weights_n.mean() == pytest.approx(1)
    shares_n = np.bincount(strata_N[rows], weights_n, 5) / weights_n.sum()
    shares_N = np.bincount(strata_N, weights_N, 5) / weights_N.sum()
    np.testing.assert_allclose(shares_n, shares_N, atol=1e-12)
    counts, taken = np.bincount(strata_N, minlength=5), np.bincount(strata_N[rows], minlength=5)
    assert (taken >= np.minimum(counts, 5)).all()  # so many serve a cross-fit
    assert len(rows) == len(strata) or abs(len(rows) - size) <= 3


def test_more_strata_than_rows_take_no_more_rows():
    rows, weights_n = stratified_sample(np.arange(1000) % 500, np.arange(1000), 100)
    assert rows.tolist() == list(range(100))
    assert weights_n.tolist() == [1] * 100


def test_a_sample_does_not_depend_on_the_order_of_the_rows():
    random = np.random.default_rng(0)
    strata_N, order_N = random.integers(3, size=500), random.permutation(500)
    rows, weights_n = stratified_sample(strata_N, order_N, 100)
    turned = np.arange(500)[::-1]
    others, other_n = stratified_sample(strata_N[turned], order_N[turned], 100)
    assert turned[others][::-1].tolist() == rows.tolist()
    assert other_n[::-1].tolist() == weights_n.tolist()


def test_rare_strata_are_taken_whole_and_count_less():
    strata_N = np.array([0] * 1000 + [1] * 4)
    rows, weights_n = stratified_sample(strata_N, np.arange(1004), 100)
    assert strata_N[rows].tolist().count(1) == 4
    assert weights_n[-1] < 0.2 < weights_n[0]


def test_amounts_as_people_write_them():
    assert bytes_of("800 mb") == 8 * 10**8
    assert bytes_of("2GiB") == 2**31
    for wrong in ("", "GB", "1 XB", "-1GB", "1GB!"):
        with pytest.raises(InvalidValue, match="Write 1GB"):
            bytes_of(wrong)
    with pytest.raises(InvalidValue, match="larger bound"):
        Budget(bytes_of("100MB"))
