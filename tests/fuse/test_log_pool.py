# SPDX-License-Identifier: Apache-2.0
"""The log pool against SciPy's optimizer, and its leave-one-out loss against leaving rows out."""

import numpy as np
import pytest
from scipy.optimize import minimize

from fusetune.errors import InvalidValue
from fusetune.fuse import log_opinion
from fusetune.fuse.forms import WeightedAverage
from fusetune.fuse.log_opinion import LogAverage, LogPoolProblem, log_probs_MCN
from fusetune.fuse.methods.distributions.geometric_mean import GeometricMean
from fusetune.fuse.methods.distributions.log_pool import LogPool
from fusetune.fuse.methods.distributions.mean import Mean
from fusetune.fuse.valley import valley
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.log_loss import LogLoss
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack
from pools import pool


def loss(prediction, targets):
    return LogLoss().value(LogLoss().statistics(prediction, targets))


def problem(stack, targets, weights_N=None, smoothing=1e-3):
    logs_MCN = log_probs_MCN(stack.parts, stack.classes, smoothing)
    weights_N = np.ones(len(stack)) if weights_N is None else weights_N
    return LogPoolProblem(logs_MCN, targets.columns(stack.classes), weights_N)


def losses(logs_MCN, columns_N, weights_M, biases_C):
    logits_CN = np.einsum("m,mcn->cn", weights_M, logs_MCN) + biases_C[:, None]
    top_N = logits_CN.max(axis=0)
    sums_N = np.log(np.exp(logits_CN - top_N).sum(axis=0)) + top_N
    return sums_N - logits_CN[columns_N, np.arange(logits_CN.shape[1])]


@pytest.mark.parametrize("penalty", [0.1, 10.0, 1_000.0])
@pytest.mark.parametrize("members", [2, 6])
def test_the_minimizer_is_scipys(penalty, members):
    stack, targets = pool(members=members, rows=120, noise=3.0)
    weights_N = np.random.default_rng(0).uniform(0, 2, size=120)
    logs_MCN = log_probs_MCN(stack.parts, stack.classes, 1e-3)
    columns_N = targets.columns(stack.classes)

    def objective(point):
        weights_M, biases_C = point[:members], point[members:]
        ridge = members * ((weights_M - 1 / members) ** 2).sum() + (biases_C**2).sum()
        return losses(logs_MCN, columns_N, weights_M, biases_C) @ weights_N + penalty / 2 * ridge

    bounds = [(0, None)] * members + [(None, None)] * 4
    start = np.concatenate([np.full(members, 1 / members), np.zeros(4)])
    reference = minimize(
        objective, start, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14}
    )
    found = problem(stack, targets, weights_N).fit(penalty)
    point = np.concatenate([found.weights_M, found.biases_C])
    assert found.weights_M.min() >= 0
    assert objective(point) <= reference.fun + 1e-6
    np.testing.assert_allclose(point, reference.x, atol=2e-3)


@pytest.mark.parametrize("exact_rows", [10_000, 0], ids=["exact", "series"])
@pytest.mark.parametrize("penalty", [1.0, 100.0])
def test_the_left_out_loss_is_that_of_leaving_each_row_out(exact_rows, penalty, monkeypatch):
    monkeypatch.setattr(log_opinion, "EXACT_ROWS", exact_rows)
    stack, targets = pool(members=3, rows=150, noise=2.0)
    own = []
    for row in range(150):
        kept = np.flatnonzero(np.arange(150) != row)
        fit = problem(stack.take(kept), targets.take(kept)).fit(penalty)
        logs_MCN = log_probs_MCN(stack.take(np.array([row])).parts, stack.classes, 1e-3)
        column_N = targets.take(np.array([row])).columns(stack.classes)
        own.append(losses(logs_MCN, column_N, fit.weights_M, fit.biases_C)[0])
    left_out = problem(stack, targets).fit(penalty).left_out_loss
    in_sample = losses(
        log_probs_MCN(stack.parts, stack.classes, 1e-3),
        targets.columns(stack.classes),
        *(lambda fit: (fit.weights_M, fit.biases_C))(problem(stack, targets).fit(penalty)),
    ).mean()
    assert abs(left_out - np.mean(own)) < 0.05 * (np.mean(own) - in_sample)


def test_an_infinite_penalty_leaves_the_geometric_mean():
    stack, targets = pool(rows=100)
    found = LogPool(penalties=(1e15,), smoothing=1e-4).fit(stack, targets, Accuracy())(stack)
    plain = GeometricMean(smoothing=1e-4).fit(stack, None, Accuracy())(stack)
    np.testing.assert_allclose(found.probs_NC, plain.probs_NC, rtol=1e-9)


def test_harmful_members_are_dropped():
    stack, targets = pool(members=3, rows=400, noise=0.5)
    wrong = Probabilities(stack.ids, stack.classes, np.roll(stack.parts[0].probs_NC, 1, axis=1))
    parts = dict(zip(stack.members, stack.parts, strict=True)) | {"wrong": wrong}
    fusion = LogPool().fit(Stack.align(parts, classes=stack.classes), targets, LogLoss())
    assert isinstance(fusion, LogAverage)
    assert "wrong" not in fusion.members
    assert fusion.weights_M.min() > 0


def test_over_confidence_and_neglected_classes_are_mended():
    stack, targets = pool(members=3, rows=2_000, noise=1.0)
    parts = {}
    for name, part in zip(stack.members, stack.parts, strict=True):
        bent_NC = part.probs_NC**4 * np.array([1, 1, 1, 0.05])
        parts[name] = Probabilities(
            stack.ids, stack.classes, bent_NC / bent_NC.sum(axis=1, keepdims=True)
        )
    bent = Stack.align(parts, classes=stack.classes)
    fit, judge = np.arange(1_000), np.arange(1_000, 2_000)
    fusion = LogPool().fit(bent.take(fit), targets.take(fit), LogLoss())
    sound = LogPool().fit(stack.take(fit), targets.take(fit), LogLoss())
    mended = loss(fusion(bent.take(judge)), targets.take(judge))
    assert mended < loss(sound(stack.take(judge)), targets.take(judge)) + 0.03
    assert mended < 0.85 * loss(
        Mean().fit(bent, None, LogLoss())(bent.take(judge)), targets.take(judge)
    )
    assert fusion.biases_C.argmax() == 3
    assert fusion.weights_M.sum() < 0.7


def test_few_rows_stay_close_to_the_geometric_mean():
    worse = []
    for seed in range(10):
        stack, targets = pool(members=5, rows=430, noise=1.0, seed=seed)
        fit, judge = np.arange(30), np.arange(30, 430)
        fusion = LogPool().fit(stack.take(fit), targets.take(fit), LogLoss())
        plain = GeometricMean().fit(stack, None, LogLoss())
        worse.append(
            loss(fusion(stack.take(judge)), targets.take(judge))
            - loss(plain(stack.take(judge)), targets.take(judge))
        )
    assert np.mean(worse) < 0.02


def test_a_member_that_fills_missing_classes_may_be_dropped():
    stack, targets = pool(members=3, rows=300, noise=0.5)
    wrong = Probabilities(stack.ids, stack.classes, np.roll(stack.parts[0].probs_NC, 1, axis=1))
    probs_NC = stack.parts[1].probs_NC[:, :3] / stack.parts[1].probs_NC[:, :3].sum(1, keepdims=True)
    part = Probabilities(stack.ids, stack.classes[:3], probs_NC)
    parts = {"whole": stack.parts[0], "part": part, "wrong": wrong}
    fusion = LogPool().fit(Stack.align(parts, classes=stack.classes), targets, LogLoss())
    assert fusion.members == ("whole", "part")
    again = LogPool().fit(
        Stack.align({name: parts[name] for name in fusion.members}, classes=stack.classes),
        targets,
        LogLoss(),
    )
    np.testing.assert_array_equal(fusion.weights_M, again.weights_M)


def test_members_of_no_use_leave_the_classes_shares():
    random = np.random.default_rng(0)
    ids = np.array([f"row{n}" for n in range(400)])
    stack, targets = pool(members=1, rows=400)
    turned = {
        f"m{m}": Probabilities(
            ids,
            stack.classes,
            np.roll(stack.parts[0].probs_NC, 1, axis=1) * 0.9
            + 0.1 * random.dirichlet(np.ones(4), 400),
        )
        for m in range(2)
    }
    bad = Stack.align(turned, classes=stack.classes)
    fused = LogPool(penalties=(1e-3,)).fit(bad, targets, LogLoss())(bad)
    shares = np.bincount(targets.labels_N) / 400
    assert loss(fused, targets) <= -(shares * np.log(shares)).sum() + 0.01


def test_one_member_passes_through():
    stack, targets = pool(members=1)
    fusion = LogPool().fit(stack, targets, LogLoss())
    assert isinstance(fusion, WeightedAverage)
    assert fusion(stack).probs_NC is stack.parts[0].probs_NC


def test_smoothing_falls_with_the_number_of_rows():
    for rows in (20, 200):
        stack, targets = pool(rows=rows)
        assert LogPool().fit(stack, targets, LogLoss()).smoothing == 2 / (rows + 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [("penalties", ()), ("penalties", (1.0, 0.0)), ("smoothing", 0.0), ("smoothing", 1.0)],
)
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(InvalidValue, match=f"{field} is "):
        LogPool(**{field: value})


@pytest.mark.parametrize("bottom", range(7))
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_bottom_of_a_valley_is_found_with_few_questions(count, bottom):
    asked = []

    def depth(index):
        asked.append(index)
        return abs(index - bottom)

    assert valley(depth, count) == min(bottom, count - 1)
    assert len(asked) == len(set(asked))


def test_on_a_plain_the_safest_is_taken():
    assert valley(lambda index: 0.0, 5) == 0
    assert valley(lambda index: -1e-6 * index, 5, enough=1e-5) == 0
