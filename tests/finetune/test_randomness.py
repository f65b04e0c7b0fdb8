# SPDX-License-Identifier: Apache-2.0
"""Draws hang on seed, epoch and row, and on nothing else; and they look random."""

import numpy as np

from fusetune.finetune.randomness import mixed_seed, row_keys, uniforms


def test_a_rows_draws_do_not_hang_on_the_other_rows() -> None:
    keys = row_keys([f"row-{i}" for i in range(100)])
    whole = uniforms(7, keys, 3)
    order = np.random.default_rng(0).permutation(100)
    assert np.array_equal(uniforms(7, keys[order], 3), whole[order])
    assert np.array_equal(uniforms(7, keys, 5)[:, :3], whole)


def test_another_seed_or_row_draws_anew() -> None:
    keys = row_keys(["a", "b"])
    draws = np.concatenate([uniforms(1, keys, 2).ravel(), uniforms(2, keys, 2).ravel()])
    assert len(np.unique(draws)) == 8
    assert mixed_seed("order", 1) != mixed_seed("order", 2)


def test_draws_are_uniform_and_uncorrelated() -> None:
    draws = uniforms(3, row_keys([str(i) for i in range(20_000)]), 2)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts, _ = np.histogram(draws[:, 0], bins=20, range=(0, 1))
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 43.8  # the 99.9 % point of 19 degrees of freedom
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.03
