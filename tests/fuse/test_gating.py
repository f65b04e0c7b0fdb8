# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest

from fusetune.errors import InvalidValue, PredictionError
from fusetune.fuse.forms import WeightedAverage
from fusetune.fuse.fusion import load_fusion, save_fusion
from fusetune.fuse.methods.distributions.gating import GatedAverage, Gating
from fusetune.fuse.methods.distributions.weighted_mean import WeightedMean
from fusetune.fuse.softmax_gate import LogLosses, SquaredErrors, fit_gate
from fusetune.metrics.log_loss import LogLoss
from fusetune.predictions.kinds import Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Numbers, Targets
from pools import pool

METRIC = LogLoss()


def log_loss(fused, targets):
    return METRIC.value(METRIC.statistics(fused, targets))


def two_sides(rows=1_500, seed=0, confidence=(0.8, 0.8)):
    """Two members, each right on its own side only; the feature tells the side."""
    random = np.random.default_rng(seed)
    truth_N, side_N = random.integers(3, size=rows), random.integers(2, size=rows)
    wrong_N = (truth_N + random.integers(1, 3, size=rows)) % 3
    ids = np.array([f"row{n}" for n in range(rows)])
    parts = {}
    for side in (0, 1):
        votes_N = np.where(side_N == side, truth_N, wrong_N)
        sure_N = np.where(side_N == side, confidence[0], confidence[1])[:, None]
        probs_NC = (1 - sure_N) / 3 + sure_N * np.eye(3)[votes_N]
        parts[f"side{side}"] = Probabilities(ids, tuple("xyz"), probs_NC)
    places = Values(ids, ("p", "q"), np.c_[side_N + random.normal(size=rows) / 5, np.ones(rows)])
    return Stack.align(parts, features={"place": places}), Targets(ids, tuple("xyz"), truth_N)


def halves(stack, targets):
    fit, judge = np.arange(len(stack) // 2), np.arange(len(stack) // 2, len(stack))
    return stack.take(fit), targets.take(fit), stack.take(judge), targets.take(judge)


@pytest.mark.parametrize("kind", ["log_loss", "squared_error"])
def test_the_slopes_are_those_of_differences(kind):
    random = np.random.default_rng(0)
    weights_NM = random.dirichlet(np.ones(3), size=5)
    loss = LogLosses(random.uniform(0.1, 1, size=(5, 3)))
    if kind == "squared_error":
        loss = SquaredErrors(random.normal(size=(5, 3, 2)))
    losses_N, slope_NM = loss(weights_NM)
    for m in range(3):
        moved_NM = weights_NM.copy()
        moved_NM[:, m] += 1e-6
        np.testing.assert_allclose((loss(moved_NM)[0] - losses_N) / 1e-6, slope_NM[:, m], rtol=1e-4)


def test_the_fit_is_stationary_for_a_penalized_loss_written_out():
    random = np.random.default_rng(1)
    features_NF, true_NM = random.normal(size=(80, 2)), random.uniform(0.05, 1, size=(80, 3))
    weights_N = random.uniform(0, 2, size=80)
    found_FM = fit_gate(features_NF, LogLosses(true_NM), weights_N, 0.7, np.zeros((3, 3)))

    def objective(coefficients_FM):
        total = 0.0
        for n in range(80):
            scores = [
                sum(features_NF[n, f] * coefficients_FM[f, m] for f in range(2))
                + coefficients_FM[2, m]
                for m in range(3)
            ]
            shares = np.exp(scores) / np.exp(scores).sum()
            total -= weights_N[n] * np.log(shares @ true_NM[n])
        squares = (coefficients_FM[:2] ** 2).sum() + 0.01 * (coefficients_FM[2] ** 2).sum()
        return total + 0.7 / 2 * squares

    best = objective(found_FM)
    for _ in range(30):
        assert objective(found_FM + 0.05 * random.normal(size=(3, 3))) > best
    for index in np.ndindex(3, 3):
        step = np.zeros((3, 3))
        step[index] = 1e-4
        slope = (objective(found_FM + step) - objective(found_FM - step)) / 2e-4
        assert abs(slope) < 1e-3


def test_a_feature_tells_where_each_member_is_good():
    stack, targets, new, truth = halves(*two_sides())
    fusion = Gating().fit(stack, targets, METRIC)
    assert isinstance(fusion, GatedAverage)
    assert (fusion(new).labels() == truth.names()).mean() > 0.97
    weights_NM = fusion.row_weights_NM(new)
    np.testing.assert_allclose(weights_NM.sum(axis=1), 1)
    assert weights_NM.max(axis=1).mean() > 0.9
    blind = Gating(features=()).fit(stack, targets, METRIC)
    assert isinstance(blind, WeightedAverage)  # both members are equally sure everywhere
    assert fusion.weights() is None


def test_what_the_members_say_tells_where_each_is_good():
    stack, targets, new, truth = halves(*two_sides(confidence=(0.9, 0.6)))
    bare = Stack(stack.members, stack.parts, stack.classes)
    fusion = Gating().fit(bare, targets, METRIC)
    assert isinstance(fusion, GatedAverage)
    assert log_loss(fusion(new), truth) < 0.6 * log_loss(
        WeightedMean().fit(stack, targets, METRIC)(new), truth
    )


def test_the_row_weights_are_the_formula():
    stack, targets = two_sides(rows=200)
    fusion = Gating(penalties=(3.0,)).fit(stack, targets, METRIC)
    inputs, order = [], []
    for part in stack.parts:
        top = np.sort(part.probs_NC, axis=1)
        entropy = -(part.probs_NC * np.log(part.probs_NC)).sum(axis=1) / np.log(3)
        differ = stack.parts[0].labels() != stack.parts[1].labels()
        inputs += [top[:, -1], entropy, top[:, -1] - top[:, -2], differ]
        order += [8] * 4
    inputs += list(stack.features["place"].T)
    order += [2] * 2
    inputs_NF = np.array(inputs, dtype=float).T
    deviations_F = inputs_NF.std(axis=0)
    deviations_F[deviations_F < 1e-9] = np.inf
    scaled_NF = np.clip((inputs_NF - inputs_NF.mean(axis=0)) / deviations_F, -5, 5)
    scaled_NF /= np.sqrt(order)
    scores_NM = scaled_NF @ fusion.coefficients_FM[:-1] + fusion.coefficients_FM[-1]
    expected_NM = np.exp(scores_NM) / np.exp(scores_NM).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fusion.row_weights_NM(stack), expected_NM, atol=1e-8)
    expected_NC = sum(expected_NM[:, [m]] * part.probs_NC for m, part in enumerate(stack.parts))
    np.testing.assert_allclose(fusion(stack).probs_NC, expected_NC, atol=1e-8)


def test_a_strong_penalty_leaves_fixed_weights_and_a_stronger_one_equal_ones():
    stack, targets = pool(members=3, rows=2_000, noise=2.0, seed=3)
    fixed = WeightedMean().fit(stack, targets, METRIC)
    known_M = np.array([fixed.weights().get(name, 0.0) for name in stack.members])
    for penalty, expected_M, margin in ((1e3, known_M, 0.1), (1e8, np.full(3, 1 / 3), 1e-3)):
        fusion = Gating(penalties=(penalty,)).fit(stack, targets, METRIC)
        weights_NM = fusion.row_weights_NM(stack)
        assert abs(weights_NM.mean(axis=0) - expected_M).max() < margin


def test_noise_and_few_rows_fall_back_to_the_plain_mean():
    random = np.random.default_rng(4)
    ids = np.array([f"row{n}" for n in range(300)])
    parts = {
        f"member{m}": Probabilities(ids, tuple("xyz"), random.dirichlet(np.ones(3), size=300))
        for m in range(3)
    }
    noise = {"noise": Values(ids, tuple("ab"), random.normal(size=(300, 2)))}
    stack = Stack.align(parts, features=noise)
    targets = Targets(ids, tuple("xyz"), random.integers(3, size=300))
    fusion = Gating().fit(stack, targets, METRIC)
    assert isinstance(fusion, WeightedAverage)
    np.testing.assert_allclose(list(fusion.weights().values()), 1 / 3)
    stack, targets = two_sides(rows=49)
    assert isinstance(Gating().fit(stack, targets, METRIC), WeightedAverage)
    assert isinstance(Gating(min_rows=49).fit(stack, targets, METRIC), GatedAverage)


def test_a_gate_keeps_the_laws(tmp_path):
    stack, targets, new, _ = halves(*two_sides(rows=400))
    fusion = Gating().fit(stack, targets, METRIC)
    assert isinstance(fusion, GatedAverage)
    fused = fusion(new)
    order = np.random.default_rng(0).permutation(len(new))
    np.testing.assert_allclose(
        fusion(new.take(order)).probs_NC, fused.probs_NC[order], rtol=1e-12, atol=1e-15
    )
    assert fusion(new.select(new.members[::-1])).probs_NC.tobytes() == fused.probs_NC.tobytes()
    save_fusion(fusion, tmp_path)
    assert load_fusion(tmp_path)(new).probs_NC.tobytes() == fused.probs_NC.tobytes()
    mixed = np.random.default_rng(1).permutation(len(stack))
    again = Gating().fit(stack.take(mixed), targets.take(mixed), METRIC)
    assert again.coefficients_FM.tobytes() == fusion.coefficients_FM.tobytes()
    same = dataclasses.replace(stack, parts=(stack.parts[0], stack.parts[0]))
    copies = Gating(penalties=(1.0,)).fit(same, targets, METRIC)(same)
    np.testing.assert_allclose(copies.probs_NC, stack.parts[0].probs_NC, rtol=1e-12)


def test_values_are_gated_by_features():
    random = np.random.default_rng(0)
    truth_ND, side_N = 10 * random.normal(size=(1_000, 2)), random.integers(2, size=1_000)
    ids, names = np.array([f"row{n}" for n in range(1_000)]), ("u", "v")
    parts = {}
    for side in (0, 1):
        noise_ND = np.where(side_N == side, 0.5, 8.0)[:, None] * random.normal(size=(1_000, 2))
        columns = [0, 1] if side == 0 else [1, 0]
        values_ND = (truth_ND + noise_ND)[:, columns]
        parts[f"side{side}"] = Values(ids, tuple(names[c] for c in columns), values_ND)
    features = {"place": Values(ids, ("p",), side_N[:, None] + random.normal(size=(1_000, 1)) / 5)}
    stack = Stack.align(parts, classes=names, features=features)
    fit, targets, new, truth = halves(stack, Numbers(ids, names, truth_ND))
    fusion = Gating().fit(fit, targets, METRIC)
    error = ((fusion(new).values_ND - truth.values_ND) ** 2).mean()
    assert isinstance(fusion(new), Values)
    assert error < 1.0  # 32 for one member, 16 for the plain mean
    blind = Gating(features=()).fit(fit, targets, METRIC)
    assert isinstance(blind, WeightedAverage)


def test_errors_have_three_parts():
    for wrong in ({"penalties": ()}, {"penalties": (0.0,)}, {"folds": 1}, {"min_rows": 0}):
        (name,) = wrong
        with pytest.raises(InvalidValue, match=rf"{name} is .*; expected .*Change it"):
            Gating(**wrong)
    stack, targets = pool(rows=60)
    with pytest.raises(PredictionError, match="'deep' are missing among 'seen'"):
        Gating(features=("deep",)).fit(stack, targets, METRIC)
    ids = np.array(["a", "b"])
    numbers = Numbers(ids, ("price", "size"), np.zeros((2, 2)))
    quantiles = Values(ids, ("low", "high"), np.zeros((2, 2)), (0.1, 0.9))
    with pytest.raises(PredictionError, match=r"given quantiles; expected .*Leave it out"):
        Gating().fit(Stack.align({"m": quantiles}), numbers, METRIC)
    named = Values(ids, ("cost", "weight"), np.zeros((2, 2)))
    with pytest.raises(PredictionError, match=r"predict 'cost', 'weight'; expected .*'price'"):
        Gating().fit(Stack.align({"m": named}), numbers, METRIC)
