# SPDX-License-Identifier: Apache-2.0
"""Weights on the simplex against SciPy's SLSQP, and their certificates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from fusetune.fuse.forms import true_probs_MN
from fusetune.fuse.simplex import (
    log_loss_weights,
    residual_gram,
    searched_weights,
    squared_error_weights,
)
from pools import pool


def loss_of(weights_M, true_MN, shares_N):
    return float(-np.log(weights_M @ true_MN) @ shares_N)


def by_slsqp(true_MN, shares_N):
    num_members = len(true_MN)
    found = minimize(
        lambda w: loss_of(np.maximum(w, 0) + 1e-300, true_MN, shares_N),
        np.full(num_members, 1 / num_members),
        jac=lambda w: -true_MN @ (shares_N / (w @ true_MN)),
        bounds=[(0, 1)] * num_members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 500},
    )
    weights_M = np.maximum(found.x, 0)
    return weights_M / weights_M.sum()


@pytest.mark.parametrize("members", [1, 2, 3, 10, 40])
@pytest.mark.parametrize("noise", [0.05, 1.0, 3.0])
@pytest.mark.parametrize("rows", [20, 500, 4_000])
def test_slsqp_finds_nothing_better(members, noise, rows):
    stack, targets = pool(members=members, rows=rows, noise=noise, seed=members)
    true_MN = true_probs_MN(stack, targets)
    sample_weights_N = np.random.default_rng(rows).uniform(0, 2, size=rows)
    weights_M, gap = log_loss_weights(true_MN, sample_weights_N)
    assert weights_M.sum() == pytest.approx(1, abs=1e-12)
    assert weights_M.min() >= 0
    assert gap <= 1e-9
    shares_N = sample_weights_N / sample_weights_N.sum()
    reference_M = by_slsqp(true_MN, shares_N)
    assert loss_of(weights_M, true_MN, shares_N) <= loss_of(reference_M, true_MN, shares_N) + 1e-9


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda members: st.lists(
            st.lists(
                st.sampled_from([1e-16, 1e-7, 0.125, 0.25, 0.5, 0.999, 1.0]),
                min_size=members,
                max_size=members,
            ),
            min_size=1,
            max_size=12,
        )
    ),
    st.data(),
)
def test_the_certificate_holds_on_zeros_ties_and_identical_members(rows, data):
    true_MN = np.array(rows).T
    counts = st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)).filter(any)
    counts_N = np.array(data.draw(counts), dtype=float)
    weights_M, gap = log_loss_weights(true_MN, counts_N)
    shares_N = counts_N / counts_N.sum()
    assert weights_M.sum() == pytest.approx(1, abs=1e-12)
    assert weights_M.min() >= 0
    # The certificate: the steepest member's pull, computed here anew.
    pull_M = true_MN @ (shares_N / (weights_M @ true_MN))
    assert gap == pytest.approx(max(pull_M.max() - 1, 0), abs=1e-10)
    assert gap <= 1e-9


def test_a_member_that_is_right_everywhere_takes_all():
    true_MN = np.array([[0.9, 0.8, 0.9], [0.5, 0.5, 0.5]])
    weights_M, gap = log_loss_weights(true_MN, np.ones(3))
    assert weights_M.tolist() == [1, 0]
    assert gap <= 1e-9


def test_two_members_by_hand():
    # Two rows: w and 1 - w times the same numbers; by symmetry both get half.
    weights_M, _ = log_loss_weights(np.array([[0.8, 0.1], [0.1, 0.8]]), np.ones(2))
    np.testing.assert_allclose(weights_M, [0.5, 0.5], atol=1e-9)


def test_a_start_does_not_change_the_optimum():
    stack, targets = pool(members=8, rows=300)
    true_MN = true_probs_MN(stack, targets)
    cold_M, _ = log_loss_weights(true_MN, np.ones(300))
    corner_M = np.eye(8)[5]  # a member of no use, alone
    warm_M, gap = log_loss_weights(true_MN, np.ones(300), start_M=corner_M)
    assert gap <= 1e-9
    np.testing.assert_allclose(warm_M, cold_M, atol=1e-4)


def gram_of(members, numbers, *, seed=0, shared=1.0):
    random = np.random.default_rng(seed)
    errors_MD = random.normal(size=(members, numbers)) * random.uniform(0.5, 2, (members, 1))
    errors_MD += shared * random.normal(size=numbers)
    return residual_gram(errors_MD[:, :, None]) / numbers


@pytest.mark.parametrize("members", [1, 2, 5, 30, 120])
@pytest.mark.parametrize("shared", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("numbers", [3, 60, 3_000])
def test_the_quadratic_program_is_solved_exactly(members, shared, numbers):
    gram_MM = gram_of(members, numbers, seed=members, shared=shared)
    weights_M, gap = squared_error_weights(gram_MM)
    assert weights_M.sum() == pytest.approx(1, abs=1e-12)
    assert weights_M.min() >= 0
    pull_M = gram_MM @ weights_M
    assert gap == pytest.approx(2 * (weights_M @ pull_M - pull_M.min()), abs=1e-12)
    assert gap <= 1e-11 * gram_MM.diagonal().mean()


@pytest.mark.parametrize("members", [2, 5, 20])
def test_slsqp_finds_no_smaller_squared_error(members):
    gram_MM = gram_of(members, 400, seed=members)
    found = minimize(
        lambda w: w @ gram_MM @ w,
        np.full(members, 1 / members),
        jac=lambda w: 2 * gram_MM @ w,
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    weights_M, _ = squared_error_weights(gram_MM)
    np.testing.assert_allclose(weights_M, found.x, atol=1e-5)
    assert weights_M @ gram_MM @ weights_M <= found.fun + 1e-12


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda members: st.lists(
            st.lists(st.integers(-2, 2), min_size=members, max_size=members),
            min_size=1,
            max_size=5,
        )
    )
)
def test_singular_errors_zeros_and_identical_members_are_harmless(errors):
    gram_MM = residual_gram(np.array(errors, dtype=float).T[:, :, None])
    weights_M, gap = squared_error_weights(gram_MM)
    assert weights_M.sum() == pytest.approx(1, abs=1e-12)
    assert weights_M.min() >= 0
    pull_M = gram_MM @ weights_M
    assert max(2 * (weights_M @ pull_M - pull_M.min()), gap) <= 1e-10


def test_a_perfect_member_takes_all_and_of_equals_the_earlier():
    gram_MM = residual_gram(np.array([[1.0, 2], [0, 0], [0, 0], [3, 1]])[:, :, None])
    assert squared_error_weights(gram_MM)[0].tolist() == [0, 1, 0, 0]


def test_a_search_is_never_worse_than_its_start_and_finds_a_smooth_optimum():
    gram_MM = gram_of(6, 300)

    def value(weights_M):
        assert weights_M.sum() == pytest.approx(1) and weights_M.min() >= 0
        return -float(weights_M @ gram_MM @ weights_M)

    starts = [np.eye(6)[0], np.full(6, 1 / 6)]
    weights_M, found = searched_weights(value, starts)
    assert found == value(weights_M) > max(map(value, starts))
    optimal_M, _ = squared_error_weights(gram_MM)
    assert found == pytest.approx(value(optimal_M), abs=2e-3)
    np.testing.assert_array_equal(searched_weights(value, starts)[0], weights_M)


def test_a_search_keeps_its_start_where_nothing_helps_and_avoids_no_value():
    start_M = np.array([0.3, 0.7])
    assert searched_weights(lambda w: 1.0, [start_M])[0].tolist() == [0.3, 0.7]
    nowhere = searched_weights(
        lambda w: float("nan") if w[0] > 0.3 else w[0], [np.eye(2)[0], start_M]
    )
    assert nowhere[0].tolist() == [0.3, 0.7]


def test_a_corner_that_is_1_but_for_rounding_is_searched_on() -> None:
    near = np.array([1 - 2**-53, 0.0, 0.0])
    weights_M, value = searched_weights(lambda w: float(w[0]), [near])
    assert np.isfinite(weights_M).all()
    assert value >= near[0]
