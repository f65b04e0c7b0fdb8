# SPDX-License-Identifier: Apache-2.0
"""Laws of fusion methods on detections: those of `test_fusion_methods.py`, for rows of any length."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from box_pools import as_sets, box_arrays, box_pool, box_pools, same_bits
from fusetune.errors import InvalidValue, MisalignedMembers, PredictionError
from fusetune.fuse.fusion import load_fusion, save_fusion
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.metrics.coco_map import CocoMap
from fusetune.metrics.coco_map50 import CocoMap50
from fusetune.plugins import discover
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.stack import Stack
from pools import EXAMPLES

pytestmark = pytest.mark.slow

METHODS = {name: one for name, one in discover(FusionMethod).items() if Boxes in one.accepts}
RESCORING = ("tuned_boxes", "stacked_boxes")  # their scores are their own
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
fitted_methods = pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if m.needs_targets], ids=lambda m: m.__name__
)
weighted_methods = pytest.mark.parametrize(
    "method",
    [m for m in METHODS.values() if "weights" in m.__dataclass_fields__],
    ids=lambda m: m.__name__,
)
some = settings(max_examples=EXAMPLES, deadline=None)


def places(boxes):
    """Row id → its boxes by class, without scores, each once."""
    return {row: sorted({line[:-1] for line in lines}) for row, lines in as_sets(boxes, 3).items()}


def apart(stack):
    """The stack with boxes that do not overlap: what one member says of one object each."""
    parts = []
    for part in stack.parts:
        steps_K = 100.0 * np.arange(len(part.scores_K))[:, None]
        boxes_K4 = (np.array([[0, 0, 50, 60]]) + steps_K).astype(part.boxes_K4.dtype)
        parts.append(dataclasses.replace(part, boxes_K4=boxes_K4))
    return dataclasses.replace(stack, parts=tuple(parts))


def check_valid(fused):
    """Its constructor refuses what is not valid; each row's boxes come by falling score."""
    names = ("ids", "classes", "offsets", "boxes_K4", "scores_K", "labels_K", "relative")
    Boxes(*(getattr(fused, name) for name in names))
    falls_K = np.diff(fused.scores_K) <= 0
    assert (falls_K | (np.diff(fused.rows_K) > 0)).all()


def test_the_methods_of_the_issue_are_covered():
    issued = {"weighted_boxes", "nms", "soft_nms", "non_maximum_weighted", "consensus"}
    assert issued <= set(METHODS)


@every_method
@some
@given(drawn=box_pools())
def test_a_valid_prediction_of_the_same_rows_comes_out(method, drawn):
    stack, targets = drawn
    fusion = method().fit(stack, targets, CocoMap())
    fused = fusion(stack)
    assert isinstance(fusion, Fusion)
    assert set(fusion.members) <= set(stack.members)
    assert np.array_equal(fused.ids, stack.ids)
    used = {name for member in fusion.members for name in stack[member].classes}
    assert fused.classes == tuple(name for name in stack.classes if name in used)
    assert fused.boxes_K4.dtype == fused.scores_K.dtype == stack.parts[0].boxes_K4.dtype
    check_valid(fused)


@every_method
@some
@given(drawn=box_pools(members=(1, 1)))
def test_one_member_alone_decides(method, drawn):
    stack, targets = drawn
    stack = apart(stack)
    scores_K = np.maximum(stack.parts[0].scores_K, 0.01)
    part = dataclasses.replace(stack.parts[0], scores_K=scores_K)
    stack = dataclasses.replace(stack, parts=(part,))
    fused = method().fit(stack, targets, CocoMap())(stack)
    assert places(fused) == places(part)
    if method.__module__.rpartition(".")[2] not in RESCORING:
        assert as_sets(fused) == as_sets(part)


@every_method
@some
@given(drawn=box_pools(members=(1, 1)))
def test_identical_members_give_that_members_boxes(method, drawn):
    stack, targets = drawn
    one = apart(stack).parts[0]
    one = dataclasses.replace(one, scores_K=np.maximum(one.scores_K, 0.01))
    many = dataclasses.replace(stack, members=("x", "y", "z"), parts=(one, one, one))
    fused = method().fit(many, targets, CocoMap())(many)
    assert places(fused) == places(one)
    if method.__name__ not in ("SoftNms", "TunedBoxes", "StackedBoxes"):
        assert as_sets(fused, 4) == as_sets(one, 4)


@every_method
@some
@given(drawn=box_pools())
def test_inputs_are_unchanged_and_the_output_repeats_itself(method, drawn):
    stack, targets = drawn
    before = box_arrays(stack)
    for part in stack.parts:
        part.boxes_K4.flags.writeable = part.scores_K.flags.writeable = False
    first = method().fit(stack, targets, CocoMap50())(stack)
    second = method().fit(stack, targets, CocoMap50())(stack)
    assert same_bits(first, second)
    assert all(np.array_equal(a, b) for a, b in zip(before, box_arrays(stack), strict=True))


@every_method
@some
@given(drawn=box_pools())
def test_permuted_rows_give_the_permuted_output(method, drawn):
    stack, targets = drawn
    fusion = method().fit(stack, targets, CocoMap())
    order = np.roll(np.arange(len(stack))[::-1], 3)
    assert same_bits(fusion(stack.take(order)), fusion(stack).take(order))


@every_method
def test_fitting_depends_neither_on_the_order_of_the_rows_nor_of_the_members(method):
    stack, targets = box_pool(rows=60)
    order = np.random.default_rng(1).permutation(len(stack))
    fused = method().fit(stack, targets, CocoMap())(stack)
    again = method().fit(stack.take(order), targets.take(order), CocoMap())(stack)
    assert as_sets(again, 4) == as_sets(fused, 4)
    turned = stack.select(stack.members[::-1])
    again = method().fit(turned, targets, CocoMap())(turned)
    assert as_sets(again, 4) == as_sets(fused, 4)


@every_method
@some
@given(drawn=box_pools())
def test_fixed_rules_do_not_depend_on_the_order_of_members_even_with_ties(method, drawn):
    stack, targets = drawn
    if method.needs_targets:
        return
    fused = method().fit(stack, targets, CocoMap())(stack)
    turned = stack.select(stack.members[::-1])
    assert as_sets(method().fit(turned, targets, CocoMap())(turned)) == as_sets(fused)


@every_method
@some
@given(drawn=box_pools())
def test_saved_and_loaded_it_gives_the_same_bits(method, drawn):
    stack, targets = drawn
    fusion = method().fit(stack, targets, CocoMap())
    with tempfile.TemporaryDirectory() as folder:
        save_fusion(fusion, Path(folder))
        loaded = load_fusion(Path(folder))
    assert type(loaded) is type(fusion)
    assert loaded.members == fusion.members
    assert loaded.weights() == fusion.weights()
    assert same_bits(loaded(stack), fusion(stack))


@every_method
def test_other_members_in_any_order_do_not_matter(method):
    stack, targets = box_pool(members=5)
    fit_on = stack.select(stack.members[:4])
    fusion = method().fit(fit_on, targets, CocoMap())
    expected = fusion(fit_on)
    assert same_bits(fusion(stack.select(stack.members[::-1])), expected)
    assert same_bits(fusion(stack.select(fusion.members)), expected)


@every_method
def test_no_rows_no_boxes_and_no_classes_are_fused_to_none(method):
    stack, targets = box_pool()
    fusion = method().fit(stack, targets, CocoMap())
    assert fusion(stack.take(np.arange(0))).boxes_K4.shape == (0, 4)
    one = stack.parts[0]
    none = Boxes(one.ids, (), np.zeros(41), np.zeros((0, 4)), [], [])
    empty = Stack.align(dict.fromkeys(stack.members, none))
    fused = fusion(empty)
    assert fused.ids.tolist() == one.ids.tolist() and not len(fused.scores_K)
    some_empty = Stack.align({"member0": none, "member1": one, "member2": none})
    assert len(fusion(some_empty).scores_K)
    check_valid(fusion(some_empty))


@every_method
def test_rows_do_not_depend_on_those_beside_them(method, monkeypatch):
    from fusetune.fuse.detection import pool as blocks

    stack, targets = box_pool()
    fusion = method().fit(stack, targets, CocoMap())
    whole = fusion(stack)
    monkeypatch.setattr(blocks, "BLOCK", 50)
    assert same_bits(fusion(stack), whole)
    alone = [fusion(stack.take(np.array([row]))) for row in range(len(stack))]
    assert same_bits(Boxes.concat(alone), whole)


@every_method
def test_a_class_that_one_member_alone_knows_is_not_punished(method):
    """Fixed rules give its boxes the scores that this member alone would get."""
    stack, targets = box_pool(seed=3)
    if method.needs_targets:
        return
    rare = dataclasses.replace(stack.parts[0], classes=("class0", "class1", "rare"))
    others = {
        name: dataclasses.replace(part, classes=("class0", "class1", "class2"))
        for name, part in zip(stack.members[1:], stack.parts[1:], strict=True)
    }
    mixed = Stack.align({"member0": rare, **others})
    fused = as_sets(method().fit(mixed, targets, CocoMap())(mixed))
    alone = Stack.align({"member0": rare})
    expected = as_sets(method().fit(alone, targets, CocoMap())(alone))
    for row, lines in fused.items():
        own = [line for line in lines if line[0] == "rare"]
        assert own == [line for line in expected[row] if line[0] == "rare"]


@every_method
def test_weights_sum_to_one_over_the_members(method):
    stack, targets = box_pool()
    fusion = method().fit(stack, targets, CocoMap())
    weights = fusion.weights()
    if weights is not None:
        assert tuple(weights) == fusion.members
        assert sum(weights.values()) == pytest.approx(1)
        assert min(weights.values()) > 0


@weighted_methods
def test_only_the_ratios_of_weights_matter_and_weight_0_is_absence(method):
    stack, targets = box_pool()
    weights = {"member0": 2.0, "member1": 1.0, "member2": 0.5}
    fused = method(weights=weights).fit(stack, targets, CocoMap())(stack)
    tenfold = {name: 10 * weight for name, weight in weights.items()}
    again = method(weights=tenfold).fit(stack, targets, CocoMap())(stack)
    assert as_sets(again) == as_sets(fused)
    first = dict.fromkeys(stack.members, 0) | {"member0": 3.0}
    fusion = method(weights=first).fit(stack, targets, CocoMap())
    assert fusion.members == ("member0",)
    alone = stack.select(["member0"])
    assert same_bits(fusion(stack), method().fit(alone, targets, CocoMap())(alone))


@weighted_methods
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"member0": 1.0}, "one for each of the members"),
        ({"member0": 1.0, "member1": -1.0, "member2": 1.0}, "at least 0"),
        ({"member0": np.nan, "member1": 1.0, "member2": 1.0}, "finite"),
        ({"member0": 0.0, "member1": 0.0, "member2": 0.0}, "one of them above 0"),
        ({"member0": 1e308, "member1": 1e308, "member2": 1e308}, "a finite sum"),
    ],
)
def test_impossible_weights_are_refused(method, weights, message):
    stack, targets = box_pool()
    with pytest.raises(InvalidValue, match=message):
        method(weights=weights).fit(stack, targets, CocoMap())


@every_method
def test_impossible_thresholds_are_refused(method):
    for name in ("iou_threshold", "skip_threshold", "floor"):
        if name in method.__dataclass_fields__:
            with pytest.raises(InvalidValue, match=name):
                method(**{name: 1.5})


@every_method
def test_pixels_and_shares_are_not_mixed(method):
    stack, targets = box_pool()
    fusion = method().fit(stack, targets, CocoMap())
    shares = stack.parts[1].scaled(np.full((len(stack), 2), 1 / 1000), relative=True)
    mixed = dataclasses.replace(stack, parts=(stack.parts[0], shares, stack.parts[2]))
    with pytest.raises(MisalignedMembers, match="'member1' gives boxes as shares"):
        fusion(mixed)


def scaled(stack, targets, factor, shift=0.0):
    parts = tuple(
        dataclasses.replace(part, boxes_K4=part.boxes_K4 * factor + shift) for part in stack.parts
    )
    moved = dataclasses.replace(targets, boxes_K4=targets.boxes_K4 * factor + shift, areas_K=None)
    return dataclasses.replace(stack, parts=parts), moved


@every_method
@pytest.mark.parametrize(
    ("factor", "shift"), [(1e97, 0.0), (1e-160, 0.0), (1e-310, 0.0), (1.0, 1e19), (1.0, -1e4)]
)
def test_boxes_of_any_size_and_place_are_fused_to_valid_ones(method, factor, shift):
    """Areas of tiny sides vanish, and far away a box's sides do: such boxes have no area."""
    stack, targets = scaled(*box_pool(rows=8), factor, shift)
    fused = method().fit(stack, targets, CocoMap())(stack)
    check_valid(fused)
    assert np.isfinite(CocoMap().statistics(fused, targets)).all()
    assert (len(fused.scores_K) > 0) == (factor > 1e-170 and shift < 1e16)


@every_method
@pytest.mark.parametrize("share", [0.0, 1.0, 5e-324])
def test_scores_that_are_all_alike_are_no_obstacle(method, share):
    stack, targets = box_pool(rows=8)
    parts = tuple(
        dataclasses.replace(part, scores_K=np.full(len(part.scores_K), share))
        for part in stack.parts
    )
    stack = dataclasses.replace(stack, parts=parts)
    check_valid(method().fit(stack, targets, CocoMap())(stack))


@every_method
@pytest.mark.parametrize("who", [0, slice(None)])
def test_members_that_find_nothing_anywhere(method, who):
    """One of them, or all; of another precision than the others."""
    stack, targets = box_pool(rows=8)
    none = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, dtype=np.int64))
    parts = np.array(stack.parts, dtype=object)
    nothing = Boxes.from_entries(stack.ids, stack.classes, none[2], none)
    parts[who] = nothing if who == 0 else [nothing] * len(parts)
    stack = dataclasses.replace(stack, parts=tuple(parts))
    fused = method().fit(stack, targets, CocoMap())(stack)
    check_valid(fused)
    assert (len(fused.scores_K) > 0) == (who == 0)


@every_method
def test_a_truth_without_objects_or_of_other_classes_is_no_obstacle(method):
    stack, targets = box_pool(rows=8)
    none = np.zeros(len(stack) + 1, dtype=np.int64)
    nothing = Objects(stack.ids, stack.classes, none, np.zeros((0, 4)), none[:0])
    for truth in (nothing, dataclasses.replace(targets, classes=("x", "y", "z"))):
        check_valid(method().fit(stack, truth, CocoMap())(stack))


@fitted_methods
def test_nothing_to_fit_on_is_an_error(method):
    stack, targets = box_pool()
    none = np.arange(0)
    with pytest.raises(PredictionError, match="no holdout row"):
        method().fit(stack.take(none), targets.take(none), CocoMap())


@fitted_methods
def test_wrong_sample_weights_name_their_row(method):
    stack, targets = box_pool()
    weights_N = np.ones(len(stack))
    weights_N[7] = np.nan
    with pytest.raises(InvalidValue, match="'row7'"):
        method().fit(stack, targets, CocoMap(), sample_weights_N=weights_N)


@fitted_methods
def test_a_weight_of_two_is_a_row_twice(method):
    stack, targets = box_pool(rows=30)
    counts_N = np.random.default_rng(5).integers(0, 4, size=30)
    rows = np.repeat(np.arange(30), counts_N)
    ids = np.array([f"copy{n:03}" for n in range(len(rows))])
    parts = {
        name: dataclasses.replace(part.take(rows), ids=ids)
        for name, part in zip(stack.members, stack.parts, strict=True)
    }
    copied = dataclasses.replace(targets.take(rows), ids=ids)
    weighted = method().fit(stack, targets, CocoMap(), sample_weights_N=counts_N * 10)
    priors = {  # they are counted for mean weight 1
        field.name: field.default * len(rows) / 30
        for field in dataclasses.fields(method)
        if field.name.startswith("prior_")
    }
    twice = method(**priors).fit(Stack.align(parts, classes=stack.classes), copied, CocoMap())
    assert as_sets(weighted(stack), 3) == as_sets(twice(stack), 3)


@every_method
def test_every_hyperparameter_is_documented(method):
    assert dataclasses.is_dataclass(method)
    for field in dataclasses.fields(method):
        assert f"{field.name}: " in (method.__doc__ or ""), field.name
    for word in ("Cost:", "Reference:", "not use"):
        assert word in (method.__doc__ or "")
