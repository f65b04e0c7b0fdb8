# SPDX-License-Identifier: Apache-2.0
"""One thread: on a busy machine, several wait for each other longer than these small nets take."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
