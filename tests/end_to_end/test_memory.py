# SPDX-License-Identifier: Apache-2.0
"""A bound on memory holds for a pool that is larger than it: the kernel counts, not we."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow

MEMBERS, ROWS, CLASSES, GROUP = 40, 160_000, 10, 2**14


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    """256 MB of probabilities: a member's rows are another's, shifted, to be made in seconds."""
    folder = tmp_path_factory.mktemp("pool")
    random = np.random.default_rng(0)
    probs_NC = random.dirichlet(np.ones(CLASSES), size=ROWS).astype(np.float32)
    ids = [f"row-{row:07d}" for row in range(ROWS)]
    names = [f"class{column}" for column in range(CLASSES)]
    labels_N = probs_NC.argmax(axis=1)
    paths = []
    for member in range(MEMBERS):
        noisy_NC = (probs_NC + 2 * np.roll(probs_NC, 31 * member + 1, axis=0)) / 3
        columns = dict(zip(names, np.ascontiguousarray(noisy_NC.T), strict=True))
        paths.append(folder / f"member{member:02d}.parquet")
        table = pa.table({"id": ids, **columns})
        pq.write_table(table, paths[-1], row_group_size=GROUP, use_dictionary=False)
    targets = folder / "targets.parquet"
    pq.write_table(pa.table({"id": ids, "target": np.array(names)[labels_N]}), targets)
    return paths, targets


def peak_of(arguments: list[str | Path]) -> float:
    """Megabytes that the command took at most; of this process alone, not of other children."""
    code = (
        "import re, sys\n"
        "from fusetune.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        "status = open('/proc/self/status').read()\n"
        "print('peak', re.search(r'VmHWM:\\s+(\\d+) kB', status)[1])\n"
    )
    command = [sys.executable, "-c", code, "fuse", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) * 1024 / 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are counted in other units elsewhere")
def test_peak_memory_stays_below_the_bound(files: tuple[list[Path], Path], tmp_path: Path) -> None:
    paths, targets = files
    asked = [*paths, "--targets", targets, "--holdout", "0.5", "--no-report"]
    asked += ["--method", "mean", "--method", "weighted_mean", "--method", "greedy_selection"]
    bounded = peak_of([*asked, "--memory", "450MB", "--out", tmp_path / "bounded"])
    whole = peak_of([*asked, "--out", tmp_path / "whole"])
    assert bounded < 450
    assert bounded < 0.6 * whole
    results = json.loads((tmp_path / "bounded" / "results.json").read_text())
    expected = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert [m["scores"] for m in results["members"]] == [m["scores"] for m in expected["members"]]
    for one, other in zip(results["fusions"], expected["fusions"], strict=True):
        gap = one["scores"]["test"]["accuracy"] - other["scores"]["test"]["accuracy"]
        assert abs(gap) < 0.02  # of fusions fitted on a tenth of the rows
