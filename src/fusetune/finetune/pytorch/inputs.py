# SPDX-License-Identifier: Apache-2.0
"""From pixels in memory to what a model sees, on its device.

Shapes: N rows, B rows of a batch, H height, W width, 3 RGB channels.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from fusetune.finetune.batches import Store, row_slices
from fusetune.finetune.pytorch.memory import is_out_of_memory, release
from fusetune.finetune.pytorch.precision import autocast
from fusetune.finetune.pytorch.views import Views, as_they_are
from fusetune.members.member import Preprocess
from fusetune.predictions.kinds import Array

__all__ = ["FeatureInput", "Feed", "ModelInput", "model_outputs"]

RESIDENT_SHARE = 0.25  # of the device's free memory, for the pixels of one split
EVALUATION_PIXELS = 256 * 224 * 224  # of one batch: 256 images of the usual size
DENSE_SHARE = 8  # of these where every place has an output
MOST_ROWS = 4096

Rows = npt.NDArray[np.int64]
Digest = Callable[[Tensor, Rows], Tensor]
"""From outputs of some rows to what is kept of them."""


class Feed:
    """The pixels of one split, or its features, on their way to the device.

    Args:
        store: The split's.
        device: Where they are wanted.

    Attributes:
        resident: `(N, H, W, 3)` uint8 on a GPU that has room for all of them, else None.
    """

    def __init__(self, store: Store, device: torch.device) -> None:
        self.store, self.device = store, device
        self.resident: Tensor | None = None
        if device.type == "cuda" and store.num_bytes is not None:
            free, _ = torch.cuda.mem_get_info(device)
            if store.num_bytes <= RESIDENT_SHARE * free:
                everything = store.batch(np.arange(len(store)))
                self.resident = torch.from_numpy(everything).to(device)

    def batches(self, rows: Sequence[Rows]) -> Iterator[Tensor]:
        """`(B, H, W, 3)` uint8 on the device, for one array of rows after the other.

        The next batch is decoded, pinned and copied while the caller works on this one.
        """
        if self.resident is not None:
            for some in rows:
                yield self.resident[torch.from_numpy(some).to(self.device)]
        elif self.device.type != "cuda" and self.store.is_decoded:
            for some in rows:
                yield torch.from_numpy(self.store.batch(some)).to(self.device)
        elif rows:  # none are left where a checkpoint was written after an epoch's last step
            yield from self._prefetched(rows)

    def _prefetched(self, rows: Sequence[Rows]) -> Iterator[Tensor]:
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

        def fetch(some: Rows) -> Tensor:
            pixels = torch.from_numpy(self.store.batch(some))
            if stream is None:
                return pixels.to(self.device)
            with torch.cuda.stream(stream):
                return pixels.pin_memory().to(self.device, non_blocking=True)

        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(fetch, rows[0])
            for some in [*rows[1:], None]:
                pixels = following.result()
                if some is not None:
                    following = pool.submit(fetch, some)
                if stream is not None:
                    current = torch.cuda.current_stream(self.device)
                    current.wait_stream(stream)
                    pixels.record_stream(current)
                yield pixels


class ModelInput:
    """Resizes and normalizes as a member wants it.

    Args:
        preprocess: The member's own.
        device: Of the pixels.
        memory_format: Of the result.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.preprocess, self.memory_format = preprocess, memory_format
        self.mean, self.std = (
            torch.tensor(v, device=device).view(1, 3, 1, 1)
            for v in (preprocess.mean, preprocess.std)
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        """`(B, 3, size, size)` normalized floats from `(B, H, W, 3)` uint8; dense, of the size given."""
        images = pixels.permute(0, 3, 1, 2).float() / 255
        size = self.preprocess.size
        fitted = self.preprocess.dense or tuple(images.shape[2:]) == (size, size)
        if not fitted:  # by the store already
            images = self._resized(images)
        images = (images - self.mean) / self.std
        return images.contiguous(memory_format=self.memory_format)

    def _resized(self, images: Tensor) -> Tensor:
        size, mode = self.preprocess.size, self.preprocess.interpolation
        shape = self.preprocess.resized(*images.shape[2:])
        smooth = {} if mode == "nearest" else {"antialias": True, "align_corners": False}
        images = functional.interpolate(images, shape, mode=mode, **smooth)
        top, left = ((side - size) // 2 for side in images.shape[2:])
        return images[:, :, top : top + size, left : left + size]


class FeatureInput:
    """Features as a head takes them: as they are.

    Args:
        preprocess: Of the images that they were made from.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, features: Tensor) -> Tensor:
        """`(B, D)`, the same."""
        return features


def model_outputs(
    model: nn.Module,
    feed: Feed,
    model_input: ModelInput | FeatureInput,
    precision: str = "fp32",
    views: Views = as_they_are,
    digest: Digest | None = None,
) -> Array:
    """`(N, ...)` main-head outputs in evaluation mode, means over views; the mode is restored.

    Where memory runs out, all rows are predicted again in batches of half the size.

    Args:
        model: On the feed's device.
        feed: The rows.
        model_input: From a batch of these to what the model takes.
        precision: `fp32` or `bf16`.
        views: What is seen of each row.
        digest: Its results are given instead, one batch's after another's; None: the outputs.
    """
    training, num = model.training, evaluation_batch(model_input, feed.device)
    model.eval()
    try:
        while True:
            try:
                with torch.inference_mode():
                    batches = _outputs(model, feed, model_input, precision, views, num)
                    kept = [one if digest is None else digest(one, rows) for one, rows in batches]
                    return torch.cat(kept).cpu().numpy()
            except RuntimeError as error:
                if num == 1 or not is_out_of_memory(error):
                    raise
            release(feed.device)
            num //= 2
    finally:
        model.train(training)


def _outputs(
    model: nn.Module,
    feed: Feed,
    model_input: ModelInput | FeatureInput,
    precision: str,
    views: Views,
    num: int,
) -> Iterator[tuple[Tensor, Rows]]:
    """One batch's outputs, and its rows, after another's."""

    def main(images: Tensor) -> Tensor:
        with autocast(precision, feed.device):
            outputs = model(images)
        return (outputs[0] if isinstance(outputs, tuple) else outputs).float()

    rows = list(row_slices(len(feed.store), num))
    for some, pixels in zip(rows, feed.batches(rows), strict=True):
        yield views(main, model_input(pixels)), some


def evaluation_batch(model_input: ModelInput | FeatureInput, device: torch.device) -> int:
    """Rows per batch where no gradients are kept: many on a GPU, which small ones leave idle."""
    preprocess = model_input.preprocess
    fitting = EVALUATION_PIXELS // preprocess.size**2
    if preprocess.dense:
        return max(1, min(256, fitting // DENSE_SHARE))
    if device.type != "cuda":
        return 256
    return max(64, min(MOST_ROWS, fitting))
