# SPDX-License-Identifier: Apache-2.0
"""Which rows each fold trains on, chooses its epoch by, and predicts; what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusetune.data.checks import image_digests
from fusetune.data.datasets.digits import Digits
from fusetune.data.folds import Folds, deal_folds
from fusetune.data.inputs import EncodedImages
from fusetune.data.prepare import Prepared, divide, load_prepared, part_folder, prepare
from fusetune.data.roles import Roles, assign_roles
from fusetune.errors import DataError, InvalidValue
from fusetune.predictions.targets import LabelSets
from small_rows import png, ready, rows


def names(count: int) -> np.ndarray:
    return np.array([f"row-{number}" for number in range(count)], dtype=str)


def dealt(labels_N: np.ndarray, roles: Roles, seed: int = 0) -> tuple[np.ndarray, Folds]:
    ids = names(len(labels_N))
    roles_N = assign_roles(ids, labels_N, roles, seed=seed)
    return roles_N, deal_folds(ids, labels_N, roles_N, roles, seed=seed)


pools = st.builds(
    lambda sizes, shuffle: np.random.default_rng(shuffle).permutation(
        np.repeat(np.arange(len(sizes)), sizes)
    ),
    st.lists(st.integers(12, 60), min_size=1, max_size=5),
    st.integers(0, 1000),
)


@given(labels_N=pools, seed=st.integers(0, 50), folds=st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_every_row_is_in_one_fold_and_every_class_is_spread_evenly(labels_N, seed, folds):
    roles_N, found = dealt(labels_N, Roles(folds=folds), seed)
    assert set(roles_N) == {"holdout", "test"}
    assert ((found.folds_N >= 0) == (roles_N == "holdout")).all()
    assert len(found) == folds
    for code in np.unique(labels_N):
        sizes = np.bincount(
            found.folds_N[(labels_N == code) & (roles_N != "test")], minlength=folds
        )
        assert sizes.max() - sizes.min() <= 1
    for fold, fold_roles_N in enumerate(found.roles_KN):
        assert ((fold_roles_N == "holdout") == (found.folds_N == fold)).all()
        assert ((fold_roles_N == "test") == (roles_N == "test")).all()
        others = (fold_roles_N == "train") | (fold_roles_N == "validation")
        assert (fold_roles_N == "validation").sum() == max(1, round(0.1 * others.sum()))
        assert set(labels_N[fold_roles_N == "train"]) == set(labels_N)
    assert ((found.refit_roles() == "train") == (roles_N == "holdout")).all()


@given(labels_N=pools, seed=st.integers(0, 50), stratify=st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_rows_is_irrelevant(labels_N, seed, stratify):
    ids, roles = names(len(labels_N)), Roles(folds=2, stratify=stratify, validation=2)
    order = np.random.default_rng(seed).permutation(len(ids))
    all_N = np.full(len(ids), "holdout")
    straight = deal_folds(ids, labels_N, all_N, roles, seed=seed)
    shuffled = deal_folds(ids[order], labels_N[order], all_N, roles, seed=seed)
    assert (shuffled.folds_N == straight.folds_N[order]).all()
    assert (shuffled.roles_KN == straight.roles_KN[:, order]).all()


@given(labels_N=pools, seed=st.integers(0, 50), new=st.integers(0, 4), folds=st.integers(2, 6))
@settings(max_examples=100, deadline=None)
def test_an_added_row_moves_one_row_per_boundary_of_its_own_class(labels_N, seed, new, folds):
    grown_N = np.append(labels_N, new % (labels_N.max() + 1))
    ids, roles, all_N = names(len(grown_N)), Roles(folds=folds), np.full(len(grown_N), "holdout")
    before = deal_folds(ids[:-1], labels_N, all_N[:-1], roles, seed=seed).folds_N
    after = deal_folds(ids, grown_N, all_N, roles, seed=seed).folds_N[:-1]
    moved = before != after
    assert set(labels_N[moved]) <= {grown_N[-1]}
    assert moved.sum() <= folds - 1
    assert (np.abs(after - before)[moved] == 1).all()


@given(seed=st.integers(0, 50), more=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_without_stratification_added_rows_move_no_row_to_another_fold(seed, more):
    ids, roles = names(100 + more), Roles(folds=3, stratify=False)
    zeros, all_N = np.zeros(len(ids), dtype=int), np.full(len(ids), "holdout")
    after = deal_folds(ids, zeros, all_N, roles, seed=seed).folds_N
    before = deal_folds(ids[:100], zeros[:100], all_N[:100], roles, seed=seed).folds_N
    assert (after[:100] == before).all()


def test_folds_are_not_the_same_for_another_seed_and_epochs_are_chosen_by_other_rows_each_time():
    labels_N = np.arange(200) % 2
    _, one = dealt(labels_N, Roles(folds=4))
    _, two = dealt(labels_N, Roles(folds=4), seed=1)
    assert (one.folds_N != two.folds_N).sum() > 50
    trained_N = (one.roles_KN == "train").sum(axis=0)[one.folds_N >= 0]
    assert (trained_N > 0).all()
    chosen_N = (one.roles_KN == "validation").sum(axis=0)
    assert chosen_N.max() < 3  # not the same rows again and again


def test_validation_rows_by_number_and_all_classes_keep_train_rows():
    _, found = dealt(np.arange(60) % 3, Roles(folds=3, validation=7, test=15))
    assert ((found.roles_KN == "validation").sum(axis=1) == 7).all()
    assert ((found.roles_KN == "holdout").sum(axis=1) == 15).all()


def folded(count: int = 40, **roles: object) -> Prepared:
    return ready(rows(count), Roles(folds=3, **roles))  # type: ignore[arg-type]


def test_a_part_is_ordinary_rows_with_roles(tmp_path):
    prepared = folded()
    assert prepared.folds is not None
    assert prepared.judged_roles == ("holdout", "test")
    assert len(prepared.rows("holdout")) == 32
    seen = [prepared.part(k) for k in range(3)]
    union = np.concatenate([part.rows("holdout") for part in seen])
    assert sorted(union) == prepared.rows("holdout").tolist()
    for part in seen:
        assert part.folds is None
        assert part.judged_roles == ("validation", "holdout", "test")
        assert part.rows("test").tolist() == prepared.rows("test").tolist()
    whole = prepared.part(3)
    assert whole.rows("train").tolist() == prepared.rows("holdout").tolist()
    assert whole.judged_roles == ("test",)
    prints = [prepared.fingerprint(), *(one.fingerprint() for one in (*seen, whole))]
    assert len(set(prints)) == 5
    assert prepared.part(None) is prepared

    prepared.save(tmp_path)
    loaded = load_prepared(tmp_path)
    assert loaded.fingerprint() == prepared.fingerprint()
    for number, part in enumerate([*seen, whole]):
        stored = load_prepared(part_folder(tmp_path, number))
        assert (stored.roles_N == part.roles_N).all()
        assert (loaded.part(number).roles_N == part.roles_N).all()
        assert image_digests(stored.images) == image_digests(prepared.images)


def test_fingerprints_know_the_folds():
    prints = {folded().fingerprint(), folded(validation=5).fingerprint()}
    prints |= {ready(rows(40), Roles(folds=4)).fingerprint()}
    assert len(prints) == 3


def test_a_limit_bounds_the_rows_that_are_dealt():
    prepared = prepare({"all": Digits()}, Roles(folds=5, test=300), limit=200)
    assert [len(prepared.rows(role)) for role in ("holdout", "test")] == [200, 300]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"folds": 1}, "roles.folds is 1; expected a whole number of at least 2"),
        ({"folds": True}, "roles.folds is True"),
        ({"refit": True}, "roles.refit is given without roles.folds"),
        ({"folds": 5, "holdout": 0.2}, "roles.holdout is 0.2, and roles.folds is 5"),
        ({"folds": 5, "train": 100}, "roles.train is 100, and roles.folds is 5.*data.limit"),
    ],
)
def test_roles_that_make_no_sense_with_folds(values, message):
    with pytest.raises(InvalidValue, match=message):
        Roles(**values)


def test_given_holdout_and_validation_rows_are_refused():
    for role in ("holdout", "validation"):
        parts = {"train": rows(), role: rows(10, first=40)}
        with pytest.raises(InvalidValue, match=f"rows for {role} are given.*the role train"):
            ready(parts, Roles(folds=3))


def test_an_official_test_split_is_kept():
    prepared = ready({"train": rows(), "test": rows(10, first=40)}, Roles(folds=4))
    assert len(prepared.rows("test")) == 10
    assert len(prepared.rows("holdout")) == 40


def test_classes_with_fewer_rows_than_folds_are_named():
    test = replace(rows(9, first=50), labels=np.array(["common", "rare", "common"] * 3))
    few = replace(rows(), labels=np.array(["common"] * 37 + ["rare"] * 3))
    with pytest.raises(DataError, match=r"folds is 4, and 'rare' has as few as 3 rows.*folds to 3"):
        ready({"train": few, "test": test}, Roles(folds=4))
    once = replace(rows(), labels=np.array(["common"] * 39 + ["rare"]))
    with pytest.raises(DataError, match=r"'rare' has as few as 1 row.*Add rows, or remove"):
        ready({"train": once, "test": test}, Roles(folds=2))


def test_a_label_that_a_fold_would_not_learn_is_named():
    sets = np.zeros((40, 2), dtype=bool)
    sets[:20, 0], sets[3, 1] = True, True
    source = rows()
    truth = LabelSets(source.ids, ("often", "once"), sets)
    source = replace(source, labels=None, truth=truth)
    with pytest.raises(DataError, match=r"no train row of fold \d has the class 'once'"):
        divide({"all": source}, Roles(folds=2, test=4))


def test_folds_without_rows_and_too_many_rows_for_the_epoch():
    ids, zeros, all_N = names(4), np.zeros(4, dtype=int), np.full(4, "holdout")
    with pytest.raises(InvalidValue, match=r"a fold is empty \(4 rows in all\).*Lower roles.folds"):
        deal_folds(ids, zeros, all_N, Roles(folds=5, stratify=False), seed=0)
    with pytest.raises(InvalidValue, match=r"validation is 2, and 2 rows are outside a fold"):
        deal_folds(ids, zeros, all_N, Roles(folds=2, validation=2), seed=0)


def test_equal_images_in_two_folds_are_refused_or_dropped():
    source = rows()
    files = [png(number) for number in range(39)] + [png(0)]
    twice = replace(source, images=EncodedImages.of(files))
    with pytest.raises(DataError, match=r"'row-0' \(.*\) = 'row-39' \(.*keep_first") as caught:
        ready({"train": twice, "test": rows(8, first=60)}, Roles(folds=3))
    assert "fold" in str(caught.value)
    parts = {"train": twice, "test": rows(8, first=60)}
    assert len(ready(parts, Roles(folds=3, duplicates="keep_first")).rows("holdout")) == 39
