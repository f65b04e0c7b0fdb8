# SPDX-License-Identifier: Apache-2.0
"""Laws of fusion methods on label sets, values and quantiles: those of class probabilities, again.

`test_fusion_methods.py` has them for class probabilities.
"""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusetune.errors import InvalidValue, PredictionError
from fusetune.fuse.forms import over_classes
from fusetune.fuse.fusion import load_fusion, save_fusion
from fusetune.fuse.method import Fusion, FusionMethod
from fusetune.metrics.hamming_accuracy import HammingAccuracy
from fusetune.metrics.mae import Mae
from fusetune.metrics.multilabel_log_loss import MultilabelLogLoss
from fusetune.metrics.pinball import Pinball
from fusetune.metrics.rmse import Rmse
from fusetune.plugins import discover
from fusetune.predictions.kinds import Marginals, Values
from fusetune.predictions.stack import Stack
from pools import EXAMPLES, arrays, other_pool, other_pools

METRICS = {
    "marginals": (HammingAccuracy(), MultilabelLogLoss()),
    "values": (Mae(), Rmse()),
    "quantiles": (Pinball(), Pinball()),
}


def takes(method, kind):
    if kind == "marginals":
        return Marginals in method.accepts
    return Values in method.accepts and (kind == "values" or method.quantiles)


CASES = {
    f"{name}-{kind}": (method, kind)
    for name, method in discover(FusionMethod).items()
    for kind in METRICS
    if takes(method, kind)
}
FITTED = {name: case for name, case in CASES.items() if case[0].needs_targets}
every_method = pytest.mark.parametrize(("method", "kind"), CASES.values(), ids=CASES)
fitted_methods = pytest.mark.parametrize(("method", "kind"), FITTED.values(), ids=FITTED)
some = settings(max_examples=EXAMPLES, deadline=None)


def decision(prediction):
    """What is read off a prediction: the labels that are there, or the numbers."""
    if isinstance(prediction, Marginals):
        return (prediction.probs_NC > 0.5).tolist()
    return prediction.values_ND.round(5).tolist()


def in_stack_order(stack):
    part = stack.parts[0]
    return over_classes(part, tuple(c for c in stack.classes if c in part.columns))


def check_valid(fused):
    """Its constructor refuses what is not valid; quantiles rise with their levels."""
    levels = (fused.levels,) if isinstance(fused, Values) else ()
    type(fused)(fused.ids, fused.columns, fused.array_NC, *levels)
    if any(levels):
        assert (np.diff(fused.values_ND, axis=1) >= 0).all()


def test_the_kinds_of_the_issue_are_covered():
    by_kind = {
        kind: {n.split("-")[0] for n, c in CASES.items() if c[1] == kind} for kind in METRICS
    }
    averages = {"mean", "median", "trimmed_mean", "weighted_mean", "greedy_selection"}
    assert averages <= by_kind["quantiles"] < by_kind["values"]
    assert {"stacking", "gating"} <= by_kind["values"] - by_kind["quantiles"]
    assert (
        averages | {"stacking", "log_pool", "geometric_mean", "rank_mean", "max", "vote"}
        <= (by_kind["marginals"])
    )


@every_method
@some
@given(data=st.data())
def test_a_valid_prediction_of_the_same_rows_comes_out(method, kind, data):
    stack, targets = data.draw(other_pools(kind))
    fusion = method().fit(stack, targets, METRICS[kind][0])
    fused = fusion(stack)
    assert isinstance(fusion, Fusion)
    assert set(fusion.members) <= set(stack.members)
    assert type(fused) is type(stack.parts[0])
    assert np.array_equal(fused.ids, stack.ids)
    used = {name for member in fusion.members for name in stack[member].columns}
    assert fused.columns == tuple(name for name in stack.classes if name in used)
    assert fused.array_NC.dtype == stack.parts[0].array_NC.dtype
    if kind == "quantiles":
        assert fused.levels == stack.parts[0].levels
    check_valid(fused)


@every_method
@some
@given(data=st.data())
def test_one_member_alone_decides(method, kind, data):
    stack, targets = data.draw(other_pools(kind, members=(1, 1)))
    fused = method().fit(stack, targets, METRICS[kind][0])(stack)
    assert decision(fused) == decision(in_stack_order(stack))
    assert fused.columns == in_stack_order(stack).columns


@every_method
@some
@given(data=st.data())
def test_identical_members_give_that_members_decision(method, kind, data):
    stack, targets = data.draw(other_pools(kind, members=(1, 1)))
    one = stack.parts[0]
    many = dataclasses.replace(stack, members=("x", "y", "z"), parts=(one, one, one))
    alone = method().fit(stack, targets, METRICS[kind][0])(stack)
    fused = method().fit(many, targets, METRICS[kind][0])(many)
    np.testing.assert_allclose(fused.array_NC, alone.array_NC, rtol=1e-6, atol=1e-6)
    assert decision(fused) == decision(in_stack_order(stack))


@every_method
@some
@given(data=st.data())
def test_inputs_are_unchanged_and_the_output_repeats_itself(method, kind, data):
    stack, targets = data.draw(other_pools(kind))
    before = arrays(stack)
    for part in stack.parts:
        part.array_NC.flags.writeable = False
    first = method().fit(stack, targets, METRICS[kind][1])(stack)
    second = method().fit(stack, targets, METRICS[kind][1])(stack)
    assert first.array_NC.tobytes() == second.array_NC.tobytes()
    assert all(np.array_equal(a, b) for a, b in zip(before, arrays(stack), strict=True))


@every_method
@some
@given(data=st.data())
def test_permuted_rows_give_the_permuted_output(method, kind, data):
    stack, targets = data.draw(other_pools(kind))
    fusion = method().fit(stack, targets, METRICS[kind][0])
    order = np.roll(np.arange(len(stack))[::-1], 3)
    fused, permuted = fusion(stack), fusion(stack.take(order))
    assert permuted.ids.tolist() == fused.ids[order].tolist()
    np.testing.assert_allclose(permuted.array_NC, fused.array_NC[order], rtol=1e-6, atol=1e-9)


@every_method
def test_fitting_does_not_depend_on_the_order_of_the_rows(method, kind):
    stack, targets = other_pool(kind, rows=200)
    order = np.random.default_rng(1).permutation(len(stack))
    fused = method().fit(stack, targets, METRICS[kind][1])(stack)
    again = method().fit(stack.take(order), targets.take(order), METRICS[kind][1])(stack)
    np.testing.assert_allclose(again.array_NC, fused.array_NC, atol=1e-4)


@every_method
@some
@given(data=st.data())
def test_saved_and_loaded_it_gives_the_same_bits(method, kind, data):
    stack, targets = data.draw(other_pools(kind))
    fusion = method().fit(stack, targets, METRICS[kind][0])
    with tempfile.TemporaryDirectory() as folder:
        save_fusion(fusion, Path(folder))
        loaded = load_fusion(Path(folder))
    assert type(loaded) is type(fusion)
    assert loaded.members == fusion.members
    assert loaded.weights() == fusion.weights()
    assert loaded(stack).array_NC.tobytes() == fusion(stack).array_NC.tobytes()


@every_method
def test_other_members_in_any_order_do_not_matter(method, kind):
    stack, targets = other_pool(kind, members=5)
    fit_on = stack.select(stack.members[:4])
    fusion = method().fit(fit_on, targets, METRICS[kind][1])
    expected = fusion(fit_on).array_NC.tobytes()
    assert fusion(stack.select(stack.members[::-1])).array_NC.tobytes() == expected
    assert fusion(stack.select(fusion.members)).array_NC.tobytes() == expected


@every_method
def test_no_rows_are_fused_to_no_rows(method, kind):
    stack, targets = other_pool(kind)
    fusion = method().fit(stack, targets, METRICS[kind][0])
    assert fusion(stack.take(np.arange(0))).array_NC.shape == (0, 4)


@fitted_methods
def test_nothing_to_fit_on_is_an_error(method, kind):
    stack, targets = other_pool(kind)
    none = np.arange(0)
    with pytest.raises(PredictionError, match="no holdout row"):
        method().fit(stack.take(none), targets.take(none), METRICS[kind][0])


@fitted_methods
def test_wrong_sample_weights_name_their_row(method, kind):
    stack, targets = other_pool(kind)
    weights_N = np.ones(len(stack))
    weights_N[7] = np.nan
    with pytest.raises(InvalidValue, match="'row7'"):
        method().fit(stack, targets, METRICS[kind][0], sample_weights_N=weights_N)


@fitted_methods
def test_a_weight_of_two_is_a_row_twice(method, kind):
    if method.__name__ == "BayesianModelAveraging":
        pytest.skip("more rows are more evidence, and weights count relative to their mean")
    stack, targets = other_pool(kind, rows=40, noise=2.0)
    counts_N = np.random.default_rng(5).integers(0, 4, size=40)
    rows = np.repeat(np.arange(40), counts_N)
    ids = np.array([f"copy{n}" for n in range(len(rows))])
    parts = {
        name: part.trusted(part, ids, part.columns, part.array_NC[rows])
        for name, part in zip(stack.members, stack.parts, strict=True)
    }
    features = {name: vectors_ND[rows] for name, vectors_ND in stack.features.items()}
    repeated = dataclasses.replace(Stack.align(parts, classes=stack.classes), features=features)
    copied = dataclasses.replace(targets.take(rows), ids=ids)
    once, again = {}, {}
    if method.__name__ in ("Stacking", "Gating", "LogPool"):  # penalties are for mean weight 1
        once, again = {"penalties": (1.0,)}, {"penalties": (len(rows) / 40,)}
    if method.__name__ in ("Stacking", "LogPool"):  # they smooth by the number of rows
        once, again = once | {"smoothing": 1e-3}, again | {"smoothing": 1e-3}
    if method.__name__ == "Gating":
        once, again = once | {"min_rows": 1}, again | {"min_rows": 1}
    if method.__name__ == "WeightedMean":  # copies of a row are in several folds
        once = again = {"shrink": 0.0}
    metric = METRICS[kind][1]
    weighted = method(**once).fit(stack, targets, metric, sample_weights_N=counts_N * 10)
    twice = method(**again).fit(repeated, copied, metric)
    np.testing.assert_allclose(weighted(stack).array_NC, twice(stack).array_NC, atol=1e-4)


@every_method
def test_targets_that_never_vary_work(method, kind):
    stack, targets = other_pool(kind, rows=40)
    field = "present_NC" if kind == "marginals" else "values_ND"
    constant = dataclasses.replace(targets, **{field: np.zeros_like(getattr(targets, field))})
    fused = method().fit(stack, constant, METRICS[kind][1])(stack)
    check_valid(fused)
    assert np.isfinite(fused.array_NC).all()
