# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from fusetune.fuse import neighbors
from fusetune.fuse.neighbors import nearest_rows


def sorted_by_distance(stored_HF, rows_NF, num_neighbors):
    """All distances by differences, sorted stably: the earlier row wins a tie."""
    apart_NH = ((rows_NF[:, None] - stored_HF) ** 2).sum(axis=2)
    return np.argsort(apart_NH, axis=1, kind="stable")[:, :num_neighbors]


@pytest.mark.parametrize("num_neighbors", [1, 3, 7, 50])
@pytest.mark.parametrize("num_stored", [1, 7, 40, 300, 1001])
def test_it_is_the_full_sort(num_stored, num_neighbors):
    random = np.random.default_rng(num_stored)
    stored_HF, rows_NF = random.normal(size=(num_stored, 5)), random.normal(size=(60, 5))
    np.testing.assert_array_equal(
        nearest_rows(stored_HF, rows_NF, num_neighbors),
        sorted_by_distance(stored_HF, rows_NF, num_neighbors),
    )


@pytest.mark.parametrize("shift", [0.0, 1000.1])
def test_ties_go_to_the_earlier_row_wherever_they_lie(shift):
    random = np.random.default_rng(0)
    stored_HF = random.integers(0, 3, size=(700, 3)) + shift
    rows_NF = random.integers(0, 3, size=(90, 3)) + shift
    np.testing.assert_array_equal(
        nearest_rows(stored_HF, rows_NF, 7), sorted_by_distance(stored_HF, rows_NF, 7)
    )


def test_all_at_one_place_are_taken_in_order():
    found_NK = nearest_rows(np.zeros((500, 2)), np.ones((3, 2)), 4)
    assert found_NK.tolist() == [[0, 1, 2, 3]] * 3


def test_blocks_and_the_order_of_the_rows_change_nothing(monkeypatch):
    random = np.random.default_rng(1)
    stored_HF, rows_NF = random.normal(size=(200, 4)), random.normal(size=(101, 4))
    whole_NK = nearest_rows(stored_HF, rows_NF, 5)
    order = random.permutation(101)
    monkeypatch.setattr(neighbors, "BLOCK", 900)
    np.testing.assert_array_equal(nearest_rows(stored_HF, rows_NF[order], 5), whole_NK[order])


def test_no_rows_have_no_neighbors():
    assert nearest_rows(np.zeros((9, 2)), np.empty((0, 2)), 3).shape == (0, 3)
