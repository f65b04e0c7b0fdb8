# SPDX-License-Identifier: Apache-2.0
"""Shared by all tests: where the real data lie, and one BLAS thread where bytes are compared."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data sets: `FUSETUNE_DATA`, or `../shared/data` beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FUSETUNE_DATA", beside))
    if not folder.is_dir():
        pytest.skip("the real data sets are not here (set FUSETUNE_DATA)")
    return folder
