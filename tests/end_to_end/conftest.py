# SPDX-License-Identifier: Apache-2.0
"""One recipe that runs in seconds, and one finished run of it that tests share."""

from pathlib import Path

import pytest

from support import SHORT, fusetune


@pytest.fixture(scope="session")
def short_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of about ten seconds."""
    path = tmp_path_factory.mktemp("recipe") / "short.yaml"
    path.write_text(SHORT)
    return path


@pytest.fixture(scope="session")
def finished_run(short_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the short recipe; tests leave it as it is."""
    out = tmp_path_factory.mktemp("runs") / "short"
    done = fusetune("run", short_recipe, "--out", out)
    assert done.returncode == 0, done.stderr
    return out
