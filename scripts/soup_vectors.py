# SPDX-License-Identifier: Apache-2.0
"""Write tests/fuse/vectors/soups.json: what mergekit makes of small state dicts.

mergekit (LGPL) is installed in an environment of its own, and neither imported nor needed anywhere
else:

    python3 -m venv /tmp/mergekit && /tmp/mergekit/bin/pip install mergekit
    /tmp/mergekit/bin/python scripts/soup_vectors.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from mergekit.merge_methods.api import merge_state_dicts

OUT = Path(__file__).parents[1] / "tests" / "fuse" / "vectors" / "soups.json"
SHAPES = {"conv.weight": (4, 3, 2), "fc.bias": (5,)}
CASES = [
    ("linear", {"weight": 1.0}, {}),
    ("linear", {"weight": [0.5, 0.3, 0.2]}, {"weights": [0.5, 0.3, 0.2]}),
    ("task_arithmetic", {"weight": 1.0, "lambda": 0.4}, {"scaling": 0.4}),
    ("task_arithmetic", {"weight": 1.0, "lambda": 1.0}, {"scaling": 1.0}),
    ("ties", {"weight": 1.0, "density": 0.2}, {"density": 0.2, "scaling": 1.0}),
    (
        "ties",
        {"weight": 1.0, "density": 0.5, "lambda": 1.5},
        {"density": 0.5, "scaling": 1.5},
    ),
    ("ties", {"weight": 1.0, "density": 1.0}, {"density": 1.0, "scaling": 1.0}),
    ("model_stock", {}, {}),
]


def main() -> None:
    """Draw a start and three members that drift from it together, and merge them in every way."""
    random = np.random.default_rng(0)
    start = {name: random.normal(size=shape).round(3) for name, shape in SHAPES.items()}
    common = {name: random.normal(scale=0.2, size=shape) for name, shape in SHAPES.items()}
    members = [
        {
            name: (start[name] + common[name] + random.normal(scale=0.2, size=shape)).round(3)
            for name, shape in SHAPES.items()
        }
        for _ in range(3)
    ]
    cases = []
    for method, theirs, ours in CASES:
        with_start = method != "linear"
        states = {"start": start} if with_start else {}
        states |= {f"member{i}": member for i, member in enumerate(members)}
        merged = merge_state_dicts(
            {name: tensors(state) for name, state in states.items()},
            method,
            parameters=theirs,
            base="start" if with_start else None,
        )
        cases.append(
            {
                "method": method,
                "settings": ours,
                "merged": {name: tensor.tolist() for name, tensor in merged.items()},
            }
        )
    content = {
        "made_with": f"mergekit {version('mergekit')}",
        "start": plain(start),
        "members": [plain(member) for member in members],
        "cases": cases,
    }
    OUT.write_text(json.dumps(content) + "\n", encoding="utf-8")


def tensors(state: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The same numbers for mergekit, in double precision."""
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in state.items()}


def plain(state: dict[str, np.ndarray]) -> dict[str, list]:
    """The same numbers for JSON."""
    return {name: value.tolist() for name, value in state.items()}


if __name__ == "__main__":
    main()
