# SPDX-License-Identifier: Apache-2.0
"""Stacking's final estimators against scikit-learn and SciPy, on classes and on values."""

import numpy as np
import pytest
from scipy.optimize import nnls
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from fusetune.errors import InvalidValue, PredictionError
from fusetune.fuse.forms import WeightedAverage
from fusetune.fuse.fusion import load_fusion, save_fusion
from fusetune.fuse.least_squares import nonnegative_least_squares, ridge
from fusetune.fuse.methods.distributions.mean import Mean
from fusetune.fuse.methods.distributions.stacking import Stacking
from fusetune.fuse.stack_forms import EstimatorStack, LinearStack, LogisticStack
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.log_loss import LogLoss
from fusetune.metrics.rmse import Rmse
from fusetune.predictions.kinds import Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Numbers
from pools import pool


def numbers(rows=200, members=3, *, columns=("x", "y"), seed=0, dtype=np.float64):
    """Members that err in scale, by a constant, and at random."""
    random = np.random.default_rng(seed)
    ids = np.array([f"row{n}" for n in range(rows)])
    true_ND = 50 + 10 * random.normal(size=(rows, len(columns)))
    parts = {
        f"member{m}": Values(
            ids,
            columns,
            (
                (0.6 + 0.3 * m) * true_ND
                + 5 * m
                + (3 + m) * random.normal(size=(rows, len(columns)))
            ).astype(dtype),
        )
        for m in range(members)
    }
    return Stack.align(parts), Numbers(ids, columns, true_ND)


def rmse(prediction, targets):
    return Rmse().value(Rmse().statistics(prediction, targets))


def loss(prediction, targets):
    return LogLoss().value(LogLoss().statistics(prediction, targets))


def halves(stack, targets):
    fit, judge = np.arange(len(stack) // 2), np.arange(len(stack) // 2, len(stack))
    return stack.take(fit), targets.take(fit), stack.take(judge), targets.take(judge)


def with_constant(inputs_NF):
    return np.concatenate([inputs_NF, np.ones((len(inputs_NF), 1))], axis=1)


def test_ridge_is_scikit_learns_in_standard_units():
    random = np.random.default_rng(0)
    inputs_NF, targets_NC = 7 + random.normal(size=(60, 4)) * 3, random.normal(size=(60, 2))
    weights_N = random.uniform(0, 2, size=60)
    found_FC, penalty = ridge(
        with_constant(inputs_NF), targets_NC, weights_N, (5.0,), np.arange(60) % 5
    )
    shares_N = weights_N / weights_N.sum()
    centered_NF = inputs_NF - shares_N @ inputs_NF
    centered_NF /= np.sqrt(shares_N @ centered_NF**2)
    out_C = np.sqrt(shares_N @ targets_NC**2)
    reference = Ridge(alpha=5.0, fit_intercept=False)  # the constant is shrunk too
    reference.fit(with_constant(centered_NF), targets_NC / out_C, sample_weight=weights_N)
    np.testing.assert_allclose(
        with_constant(inputs_NF) @ found_FC,
        reference.predict(with_constant(centered_NF)) * out_C,
        atol=1e-9,
    )
    assert penalty == 5.0


def test_ridges_penalty_is_the_one_with_the_least_cross_validated_error():
    random = np.random.default_rng(1)
    inputs_NF = random.normal(size=(60, 8))
    targets_NC = inputs_NF[:, :1] * 0.3 + random.normal(size=(60, 1))
    folds_N, grid = np.arange(60) % 5, (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)
    scaled_NF = inputs_NF - inputs_NF.mean(axis=0)
    scaled_NF = with_constant(scaled_NF / scaled_NF.std(axis=0))
    errors = {}
    for penalty in grid:
        errors[penalty] = 0
        for fold in range(5):
            fit_N = folds_N != fold
            model = Ridge(alpha=penalty, fit_intercept=False)
            model.fit(scaled_NF[fit_N], targets_NC[fit_N])
            predicted = model.predict(scaled_NF[~fit_N]).reshape(-1, 1)
            errors[penalty] += ((targets_NC[~fit_N] - predicted) ** 2).sum()
    _, found = ridge(with_constant(inputs_NF), targets_NC, np.ones(60), grid, folds_N)
    assert found == min(errors, key=errors.get)


@pytest.mark.parametrize("seed", range(5))
def test_nonnegative_coefficients_are_scipys(seed):
    random = np.random.default_rng(seed)
    inputs_NF, targets_N = random.normal(size=(50, 6)), random.normal(size=50)
    weights_N = random.uniform(0, 2, size=50)
    root_N = np.sqrt(weights_N)
    expected, _ = nnls(inputs_NF * root_N[:, None], targets_N * root_N)
    found = nonnegative_least_squares(inputs_NF, targets_N, weights_N)
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert found.min() >= 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("final", ["auto", "ridge", "nonnegative", LinearRegression()])
def test_values_off_by_scale_and_constant_are_mended(final, dtype):
    fit, truth, judge, judged = halves(*numbers(400, dtype=dtype))
    fusion = Stacking(final_estimator=final).fit(fit, truth, Rmse())
    assert isinstance(fusion, LinearStack)
    fused = fusion(judge)
    assert fused.values_ND.dtype == dtype
    assert fused.names == ("x", "y")
    assert rmse(fused, judged) < 0.65 * min(rmse(part, judged) for part in judge.parts)


def test_an_infinite_penalty_leaves_the_mean_of_values():
    stack, targets = numbers()
    fused = Stacking(penalties=(1e15,)).fit(stack, targets, Rmse())(stack)
    mean = Mean().fit(stack, None, Rmse())(stack)
    np.testing.assert_allclose(fused.values_ND, mean.values_ND, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_unit_of_values_does_not_matter(scale):
    stack, targets = numbers()
    bigger = Stack.align(
        {
            name: Values(part.ids, part.names, part.values_ND * scale)
            for name, part in zip(stack.members, stack.parts, strict=True)
        }
    )
    scaled = Numbers(targets.ids, targets.names, targets.values_ND * scale)
    for final in ("ridge", "nonnegative"):
        one = Stacking(final_estimator=final).fit(stack, targets, Rmse())(stack)
        two = Stacking(final_estimator=final).fit(bigger, scaled, Rmse())(bigger)
        np.testing.assert_allclose(two.values_ND, one.values_ND * scale, rtol=1e-3)


def test_members_with_other_columns_are_stacked():
    stack, targets = numbers()
    first = stack.parts[0]
    parts = {
        "one": Values(first.ids, ("y",), first.values_ND[:, 1:]),
        "both": stack.parts[1],
        "turned": Values(first.ids, ("y", "x"), stack.parts[2].values_ND[:, ::-1]),
    }
    mixed = Stack.align(parts, classes=("x", "y"))
    for final in ("ridge", "nonnegative"):
        fused = Stacking(final_estimator=final).fit(mixed, targets, Rmse())(mixed)
        assert fused.names == ("x", "y")
        assert rmse(fused, targets) < rmse(stack.parts[1], targets)


@pytest.mark.parametrize("final", ["ridge", "nonnegative", "logistic"])
@pytest.mark.parametrize("inputs", ["log_probabilities", "logits", "values"])
def test_every_form_of_input_beats_the_worst_member_and_is_saved(final, inputs, tmp_path):
    fit, truth, judge, judged = halves(*pool(rows=600, noise=2.0))
    fusion = Stacking(final_estimator=final, inputs=inputs).fit(fit, truth, LogLoss())
    fused = fusion(judge)
    Probabilities(fused.ids, fused.classes, fused.probs_NC)
    hits = Accuracy().statistics(fused, judged).mean()
    assert hits > min(Accuracy().statistics(part, judged).mean() for part in judge.parts)
    save_fusion(fusion, tmp_path)
    assert load_fusion(tmp_path)(judge).probs_NC.tobytes() == fused.probs_NC.tobytes()


def test_logits_are_those_of_each_class():
    stack, targets = pool(rows=50)
    fusion = Stacking(inputs="logits", smoothing=1e-9).fit(stack, targets, LogLoss())
    inputs_NF, base_NC = fusion.inputs(stack)
    logits = [np.log(p.probs_NC / (1 - p.probs_NC)) for p in stack.parts]
    np.testing.assert_allclose(inputs_NF[:, :4] * np.sqrt(3), logits[0], rtol=1e-5)
    np.testing.assert_allclose(base_NC, np.mean(logits, axis=0), rtol=1e-4, atol=1e-6)
    assert (inputs_NF[:, -1] == 1).all()


def test_nonnegative_probabilities_are_weighted_averages_class_by_class():
    stack, targets = pool(rows=300, noise=2.0)
    fusion = Stacking(final_estimator="nonnegative").fit(stack, targets, LogLoss())
    weights_FC = fusion.coefficients_FC / np.sqrt(3)
    for column in range(4):
        inputs = np.stack([part.probs_NC[:, column] for part in stack.parts], axis=1)
        expected, _ = nnls(inputs, (targets.labels_N == column).astype(float))
        np.testing.assert_allclose(weights_FC[column:12:4, column], expected, atol=1e-6)


def test_a_linear_estimator_of_yours_is_saved_as_arrays(tmp_path):
    stack, targets = pool(rows=200)
    fusion = Stacking(final_estimator=LogisticRegression(C=0.5)).fit(stack, targets, LogLoss())
    assert isinstance(fusion, LogisticStack)
    inputs_NF = fusion.inputs(stack)[0][:, :-1]
    model = LogisticRegression(C=0.5).fit(inputs_NF, targets.names())
    np.testing.assert_allclose(fusion(stack).probs_NC, model.predict_proba(inputs_NF), atol=1e-9)
    save_fusion(fusion, tmp_path)
    np.testing.assert_array_equal(load_fusion(tmp_path)(stack).probs_NC, fusion(stack).probs_NC)


def test_two_classes_of_a_linear_estimator_work():
    stack, targets = pool(rows=200, classes=2)
    for model in (LogisticRegression(), LogisticRegression(solver="liblinear")):
        fusion = Stacking(final_estimator=model).fit(stack, targets, LogLoss())
        assert isinstance(fusion, LogisticStack)
        inputs_NF = fusion.inputs(stack)[0][:, :-1]
        fitted = model.fit(inputs_NF, targets.names())
        np.testing.assert_allclose(
            fusion(stack).probs_NC, fitted.predict_proba(inputs_NF), atol=1e-9
        )


def test_any_other_estimator_works_in_memory_and_is_not_saved(tmp_path):
    stack, targets = pool(rows=200)
    forest = RandomForestClassifier(20, random_state=0)
    fusion = Stacking(final_estimator=forest).fit(stack, targets, LogLoss())
    assert isinstance(fusion, EstimatorStack)
    assert not hasattr(forest, "classes_")  # yours is left as it is
    fused = fusion(stack)
    Probabilities(fused.ids, fused.classes, fused.probs_NC)
    assert loss(fused, targets) < loss(stack.parts[0], targets)
    with pytest.raises(InvalidValue, match="RandomForestClassifier, which only Python's pickle"):
        save_fusion(fusion, tmp_path / "fusion")
    assert not (tmp_path / "fusion").exists()


def test_a_class_without_holdout_rows_gets_none_from_an_estimator_of_yours():
    stack, targets = pool(rows=100)
    kept = np.flatnonzero(targets.labels_N != 2)
    fusion = Stacking(final_estimator=LogisticRegression()).fit(
        stack.take(kept), targets.take(kept), LogLoss()
    )
    fused = fusion(stack)
    assert fused.classes == stack.classes
    assert (fused.probs_NC[:, 2] == 0).all()


def test_values_by_a_forest():
    fit, truth, judge, judged = halves(*numbers(600, columns=("y",)))
    forest = RandomForestRegressor(30, random_state=0)
    fusion = Stacking(final_estimator=forest).fit(fit, truth, Rmse())
    assert rmse(fusion(judge), judged) < min(rmse(part, judged) for part in judge.parts)


def test_features_that_say_who_is_right_help():
    random = np.random.default_rng(0)
    stack, targets = pool(rows=800, noise=3.0)
    told_ND = np.eye(4)[targets.labels_N] + 1.5 * random.normal(size=(800, 4))
    known = Stack(stack.members, stack.parts, stack.classes, {"image": 100 + 50 * told_ND})
    results = {}
    for passthrough in (False, True):
        fit, truth, judge, judged = halves(known, targets)
        fusion = Stacking(passthrough=passthrough).fit(fit, truth, LogLoss())
        results[passthrough] = loss(fusion(judge), judged)
    assert results[True] < results[False] - 0.05


def test_features_are_asked_for_where_they_are_used():
    stack, targets = pool(rows=60)
    told = Stack(stack.members, stack.parts, stack.classes, {"image": np.ones((60, 2))})
    fusion = Stacking(passthrough=True).fit(told, targets, LogLoss())
    with pytest.raises(PredictionError, match="'image'"):
        fusion(stack)


def test_alike_members_pass_through_unless_features_do_too():
    stack, targets = pool(members=1, rows=60)
    told = Stack(stack.members, stack.parts, stack.classes, {"image": np.ones((60, 2))})
    assert isinstance(Stacking().fit(told, targets, LogLoss()), WeightedAverage)
    assert isinstance(Stacking(passthrough=True).fit(told, targets, LogLoss()), LogisticStack)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"final_estimator": "forest"}, "final_estimator is forest"),
        ({"final_estimator": 3}, "final_estimator is 3"),
        ({"inputs": "ranks"}, "inputs is ranks"),
        ({"final_estimator": "nonnegative", "passthrough": True}, "passthrough is true"),
    ],
)
def test_impossible_settings_are_refused(options, match):
    with pytest.raises(InvalidValue, match=match):
        Stacking(**options)


@pytest.mark.parametrize("options", [{"final_estimator": "logistic"}, {"inputs": "logits"}])
def test_values_have_no_probabilities(options):
    stack, targets = numbers()
    with pytest.raises(InvalidValue, match="stacking is to fuse values"):
        Stacking(**options).fit(stack, targets, Rmse())


def test_quantiles_are_refused():
    ids = np.array([f"row{n}" for n in range(20)])
    low_high = np.sort(np.random.default_rng(0).normal(size=(2, 20, 2)))
    parts = {f"m{m}": Values(ids, ("q1", "q9"), v, (0.1, 0.9)) for m, v in enumerate(low_high)}
    truth = Numbers(ids, ("y",), np.zeros((20, 1)))
    with pytest.raises(InvalidValue, match="stacking is to fuse quantiles"):
        Stacking().fit(Stack.align(parts), truth, Rmse())


def test_an_estimator_without_probabilities_is_refused():
    stack, targets = pool()
    with pytest.raises(InvalidValue, match="LinearSVC has no predict_proba"):
        Stacking(final_estimator=LinearSVC()).fit(stack, targets, Accuracy())
