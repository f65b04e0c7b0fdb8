# SPDX-License-Identifier: Apache-2.0
"""Soups against mergekit's results on the same state dicts (scripts/soup_vectors.py).

Where conventions differ: mergekit trims TIES tensor by tensor and we the whole model, so each tensor
is a model of its own here; its `lambda` is our scaling of task vectors; it keeps no Model Stock ratio
in [0, 1], which these vectors do not leave.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from fusetune.fuse.soup import Candidate, Ingredients
from fusetune.fuse.soups.model_stock import ModelStock
from fusetune.fuse.soups.task_arithmetic import TaskArithmetic
from fusetune.fuse.soups.ties import Ties
from fusetune.fuse.soups.uniform_soup import UniformSoup
from fusetune.fuse.state_dicts import averaged

VECTORS = json.loads((Path(__file__).parent / "vectors" / "soups.json").read_text())


def trial(state, *, refresh=True):
    return Candidate(state=state, score=0.0, loss=0.0)


def ours(case, ingredients):
    method, settings = case["method"], dict(case["settings"])
    if method == "linear":
        if not settings:
            return UniformSoup().cook(ingredients, trial).candidate.state
        weights = dict(zip(ingredients.members, settings["weights"], strict=True))
        return averaged(ingredients, weights)
    if "scaling" in settings:
        settings["scalings"] = (settings.pop("scaling"),)
    plugin = {"task_arithmetic": TaskArithmetic, "ties": Ties, "model_stock": ModelStock}[method]
    return plugin(**settings).cook(ingredients, trial).candidate.state


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda c: f"{c['method']}-{c['settings']}")
def test_mergekit_gives_the_same(case):
    for name, expected in case["merged"].items():
        states = [{name: np.array(member[name])} for member in VECTORS["members"]]
        members = {f"member{i}": trial(state) for i, state in enumerate(states)}
        start = {name: np.array(VECTORS["start"][name])}
        merged = ours(case, Ingredients(members=members, start=start))
        np.testing.assert_allclose(merged[name], expected, rtol=1e-6, atol=1e-7)
