# SPDX-License-Identifier: Apache-2.0
"""transformers' detection models as `detectors` has them: tensors of objects in, tensors out.

Shapes: B rows of a batch, K objects, Q queries, D detections, C classes, H W pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fusetune.members.detectors import NUM_DETECTIONS, train_objects
from fusetune.members.transformers_models import Config, build_model
from fusetune.members.weights import Weights

__all__ = ["TransformersDetector", "class_layers", "head_modules", "rows_of_classes"]

BOX_HEADS = ("bbox_predictor", "bbox_embed", "enc_bbox_head")


class TransformersDetector(nn.Module):
    """A detection model of transformers behind the one interface of all detectors.

    A model with one logit more than classes, that of "no object", gives each query's likeliest class
    (DETR, YOLOS); one without gives the likeliest pairs of query and class (Deformable DETR,
    RT-DETR): as their image processors do it.

    Args:
        net: Of `AutoModelForObjectDetection`.
        num_classes: C, of the task.
    """

    def __init__(self, net: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.net, self.num_classes = net, num_classes

    def forward(self, images: Tensor, objects: Tensor | None = None) -> Tensor:
        """The one weighted loss, or `(B, D, 6)` detections; see `detectors`."""
        objects = train_objects(images, objects, training=self.training)
        if objects is None:
            said: Any = self.net(pixel_values=images)
            return self._dense(said.logits.float(), said.pred_boxes.float())
        said = self.net(pixel_values=images, labels=[self._target(one) for one in objects])
        return said.loss[None]

    def _target(self, objects: Tensor) -> dict[str, Tensor]:
        """The objects that are there and have a size, as transformers wants them."""
        sized = (objects[:, 2:4] > objects[:, :2]).all(dim=1)
        there = objects[(objects[:, 4] >= 0) & (objects[:, 5] == 0) & sized]
        low, high = there[:, :2], there[:, 2:4]
        boxes = torch.cat([(low + high) / 2, high - low], dim=1)
        return {"boxes": boxes, "class_labels": there[:, 4].long()}

    def _dense(self, logits_BQC: Tensor, centers_BQ4: Tensor) -> Tensor:
        """The best detections, by falling score."""
        if logits_BQC.shape[2] > self.num_classes:
            scores, labels = logits_BQC.softmax(dim=2)[..., :-1].max(dim=2)
            scores, best = scores.topk(min(NUM_DETECTIONS, scores.shape[1]), dim=1)
            places, labels = best, labels.gather(1, best)
        else:
            flat = logits_BQC.sigmoid().flatten(1)
            scores, best = flat.topk(min(NUM_DETECTIONS, flat.shape[1]), dim=1)
            places, labels = best // self.num_classes, best % self.num_classes
        centers = centers_BQ4.gather(1, places[..., None].expand(-1, -1, 4))
        middle, half = centers[..., :2], centers[..., 2:] / 2
        corners = torch.cat([middle - half, middle + half], dim=2).clamp(0, 1)
        return torch.cat([corners, scores[..., None], labels[..., None].to(scores.dtype)], dim=2)


def class_layers(config: Config) -> tuple[str, ...]:
    """Names of the layers of a configuration's model whose width hangs on the number of classes."""
    before, shapes = config.num_labels, []
    try:
        for more in (0, 1):
            config.num_labels = before + more
            with torch.device("meta"):
                net = build_model(config, "object detection")
            shapes.append({name: value.shape for name, value in net.state_dict().items()})
    finally:
        config.num_labels = before
    other = [name for name, shape in shapes[0].items() if shape != shapes[1][name]]
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in other))


def head_modules(net: nn.Module, classes: Sequence[str]) -> tuple[str, ...]:
    """Names of the modules that say class and place: the class layers and those of boxes."""
    boxes = [name for name, _ in net.named_modules() if name.rpartition(".")[2] in BOX_HEADS]
    return (*classes, *boxes)


def rows_of_classes(
    weights: Weights, layers: Sequence[str], own: Sequence[str], classes: Sequence[str]
) -> Weights:
    """The weights with those rows of the class layers alone that are of these classes, in order.

    A row beside those of the classes, of "no object", stays the last.
    """
    tensors = dict(weights.tensors)
    for name, tensor in weights.tensors.items():
        if name.rpartition(".")[0] in layers:
            rows = [own.index(one) for one in classes] + list(range(len(own), len(tensor)))
            tensors[name] = tensor[rows]
    return Weights(weights.path, tensors, weights.versions, weights.notes)
