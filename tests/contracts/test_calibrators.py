# SPDX-License-Identifier: Apache-2.0
"""Laws that every calibrator keeps, on the day its file appears."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from fusetune.calibrate.calibrator import Calibration, Calibrator
from fusetune.errors import InvalidValue, PredictionError
from fusetune.fitted import load_fitted, save_fitted
from fusetune.metrics.log_loss import LogLoss
from fusetune.plugins import discover
from fusetune.predictions.kinds import Marginals, Probabilities
from fusetune.predictions.targets import LabelSets, Targets
from pools import EXAMPLES, pool, pools

CALIBRATORS = {
    name: calibrator
    for name, calibrator in discover(Calibrator).items()
    if Probabilities in calibrator.accepts
}
every_calibrator = pytest.mark.parametrize(
    "calibrator", CALIBRATORS.values(), ids=list(CALIBRATORS)
)
marginal_calibrators = pytest.mark.parametrize(
    "calibrator",
    [c for c in CALIBRATORS.values() if Marginals in c.accepts],
    ids=lambda c: c.__name__,
)
some = settings(max_examples=EXAMPLES, deadline=None)


def log_loss(prediction, targets):
    return LogLoss().value(LogLoss().statistics(prediction, targets))


def saved_and_loaded(calibration, prediction):
    with tempfile.TemporaryDirectory() as folder:
        save_fitted(calibration, Path(folder))
        loaded = load_fitted(Path(folder))
    assert type(loaded) is type(calibration)
    assert loaded(prediction).probs_NC.tobytes() == calibration(prediction).probs_NC.tobytes()


def label_sets(rows=500, seed=0, sharpness=4.0, dtype=np.float64):
    """Over-confident multi-label predictions, and which classes are there."""
    random = np.random.default_rng(seed)
    logits_NC = random.normal(size=(rows, 3))
    present_NC = random.random((rows, 3)) < 1 / (1 + np.exp(-logits_NC))
    said_NC = 1 / (1 + np.exp(-sharpness * logits_NC))
    ids, names = [f"row{n}" for n in range(rows)], ("x", "y", "z")
    return Marginals(ids, names, said_NC.astype(dtype)), LabelSets(ids, names, present_NC)


def marginal_loss(prediction, targets):
    """Mean log-loss of all classes, each there or not."""
    said_NC = np.clip(prediction.probs_NC.astype(float), 1e-15, 1 - 1e-15)
    return -np.log(np.where(targets.present_NC, said_NC, 1 - said_NC)).mean()


def over_confident(rows=600, classes=4, sharpness=4.0, seed=0, dtype=np.float64):
    """A member whose calibrated probabilities were raised to a power; targets drawn from those."""
    random = np.random.default_rng(seed)
    logits_NC = random.normal(size=(rows, classes)) * 1.5
    honest_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(axis=1, keepdims=True)
    labels_N = (honest_NC.cumsum(axis=1) < random.random((rows, 1))).sum(axis=1)
    sharp_NC = honest_NC**sharpness
    sharp_NC /= sharp_NC.sum(axis=1, keepdims=True)
    names, ids = tuple(f"class{c}" for c in range(classes)), [f"row{n}" for n in range(rows)]
    member = Probabilities(ids, names, sharp_NC.astype(dtype))
    return member, Targets(member.ids, names, np.minimum(labels_N, classes - 1))


@every_calibrator
@some
@given(drawn=pools(members=(1, 1)))
def test_a_valid_prediction_of_the_same_rows_comes_out(calibrator, drawn):
    stack, targets = drawn
    prediction = stack.parts[0]
    calibration = calibrator().fit(prediction, targets)
    calibrated = calibration(prediction)
    assert isinstance(calibration, Calibration)
    assert type(calibrated) is type(prediction)
    assert np.array_equal(calibrated.ids, prediction.ids)
    assert calibrated.classes == prediction.classes
    assert calibrated.probs_NC.dtype == prediction.probs_NC.dtype
    Probabilities(calibrated.ids, calibrated.classes, calibrated.probs_NC)  # refuses the invalid
    np.testing.assert_allclose(calibrated.probs_NC.sum(axis=1), 1, atol=1e-6)


@every_calibrator
@some
@given(drawn=pools(members=(1, 1)))
def test_inputs_are_unchanged_and_the_output_repeats_itself(calibrator, drawn):
    stack, targets = drawn
    prediction = stack.parts[0]
    before, labels_N = prediction.probs_NC.copy(), targets.labels_N.copy()
    prediction.probs_NC.flags.writeable = False
    first = calibrator().fit(prediction, targets)(prediction).probs_NC
    second = calibrator().fit(prediction, targets)(prediction).probs_NC
    assert first.tobytes() == second.tobytes()
    assert np.array_equal(before, prediction.probs_NC)
    assert np.array_equal(labels_N, targets.labels_N)


@every_calibrator
@some
@given(drawn=pools(members=(1, 1)))
def test_saved_and_loaded_it_gives_the_same_bits(calibrator, drawn):
    stack, targets = drawn
    prediction = stack.parts[0]
    saved_and_loaded(calibrator().fit(prediction, targets), prediction)


@every_calibrator
@some
@given(drawn=pools(members=(1, 1)))
def test_permuted_rows_give_the_permuted_output_bit_for_bit(calibrator, drawn):
    stack, targets = drawn
    prediction = stack.parts[0]
    calibration = calibrator().fit(prediction, targets)
    order = np.roll(np.arange(len(prediction))[::-1], 3)
    permuted = calibration(prediction.take(order))
    assert permuted.ids.tolist() == prediction.ids[order].tolist()
    assert permuted.probs_NC.tobytes() == calibration(prediction).probs_NC[order].tobytes()


@every_calibrator
def test_fitting_does_not_depend_on_the_order_of_the_rows(calibrator):
    member, targets = over_confident()
    order = np.random.default_rng(1).permutation(len(member))
    plain = calibrator().fit(member, targets)(member)
    again = calibrator().fit(member.take(order), targets.take(order))(member)
    np.testing.assert_allclose(again.probs_NC, plain.probs_NC, rtol=1e-7, atol=1e-10)


@every_calibrator
def test_classes_are_matched_by_name(calibrator):
    member, targets = over_confident()
    turned = member.with_array(member.classes[::-1], member.probs_NC[:, ::-1])
    renamed = Targets(targets.ids, targets.classes[::-1], 3 - targets.labels_N)
    expected = calibrator().fit(member, targets)(member).probs_NC
    crossed = calibrator().fit(member, targets)(turned)
    assert crossed.classes == turned.classes
    np.testing.assert_allclose(crossed.probs_NC, expected[:, ::-1], rtol=1e-12)
    refitted = calibrator().fit(turned, renamed)(turned).probs_NC
    np.testing.assert_allclose(refitted, expected[:, ::-1], rtol=1e-7, atol=1e-10)


@every_calibrator
def test_other_classes_are_refused_by_name_or_do_not_matter(calibrator):
    member, targets = over_confident()
    other = member.with_array(("class0", "class1", "class2", "cow"), member.probs_NC)
    calibration = calibrator().fit(member, targets)
    if calibrator.__name__ == "Temperature":
        assert calibration(other).classes == other.classes
    else:
        with pytest.raises(PredictionError, match="'class3', 'cow' stand in one of them only"):
            calibration(other)


@every_calibrator
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_over_confident_member_improves_on_new_rows(calibrator, dtype):
    fit_on, new = over_confident(dtype=dtype), over_confident(rows=4000, seed=1, dtype=dtype)
    calibration = calibrator().fit(*fit_on)
    assert log_loss(calibration(new[0]), new[1]) < log_loss(*new) - 0.3


@every_calibrator
def test_certain_rows_get_a_finite_log_loss(calibrator):
    member, targets = over_confident()
    named = member.with_array(member.classes, np.eye(4)[member.probs_NC.argmax(axis=1)])
    calibrated = calibrator().fit(named, targets)(named)
    assert calibrated.probs_NC.min() > 0
    assert log_loss(calibrated, targets) < log_loss(named, targets) / 2


@every_calibrator
def test_single_and_double_precision_agree(calibrator):
    single, targets = over_confident(dtype=np.float32)
    double = single.with_array(single.classes, single.probs_NC.astype(np.float64))
    wanted = calibrator().fit(double, targets)(double).probs_NC
    given_NC = calibrator().fit(single, targets)(single).probs_NC
    np.testing.assert_allclose(given_NC, wanted, rtol=1e-5, atol=1e-7)


@every_calibrator
def test_no_rows_are_calibrated_to_no_rows(calibrator):
    member, targets = over_confident()
    calibration = calibrator().fit(member, targets)
    assert calibration(member.take(np.arange(0))).probs_NC.shape == (0, 4)


@every_calibrator
def test_one_class_stays_certain(calibrator):
    member = Probabilities(["a", "b"], ("only",), np.ones((2, 1)))
    targets = Targets.from_names(member.ids, ["only", "only"])
    assert calibrator().fit(member, targets)(member).probs_NC.tolist() == [[1.0], [1.0]]


@every_calibrator
def test_one_row_moves_others_towards_it_and_no_further_than_reason(calibrator):
    member, targets = over_confident(sharpness=1.0)
    calibrated = calibrator().fit(member.take([0]), targets.take([0]))(member)
    Probabilities(calibrated.ids, calibrated.classes, calibrated.probs_NC)
    if calibrator.__name__ != "Confusion":  # which keeps nothing but the name
        assert log_loss(calibrated, targets) < log_loss(member, targets) + 0.1


@every_calibrator
def test_rows_whose_class_the_member_does_not_know_teach_nothing(calibrator):
    member, targets = over_confident()
    names = (*member.classes, "unheard of")
    strange = Targets(targets.ids, names, np.where(np.arange(600) < 300, targets.labels_N, 4))
    known = np.arange(300)
    plain = calibrator().fit(member.take(known), targets.take(known))(member)
    partly = calibrator().fit(member, strange)(member)
    np.testing.assert_allclose(partly.probs_NC, plain.probs_NC, rtol=1e-7, atol=1e-10)
    nothing = Targets(targets.ids, names, np.full(600, 4))
    untouched = calibrator().fit(member, nothing)(member)
    if calibrator.__name__ != "Confusion":
        np.testing.assert_allclose(untouched.probs_NC, member.probs_NC, atol=1e-5)


@every_calibrator
def test_constant_predictions_become_the_class_shares_of_many_rows(calibrator):
    ids = [f"row{n}" for n in range(3000)]
    member = Probabilities(ids, ("a", "b"), np.tile([0.9, 0.1], (3000, 1)))
    targets = Targets.from_names(member.ids, ["a"] * 2100 + ["b"] * 900)
    calibrated = calibrator().fit(member, targets)(member)
    np.testing.assert_allclose(calibrated.probs_NC, np.tile([0.7, 0.3], (3000, 1)), atol=2e-3)


@every_calibrator
def test_a_class_absent_from_the_fit_rows_keeps_a_chance(calibrator):
    member, targets = over_confident()
    rows = np.flatnonzero(targets.labels_N != 2)
    calibrated = calibrator().fit(member.take(rows), targets.take(rows))(member)
    assert 0 < calibrated.probs_NC[:, 2].mean() < 0.25


@every_calibrator
def test_a_weight_of_two_is_a_row_twice(calibrator):
    member, targets = over_confident(rows=80)
    counts_N = np.random.default_rng(5).permutation(np.repeat([0, 1, 2, 1], 20))  # 80 in all
    rows = np.repeat(np.arange(80), counts_N)
    ids = [f"copy{n}" for n in range(len(rows))]
    repeated = Probabilities(ids, member.classes, member.probs_NC[rows])
    copied = Targets(repeated.ids, targets.classes, targets.labels_N[rows])
    weighted = calibrator().fit(member, targets, sample_weights_N=counts_N * 7)(member)
    twice = calibrator().fit(repeated, copied)(member)
    np.testing.assert_allclose(weighted.probs_NC, twice.probs_NC, rtol=1e-7, atol=1e-10)


@every_calibrator
def test_nothing_to_fit_on_and_wrong_weights_are_errors(calibrator):
    member, targets = over_confident(rows=20)
    none = np.arange(0)
    with pytest.raises(PredictionError, match="at least one row to fit the calibration on"):
        calibrator().fit(member.take(none), targets.take(none))
    for wrong in (-1.0, np.nan):
        weights_N = np.ones(20)
        weights_N[7] = wrong
        with pytest.raises(InvalidValue, match="'row7'"):
            calibrator().fit(member, targets, sample_weights_N=weights_N)
    with pytest.raises(InvalidValue, match="one of them above 0"):
        calibrator().fit(member, targets, sample_weights_N=np.zeros(20))


@every_calibrator
def test_members_of_a_pool_stay_valid_in_other_precisions_and_sizes(calibrator):
    for classes in (2, 30):
        stack, targets = pool(members=1, rows=50, classes=classes, dtype=np.float32)
        calibrated = calibrator().fit(stack.parts[0], targets)(stack.parts[0])
        Probabilities(calibrated.ids, calibrated.classes, calibrated.probs_NC)


@every_calibrator
def test_hyperparameters_are_checked_and_documented(calibrator):
    assert dataclasses.is_dataclass(calibrator)
    for field in dataclasses.fields(calibrator):
        assert f"{field.name}: " in (calibrator.__doc__ or ""), field.name
        for wrong in (-1.0, float("nan")):
            with pytest.raises(InvalidValue, match=f"{field.name} is {wrong}"):
                calibrator(**{field.name: wrong})
    for word in ("Cost:", "Reference:", "not use", "Example:"):
        assert word in (calibrator.__doc__ or "")


@marginal_calibrators
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_over_confident_marginals_improve_class_by_class(calibrator, dtype):
    (member, targets), new = label_sets(dtype=dtype), label_sets(seed=1, rows=3000, dtype=dtype)
    member.probs_NC.flags.writeable = False
    calibration = calibrator().fit(member, targets)
    calibrated = calibration(new[0])
    Marginals(calibrated.ids, calibrated.classes, calibrated.probs_NC)
    assert type(calibrated) is Marginals and calibrated.probs_NC.dtype == dtype
    assert marginal_loss(calibrated, new[1]) < marginal_loss(*new) - 0.1
    saved_and_loaded(calibration, member)
    turned = new[0].with_array(("z", "x", "y"), new[0].probs_NC[:, [2, 0, 1]])
    assert np.array_equal(calibration(turned).probs_NC, calibrated.probs_NC[:, [2, 0, 1]])
    alone = calibrator().fit(member.with_array(("y",), member.probs_NC[:, 1:2]), targets)
    of_y = alone(new[0].with_array(("y",), new[0].probs_NC[:, 1:2])).probs_NC[:, 0]
    np.testing.assert_allclose(of_y, calibrated.probs_NC[:, 1], rtol=1e-6, atol=1e-9)


@marginal_calibrators
def test_certain_marginals_and_classes_always_or_never_there_work(calibrator):
    member, targets = label_sets(rows=40)
    certain = member.with_array(member.classes, (member.probs_NC > 0.5).astype(float))
    present_NC = targets.present_NC.copy()
    present_NC[:, 0], present_NC[:, 1] = True, False
    ends = LabelSets(targets.ids, targets.classes, present_NC)
    calibrated = calibrator().fit(certain, ends)(certain)
    Marginals(calibrated.ids, calibrated.classes, calibrated.probs_NC)
    assert calibrated.probs_NC.min() > 0 and calibrated.probs_NC.max() < 1
    one = calibrator().fit(certain.take([0]), ends.take([0]))(certain)
    Marginals(one.ids, one.classes, one.probs_NC)
