# SPDX-License-Identifier: Apache-2.0
"""What the objectives of numbers and of label sets do beyond the laws that all obey."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from fusetune.finetune.objectives.classification import Classification
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


BALANCED = FineTune(class_weights="balanced")


def test_balanced_class_weights_are_scikit_learns():
    labels_N = np.array([0, 0, 0, 0, 0, 2, 2, 3])
    weights_C = Classification().class_weights(labels_N, 4, BALANCED)
    assert weights_C[1] == 0
    known = np.array([0, 2, 3])
    np.testing.assert_allclose(
        weights_C[known], compute_class_weight("balanced", classes=known, y=labels_N), rtol=1e-6
    )
    assert Classification().class_weights(labels_N, 4, FineTune()) is None


def test_weighted_classes_count_alike_whatever_the_batch():
    labels_N = torch.tensor([0, 0, 0, 1])
    weights_C = torch.from_numpy(Classification().class_weights(labels_N.numpy(), 2, BALANCED))
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    plain_N = torch.nn.functional.cross_entropy(logits, labels_N, reduction="none")
    weighted = Classification().loss(logits, labels_N, BALANCED, weights_C)
    assert float(weighted) == pytest.approx(float((plain_N[:3].mean() + plain_N[3]) / 2), rel=1e-6)
    halves = [
        float(Classification().loss(logits[part], labels_N[part], BALANCED, weights_C))
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert np.mean(halves) == pytest.approx(float(weighted), rel=1e-6)
    probs = torch.nn.functional.one_hot(labels_N).float()  # as mixed images have them
    mixed = Classification().loss(logits, probs, BALANCED, weights_C)
    assert float(mixed) == pytest.approx(float(weighted), rel=1e-6)


def test_weighted_labels_count_alike_with_and_without():
    present_NC = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 1, 1]], np.float32)
    weights_C = Multilabel().class_weights(present_NC, 3, BALANCED)
    assert weights_C.tolist() == [3.0, 3.0, 1.0]
    zeros = torch.zeros(4, 3, requires_grad=True)
    Multilabel().loss(
        zeros, torch.from_numpy(present_NC), BALANCED, torch.from_numpy(weights_C)
    ).backward()
    assert zeros.grad[:, :2].sum(dim=0).tolist() == pytest.approx([0, 0], abs=1e-7)
