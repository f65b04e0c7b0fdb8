# SPDX-License-Identifier: Apache-2.0
"""Features that a frozen model's head reads, computed once and kept.

Shapes: N rows, D features.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from fusetune.data.inputs import PixelImages
from fusetune.errors import InvalidValue
from fusetune.finetune.engine import Engine
from fusetune.fuse.state_dicts import state_checksum
from fusetune.members.member import Member
from fusetune.predictions.kinds import Array, Floats

__all__ = [
    "NOT_LINEAR",
    "Features",
    "backbone_checksum",
    "check_linear_head",
    "makes_outputs",
    "no_linear_head",
    "read_about",
]

NOT_LINEAR = "outputs are not those of one linear layer on one vector of features"
TOLERANCE = 1e-4
"""Of the outputs' largest: two ways to sum the same products differ by about 1e-6 of it."""


@dataclass(frozen=True, eq=False)
class Features:
    """What goes into the head, of some of the prepared rows.

    Args:
        rows_N: `(N,)` positions among all prepared rows, ascending.
        features_ND: `(N, D)` float32, memory-mapped.
        backbone: Checksum of the weights that made them: all but the head's.
        seconds_per_row: What making them took, decoding included.
    """

    rows_N: Array
    features_ND: Floats
    backbone: str
    seconds_per_row: float

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """What `feature_rows` wrote; None if the model's head cannot be run by itself."""
        about = read_about(folder)
        if about["why_not"]:
            return None
        features_ND = np.load(folder / "features.npy", mmap_mode="r")
        rows_N = np.load(folder / "rows.npy")
        return cls(rows_N, features_ND, about["backbone"], about["seconds_per_row"])

    def take(self, rows: Array) -> Floats | None:
        """`(n, D)` features of some rows, copied; None if one of them is not there."""
        places = np.searchsorted(self.rows_N, rows).clip(max=len(self.rows_N) - 1)
        if not np.array_equal(self.rows_N[places], rows):
            return None
        return np.asarray(self.features_ND[places])


def makes_outputs(engine: Engine, member: Member, features_ND: Floats, outputs: Array) -> bool:
    """True if the head alone makes a model's outputs of its features."""
    of_features = engine.head_outputs(member, features_ND)
    if of_features is None or of_features.shape != outputs.shape:
        return False
    most = float(np.abs(outputs).max())
    return bool(np.abs(of_features - outputs).max() <= TOLERANCE * max(most, 1e-3))


def check_linear_head(engine: Engine, member: Member) -> None:
    """Refuse a model whose head cannot be solved for, found out on two random images.

    Raises:
        InvalidValue: Its outputs are not those of one linear layer.
    """
    side = member.preprocess.size
    pixels = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    features_ND, outputs = engine.features(member, PixelImages(pixels), lambda event: None)
    if not makes_outputs(engine, member, features_ND, outputs):
        raise no_linear_head()


def no_linear_head() -> InvalidValue:
    """The error for models whose outputs are not one linear layer's."""
    return InvalidValue(
        f"the model's {NOT_LINEAR}",
        "a model that ends in one linear layer, with train: probe or probe_then_full",
        "Write train: head, or head_then_full.",
    )


def read_about(folder: Path) -> dict[str, Any]:
    """What a features artifact says of itself."""
    return dict(json.loads((folder / "about.json").read_text(encoding="utf-8")))


def backbone_checksum(engine: Engine, member: Member) -> str:
    """SHA-256 of all weights and buffers but the head's."""
    state = engine.state(member)
    heads = tuple(f"{name}." for name in member.head)
    return state_checksum({name: v for name, v in state.items() if not name.startswith(heads)})
