# SPDX-License-Identifier: Apache-2.0
"""The demo as a newcomer runs it; `benchmarks/demo_seeds.py` looks at ten seeds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import fusetune

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    done = fusetune("demo", "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"Report: {out}/report.html" in done.stdout
    return out


def test_every_member_is_good_and_the_chosen_one_no_worse_than_the_best(demo: Path) -> None:
    results = json.loads((demo / "results.json").read_text())
    assert results["rows"] == {"train": 260, "validation": 40, "holdout": 300, "test": 1197}
    members = [m["scores"]["test"]["accuracy"] for m in results["members"]]
    fusions = {f["name"]: f["scores"]["test"]["accuracy"] for f in results["fusions"]}
    assert len(members) == 3
    assert min(members) >= 0.90
    assert fusions[results["chosen"]] >= max(members) - 0.005
    assert {"vote", "mean", "weighted_mean", "stacking", "greedy_selection", "auto"} <= set(fusions)


def test_it_needs_no_network(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("there is no `unshare` to cut the network with")
    cut = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*cut, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system does not let us cut the network")
    command = [sys.executable, "-m", "fusetune", "demo", "--out", str(tmp_path / "demo")]
    done = subprocess.run(
        [*cut, *command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo" / "report.html").exists()
