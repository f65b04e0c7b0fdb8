# SPDX-License-Identifier: Apache-2.0
"""What the objectives of numbers and of label sets do beyond the laws that all obey."""

import numpy as np
import pytest
import torch

from fusetune.finetune.objectives.multilabel import Multilabel
from fusetune.finetune.objectives.regression import Regression
from fusetune.finetune.settings import FineTune
from fusetune.predictions.targets import LabelSets, Numbers

IDS = np.array(["a", "b", "c", "d"])


def test_numbers_are_learned_in_units_of_the_train_rows_spread():
    train = Numbers(IDS, ("price", "age"), [[1e6, 7.0], [3e6, 7.0], [1e6, 7.0], [3e6, 7.0]])
    objective = Regression().fitted(train)
    assert objective.mean == (2e6, 7.0)
    assert objective.deviation == (1e6, 1.0)  # equal numbers keep their own unit
    test = Numbers(IDS[:1], ("price", "age"), [[5e6, 8.5]])
    standardized_BD = objective.collate(test, np.array([0]))
    assert standardized_BD.tolist() == [[3.0, 1.5]]
    assert standardized_BD.dtype == np.float32
    prediction = objective.to_prediction(IDS[:1], ("price", "age"), standardized_BD)
    assert prediction.values_ND.tolist() == [[5e6, 8.5]]
    assert prediction.values_ND.dtype == np.float64


def test_a_head_that_gives_zero_predicts_the_train_mean_at_a_loss_of_one():
    numbers_N1 = np.random.default_rng(0).normal(50, 9, (400, 1))
    train = Numbers(np.arange(400).astype(str), ("x",), numbers_N1)
    objective = Regression().fitted(train)
    zeros = np.zeros((400, 1), np.float32)
    figures = objective.scores(zeros, objective.collate(train, np.arange(400)))
    assert figures == {"loss": pytest.approx(1, abs=1e-6)}
    said = objective.to_prediction(train.ids, ("x",), zeros).values_ND
    assert said[0, 0] == pytest.approx(numbers_N1.mean())


def test_label_sets_are_scored_by_hand_computed_figures():
    truth = LabelSets(IDS[:2], ("x", "y"), [[True, False], [False, False]])
    logits = np.log(np.array([[0.8 / 0.2, 0.4 / 0.6], [0.5 / 0.5, 0.9 / 0.1]]))
    wanted = Multilabel().collate(truth, np.arange(2))
    figures = Multilabel().scores(logits, wanted)
    expected = -np.mean(np.log([0.8, 0.6, 0.5, 0.1]))
    assert figures == {"loss": pytest.approx(expected), "hamming_accuracy": 0.75}
    prediction = Multilabel().to_prediction(IDS[:2], ("x", "y"), logits)
    np.testing.assert_allclose(prediction.probs_NC, [[0.8, 0.4], [0.5, 0.9]])


def test_smoothed_labels_lie_between_right_and_a_half():
    wanted, settings = torch.tensor([[1.0]]), FineTune(label_smoothing=0.2)
    best = torch.logit(torch.tensor([[0.9]]))  # the minimum lies where the target does
    losses = [float(Multilabel().loss(best + move, wanted, settings)) for move in (-0.1, 0, 0.1)]
    assert losses[1] == min(losses)


def test_logits_far_from_zero_cost_finite_losses():
    wanted = np.array([[1.0, 0.0]], np.float32)
    assert Multilabel().scores(np.array([[-500.0, 500.0]]), wanted)["loss"] == pytest.approx(500)
