# SPDX-License-Identifier: Apache-2.0
"""Networks as PyTorch's tracing exporter writes them say as ONNX members what they say in PyTorch."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

pytest.importorskip("torchvision")
pytest.importorskip("transformers")

from torchvision.models import get_model
from transformers import AutoModelForObjectDetection, YolosConfig

from fusetune.members.member import PreprocessOverride
from fusetune.members.sources.onnx import Onnx
from fusetune.members.transformers_detectors import TransformersDetector

pytestmark = [
    pytest.mark.slow,
    # the tracing exporter is the one that writes sizes into the file
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

CLASSES = ("a", "b", "c")


def exported(net: nn.Module, size: int, path: Path) -> Path:
    net.eval()
    images = torch.zeros(1, 3, size, size)
    torch.onnx.export(net, (images,), str(path), dynamo=False, opset_version=17)
    options = onnxruntime.SessionOptions()  # with all that hangs on the size of the images computed
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path.with_suffix(".folded"))
    onnxruntime.InferenceSession(str(path), options)
    return path.with_suffix(".folded")


@pytest.mark.parametrize("size", [64, 96, 160])
def test_a_shufflenet_is_changed_to_another_size(tmp_path: Path, size: int) -> None:
    torch.manual_seed(0)
    net = get_model("shufflenet_v2_x0_5", weights=None, num_classes=3)
    with torch.no_grad():
        net.train()(torch.rand(8, 3, 64, 64))  # statistics that are not all 0 and 1
    file = exported(net, 64, tmp_path / "net.onnx")
    given = PreprocessOverride(size=size, mean=(0.0,) * 3, std=(1.0,) * 3)
    source = Onnx(model="m", weights=file, classes=CLASSES, preprocess=given)
    member = source.load(CLASSES)
    assert bool(member.notes) == (size != 64)
    images = torch.rand(1, 3, size, size)
    with torch.no_grad():
        expected = net(images).numpy()
    ours = member.model(images.permute(0, 2, 3, 1).numpy())
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)


class Pair(nn.Module):
    """A detector of transformers that gives its logits and boxes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        said = self.net(pixel_values=images)
        return said.logits, said.pred_boxes


def test_a_yolos_says_the_same_by_the_decoder_detr(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[64, 64],
        num_detection_tokens=12,
        num_labels=3,
    )
    net = AutoModelForObjectDetection.from_config(config)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.normal_(0, 0.3)
    file = exported(Pair(net), 64, tmp_path / "net.onnx")
    member = Onnx(model="m", weights=file, classes=CLASSES, decoder="detr").load(CLASSES)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = TransformersDetector(net, 3).eval()(images)[0].numpy()
    ours = member.model(images.permute(0, 2, 3, 1).numpy())[0]
    for one in expected:  # the decoder gives the other classes of a query, too
        same = (np.abs(ours - one) < 1e-4).all(axis=1)
        assert same.any()
    assert ours[0, 4] == pytest.approx(expected[0, 4], abs=1e-5)
