# SPDX-License-Identifier: Apache-2.0
"""Checkpoints with a checksum: `torch.load` itself takes a changed byte for a weight."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from fusetune.atomic import replacing

__all__ = ["read_checkpoint", "write_checkpoint"]

DIGEST_BYTES = 32  # SHA-256, at the end, where readers of zip files pass over it


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values atomically."""
    with replacing(path) as temporary, temporary.open("w+b") as file:
        torch.save(content, file)  # to a file of ours: its errors say what the system said
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0, io.SEEK_END)
        file.write(digest)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """What `write_checkpoint` wrote, on the CPU; None if its bytes are not that any more."""
    with path.open("rb") as file:
        end = file.seek(0, io.SEEK_END) - DIGEST_BYTES
        file.seek(0)
        digest, left = hashlib.sha256(), end
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        if file.read() != digest.digest():
            return None
        file.seek(0)
        return dict(torch.load(file, map_location="cpu", weights_only=True))
