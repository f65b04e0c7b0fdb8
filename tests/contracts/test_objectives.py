# SPDX-License-Identifier: Apache-2.0
"""Laws of every objective: its loss leads to the truth, its predictions are of the tasks' kind."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from fusetune.errors import InvalidValue
from fusetune.finetune.judging import Judging
from fusetune.finetune.objective import Objective
from fusetune.finetune.settings import FineTune
from fusetune.plugins import discover
from fusetune.predictions.kinds import Marginals, Probabilities, Values
from fusetune.predictions.targets import LabelSets, Numbers, Targets
from fusetune.task import Task
from fusetune.values import build, plain

OBJECTIVES = discover(Objective)
KINDS = {
    task.objective: task.kind for task in discover(Task).values() if task.objective is not None
}
NUM_ROWS = 24
IDS = np.array([f"row{n}" for n in range(NUM_ROWS)])
ROWS = np.arange(NUM_ROWS)
COLUMNS = ("x", "y", "z")


def truth(kind):
    random = np.random.default_rng(0)
    if kind is Probabilities:
        return Targets(IDS, COLUMNS, random.integers(0, 3, NUM_ROWS))
    if kind is Marginals:
        return LabelSets(IDS, COLUMNS, random.random((NUM_ROWS, 3)) < [0.2, 0.5, 0.8])
    assert kind is Values
    return Numbers(IDS, COLUMNS, random.normal([0, 1000, -2], [1, 300, 0.01], (NUM_ROWS, 3)))


def error(prediction, targets) -> float:
    """How far a prediction is from the truth, in the numbers' own spread."""
    if isinstance(targets, Targets):
        return float(1 - prediction.probs_NC[ROWS, targets.labels_N].mean())
    if isinstance(targets, LabelSets):
        return float(np.abs(prediction.probs_NC - targets.present_NC).mean())
    spread_D = targets.values_ND.std(axis=0)
    return float(np.abs((prediction.values_ND - targets.values_ND) / spread_D).mean())


OF_LOGITS = [name for name, objective in OBJECTIVES.items() if objective.takes == "logits"]
"""Detectors give their losses themselves: see tests/finetune/test_detection.py."""


@pytest.fixture(params=OF_LOGITS)
def case(request):
    """An objective fitted to some targets, these, and outputs to start from."""
    targets = truth(KINDS[request.param])
    objective = OBJECTIVES[request.param]().fitted(targets)
    outputs = torch.randn(NUM_ROWS, 3, generator=torch.Generator().manual_seed(0))
    return objective, targets, outputs


def test_every_objective_serves_a_task():
    assert set(OBJECTIVES) == set(KINDS)


def test_following_the_loss_leads_to_the_truth(case):
    objective, targets, outputs = case
    wanted = torch.from_numpy(objective.collate(targets, ROWS))
    before = error(objective.to_prediction(IDS, COLUMNS, outputs.numpy()), targets)
    learned = outputs.clone().requires_grad_()
    optimizer = torch.optim.Adam([learned], lr=0.3)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = objective.loss(learned, wanted, FineTune())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]
    after = error(objective.to_prediction(IDS, COLUMNS, learned.detach().numpy()), targets)
    assert after < 0.05 < before


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_following_a_teacher_leads_to_what_it_says(case, temperature):
    objective, _, outputs = case
    if "distill" in objective.unused:
        return
    said = torch.randn(NUM_ROWS, 3, generator=torch.Generator().manual_seed(1))
    soft = torch.from_numpy(objective.soft_targets(said.numpy(), temperature))
    assert soft.dtype == torch.float32 and len(soft) == NUM_ROWS
    assert float(objective.teaching_loss(said, soft, temperature)) == pytest.approx(0, abs=1e-5)
    learned = outputs.clone().requires_grad_()
    optimizer = torch.optim.Adam([learned], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss = objective.teaching_loss(learned, soft, temperature)
        assert float(loss.detach()) > -1e-6
        loss.backward()
        optimizer.step()
    ours, theirs = (
        objective.to_prediction(IDS, COLUMNS, made.detach().numpy()) for made in (learned, said)
    )
    np.testing.assert_allclose(ours.array_NC, theirs.array_NC, rtol=0.02, atol=0.02)


def test_the_prediction_is_of_the_tasks_kind_and_names_rows_and_columns(case):
    objective, _, outputs = case
    large = outputs.numpy() * 30
    prediction = objective.to_prediction(IDS, COLUMNS, large)
    assert type(prediction) is KINDS[objective.name]
    assert prediction.ids.tolist() == IDS.tolist()
    assert prediction.columns == COLUMNS
    few = objective.to_prediction(IDS[[3, 1]], COLUMNS, large[[3, 1]])
    np.testing.assert_array_equal(few.array_NC, prediction.array_NC[[3, 1]])


def test_the_validation_loss_is_the_training_loss(case):
    objective, targets, outputs = case
    wanted = objective.collate(targets, ROWS)
    trained = objective.loss(outputs, torch.from_numpy(wanted), FineTune())
    figures = objective.scores(outputs.numpy(), wanted)
    assert figures["loss"] == pytest.approx(float(trained), rel=1e-5)
    assert all(type(value) is float for value in figures.values())
    assert tuple(figures) == objective.figures


def test_epochs_are_chosen_by_its_own_figures_and_by_metrics(case):
    objective, targets, outputs = case
    worse, wanted = outputs.numpy(), objective.collate(targets, ROWS)
    better = np.eye(3)[wanted] if wanted.ndim == 1 else wanted
    if KINDS[objective.name] is not Values:
        better = 6 * better - 3
    assert {*objective.metrics(), *objective.figures} > {"loss"}
    for name in (*objective.figures, *objective.metrics()):
        objective.check(FineTune(stop_by=name))
        judging = Judging(objective, name, targets, COLUMNS)
        good, bad = (judging.figures(np.float32(one)) for one in (better, worse))
        assert name in good
        assert judging.goodness(good) > judging.goodness(bad), name
        objective.check(FineTune(stop_by=name))
    with pytest.raises(InvalidValue, match=r"finetune.stop_by is precision; expected one of loss"):
        objective.check(FineTune(stop_by="precision"))


def test_a_batch_has_the_rows_that_were_asked_for(case):
    objective, targets, _ = case
    whole = objective.collate(targets, ROWS)
    np.testing.assert_array_equal(objective.collate(targets, ROWS[[5, 2]]), whole[[5, 2]])


def test_auxiliary_heads_count_their_weight(case):
    objective, targets, outputs = case
    wanted = torch.from_numpy(objective.collate(targets, ROWS))
    one, other = outputs, outputs.flip(0)

    def loss(heads):
        return float(objective.loss(heads, wanted, FineTune()))

    expected = loss(one) + objective.auxiliary_weight * loss(other)
    assert loss((one, other)) == pytest.approx(expected, rel=1e-6)
    assert loss((one, None)) == pytest.approx(loss(one), rel=1e-6)


def test_label_smoothing_is_used_or_refused(case):
    objective, targets, outputs = case
    wanted = torch.from_numpy(objective.collate(targets, ROWS))
    smoothing = FineTune(label_smoothing=0.2)
    objective.check(FineTune())
    if "label_smoothing" in objective.unused:
        with pytest.raises(InvalidValue, match=r"finetune.label_smoothing is 0.2, and the obj"):
            objective.check(smoothing)
        return
    objective.check(smoothing)

    def loss(**keys):
        return objective.loss(outputs, wanted, FineTune(**keys))

    assert not torch.isclose(loss(label_smoothing=0), loss(label_smoothing=0.2))
    assert torch.equal(loss(), loss(label_smoothing=0))


def test_settings_of_nothing_are_no_settings(case):
    """Whoever switches off what is not there has not asked for anything."""
    objective, _, _ = case
    objective.check(FineTune(label_smoothing=0))


def test_balance_is_used_or_refused(case):
    objective, targets, _ = case
    everything = objective.collate(targets, ROWS)
    for name, value in (
        ("class_weights", objective.class_weights),
        ("sampling", lambda t, _, settings: objective.strata(t, settings)),
    ):
        balanced = FineTune(**{name: "balanced"})
        assert value(everything, len(COLUMNS), FineTune()) is None
        if name in objective.unused:
            with pytest.raises(InvalidValue, match=f"finetune.{name} is balanced, and the obj"):
                objective.check(balanced)
            continue
        objective.check(balanced)
        length = len(COLUMNS) if name == "class_weights" else NUM_ROWS
        assert value(everything, len(COLUMNS), balanced).shape == (length,)


def test_a_fitted_objective_is_saved_as_plain_values(case, tmp_path):
    objective, _, outputs = case
    again = build(type(objective), plain(objective), "the objective", tmp_path)
    assert again == objective
    assert all(field.kw_only for field in fields(objective))
    first, second = (o.to_prediction(IDS, COLUMNS, outputs.numpy()) for o in (objective, again))
    np.testing.assert_array_equal(first.array_NC, second.array_NC)


def test_the_loss_of_mixed_targets_lies_between(case):
    objective, targets, outputs = case
    own = torch.from_numpy(objective.collate(targets, ROWS))
    others = own.roll(1, 0)

    def loss(share: float) -> float:
        shares_B = torch.full((NUM_ROWS,), share)
        mixed = objective.mixed(own, others, shares_B, len(COLUMNS))
        return float(objective.loss(outputs, mixed, FineTune()))

    ends = [float(objective.loss(outputs, end, FineTune())) for end in (others, own)]
    assert [loss(0.0), loss(1.0)] == pytest.approx(ends, rel=1e-6)
    assert loss(0.5) <= (ends[0] + ends[1]) / 2 + 1e-6
