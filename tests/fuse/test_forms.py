# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusetune.errors import MisalignedMembers
from fusetune.fuse.forms import Blend, WeightedAverage, over_classes, true_probs_MN
from fusetune.fuse.methods.distributions.vote import MajorityVote
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack, probabilities_MNC
from pools import arrays, pool, pools

some = settings(max_examples=50, deadline=None)
weights = st.lists(st.sampled_from([0, 0.25, 1, 3]), min_size=4, max_size=4).filter(any)


def average_by_loops(stack, weights_M):
    """The definition, one number at a time."""
    probs_MNC, known_MC = probabilities_MNC(stack)
    used = [c for c in range(len(stack.classes)) if known_MC[np.asarray(weights_M) > 0, c].any()]
    rows = []
    for n in range(len(stack)):
        row = []
        for c in used:
            able = [m for m, weight in enumerate(weights_M) if weight > 0 and known_MC[m, c]]
            total = sum(weights_M[m] * float(probs_MNC[m, n, c]) for m in able)
            row.append(total / sum(weights_M[m] for m in able))
        rows.append([p / sum(row) for p in row])
    return tuple(stack.classes[c] for c in used), np.array(rows)


@some
@given(drawn=pools(members=(4, 4)), weights_M=weights)
def test_weighted_average_against_its_definition(drawn, weights_M):
    stack, _ = drawn
    fused = WeightedAverage.of(dict(zip(stack.members, weights_M, strict=True)))(stack)
    classes, expected_NC = average_by_loops(stack, weights_M)
    assert fused.classes == classes
    np.testing.assert_allclose(fused.probs_NC, expected_NC, rtol=1e-6, atol=1e-12)
    Probabilities(fused.ids, fused.classes, fused.probs_NC)


@some
@given(drawn=pools(members=(4, 4)), weights_M=weights, order=st.permutations(range(4)))
def test_neither_the_order_of_members_nor_the_scale_of_weights_matters(drawn, weights_M, order):
    stack, _ = drawn
    given_weights = dict(zip(stack.members, weights_M, strict=True))
    fusion = WeightedAverage.of(given_weights)
    turned = WeightedAverage.of({stack.members[m]: 8 * weights_M[m] for m in order})
    reordered = stack.select([stack.members[m] for m in order])
    fused = fusion(stack).probs_NC
    np.testing.assert_allclose(turned(stack).probs_NC, fused, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(turned(reordered).probs_NC, fused, rtol=1e-6, atol=1e-12)
    eightfold = WeightedAverage.of({name: 8 * w for name, w in given_weights.items()})
    assert eightfold(stack).probs_NC.tobytes() == fused.tobytes()
    assert turned.weights() == pytest.approx(fusion.weights())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_the_weight_on_one_member_gives_it_bit_for_bit(dtype):
    stack, _ = pool(members=3, dtype=dtype)
    fused = WeightedAverage.of({"member0": 5.0, "member1": 0.0, "member2": 0.0})(stack)
    assert fused.probs_NC.tobytes() == stack["member0"].probs_NC.tobytes()
    assert fused.probs_NC.dtype == dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_rows_are_averaged_in_blocks_as_numpy_does_at_once(dtype):
    stack, _ = pool(members=3, rows=40_000, classes=3, dtype=dtype)
    fused = WeightedAverage(members=stack.members, weights_M=np.array([1.0, 2.0, 5.0]))(stack)
    whole_NC = np.average(np.stack(arrays(stack)).astype(float), axis=0, weights=[1, 2, 5])
    np.testing.assert_allclose(
        fused.probs_NC, whole_NC, rtol=3e-7 if dtype == np.float32 else 1e-14
    )


def test_members_without_weight_are_not_touched():
    stack, _ = pool(members=3)
    fusion = WeightedAverage.of({"member0": 1, "member1": 0, "member2": 3})
    assert fusion.members == ("member0", "member2")
    poisoned = Stack(
        stack.members,
        (stack.parts[0], stack.parts[1].with_array(stack.classes, np.array([])), stack.parts[2]),
        stack.classes,
    )
    assert fusion(poisoned).probs_NC.tobytes() == fusion(stack).probs_NC.tobytes()


def test_a_missing_member_is_named():
    stack, _ = pool(members=3)
    with pytest.raises(MisalignedMembers, match="'member2' are missing among 'member0', 'member1'"):
        WeightedAverage.of({"member0": 1, "member2": 1})(stack.select(["member0", "member1"]))


def test_a_blend_of_averages_is_an_average():
    stack, _ = pool(members=4)
    one = WeightedAverage.of({"member0": 1, "member1": 3})
    two = WeightedAverage.of({"member2": 1, "member1": 1})
    blend = Blend(names=("one", "two"), fusions=(one, two), weights_F=np.array([3.0, 1.0]))
    assert blend.members == ("member0", "member1", "member2")
    assert blend.parts() == {"one": 0.75, "two": 0.25}
    assert blend.weights() == pytest.approx(
        {"member0": 0.1875, "member1": 0.5625 + 0.125, "member2": 0.125}
    )
    flat = WeightedAverage.of(blend.weights())
    np.testing.assert_allclose(blend(stack).probs_NC, flat(stack).probs_NC, rtol=1e-12)


def test_a_blend_with_a_part_that_is_no_average_has_no_member_weights():
    stack, _ = pool(members=2)
    vote, one = MajorityVote(members=stack.members), WeightedAverage.of({"member0": 1})
    blend = Blend(names=("vote", "one"), fusions=(vote, one), weights_F=np.array([1.0, 1.0]))
    assert blend.weights() is None
    expected_NC = (vote(stack).probs_NC + stack["member0"].probs_NC) / 2
    np.testing.assert_allclose(blend(stack).probs_NC, expected_NC, rtol=1e-12)


def test_a_blend_of_one_fusion_is_that_fusion():
    stack, _ = pool(members=3)
    mean = WeightedAverage(members=stack.members, weights_M=np.ones(3))
    blend = Blend(names=("mean",), fusions=(mean,), weights_F=np.array([7.0]))
    assert blend(stack).probs_NC.tobytes() == mean(stack).probs_NC.tobytes()


def test_true_probabilities_of_members_that_do_not_know_the_class():
    # 'half' does not know c; the mean of the others there is (0.5 + 0.25) / 2 = 0.375.
    ids, whole = ["x"], ("a", "b", "c")
    parts = {
        "half": Probabilities(ids, ("a", "b"), np.array([[0.8, 0.2]])),
        "one": Probabilities(ids, whole, np.array([[0.25, 0.25, 0.5]])),
        "two": Probabilities(ids, whole, np.array([[0.5, 0.25, 0.25]])),
    }
    stack = Stack.align(parts, classes=whole)
    _, targets = pool(rows=1, classes=1)
    for label, expected in ((0, [0.8, 0.25, 0.5]), (2, [0.375, 0.5, 0.25])):
        true = type(targets)(stack.ids, whole, np.array([label]))
        found_M = true_probs_MN(stack, true)[:, 0]
        np.testing.assert_allclose(found_M[1:], expected[1:])
        # The pool that fills the gap is divided by its sum, 1.05 here, like every fused row.
        pooled_c = 0.375 / ((0.8 + 0.25 + 0.5 + 0.2 + 0.25 + 0.25) / 3 + 0.375)
        own = {0: 0.8, 2: pooled_c}[label]
        np.testing.assert_allclose(found_M[0], own / (1 + pooled_c))


def test_over_classes_keeps_the_array_when_nothing_changes():
    stack, _ = pool()
    part = stack.parts[0]
    assert over_classes(part, part.classes) is part
    wider = over_classes(part, ("new", *part.classes[::-1]))
    assert not wider.probs_NC[:, 0].any()
    assert np.array_equal(wider.probs_NC[:, 1:], part.probs_NC[:, ::-1])
