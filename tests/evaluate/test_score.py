# SPDX-License-Identifier: Apache-2.0
"""Scores by name, with the real metrics."""

import numpy as np
import pytest

from fusetune.evaluate.score import scores
from fusetune.metric import Metric
from fusetune.plugins import find
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.targets import Targets


def test_scores_equal_scikit_learns() -> None:
    from sklearn.metrics import accuracy_score, log_loss

    random = np.random.default_rng(0)
    ids, classes = [f"r{row}" for row in range(80)], ("a", "b", "c")
    probs_NC = random.dirichlet([0.7, 1, 2], size=80)
    targets = Targets(ids, classes, random.integers(3, size=80))
    metrics = [find(Metric, name)() for name in ("log_loss", "accuracy")]
    found = scores(Probabilities(ids, classes, probs_NC), targets, metrics)
    assert list(found) == ["log_loss", "accuracy"]
    assert found["accuracy"] == accuracy_score(targets.labels_N, probs_NC.argmax(axis=1))
    assert found["log_loss"] == pytest.approx(log_loss(targets.labels_N, probs_NC))


def test_no_metric_gives_no_score() -> None:
    one = Probabilities(["r"], ("a",), np.ones((1, 1)))
    assert scores(one, Targets.from_names(["r"], ["a"]), []) == {}
