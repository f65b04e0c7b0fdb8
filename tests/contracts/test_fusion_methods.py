# SPDX-License-Identifier: Apache-2.0
"""Laws that every fusion method keeps, on the day its file appears."""

import dataclasses
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from fusetune.errors import InvalidValue, PredictionError
from fusetune.fuse.forms import over_classes
from fusetune.fuse.fusion import load_fusion, save_fusion
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.log_loss import LogLoss
from fusetune.plugins import discover
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack
from pools import EXAMPLES, arrays, pool, pools

METHODS = {
    name: method
    for name, method in discover(FusionMethod).items()
    if Probabilities in method.accepts
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
fitted_methods = pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if m.needs_targets], ids=lambda m: m.__name__
)
some = settings(max_examples=EXAMPLES, deadline=None)


def folder_bytes(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def in_stack_order(stack, member=0):
    part = stack.parts[member]
    return over_classes(part, tuple(c for c in stack.classes if c in part.classes))


@every_method
@some
@given(drawn=pools())
def test_a_valid_prediction_of_the_same_rows_comes_out(method, drawn):
    stack, targets = drawn
    fusion = method().fit(stack, targets, Accuracy())
    fused = fusion(stack)
    assert isinstance(fusion, Fusion)
    assert set(fusion.members) <= set(stack.members)
    assert np.array_equal(fused.ids, stack.ids)
    used = {name for member in fusion.members for name in stack[member].classes}
    assert fused.classes == tuple(name for name in stack.classes if name in used)
    assert fused.probs_NC.dtype == stack.parts[0].probs_NC.dtype
    Probabilities(fused.ids, fused.classes, fused.probs_NC)  # refuses what is not valid


@every_method
@some
@given(drawn=pools(members=(1, 1)))
def test_one_member_alone_decides(method, drawn):
    stack, targets = drawn
    fused = method().fit(stack, targets, Accuracy())(stack)
    assert fused.labels().tolist() == in_stack_order(stack).labels().tolist()
    assert fused.classes == in_stack_order(stack).classes


@every_method
@some
@given(drawn=pools(members=(1, 1)))
def test_identical_members_give_that_members_decision(method, drawn):
    stack, targets = drawn
    one = stack.parts[0]
    many = dataclasses.replace(stack, members=("x", "y", "z"), parts=(one, one, one))
    alone = method().fit(stack, targets, Accuracy())(stack)
    fused = method().fit(many, targets, Accuracy())(many)
    np.testing.assert_allclose(fused.probs_NC, alone.probs_NC, rtol=1e-6, atol=2e-4)
    assert fused.labels().tolist() == in_stack_order(stack).labels().tolist()


@every_method
@some
@given(drawn=pools())
def test_inputs_are_unchanged_and_the_output_repeats_itself(method, drawn):
    stack, targets = drawn
    before, labels_N = arrays(stack), targets.labels_N.copy()
    for part in stack.parts:
        part.probs_NC.flags.writeable = False
    first = method().fit(stack, targets, LogLoss())(stack)
    second = method().fit(stack, targets, LogLoss())(stack)
    assert first.probs_NC.tobytes() == second.probs_NC.tobytes()
    assert all(np.array_equal(a, b) for a, b in zip(before, arrays(stack), strict=True))
    assert np.array_equal(labels_N, targets.labels_N)


@every_method
@some
@given(drawn=pools())
def test_permuted_rows_give_the_permuted_output(method, drawn):
    stack, targets = drawn
    fusion = method().fit(stack, targets, Accuracy())
    order = np.roll(np.arange(len(stack))[::-1], 3)
    fused, permuted = fusion(stack), fusion(stack.take(order))
    assert permuted.ids.tolist() == fused.ids[order].tolist()
    np.testing.assert_allclose(permuted.probs_NC, fused.probs_NC[order], rtol=1e-6, atol=1e-9)


@every_method
def test_fitting_does_not_depend_on_the_order_of_the_rows(method):
    stack, targets = pool(rows=200)
    order = np.random.default_rng(1).permutation(len(stack))
    fused = method().fit(stack, targets, LogLoss())(stack)
    again = method().fit(stack.take(order), targets.take(order), LogLoss())(stack)
    np.testing.assert_allclose(again.probs_NC, fused.probs_NC, atol=1e-4)


@every_method
@some
@given(drawn=pools())
def test_saved_and_loaded_it_gives_the_same_bits(method, drawn):
    stack, targets = drawn
    fusion = method().fit(stack, targets, Accuracy())
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        save_fusion(fusion, Path(one))
        loaded = load_fusion(Path(one))
        save_fusion(loaded, Path(two))
        assert folder_bytes(one) == folder_bytes(two)
    assert type(loaded) is type(fusion)
    assert loaded.members == fusion.members
    assert loaded.weights() == fusion.weights()
    assert loaded(stack).probs_NC.tobytes() == fusion(stack).probs_NC.tobytes()


@every_method
def test_other_members_in_any_order_do_not_matter(method):
    stack, targets = pool(members=5)
    fit_on = stack.select(stack.members[:4])
    fusion = method().fit(fit_on, targets, LogLoss())
    more = stack.select(stack.members[::-1])
    needed = stack.select(fusion.members)
    expected = fusion(fit_on).probs_NC.tobytes()
    assert fusion(more).probs_NC.tobytes() == expected
    assert fusion(needed).probs_NC.tobytes() == expected


@every_method
def test_no_rows_are_fused_to_no_rows(method):
    stack, targets = pool()
    fusion = method().fit(stack, targets, Accuracy())
    assert fusion(stack.take(np.arange(0))).probs_NC.shape == (0, 4)


@every_method
def test_weights_sum_to_one_over_the_members(method):
    stack, targets = pool()
    fusion = method().fit(stack, targets, LogLoss())
    weights = fusion.weights()
    if weights is not None:
        assert tuple(weights) == fusion.members
        assert sum(weights.values()) == pytest.approx(1)
        assert min(weights.values()) > 0


@fitted_methods
def test_nothing_to_fit_on_is_an_error(method):
    stack, targets = pool()
    none = np.arange(0)
    with pytest.raises(PredictionError, match="no holdout row"):
        method().fit(stack.take(none), targets.take(none), Accuracy())


@fitted_methods
@pytest.mark.parametrize("wrong", [-1.0, np.nan])
def test_wrong_sample_weights_name_their_row(method, wrong):
    stack, targets = pool()
    weights_N = np.ones(len(stack))
    weights_N[7] = wrong
    with pytest.raises(InvalidValue, match="'row7'"):
        method().fit(stack, targets, Accuracy(), sample_weights_N=weights_N)
    with pytest.raises(InvalidValue, match="one of them above 0"):
        method().fit(stack, targets, Accuracy(), sample_weights_N=0 * np.ones(len(stack)))


@fitted_methods
def test_a_weight_of_two_is_a_row_twice(method):
    if method.__name__ == "BayesianModelAveraging":
        pytest.skip("more rows are more evidence, and weights count relative to their mean")
    stack, targets = pool(rows=40, noise=2.0)
    counts_N = np.random.default_rng(5).integers(0, 4, size=40)
    rows = np.repeat(np.arange(40), counts_N)
    ids = np.array([f"copy{n}" for n in range(len(rows))])
    parts = {
        name: Probabilities(ids, part.classes, part.probs_NC[rows])
        for name, part in zip(stack.members, stack.parts, strict=True)
    }
    features = {name: vectors_ND[rows] for name, vectors_ND in stack.features.items()}
    repeated = dataclasses.replace(Stack.align(parts, classes=stack.classes), features=features)
    copied = dataclasses.replace(targets, ids=ids, labels_N=targets.labels_N[rows])
    once, again = {}, {}
    if method.__name__ in ("Stacking", "Gating", "LogPool"):  # penalties are for mean weight 1
        once, again = {"penalties": (1.0,)}, {"penalties": (len(rows) / 40,)}
    if method.__name__ in ("Stacking", "LogPool"):  # they smooth by the number of rows
        once, again = once | {"smoothing": 1e-3}, again | {"smoothing": 1e-3}
    if method.__name__ == "Gating":
        once, again = once | {"min_rows": 1}, again | {"min_rows": 1}
    if method.__name__ == "DynamicSelection":  # it counts rows, not weights: ask for all of them
        once = again = {"neighbors": 1_000}
    if method.__name__ == "WeightedMean":  # copies of a row fall into different folds
        once = again = {"shrink": 0.0}
    weighted = method(**once).fit(stack, targets, LogLoss(), sample_weights_N=counts_N * 10)
    twice = method(**again).fit(repeated, copied, LogLoss())
    np.testing.assert_allclose(weighted(stack).probs_NC, twice(stack).probs_NC, atol=1e-4)


@every_method
@pytest.mark.parametrize("metric", [Accuracy(), LogLoss()], ids=["accuracy", "log_loss"])
def test_a_class_absent_from_the_holdout_and_rare_classes_work(method, metric):
    stack, targets = pool(classes=5, rows=30)
    rows = np.flatnonzero(targets.labels_N != 2)
    rows = np.concatenate(
        [rows[targets.labels_N[rows] != 1], np.flatnonzero(targets.labels_N == 1)[:1]]
    )
    fused = method().fit(stack.take(rows), targets.take(rows), metric)(stack)
    Probabilities(fused.ids, fused.classes, fused.probs_NC)
    assert fused.classes == stack.classes


@every_method
def test_every_hyperparameter_is_documented(method):
    assert dataclasses.is_dataclass(method)
    for field in dataclasses.fields(method):
        assert f"{field.name}: " in (method.__doc__ or ""), field.name
    for word in ("Cost:", "Reference:", "not use"):
        assert word in (method.__doc__ or "")


@every_method
@pytest.mark.parametrize("shape", [(30, 2000, 3), (8, 2000, 20)], ids=["members", "classes"])
@pytest.mark.slow
def test_fitting_takes_no_more_memory_than_it_says(method, shape):
    stack, targets = pool(*shape, dtype=np.float32)
    method().fit(stack, targets, Accuracy())  # imports what it needs
    tracemalloc.start()
    method().fit(stack, targets, Accuracy())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= method.fit_copies * sum(part.probs_NC.nbytes for part in stack.parts) + 2**16
