# SPDX-License-Identifier: Apache-2.0
"""Small segmenters of four backbones and three decoders, for the source `mini_segmentation`.

A backbone gives maps at a quarter, an eighth and a sixteenth of the image's side; a decoder makes one
map of logits of them, at a quarter.

Shapes: B rows of a batch, C classes, H W pixels.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from fusetune.members.detector_nets import BACKBONES
from fusetune.members.mini_nets import conv

__all__ = ["SQUEEZENET", "MiniSegmenter", "SqueezeNet", "build"]

SQUEEZENET = "squeezenet"
WIDTH = 64  # channels of a decoder
LOW_WIDTH = 24  # of the finest map beside them, in `Aspp`
RATES = (1, 2, 4)  # of dilated convolutions at a sixteenth of the side, which is few pixels here
STAGES = (5, 8, 13)  # where the features of torchvision's SqueezeNet 1.1 end that have one size


class SqueezeNet(nn.Module):
    """The features of SqueezeNet 1.1, under torchvision's names.

    Reference: Iandola et al. "SqueezeNet". 2016.
    """

    widths = (128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import squeezenet1_1

        self.features = squeezenet1_1(weights=None).features

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps of features, the finest first."""
        maps, features = [], images
        for index, layer in enumerate(self.features, 1):
            features = layer(features)
            if index in STAGES:
                maps.append(features)
        return maps


class Fpn(nn.Module):
    """Coarser maps are added to finer ones from the top down.

    Reference: Lin et al. "Feature pyramid networks for object detection". CVPR 2017.
    """

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.laterals = nn.ModuleList([nn.Conv2d(width, WIDTH, 1) for width in widths])
        self.tower = nn.Sequential(conv(WIDTH, WIDTH), conv(WIDTH, WIDTH))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """`(B, WIDTH, H / 4, W / 4)`."""
        merged = self.laterals[-1](maps[-1])
        for lateral, features in zip(self.laterals[-2::-1], maps[-2::-1], strict=True):
            merged = resized(merged, features) + lateral(features)
        made: Tensor = self.tower(merged)
        return made


class Unet(nn.Module):
    """Coarser maps are put beside finer ones and convolved with them, step by step.

    Reference: Ronneberger et al. "U-Net". MICCAI 2015.
    """

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.first = nn.Sequential(conv(coarse + middle, WIDTH), conv(WIDTH, WIDTH))
        self.second = nn.Sequential(conv(WIDTH + fine, WIDTH), conv(WIDTH, WIDTH))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """`(B, WIDTH, H / 4, W / 4)`."""
        fine, middle, coarse = maps
        merged = self.first(torch.cat([resized(coarse, middle), middle], dim=1))
        made: Tensor = self.second(torch.cat([resized(merged, fine), fine], dim=1))
        return made


class Aspp(nn.Module):
    """Dilated convolutions of the coarsest map see far; the finest one says where edges are.

    Reference: Chen et al. "Encoder-decoder with atrous separable convolution". ECCV 2018.
    """

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        fine, _, coarse = widths
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(coarse, WIDTH, 3, padding=rate, dilation=rate, bias=False),
                nn.BatchNorm2d(WIDTH),
                nn.ReLU(inplace=True),
            )
            for rate in RATES
        )
        self.whole = nn.Sequential(nn.Conv2d(coarse, WIDTH, 1), nn.ReLU(inplace=True))
        self.project = conv((len(RATES) + 1) * WIDTH, WIDTH, 1)
        self.low = conv(fine, LOW_WIDTH, 1)
        self.merge = conv(WIDTH + LOW_WIDTH, WIDTH)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """`(B, WIDTH, H / 4, W / 4)`."""
        fine, _, coarse = maps
        whole = self.whole(coarse.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *coarse.shape[2:])
        seen = torch.cat([*(branch(coarse) for branch in self.branches), whole], dim=1)
        projected = resized(self.project(seen), fine)
        made: Tensor = self.merge(torch.cat([projected, self.low(fine)], dim=1))
        return made


DECODERS: Mapping[str, Callable[[tuple[int, int, int]], nn.Module]] = {
    "aspp": Aspp,
    "fpn": Fpn,
    "unet": Unet,
}


class MiniSegmenter(nn.Module):
    """A backbone, a decoder, and what every position of its map says.

    Args:
        backbone: Gives three maps, of its `widths`.
        decoder: Key of `DECODERS`.
        num_classes: C, at least 1.
    """

    def __init__(self, backbone: nn.Module, decoder: str, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = DECODERS[decoder](backbone.widths)
        self.classify = nn.Conv2d(WIDTH, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """`(B, C, H / 4, W / 4)` logits."""
        logits: Tensor = self.classify(self.decoder(self.backbone(images)))
        return logits


def resized(coarse: Tensor, fine: Tensor) -> Tensor:
    """A map at the size of another one."""
    return functional.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=False)


def build(backbone: str, decoder: str, num_classes: int) -> MiniSegmenter:
    """The segmenter with fresh weights, drawn from torch's global random state.

    Args:
        backbone: `SQUEEZENET`, or a key of `detector_nets.BACKBONES`.
        decoder: Key of `DECODERS`.
        num_classes: At least 1.

    Raises:
        KeyError: There is no such backbone or decoder.
    """
    net = SqueezeNet() if backbone == SQUEEZENET else BACKBONES[backbone]()
    return MiniSegmenter(net, decoder, num_classes)
