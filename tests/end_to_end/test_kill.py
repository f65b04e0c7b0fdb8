# SPDX-License-Identifier: Apache-2.0
"""A kill in every phase of a short run; `scripts/kill_test.py --kills 50` does more on the demo."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def script(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(
    short_recipe: Path, tmp_path: Path
) -> None:
    script("kill_test").kill_and_compare(short_recipe, tmp_path, kills=6, seed=1)
