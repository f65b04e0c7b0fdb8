# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from fusetune.metrics.accuracy import Accuracy
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.targets import Targets
from fusetune.scout.subset import propose

IDS = np.array([f"r{n}" for n in range(300)])
CLASSES = ("a", "b", "c")
LABELS_N = np.arange(300) % 3
TARGETS = Targets(IDS, CLASSES, LABELS_N)


def probe(wrong: range, *, hesitant: float = 0.3) -> Probabilities:
    """Sure of the truth everywhere but on some rows, where it is rather sure of the next class."""
    probs_NC = np.full((300, 3), 0.05)
    probs_NC[np.arange(300), LABELS_N] = 0.9
    rows = np.array(wrong, dtype=int)
    probs_NC[rows] = 0.1
    probs_NC[rows, LABELS_N[rows]] = hesitant
    probs_NC[rows, (LABELS_N[rows] + 1) % 3] = 0.9 - hesitant
    return Probabilities(IDS, CLASSES, probs_NC)


PROBES = {
    "best": probe(range(60)),
    "twin": probe(range(61)),  # nearly as good, and wrong on the same rows
    "other": probe(range(100, 190)),
    "bad": probe(range(300), hesitant=0.05),
}


def test_one_that_errs_elsewhere_is_preferred_to_a_better_twin() -> None:
    found = propose(PROBES, TARGETS, Accuracy(), most=2)
    assert set(found.weights) == {"best", "other"}
    assert sum(found.weights.values()) == pytest.approx(1)
    assert next(iter(found.weights)) == "best"
    assert found.value == 1.0


def test_what_changes_nothing_is_taken_and_what_is_shown_to_be_worse_is_not() -> None:
    found = propose(PROBES, TARGETS, Accuracy(), most=4)
    assert set(found.weights) == {"best", "other", "twin"}


def test_never_more_than_asked_for() -> None:
    assert list(propose(PROBES, TARGETS, Accuracy(), most=1).weights) == ["best"]


def test_what_costs_too_much_has_to_gain_it() -> None:
    costs = {"best": 1.0, "twin": 1.0, "other": 1000.0, "bad": 1.0}
    found = propose(PROBES, TARGETS, Accuracy(), most=2, cost_penalty=0.5, costs=costs)
    assert "other" not in found.weights
    free = propose(PROBES, TARGETS, Accuracy(), most=2, costs=costs)
    assert "other" in free.weights
