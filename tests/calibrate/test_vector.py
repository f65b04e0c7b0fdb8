# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from scipy.optimize import minimize

from fusetune.calibrate.calibrators.vector import Vector
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.targets import Targets
from pools import pool


@pytest.mark.parametrize(("classes", "penalty"), [(2, 3.0), (4, 0.5), (5, 100.0)])
@pytest.mark.parametrize("weighted", [False, True])
def test_scipy_finds_no_lower_loss(classes, penalty, weighted):
    stack, targets = pool(rows=150, classes=classes, noise=3.0)
    probs_NC, true_N = stack.parts[0].probs_NC, targets.labels_N
    weights_N = np.random.default_rng(1).random(150) if weighted else np.ones(150)
    weights_N /= weights_N.mean()
    logs_NC = np.log((1 - 1e-6) * probs_NC + 1e-6 / classes)

    def loss(flat):
        logits_NC = logs_NC * flat[:classes] + flat[classes:]
        sums_N = np.log(np.exp(logits_NC).sum(axis=1))
        away = ((flat[:classes] - 1) ** 2).sum() + (flat[classes:] ** 2).sum()
        return weights_N @ (sums_N - logits_NC[np.arange(150), true_N]) + penalty / 2 * away

    fitted = Vector(penalty=penalty).fit(stack.parts[0], targets, sample_weights_N=weights_N)
    start = np.repeat([1.0, 0.0], classes)
    found = minimize(loss, start, method="BFGS", options={"gtol": 1e-6})
    ours = np.concatenate([fitted.scales_C, fitted.biases_C])
    assert loss(ours) <= found.fun + 1e-9
    np.testing.assert_allclose(ours, found.x, atol=1e-4)


def test_wrong_class_shares_are_mended():
    random = np.random.default_rng(2)
    labels_N = random.choice(3, p=[0.7, 0.2, 0.1], size=3000)
    logits_NC = random.normal(size=(3000, 3))
    logits_NC[np.arange(3000), labels_N] += 2
    probs_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(axis=1, keepdims=True)
    member = Probabilities([f"row{n}" for n in range(3000)], ("a", "b", "c"), probs_NC)
    calibrated = Vector().fit(member, Targets(member.ids, member.classes, labels_N))(member)
    assert abs(probs_NC.mean(axis=0) - [0.7, 0.2, 0.1]).max() > 0.1
    np.testing.assert_allclose(calibrated.probs_NC.mean(axis=0), [0.7, 0.2, 0.1], atol=0.02)


def test_a_strong_penalty_is_the_identity():
    stack, targets = pool(noise=3.0)
    fitted = Vector(penalty=1e9).fit(stack.parts[0], targets)
    np.testing.assert_allclose(fitted(stack.parts[0]).probs_NC, stack.parts[0].probs_NC, atol=1e-6)
