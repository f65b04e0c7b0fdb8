# SPDX-License-Identifier: Apache-2.0
"""A few rows with tiny images: what tests of data share."""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fusetune.data.dataset import Dataset, Rows
from fusetune.data.inputs import EncodedImages
from fusetune.data.prepare import Prepared, prepare
from fusetune.data.roles import Roles


@dataclass(frozen=True, kw_only=True)
class Given(Dataset):
    """Rows made in the test."""

    rows: Rows

    def read(self) -> Rows:
        return self.rows


def png(seed: int, size: int = 6) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def rows(count: int = 40, first: int = 0, *, prefix: str = "row", num_classes: int = 2) -> Rows:
    numbers = range(first, first + count)
    return Rows(
        ids=np.array([f"{prefix}-{number}" for number in numbers]),
        images=EncodedImages.of([png(number) for number in numbers]),
        labels=np.array(["abcdef"[number % num_classes] for number in numbers]),
    )


def ready(given: Rows | Mapping[str, Rows], roles: Roles | None = None, **options: int) -> Prepared:
    parts = {"all": given} if isinstance(given, Rows) else given
    return prepare({k: Given(rows=v) for k, v in parts.items()}, roles or Roles(), **options)
