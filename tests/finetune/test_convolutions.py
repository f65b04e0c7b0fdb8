# SPDX-License-Identifier: Apache-2.0
"""Convolutions with one output position give what they gave, gradients too."""

import pytest
import torch
from torch import nn

from fusetune.finetune.pytorch.convolutions import one_position_products

ONE_POSITION = [
    (nn.Conv2d(5, 7, 3, padding=1), 1),
    (nn.Conv2d(5, 7, 3, padding=1, stride=2, bias=False), 2),
    (nn.Conv2d(5, 7, 3), 3),
    (nn.Conv2d(5, 7, 1), 1),
    (nn.Conv2d(5, 7, 7, padding=3, stride=2), 2),
]
OTHERS = [
    (nn.Conv2d(5, 7, 3, padding=1), 2),
    (nn.Conv2d(5, 7, 1, stride=2), 2),
    (nn.Conv2d(5, 7, 3, padding=2), 1),
    (nn.Conv2d(5, 7, 3, padding=2, dilation=2), 1),
    (nn.Conv2d(5, 5, 3, padding=1, groups=5), 1),
    (nn.Conv2d(5, 7, 3, padding="same"), 1),
    (nn.Conv2d(5, 7, 3, padding=1, padding_mode="replicate"), 1),
]


def results(module: nn.Conv2d, images: torch.Tensor) -> list[torch.Tensor]:
    """Outputs and gradients."""
    images = images.clone().requires_grad_()
    outputs = module(images)
    module.zero_grad()
    (outputs * torch.arange(outputs.numel()).view(outputs.shape)).sum().backward()
    parameters = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    assert images.grad is not None
    return [outputs.detach(), images.grad, *parameters]


@pytest.mark.parametrize(("module", "side"), ONE_POSITION + OTHERS, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_outputs_and_gradients_are_the_same(
    module: nn.Conv2d, side: int, layout: torch.memory_format
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 5, side, side, generator=generator).to(memory_format=layout)
    expected = results(module, images)
    with one_position_products(module):
        made = results(module, images)
    for one, other in zip(made, expected, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_only_convolutions_with_one_position_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    linear = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *given: used.append(1) or linear(*given))
    for module, side in OTHERS + ONE_POSITION:
        with one_position_products(module):
            module(torch.zeros(2, 5, side, side))
    assert len(used) == len(ONE_POSITION)


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU())
    with one_position_products(model):
        assert "forward" in vars(model[0])
    assert "forward" not in vars(model[0])
