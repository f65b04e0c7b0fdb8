# SPDX-License-Identifier: Apache-2.0
"""Laws of fusion methods on masks: those of `test_fusion_methods.py`, for every pixel."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from fusetune.errors import MisalignedMembers, PredictionError, UnknownName
from fusetune.fuse.fusion import load_fusion, save_fusion
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.fuse.methods.masks.label_voting import LabelVoting
from fusetune.metrics.mean_iou import MeanIou
from fusetune.metrics.pixel_accuracy import PixelAccuracy
from fusetune.plugins import discover
from fusetune.predictions.segmentation.masks import Masks, check_mask
from fusetune.predictions.stack import Stack
from mask_pools import labels_of, mask_pool, mask_pools, same_bits, whole
from pools import EXAMPLES

METHODS = {name: one for name, one in discover(FusionMethod).items() if Masks in one.accepts}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
fitted_methods = pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if m.needs_targets], ids=lambda m: m.__name__
)
some = settings(max_examples=EXAMPLES, deadline=None)


def test_the_methods_of_the_issue_are_covered():
    issued = {"mean", "weighted_mean", "geometric_mean", "label_voting", "staple", "stacking"}
    assert issued <= set(METHODS)


@every_method
@some
@given(drawn=mask_pools())
def test_a_valid_prediction_of_the_same_rows_comes_out(method, drawn):
    stack, targets = drawn
    fusion = method().fit(stack, targets, MeanIou())
    fused = fusion(stack)
    assert isinstance(fusion, Fusion)
    assert set(fusion.members) <= set(stack.members)
    assert np.array_equal(fused.ids, stack.ids)
    used = {name for member in fusion.members for name in stack[member].classes}
    assert fused.classes == tuple(name for name in stack.classes if name in used)
    for mask, like in zip(fused.masks, stack.parts[0].masks, strict=True):
        assert mask.size == like.size and mask.array().dtype == np.float32
        check_mask("row", mask)


@every_method
@some
@given(drawn=mask_pools())
def test_bands_and_pixels_are_those_of_the_whole(method, drawn):
    stack, targets = drawn
    fused = method().fit(stack, targets, MeanIou())(stack)
    for mask in fused.masks:
        array = mask.array()
        lines = [mask.band(top, top + 1) for top in range(mask.size[0])]
        np.testing.assert_allclose(np.concatenate(lines, axis=1), array, atol=1e-6)
        places = np.arange(mask.size[0] * mask.size[1])[::-1][:7]
        flat = array.reshape(len(array), -1)
        np.testing.assert_allclose(mask.pixels(places), flat[:, places], atol=1e-6)


@every_method
@some
@given(drawn=mask_pools(members=(1, 1)))
def test_one_member_alone_decides(method, drawn):
    stack, targets = drawn
    fused = method().fit(stack, targets, MeanIou())(stack)
    part = stack.parts[0].over(fused.classes)
    if method.reads_labels:
        for said, own in zip(whole(fused), whole(part), strict=True):
            votes = np.broadcast_to(own.max(axis=0) > own.min(axis=0), own.shape[1:])
            assert (said.argmax(axis=0) == own.argmax(axis=0))[votes].all()
    else:
        assert labels_of(fused) == labels_of(part)


@every_method
@some
@given(drawn=mask_pools(members=(1, 1)))
def test_identical_members_give_that_members_decision(method, drawn):
    stack, targets = drawn
    one = stack.parts[0]
    many = dataclasses.replace(stack, members=("x", "y", "z"), parts=(one, one, one))
    alone = method().fit(stack, targets, MeanIou())(stack)
    fused = method().fit(many, targets, MeanIou())(many)
    for said, own in zip(whole(fused), whole(alone), strict=True):
        votes = own.max(axis=0) > own.min(axis=0)
        assert (said.argmax(axis=0) == own.argmax(axis=0))[votes].all()
        if not method.reads_labels:
            np.testing.assert_allclose(said, own, atol=1e-6)


@every_method
@some
@given(drawn=mask_pools())
def test_inputs_are_unchanged_and_the_output_repeats_itself(method, drawn):
    stack, targets = drawn
    before = [array.copy() for part in stack.parts for array in whole(part)]
    for part in stack.parts:
        for mask in part.masks:
            mask.array_CHW.flags.writeable = False
    first = method().fit(stack, targets, PixelAccuracy())(stack)
    second = method().fit(stack, targets, PixelAccuracy())(stack)
    assert same_bits(first, second)
    after = [array for part in stack.parts for array in whole(part)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@every_method
@some
@given(drawn=mask_pools())
def test_permuted_rows_give_the_permuted_output(method, drawn):
    stack, targets = drawn
    order = np.roll(np.arange(len(stack))[::-1], 1)
    fusion = method().fit(stack, targets, MeanIou())
    assert same_bits(fusion(stack.take(order)), fusion(stack).take(order))
    again = method().fit(stack.take(order), targets.take(order), MeanIou())
    for one, other in zip(whole(again(stack)), whole(fusion(stack)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@every_method
@some
@given(drawn=mask_pools())
def test_saved_and_loaded_fusions_give_the_same_bits(method, drawn):
    stack, targets = drawn
    fusion = method().fit(stack, targets, MeanIou())
    with tempfile.TemporaryDirectory() as folder:
        save_fusion(fusion, Path(folder))
        loaded = load_fusion(Path(folder))
        assert same_bits(loaded(stack), fusion(stack))


@every_method
def test_members_may_come_in_any_order_and_more_of_them(method):
    stack, targets = mask_pool()
    fusion = method().fit(stack, targets, MeanIou())
    turned = stack.select(stack.members[::-1])
    for one, other in zip(whole(fusion(turned)), whole(fusion(stack)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    again = method().fit(turned, targets, MeanIou())
    for one, other in zip(whole(again(stack)), whole(fusion(stack)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    with pytest.raises(MisalignedMembers, match="are missing"):
        fusion(stack.select([name for name in stack.members if name != fusion.members[0]]))


@every_method
def test_no_rows_to_predict_give_no_rows(method):
    stack, targets = mask_pool()
    fusion = method().fit(stack, targets, MeanIou())
    assert len(fusion(stack.take(np.arange(0)))) == 0


@fitted_methods
def test_the_weight_scale_of_rows_does_not_matter(method):
    stack, targets = mask_pool(noise=2.0)
    weights_N = np.array([1.0, 2.0, 0.5, 1.0, 3.0, 1.0])
    one = method().fit(stack, targets, MeanIou(), sample_weights_N=weights_N)(stack)
    other = method().fit(stack, targets, MeanIou(), sample_weights_N=weights_N * 8)(stack)
    plain = method().fit(stack, targets, MeanIou(), sample_weights_N=np.eye(6)[0] + 1e-9)(stack)
    np.testing.assert_allclose(whole(one)[0], whole(other)[0], atol=1e-5)
    assert not np.allclose(whole(one)[0], whole(plain)[0], atol=1e-5)


@fitted_methods
def test_truth_without_any_class_is_refused(method):
    stack, targets = mask_pool()
    empty = type(targets).from_arrays(
        targets.ids, targets.classes, [np.full((12, 16), -1)] * len(targets)
    )
    with pytest.raises(PredictionError, match="no pixel of the truth has a class"):
        method().fit(stack, empty, MeanIou())


@every_method
def test_members_that_are_sure_of_nothing_give_a_valid_prediction(method):
    """An image on which nobody has a vote, among others, and alone."""
    stack, targets = mask_pool(rows=3, size=(4, 5))
    arrays = [np.full((3, 4, 5), 1 / 3, dtype=np.float32)]
    unsure = Masks.from_arrays(stack.ids[:1], stack.classes, arrays)
    parts = tuple(Masks.concat([unsure, part.take(np.array([1, 2]))]) for part in stack.parts)
    fused = method().fit(stack, targets, MeanIou())(Stack(stack.members, parts, stack.classes))
    for array in whole(fused):
        assert (array >= 0).all() and np.allclose(array.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(whole(fused)[0], whole(fused)[0][:, :1, :1] + np.zeros((3, 4, 5)))


def test_tied_pixels_get_the_class_for_undecided_ones():
    ids, names = ["a"], ("road", "sky", "tree")
    one = Masks.from_arrays(ids, names, [np.eye(3, dtype=np.float32)[:, [[0, 1, 2]]]])
    other = Masks.from_arrays(ids, names, [np.eye(3, dtype=np.float32)[:, [[0, 2, 1]]]])
    stack = Stack.align({"x": one, "y": other})
    fused = LabelVoting().fit(stack, None, MeanIou())(stack)
    assert labels_of(fused) == [[["road", "sky", "sky"]]]
    assert fused.masks[0].array()[:, 0, 1].tolist() == [0, 0.5, 0.5]
    fused = LabelVoting(undecided="road").fit(stack, None, MeanIou())(stack)
    assert labels_of(fused) == [[["road", "road", "road"]]]
    with pytest.raises(UnknownName, match="sea"):
        LabelVoting(undecided="sea").fit(stack, None, MeanIou())
