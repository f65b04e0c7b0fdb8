# SPDX-License-Identifier: Apache-2.0
"""Runs whose steps are done in the tests' own process."""

import pytest

from inline import Here


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> type[Here]:
    """The runner, which has called nothing yet."""
    monkeypatch.setattr("fusetune.pipeline.Local", Here)
    monkeypatch.setattr(Here, "calls", [])
    monkeypatch.setattr(Here, "kill_before", "")
    return Here
