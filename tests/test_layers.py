# SPDX-License-Identifier: Apache-2.0
"""What fusing files needs to import: arrays, and nothing heavier."""

import subprocess
import sys
from pathlib import Path

import fusetune

ROOT = Path(fusetune.__file__).parent
LIGHT = [
    "choose",
    "fuse",
    "calibrate",
    "metrics",
    "metric",
    "predictions",
    "plugins",
    "errors",
    "evaluate",
    "task",
]
HEAVY = ["torch", "torchvision", "transformers", "timm", "keras", "ray", "pydantic", "typer"]
SLOW = ["scipy.optimize", "scipy.stats", "sklearn", "matplotlib", "pandas"]


def light_modules():
    for name in LIGHT:
        if (ROOT / f"{name}.py").is_file():
            yield f"fusetune.{name}"
        for path in sorted((ROOT / name).rglob("*.py")):
            dotted = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
            yield dotted.removesuffix(".__init__")


def loaded_after(code):
    """Names of all modules that a fresh interpreter holds after running the code."""
    code += "; import sys; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_everything_from_choose_down_needs_arrays_only():
    modules = list(light_modules())
    assert {"fusetune.choose", "fusetune.fuse.forms", "fusetune.evaluate.verdict"} <= {*modules}
    loaded = loaded_after(f"import {', '.join(modules)}")
    assert {*modules} <= loaded
    assert not loaded & {*HEAVY, *SLOW}


def test_fusing_needs_arrays_only():
    code = (
        "import numpy as np;"
        "from fusetune.choose import choose; from fusetune.plugins import discover;"
        "from fusetune.fuse.method import FusionMethod; from fusetune.metrics.accuracy import Accuracy;"
        "from fusetune.predictions.kinds import Probabilities, Values;"
        "from fusetune.predictions.stack import Stack; from fusetune.predictions.targets import Targets;"
        "ids, names = list('abcdefghijklmnop'), ('x', 'y');"
        "p = np.linspace(0.1, 0.9, 16);"
        "one = Probabilities(ids, names, np.stack([p, 1 - p], 1));"
        "two = Probabilities(ids, names, np.stack([p**2, 1 - p**2], 1));"
        "features = {'seen': Values(ids, ('x',), p[:, None])};"
        "stack = Stack.align({'one': one, 'two': two}, features=features);"
        "choose(stack, Targets(ids, names, np.array([1, 0] * 8)),"
        " Accuracy(), {name: method() for name, method in discover(FusionMethod).items()"
        " if Probabilities in method.accepts})"
    )
    assert not loaded_after(code) & {*HEAVY, "sklearn", "pandas", "matplotlib", "numba"}


def test_importing_fusetune_loads_nothing_heavy():
    assert not loaded_after("import fusetune") & {*HEAVY, *SLOW, "numpy", "pydantic", "typer"}
