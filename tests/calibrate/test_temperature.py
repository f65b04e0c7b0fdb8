# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import minimize_scalar

from fusetune.calibrate.calibrators.temperature import Temperature
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.targets import Targets
from pools import pool, pools


def objective(probs_NC, true_N, weights_N, smoothing, penalty):
    """The definition, from 1 / T to the penalized loss."""
    mixed_NC = (1 - smoothing) * probs_NC.astype(float) + smoothing / probs_NC.shape[1]

    def loss(inverse):
        powers_NC = mixed_NC**inverse
        true = powers_NC[np.arange(len(true_N)), true_N] / powers_NC.sum(axis=1)
        return -(weights_N @ np.log(true)) + penalty / 2 * (inverse - 1) ** 2

    return loss


@pytest.mark.parametrize("penalty", [0.0, 1.0, 50.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_scipy_finds_the_same_temperature(penalty, weighted):
    stack, targets = pool(rows=200, noise=3.0)
    part = stack.parts[0]
    weights_N = np.random.default_rng(1).random(200) if weighted else np.ones(200)
    weights_N /= weights_N.mean()
    fitted = Temperature(penalty=penalty).fit(part, targets, sample_weights_N=weights_N)
    loss = objective(part.probs_NC, targets.labels_N, weights_N, 1e-6, penalty)
    found = minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-10})
    assert 1 / fitted.temperature == pytest.approx(found.x, rel=1e-5)
    assert loss(1 / fitted.temperature) <= found.fun + 1e-10


def test_a_constant_member_gets_the_temperature_worked_out_by_hand():
    # logit(0.99) / T = logit(0.8), where the penalty is left out.
    ids = [f"row{n}" for n in range(10)]
    member = Probabilities(ids, ("a", "b"), np.tile([0.99, 0.01], (10, 1)))
    targets = Targets.from_names(member.ids, ["a"] * 8 + ["b"] * 2)
    fitted = Temperature(penalty=0, smoothing=1e-12).fit(member, targets)
    assert fitted.temperature == pytest.approx(np.log(99) / np.log(4), rel=1e-9)
    assert fitted(member).probs_NC[0] == pytest.approx([0.8, 0.2])


@settings(max_examples=50, deadline=None)
@given(drawn=pools(members=(1, 1)))
def test_the_order_of_the_classes_stays(drawn):
    stack, targets = drawn
    part = stack.parts[0]
    fitted = Temperature().fit(part, targets)
    before_NC, after_NC = part.probs_NC, fitted(part).probs_NC
    assert np.array_equal(before_NC.argmax(axis=1), after_NC.argmax(axis=1))
    smaller = before_NC[:, :, None] <= before_NC[:, None, :]
    assert (after_NC[:, :, None] <= after_NC[:, None, :])[smaller].all()


@pytest.mark.parametrize(("right", "wanted"), [(True, 0.01), (False, 100.0)])
def test_members_always_right_or_always_wrong_end_at_the_bounds(right, wanted):
    ids = [f"row{n}" for n in range(500)]
    member = Probabilities(ids, ("a", "b"), np.tile([0.51, 0.49], (500, 1)))
    targets = Targets.from_names(member.ids, ["a" if right else "b"] * 500, ("a", "b"))
    assert Temperature(penalty=0).fit(member, targets).temperature == pytest.approx(wanted)
    gentle = Temperature(penalty=1e4).fit(member, targets).temperature
    assert abs(gentle - 1) < 0.1 and (gentle < 1) == right


def test_even_rows_leave_the_temperature_at_one():
    member = Probabilities(["a", "b"], ("x", "y"), np.full((2, 2), 0.5))
    targets = Targets.from_names(member.ids, ["x", "x"])
    for penalty in (0, 1):
        assert Temperature(penalty=penalty).fit(member, targets).temperature == pytest.approx(1)


def test_few_rows_shrink_towards_the_identity():
    stack, targets = pool(rows=3000, noise=3.0)
    part = stack.parts[0]
    far = abs(np.log(Temperature().fit(part, targets).temperature))
    heavy = [
        abs(np.log(Temperature(penalty=p).fit(part, targets).temperature)) for p in (1e3, 1e5, 1e7)
    ]
    assert far > heavy[0] > heavy[1] > heavy[2]
    assert heavy[2] < 1e-3


def test_a_certain_mistake_costs_what_the_smoothing_says():
    member = Probabilities(["a"], ("x", "y"), np.array([[1.0, 0.0]]))
    targets = Targets.from_names(member.ids, ["y"], ("x", "y"))
    fitted = Temperature(penalty=1e9, smoothing=0.01).fit(member, targets)
    assert fitted(member).probs_NC[0] == pytest.approx([0.995, 0.005], rel=1e-5)
