# SPDX-License-Identifier: Apache-2.0
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fusetune.predictions.folds import hashes, stratified_folds
from fusetune.predictions.targets import Targets


def targets_of(labels_N):
    names = tuple("abc")
    return Targets([f"row{n}" for n in range(len(labels_N))], names, np.array(labels_N, dtype=int))


@settings(max_examples=60, deadline=None)
@given(labels_N=st.lists(st.integers(0, 2), max_size=40), folds=st.integers(1, 6), data=st.data())
def test_folds_are_even_stratified_and_independent_of_the_order(labels_N, folds, data):
    targets = targets_of(labels_N)
    folds_N = stratified_folds(targets, folds)
    sizes = np.bincount(folds_N, minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    for label in range(3):
        of_class = np.bincount(folds_N[targets.labels_N == label], minlength=folds)
        assert of_class.max() - of_class.min() <= 1
    order = np.array(data.draw(st.permutations(range(len(labels_N)))), dtype=int)
    assert np.array_equal(stratified_folds(targets.take(order), folds), folds_N[order])


def test_the_seed_deals_differently():
    targets = targets_of([0] * 50)
    assert not np.array_equal(stratified_folds(targets, 5, 0), stratified_folds(targets, 5, 1))


def test_hashes_are_the_same_everywhere():
    ids = np.array(["a", "ü"])
    # blake2b of '0:a' and '0:ü' in UTF-8, 8 bytes, little-endian: from coreutils' b2sum -l 64.
    assert [f"{number:016x}" for number in hashes(ids, 0).byteswap().tolist()] == EXPECTED


EXPECTED = ["bde152eaf93edee5", "e10d2c73f1149362"]
