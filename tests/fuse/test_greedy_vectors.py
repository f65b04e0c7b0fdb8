# SPDX-License-Identifier: Apache-2.0
"""Greedy selection gives the weights that autogluon.core's EnsembleSelection gave on small pools.

`benchmarks/greedy_selection.py --vectors` wrote them, and compares on large pools.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from fusetune.fuse.methods.distributions.greedy_selection import GreedySelection
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.log_loss import LogLoss
from fusetune.predictions.kinds import Probabilities
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import Targets

VECTORS = json.loads((Path(__file__).parent / "vectors" / "greedy_selection.json").read_text())
METRICS = {"log_loss": LogLoss(), "accuracy": Accuracy()}


@pytest.mark.parametrize("number", range(len(VECTORS["cases"])))
def test_the_peers_weights_come_out(number):
    case = VECTORS["cases"][number]
    labels_N, classes = np.array(case["labels"]), ("a", "b", "c")
    ids = np.arange(len(labels_N))
    parts = {
        f"m{m}": Probabilities(ids, classes, np.array(probs_NC))
        for m, probs_NC in enumerate(case["probs"])
    }
    stack = Stack.align(parts, classes=classes)
    method = GreedySelection(rounds=VECTORS["rounds"])
    fusion = method.fit(stack, Targets(stack.ids, classes, labels_N), METRICS[case["metric"]])
    weights = [fusion.weights().get(member, 0.0) for member in stack.members]
    assert weights == pytest.approx(case["weights"], abs=1e-12)
