# SPDX-License-Identifier: Apache-2.0
"""Three small convolutional networks of different families, for the member source `mini`.

They are small enough to fine-tune in seconds on a CPU, and different enough to err differently: a
residual network, a plain VGG-style network and an Inception-style network. `mini_weights/` holds
weights pretrained on rendered letters and symbols; `scripts/pretrain_mini.py` reproduces them.

Every network takes RGB floats in [0, 1], normalized with `MEAN` and `STD`, of shape (N, 3, H, W). It
was pretrained at H = W = `SIZE`; adaptive pooling lets it take any other size from 8 pixels up. Its
last layer is the linear layer `head`; `features` gives what that layer reads.

Shapes: N rows, C classes, D features, H W pixels.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

SIZE = 16
MEAN = (0.3, 0.3, 0.3)
STD = (0.3, 0.3, 0.3)


def conv(num_in: int, num_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (up to the stride), batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(num_out),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, projected where the shape changes."""

    def __init__(self, num_in: int, num_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv(num_in, num_out, stride=stride)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(num_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_in != num_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(num_in, num_out, 1, stride, bias=False), nn.BatchNorm2d(num_out)
            )

    def forward(self, images: Tensor) -> Tensor:
        """`(B, C, H, W)` features."""
        residual: Tensor = self.norm2(self.conv2(self.conv1(images)))
        return torch.relu(residual + self.shortcut(images))


class ResNet(nn.Module):
    """A residual network: a stem, three stages of one block each, global average pooling.

    Reference: He et al., Deep residual learning for image recognition, CVPR 2016.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.stages = nn.Sequential(
            ResidualBlock(16, 16),
            ResidualBlock(16, 32, stride=2),
            ResidualBlock(32, 96, stride=2),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(96, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Returns the pooled features, (N, 96)."""
        return torch.flatten(self.pool(self.stages(self.stem(images))), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits, (N, C)."""
        logits: Tensor = self.head(self.features(images))
        return logits


class Vgg(nn.Module):
    """A plain stack of 3x3 convolutions and max pooling that keeps where things are until the end.

    Reference: Simonyan and Zisserman, Very deep convolutional networks, ICLR 2015; with batch norm.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            conv(3, 16),
            conv(16, 16),
            nn.MaxPool2d(2),
            conv(16, 32),
            conv(32, 32),
            nn.MaxPool2d(2),
            conv(32, 64),
            conv(64, 64),
        )
        self.pool = nn.AdaptiveMaxPool2d(2)
        self.hidden = nn.Sequential(nn.Linear(256, 128), nn.ReLU(inplace=True), nn.Dropout(0.3))
        self.head = nn.Linear(128, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Returns the hidden layer's features, (N, 128)."""
        features: Tensor = self.hidden(torch.flatten(self.pool(self.convs(images)), 1))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits, (N, C)."""
        logits: Tensor = self.head(self.features(images))
        return logits


class InceptionBlock(nn.Module):
    """Four branches side by side: 1x1, 3x3, twice 3x3, and pooling; their channels concatenated."""

    def __init__(self, num_in: int, num_branch: int) -> None:
        super().__init__()
        half = num_branch // 2
        self.point = conv(num_in, num_branch, 1)
        self.small = nn.Sequential(conv(num_in, half, 1), conv(half, num_branch))
        self.large = nn.Sequential(
            conv(num_in, half, 1), conv(half, num_branch), conv(num_branch, num_branch)
        )
        self.pooled = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(num_in, num_branch, 1))

    def forward(self, images: Tensor) -> Tensor:
        """`(B, C, H, W)` features, the branches' channels one after another."""
        branches = (self.point, self.small, self.large, self.pooled)
        return torch.cat([branch(images) for branch in branches], dim=1)


class Inception(nn.Module):
    """An Inception-style network: a 5x5 stem and three blocks of parallel branches.

    Reference: Szegedy et al., Going deeper with convolutions, CVPR 2015; with batch norm.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = conv(3, 24, 5)
        self.blocks = nn.Sequential(
            nn.MaxPool2d(2),
            InceptionBlock(24, 16),
            InceptionBlock(64, 24),
            nn.MaxPool2d(2),
            InceptionBlock(96, 32),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(128, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Returns the pooled features, (N, 128)."""
        return torch.flatten(self.pool(self.blocks(self.stem(images))), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits, (N, C)."""
        logits: Tensor = self.head(self.features(images))
        return logits


NETS: Mapping[str, Callable[[int], nn.Module]] = {
    "resnet": ResNet,
    "vgg": Vgg,
    "inception": Inception,
}


def build(name: str, num_classes: int) -> nn.Module:
    """Returns the network `name` with fresh weights, drawn from torch's global random state.

    Args:
        name: A key of `NETS`.
        num_classes: Width of the head, at least 1.

    Raises:
        KeyError: `name` is not in `NETS`.
    """
    return NETS[name](num_classes)
