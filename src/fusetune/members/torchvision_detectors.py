# SPDX-License-Identifier: Apache-2.0
"""torchvision's detection models as `detectors` has them: tensors of objects in, tensors out.

Shapes: B rows of a batch, K objects, D detections, H W pixels.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fusetune.members.detectors import NUM_DETECTIONS, train_objects

__all__ = ["TorchvisionDetector"]

ASKING = ("", "transform", "rpn", "roi_heads")
"""Modules that ask whether they train, to tell losses from detections."""


class TorchvisionDetector(nn.Module):
    """A detection model of torchvision behind the one interface of all detectors.

    Its own resizing is switched off by whoever builds it: images come as they are to be seen.

    Args:
        net: Of `torchvision.models.detection`.
        first_label: Number that it gives the first class: 1 where 0 is the background.
    """

    def __init__(self, net: nn.Module, first_label: int) -> None:
        super().__init__()
        self.net, self.first_label = net, first_label

    def forward(self, images: Tensor, objects: Tensor | None = None) -> Tensor:
        """The losses in the order of their names, or `(B, D, 6)` detections; see `detectors`."""
        sides = images.new_tensor([images.shape[3], images.shape[2]]).repeat(2)
        objects = train_objects(images, objects, training=self.training)
        if objects is None:
            found: Any = self._ask(images, None)
            return torch.stack([self._dense(one, sides) for one in found])
        told = [self._target(one, sides) for one in objects]
        losses: Any = self._ask(images, told)
        return torch.stack([losses[name] for name in sorted(losses)])

    def _ask(self, images: Tensor, told: list[dict[str, Tensor]] | None) -> Any:  # noqa: ANN401 - losses by name, or a dictionary per image
        """What the model says in the mode that fits; frozen layers keep theirs."""
        names = dict(self.net.named_modules())
        asking = [names[name] for name in ASKING if name in names]
        modes = [module.training for module in asking]
        try:
            for module in asking:
                module.training = told is not None
            return self.net(list(images), told)
        finally:
            for module, mode in zip(asking, modes, strict=True):
                module.training = mode

    def _target(self, objects: Tensor, sides: Tensor) -> dict[str, Tensor]:
        """The objects that are there and have a size, as torchvision wants them."""
        sized = (objects[:, 2:4] > objects[:, :2]).all(dim=1)
        there = objects[(objects[:, 4] >= 0) & (objects[:, 5] == 0) & sized]
        return {"boxes": there[:, :4] * sides, "labels": there[:, 4].long() + self.first_label}

    def _dense(self, found: dict[str, Tensor], sides: Tensor) -> Tensor:
        """`(D, 6)` the best detections, by falling score."""
        best = found["scores"].argsort(descending=True, stable=True)[:NUM_DETECTIONS]
        dense = found["scores"].new_zeros(NUM_DETECTIONS, 6)
        dense[:, 5] = -1
        dense[: len(best), :4] = (found["boxes"][best] / sides).clamp(0, 1)
        dense[: len(best), 4] = found["scores"][best]
        labels = found["labels"][best] - self.first_label
        dense[: len(best), 5] = labels.to(dense.dtype)
        return dense
