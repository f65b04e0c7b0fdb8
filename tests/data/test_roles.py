# SPDX-License-Identifier: Apache-2.0
import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusetune.data.roles import ROLES, Roles, assign_roles, role_hashes
from fusetune.errors import InvalidValue


def names(count: int) -> np.ndarray:
    return np.array([f"row-{number}" for number in range(count)], dtype=str)


pools = st.builds(
    lambda sizes, shuffle: np.random.default_rng(shuffle).permutation(
        np.repeat(np.arange(len(sizes)), sizes)
    ),
    st.lists(st.integers(4, 60), min_size=1, max_size=5),
    st.integers(0, 1000),
)


def test_hashes_are_blake2b_of_purpose_seed_and_id():
    expected = [
        int.from_bytes(
            hashlib.blake2b(f"role\0007\0{name}".encode(), digest_size=8).digest(), "little"
        )
        for name in ("a", "ä", "")
    ]
    assert role_hashes(np.array(["a", "ä", ""]), 7).tolist() == expected
    assert role_hashes(np.array([], dtype=str), 7).tolist() == []


@given(
    labels_N=pools,
    seed=st.integers(0, 50),
    stratify=st.booleans(),
    limit=st.none() | st.integers(20, 90),
)
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_rows_is_irrelevant(labels_N, seed, stratify, limit):
    ids = names(len(labels_N))
    roles = Roles(stratify=stratify)
    straight = assign_roles(ids, labels_N, roles, seed=seed, limit=limit)
    order = np.random.default_rng(seed).permutation(len(ids))
    shuffled = assign_roles(ids[order], labels_N[order], roles, seed=seed, limit=limit)
    assert (shuffled == straight[order]).all()


@given(labels_N=pools, seed=st.integers(0, 50), more=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_without_stratification_added_rows_move_nothing(labels_N, seed, more):
    ids = names(len(labels_N) + more)
    roles = Roles(stratify=False, validation=0.2, holdout=0.3, test=0.1)
    grown = assign_roles(ids, np.zeros(len(ids), dtype=int), roles, seed=seed)
    before = assign_roles(ids[:-more], labels_N, roles, seed=seed)
    assert (grown[:-more] == before).all()


@given(labels_N=pools, seed=st.integers(0, 50), new=st.integers(0, 4))
@settings(max_examples=100, deadline=None)
def test_with_stratification_an_added_row_moves_only_rows_at_the_boundaries(labels_N, seed, new):
    grown_N = np.append(labels_N, new % (labels_N.max() + 1))
    ids = names(len(grown_N))
    before = assign_roles(ids[:-1], labels_N, Roles(), seed=seed)
    after = assign_roles(ids, grown_N, Roles(), seed=seed)
    hashes = role_hashes(ids[:-1], seed)
    for code in np.unique(labels_N):
        rows = np.flatnonzero(labels_N == code)
        rows = rows[np.argsort(hashes[rows])]
        changes = np.flatnonzero(before[rows][1:] != before[rows][:-1]) + 1
        for rank in np.flatnonzero(before[rows] != after[rows]):
            assert np.abs(changes - rank).min() <= 4  # three boundaries before it, one row added


@given(labels_N=pools, seed=st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_each_class_is_divided_in_proportion_and_keeps_a_train_row(labels_N, seed):
    assigned = assign_roles(names(len(labels_N)), labels_N, Roles(), seed=seed)
    total = len(labels_N)
    for role, share in {"validation": 0.1, "holdout": 0.2, "test": 0.2}.items():
        assert (assigned == role).sum() == round(share * total)
        for code in np.unique(labels_N):
            exact = share * (labels_N == code).sum()
            got = ((assigned == role) & (labels_N == code)).sum()
            assert abs(got - exact) < 1.5  # largest remainder, of a total that is rounded itself
    assert set(labels_N[assigned == "train"]) == set(labels_N)


def test_counts_are_exact_and_use_every_row():
    labels_N = np.arange(1797) % 10
    roles = Roles(train=260, validation=40, holdout=300, test=1197)
    assigned = assign_roles(names(1797), labels_N, roles, seed=0)
    assert Counter(assigned.tolist()) == {
        "train": 260,
        "validation": 40,
        "holdout": 300,
        "test": 1197,
    }
    per_class = np.bincount(labels_N[assigned == "validation"], minlength=10)
    assert per_class.tolist() == [4] * 10


def test_a_train_size_leaves_rows_unused():
    assigned = assign_roles(names(100), np.arange(100) % 2, Roles(train=10), seed=0)
    assert Counter(assigned.tolist()) == {
        "train": 10,
        "validation": 10,
        "holdout": 20,
        "test": 20,
        "": 40,
    }
    shares = assign_roles(names(100), np.arange(100) % 2, Roles(train=0.1, stratify=False), seed=0)
    assert 0 < (shares == "train").sum() < 25 and (shares == "").any()


def test_a_class_of_one_row_trains():
    labels_N = np.array([0] * 50 + [1])
    for seed in range(20):
        assigned = assign_roles(names(51), labels_N, Roles(), seed=seed)
        assert assigned[50] == "train"


def test_another_validation_size_leaves_holdout_and_test_alone():
    labels_N = np.arange(200) % 3
    small = assign_roles(names(200), labels_N, Roles(validation=0.05), seed=1)
    large = assign_roles(names(200), labels_N, Roles(validation=0.3), seed=1)
    for role in ("holdout", "test"):
        assert ((small == role) == (large == role)).all()


def test_a_limit_covers_all_but_test_in_the_same_proportion():
    labels_N = np.arange(1000) % 4
    assigned = assign_roles(names(1000), labels_N, Roles(), seed=0, limit=100)
    # 0.1 and 0.2 of all are 1/8 and 1/4 of what test leaves
    assert Counter(assigned.tolist()) == {
        "train": 63,
        "validation": 12,
        "holdout": 25,
        "test": 200,
        "": 700,
    }
    used = (assigned != "") & (assigned != "test")
    assert np.bincount(labels_N[used]).tolist() == [25] * 4
    whole = assign_roles(names(1000), labels_N, Roles(), seed=0)
    assert ((whole == "test") == (assigned == "test")).all()


def test_a_limit_keeps_rare_classes():
    labels_N = np.array([0] * 500 + [1] * 2 + [2])
    assigned = assign_roles(names(503), labels_N, Roles(), seed=0, limit=50)
    assert set(labels_N[assigned == "train"]) == {0, 1, 2}


def test_without_stratification_a_limit_changes_no_role():
    labels_N = np.zeros(500, dtype=int)
    roles = Roles(stratify=False)
    whole = assign_roles(names(500), labels_N, roles, seed=0)
    limited = assign_roles(names(500), labels_N, roles, seed=0, limit=100)
    kept = limited != ""
    assert (kept & (limited != "test")).sum() == 100
    assert (limited[kept] == whole[kept]).all()


def test_unstratified_counts_are_exact_over_all_rows():
    labels_N = np.array([0] * 30 + [1] * 10)
    roles = Roles(stratify=False, validation=3, holdout=5, test=0.25)
    assigned = assign_roles(names(40), labels_N, roles, seed=0)
    assert Counter(assigned.tolist()) == {"train": 22, "validation": 3, "holdout": 5, "test": 10}
    lowest = np.argsort(role_hashes(names(40), 0))
    assert set(np.flatnonzero(assigned == "test")) == set(lowest[:10])


def test_given_roles_stand_and_train_is_divided_for_the_rest():
    given_N = np.array(["test"] * 20 + ["train"] * 60 + [""] * 40)
    assigned = assign_roles(names(120), np.arange(120) % 2, Roles(), seed=0, given_N=given_N)
    assert (assigned[:20] == "test").all()
    assert Counter(assigned[20:].tolist()) == {"train": 70, "validation": 10, "holdout": 20}
    everything = np.array(["train", "validation", "holdout", "test"] * 5)
    assert (
        assign_roles(names(20), np.arange(20) % 2, Roles(), seed=0, given_N=everything)
        == everything
    ).all()


def test_other_seeds_divide_otherwise():
    labels_N = np.arange(300) % 3
    one, two = (assign_roles(names(300), labels_N, Roles(), seed=seed) for seed in (0, 1))
    assert 0.2 < (one != two).mean() < 0.9


def test_equal_remainders_do_not_always_favor_the_same_classes():
    labels_N = np.repeat(np.arange(100), 5)
    assigned = assign_roles(names(500), labels_N, Roles(validation=40, holdout=40, test=40), seed=0)
    chosen = [set(labels_N[assigned == role]) for role in ("validation", "holdout", "test")]
    assert all(len(classes) == 40 for classes in chosen)
    # two independent draws of 40 out of 100 share 16 on average
    assert all(len(one & two) < 30 for one, two in itertools.combinations(chosen, 2))


def test_no_rows():
    assert assign_roles(names(0), np.array([], dtype=int), Roles(), seed=0).tolist() == []


def test_one_class_only():
    assigned = assign_roles(names(10), np.zeros(10, dtype=int), Roles(), seed=0)
    assert Counter(assigned.tolist()) == {"train": 5, "validation": 1, "holdout": 2, "test": 2}


@pytest.mark.parametrize("value", [0, -3, 0.0, 1.0, 1.5, -0.1, float("nan"), True])
@pytest.mark.parametrize("role", ROLES)
def test_sizes_outside_their_range_are_refused(role, value):
    with pytest.raises(InvalidValue, match=rf"roles\.{role} is .*expected a share between 0 and 1"):
        Roles(**{role: value})


def test_shares_that_leave_nothing_are_refused():
    with pytest.raises(InvalidValue, match=r"validation \(0.5\), test \(0.6\) add up to 1.1"):
        Roles(validation=0.5, test=0.6)
    with pytest.raises(InvalidValue, match="something left to train on"):
        Roles(validation=0.25, holdout=0.25, test=0.5)
    with pytest.raises(InvalidValue, match="add up to 1; expected"):  # 0.2 and 0.1 are defaults
        assign_roles(names(50), np.arange(50) % 2, Roles(test=0.7), seed=0)
    assert Roles(train=0.25, validation=0.25, holdout=0.25, test=0.25)


def test_duplicates_is_error_or_keep_first():
    with pytest.raises(InvalidValue, match="duplicates is 'drop'"):
        Roles(duplicates="drop")


def test_more_rows_than_there_are_is_refused():
    with pytest.raises(InvalidValue, match="holdout asks for 50 rows, and 28 can be had"):
        assign_roles(names(40), np.arange(40) % 2, Roles(test=10, holdout=50), seed=0)
    with pytest.raises(InvalidValue, match="train asks for 1,000 rows"):
        assign_roles(names(40), np.arange(40) % 2, Roles(train=1000), seed=0)


def test_a_limit_too_small_for_every_role_is_refused():
    with pytest.raises(InvalidValue, match="validation asks for 1 row, and 0 can be had"):
        assign_roles(names(16), np.arange(16) % 4, Roles(), seed=0, limit=5)


def test_a_role_from_two_places_is_refused():
    given_N = np.array(["test"] * 10 + [""] * 30)
    with pytest.raises(InvalidValue, match=r"roles\.test is 0\.2, but rows for test are given"):
        assign_roles(names(40), np.arange(40) % 2, Roles(test=0.2), seed=0, given_N=given_N)


@pytest.mark.parametrize("limit", [0, -5, True])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(InvalidValue, match="limit is"):
        assign_roles(names(40), np.arange(40) % 2, Roles(), seed=0, limit=limit)
