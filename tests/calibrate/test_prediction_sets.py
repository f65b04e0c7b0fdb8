# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from fusetune.calibrate.prediction_sets import AdaptiveSets
from fusetune.errors import InvalidValue, PredictionError
from fusetune.fitted import load_fitted, save_fitted
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.targets import Targets
from pools import pool, pools

pytestmark = pytest.mark.slow

some = settings(max_examples=40, deadline=None)


def sets_by_loops(probs_NC, threshold):
    """Most probable classes first, until their sum reaches the threshold."""
    inside = np.zeros(probs_NC.shape, dtype=bool)
    for n, probs_C in enumerate(probs_NC.astype(float)):
        total = 0.0
        for c in sorted(range(len(probs_C)), key=lambda c: (-probs_C[c], c)):
            if total >= threshold and total + probs_C[c] > threshold:
                break
            inside[n, c] = True
            total += probs_C[c]
    return inside


@some
@given(drawn=pools(members=(1, 1), rows=(3, 10), unknown=False))
def test_sets_against_their_definition_with_ties_and_zeros(drawn):
    stack, targets = drawn
    part = stack.parts[0]
    fitted = AdaptiveSets(coverage=0.5).fit(part, targets)
    sets = fitted(part)
    assert np.array_equal(sets.inside_NC, sets_by_loops(part.probs_NC, fitted.threshold))
    assert sets.inside_NC.any(axis=1).all()
    assert sets.covers(targets).mean() >= 0.5
    assert [set(names) for names in sets.names()] == [
        {part.classes[c] for c in np.flatnonzero(inside_C)} for inside_C in sets.inside_NC
    ]


def simulated_coverage(settings_, repeats=1500):
    """Mean coverage and size on 100 new rows after fitting on 99, the member over-confident."""
    random = np.random.default_rng(0)
    names = tuple("abcdef")
    covered, sizes = [], []
    for repeat in range(repeats):
        logits_NC = 1.5 * random.normal(size=(199, 6))
        honest_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(axis=1, keepdims=True)
        labels_N = (honest_NC.cumsum(axis=1) < random.random((199, 1))).sum(axis=1).clip(max=5)
        sharp_NC = honest_NC**1.5 / (honest_NC**1.5).sum(axis=1, keepdims=True)
        ids = [f"row{repeat}-{n}" for n in range(199)]
        member, targets = Probabilities(ids, names, sharp_NC), Targets(ids, names, labels_N)
        fit, new = np.arange(99), np.arange(99, 199)
        sets = settings_.fit(member.take(fit), targets.take(fit))(member.take(new))
        covered.append(sets.covers(targets.take(new)).mean())
        sizes.append(sets.inside_NC.sum(axis=1).mean())
    return np.mean(covered), np.mean(sizes)


def test_the_randomized_sets_cover_exactly_and_the_others_more_with_larger_sets():
    # ceil(100 * 0.8) of 100 places: exactly 0.8 on average; standard error 0.0015.
    exact, small = simulated_coverage(AdaptiveSets(coverage=0.8, randomized=True))
    over, large = simulated_coverage(AdaptiveSets(coverage=0.8))
    assert exact == pytest.approx(0.8, abs=0.006)
    assert over > 0.85
    assert small < large


def test_sets_are_larger_where_rows_are_harder():
    stack, targets = pool(rows=500)
    part = stack.parts[0]
    sets = AdaptiveSets().fit(part, targets)(part)
    sizes_N, sure_N = sets.inside_NC.sum(axis=1), part.probs_NC.max(axis=1)
    order = np.argsort(sure_N)
    assert sizes_N[order[:100]].mean() > sizes_N[order[-100:]].mean() + 1


@pytest.mark.parametrize("randomized", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_order_names_and_storage_do_not_matter(randomized, dtype, tmp_path: Path):
    stack, targets = pool(rows=100, dtype=dtype)
    part = stack.parts[0]
    part.probs_NC.flags.writeable = False
    fitted = AdaptiveSets(randomized=randomized).fit(part, targets)
    sets = fitted(part)
    order = np.random.default_rng(0).permutation(100)
    turned = part.with_array(part.classes[::-1], part.probs_NC[:, ::-1]).take(order)
    assert np.array_equal(fitted(turned).inside_NC, sets.inside_NC[order])
    shuffled = AdaptiveSets(randomized=randomized).fit(part.take(order), targets.take(order))
    assert shuffled.threshold == fitted.threshold
    save_fitted(fitted, tmp_path)
    loaded = load_fitted(tmp_path)
    assert type(loaded) is type(fitted)
    assert np.array_equal(loaded(part).inside_NC, sets.inside_NC)
    assert fitted(part.take(np.arange(0))).inside_NC.shape == (0, 4)


def test_other_seeds_draw_other_sets():
    stack, targets = pool(rows=100)
    part = stack.parts[0]
    one, other = (AdaptiveSets(randomized=True, seed=s).fit(part, targets)(part) for s in (0, 1))
    assert not np.array_equal(one.inside_NC, other.inside_NC)


def test_rows_of_unknown_classes_count_as_missed():
    member = Probabilities([f"row{n}" for n in range(19)], ("a", "b"), np.tile([0.9, 0.1], (19, 1)))
    names = ["a"] * 15 + ["c"] * 4
    targets = Targets.from_names(member.ids, names, ("a", "b", "c"))
    sets = AdaptiveSets(coverage=0.75).fit(member, targets)(member)
    assert sets.names() == [("a",)] * 19
    assert sets.covers(targets).tolist() == [True] * 15 + [False] * 4
    with pytest.raises(PredictionError, match="does not know the classes of 4 of 19 rows"):
        AdaptiveSets(coverage=0.9).fit(member, targets)


def test_one_class_and_too_few_rows():
    member = Probabilities(["x"], ("a",), np.ones((1, 1)))
    targets = Targets.from_names(member.ids, ["a"])
    assert AdaptiveSets(coverage=0.5).fit(member, targets)(member).names() == [("a",)]
    with pytest.raises(PredictionError, match="at least 9 rows"):
        AdaptiveSets().fit(member, targets)
    with pytest.raises(InvalidValue, match=r"coverage is 1\.5"):
        AdaptiveSets(coverage=1.5)


def test_members_sure_of_the_wrong_class_are_covered_by_all_classes():
    ids = ["x", "y", "z"]
    member = Probabilities(ids, ("a", "b"), np.tile([1.0, 0.0], (3, 1)))
    targets = Targets.from_names(ids, ["b", "b", "b"], ("a", "b"))
    assert AdaptiveSets(coverage=0.5).fit(member, targets)(member).names() == [("a", "b")] * 3
