# SPDX-License-Identifier: Apache-2.0
"""ONNX: networks that onnxruntime runs as they are; nothing is fine-tuned.

Shapes: N images, B rows of a batch, H W pixels, 3 RGB channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusetune.atomic import replacing
from fusetune.data.inputs import Images
from fusetune.errors import InvalidValue, MemberFailed
from fusetune.finetune.batches import Pixels, PixelStore, fitted, row_slices
from fusetune.finetune.engine import Engine, History, Plan, Report, Split
from fusetune.finetune.settings import FineTune
from fusetune.members.member import Member, Preprocess
from fusetune.members.onnx_models import num_weights
from fusetune.predictions.kinds import Array, Floats

__all__ = ["Onnx"]

CONTENT = "onnx"
"""Name of the one tensor of a weights file: the bytes of the network."""


@dataclass(frozen=True, kw_only=True)
class Onnx(Engine):
    """Runs ONNX networks on the processor."""

    def check(self, member: Member, settings: FineTune) -> None:
        """Refuse to fine-tune.

        Raises:
            InvalidValue: Always.
        """
        raise InvalidValue(
            f"'{member.model.name}' is an ONNX network, and it is to be fine-tuned",
            "finetune: none: its file holds what it computes, not how it learns",
            "Write finetune: none at this member, or take a source of models that can be trained.",
        )

    def finetune(
        self, member: Member, plan: Plan, splits: tuple[Split, Split], work: Path, report: Report
    ) -> History:
        """Refused; `check` says so before any work."""
        self.check(member, plan.settings)
        raise AssertionError

    def outputs(self, member: Member, images: Images, report: Report) -> Array:
        """`(N, ...)` outputs, means over test-time views."""
        store, parts = PixelStore(images, member.preprocess), []
        for rows in row_slices(len(store), member.model.batch):
            seen_BHW3 = _normalized(store.batch(rows), member.preprocess)
            views = [member.model(view) for view in _views(seen_BHW3, member.preprocess)]
            parts.append(np.mean(views, axis=0) if len(views) > 1 else views[0])
        return np.concatenate(parts)

    def features(self, member: Member, images: Images, report: Report) -> tuple[Array, Array]:
        """Refused: which of its tensors goes into a head, the file does not say.

        Raises:
            MemberFailed: Always.
        """
        raise MemberFailed(
            f"'{member.model.name}' is an ONNX network, whose features are not known",
            "a model whose head is known, to be scouted or trained alone",
            "Leave it out there, and name it in members with finetune: none.",
        )

    def save(self, member: Member, path: Path) -> None:
        """Write the network's bytes as the one tensor of a safetensors file."""
        from safetensors.numpy import save_file

        with replacing(path) as temporary:
            save_file({CONTENT: np.frombuffer(member.model.content, np.uint8)}, str(temporary))

    def load(self, member: Member, path: Path) -> None:
        """Read a network that `save` wrote."""
        from safetensors.numpy import load_file

        member.model.load(load_file(str(path))[CONTENT].tobytes())

    def num_parameters(self, member: Member) -> int:
        """Number of the network's weights."""
        return num_weights(member.model.content)

    def finetune_bytes(self, member: Member, settings: FineTune) -> int | None:
        """Nothing: it is not fine-tuned."""
        return 0


def _normalized(pixels_BHW3: Pixels, preprocess: Preprocess) -> Floats:
    """`(B, size, size, 3)` floats; images that the store has left as they are get resized."""
    if pixels_BHW3.shape[1:3] != (preprocess.size,) * 2:
        pixels_BHW3 = np.stack([fitted(pixels, preprocess) for pixels in pixels_BHW3])
    mean, std = (np.array(part, np.float32) for part in (preprocess.mean, preprocess.std))
    return (pixels_BHW3.astype(np.float32) / 255 - mean) / std


def _views(images_BHW3: Floats, preprocess: Preprocess) -> Iterator[Floats]:
    """What the engine torch shows, too: see `pytorch.views`."""
    shift, (height, width) = preprocess.test_shift, images_BHW3.shape[1:3]
    padded = np.pad(images_BHW3, [(0, 0), (shift, shift), (shift, shift), (0, 0)], mode="edge")
    moves = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)] if shift else [(0, 0)]
    for down, right in moves:
        top, left = (1 - down) * shift, (1 - right) * shift
        moved = padded[:, top : top + height, left : left + width]
        yield moved
        if preprocess.test_flip:
            yield moved[:, :, ::-1]
