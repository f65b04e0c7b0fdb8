# SPDX-License-Identifier: Apache-2.0
"""A network of your own for fusetune: the residual networks for CIFAR-10 of He et al. 2015.

A recipe names one as `{source: module, model: my_nets.resnet20, weights: ..., classes: [...],
preprocess: {size: 32}}`. All that fusetune needs is a class or function that builds an `nn.Module`
which takes (N, 3, H, W) floats and gives (N, num_classes) logits.

Reference: He, Zhang, Ren, Sun, Deep residual learning for image recognition, 2015, section 4.2.

Shapes: N rows, C classes, H W pixels.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut without parameters (the paper's option A).

    Where the block halves the resolution, the shortcut takes every second pixel and pads the new
    channels with zeros, half before and half behind.
    """

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_out)
        self.stride = stride
        self.padding = (num_out - num_in) // 2

    def forward(self, features: Tensor) -> Tensor:
        """Features of half the size if the stride is 2."""
        residual = F.relu(self.bn1(self.conv1(features)))
        residual = self.bn2(self.conv2(residual))
        shortcut = features[:, :, :: self.stride, :: self.stride]
        shortcut = F.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(residual + shortcut)


class CifarResNet(nn.Module):
    """A 3×3 stem, three stages of 16, 32 and 64 channels, global average pooling, one linear layer.

    Args:
        num_blocks: Per stage; the network is `6 * num_blocks + 2` layers deep.
        num_classes: Logits per image.
    """

    def __init__(self, num_blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, num_blocks, stride=1)
        self.layer2 = _stage(16, 32, num_blocks, stride=2)
        self.layer3 = _stage(32, 64, num_blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C) of normalized images (N, 3, H, W)."""
        features = F.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.linear(features.mean(dim=(2, 3)))


def _stage(num_in: int, num_out: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = Block(num_in, num_out, stride)
    return nn.Sequential(first, *(Block(num_out, num_out, 1) for _ in range(num_blocks - 1)))


def resnet20(num_classes: int = 10) -> CifarResNet:
    """20 layers, 0.27 million parameters."""
    return CifarResNet(3, num_classes)


def resnet32(num_classes: int = 10) -> CifarResNet:
    """32 layers, 0.46 million parameters."""
    return CifarResNet(5, num_classes)


def resnet44(num_classes: int = 10) -> CifarResNet:
    """44 layers, 0.66 million parameters."""
    return CifarResNet(7, num_classes)
