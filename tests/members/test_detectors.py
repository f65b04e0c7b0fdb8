# SPDX-License-Identifier: Apache-2.0
"""Detectors against torchvision's own functions, and how weights and classes become members."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fusetune.errors import InvalidValue, UnknownName, WeightsError
from fusetune.members import detector_nets
from fusetune.members.detectors import NUM_DETECTIONS
from fusetune.members.member import PreprocessOverride
from fusetune.members.sources.mini_detection import MODELS, MiniDetection

CLASSES = ("a", "b", "c")
SMALL = PreprocessOverride(size=32)


def random_boxes(*shape: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    low = torch.rand(*shape, 2, generator=random)
    return torch.cat([low, low + 0.05 + torch.rand(*shape, 2, generator=random)], dim=-1)


def test_generalized_overlap_is_torchvisions() -> None:
    ops = pytest.importorskip("torchvision.ops")
    boxes, others = random_boxes(50), random_boxes(50).flip(0)
    ours = detector_nets.generalized_overlap(boxes, others)
    expected = ops.generalized_box_iou(boxes, others).diagonal()
    torch.testing.assert_close(ours, expected)


def test_overlapping_detections_are_suppressed_as_torchvision_does() -> None:
    ops = pytest.importorskip("torchvision.ops")
    random = torch.Generator().manual_seed(1)
    classes, central = (
        torch.randn(2, 40, 3, generator=random),
        torch.randn(2, 40, generator=random),
    )
    boxes = random_boxes(2, 40).clamp(0, 1)
    found = detector_nets.detections(classes, central, boxes)
    assert found.shape == (2, NUM_DETECTIONS, 6)
    scores = (classes.sigmoid() * central.sigmoid()[..., None]).sqrt()
    for row in range(2):
        best = scores[row].flatten().topk(NUM_DETECTIONS).indices
        corners, labels = boxes[row][best // 3], best % 3
        kept = ops.batched_nms(corners, scores[row].flatten()[best], labels, 0.6)
        ours = torch.nonzero(found[row, :, 5] >= 0).flatten()
        assert ours.tolist() == sorted(kept.tolist()) and len(kept) < NUM_DETECTIONS
        torch.testing.assert_close(found[row, ours, :4], corners[ours])
        assert found[row, ours, 5].tolist() == labels[ours].tolist()


def test_a_position_learns_the_smallest_object_around_it() -> None:
    points = torch.tensor([[10.0, 10.0], [14.0, 14.0], [40.0, 40.0]])
    corners = torch.tensor([[[0.0, 0.0, 20.0, 20.0], [8.0, 8.0, 14.0, 13.0], [0, 0, 1, 1]]])
    owners, owned = detector_nets.assigned(points, corners, torch.tensor([[True, True, False]]))
    assert owned.tolist() == [[True, True, False]]
    assert owners[0, :2].tolist() == [1, 0]


def test_the_loss_is_least_where_the_truth_is() -> None:
    points = torch.tensor([[10.0, 10.0], [30.0, 30.0]])
    objects = (
        torch.tensor([[[5.0, 5.0, 15.0, 15.0]]]),
        torch.tensor([[1.0]]),
        torch.ones(1, 1) > 0,
    )
    logits = torch.full((1, 2, 3), -12.0)
    logits[0, 0, 1] = 12.0
    central = torch.tensor([[12.0, -12.0]])
    boxes = torch.tensor([[[5.0, 5.0, 15.0, 15.0], [0.0, 0.0, 1.0, 1.0]]])
    right = detector_nets.losses((logits, central, boxes), points, objects)
    assert (right < 1e-3).all()
    elsewhere = detector_nets.losses((logits, central, boxes + 4), points, objects)
    assert elsewhere[1] > 0.5 and torch.equal(elsewhere[[0, 2]], right[[0, 2]])
    wrong = detector_nets.losses((logits.flip(2).roll(1, 2), central, boxes), points, objects)
    assert wrong[0] > 1


@pytest.mark.parametrize("model", MODELS)
def test_every_small_detector_keeps_the_contract(model: str) -> None:
    member = MiniDetection(model=model, weights="none", preprocess=SMALL).load(CLASSES, seed=4)
    again = MiniDetection(model=model, weights="none", preprocess=SMALL).load(CLASSES, seed=4)
    assert member.gives == "detections" and not member.head_kept and member.classes == CLASSES
    assert sum(p.numel() for p in member.model.parameters()) < 300_000
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    objects = torch.tensor([[[0.1, 0.1, 0.6, 0.7, 2, 0]], [[0, 0, 0, 0, -1, 0]]])
    with torch.no_grad():
        losses, others = (one.model.train()(images, objects) for one in (member, again))
        assert torch.equal(losses, others) and losses.shape == (3,) and losses.isfinite().all()
        found = member.model.eval()(images)
    assert found.shape[0] == 2 and found.shape[2] == 6
    assert ((found[..., :5] >= 0) & (found[..., :5] <= 1)).all()
    assert set(found[..., 5].unique().tolist()) <= {-1.0, 0.0, 1.0, 2.0}
    for name in member.head:
        member.model.get_submodule(name)


def test_objects_that_are_ignored_are_not_learned() -> None:
    member = MiniDetection(model="vgg", preprocess=SMALL).load(CLASSES)
    images = torch.rand(2, 3, 32, 32)
    one = [0.1, 0.1, 0.6, 0.7, 2]
    with torch.no_grad():
        none = member.model.eval()(images, torch.tensor([[[*one, 1.0]]] * 2))
        absent = member.model(images, torch.tensor([[[0, 0, 0, 0, -1.0, 0]]] * 2))
        there = member.model(images, torch.tensor([[[*one, 0.0]]] * 2))
    assert torch.equal(none, absent) and not torch.equal(none, there)


def test_weights_of_the_same_classes_keep_their_head(tmp_path: Path) -> None:
    first = MiniDetection(model="inception", preprocess=SMALL).load(CLASSES, seed=1)
    file = tmp_path / "weights.safetensors"
    save_file(first.model.state_dict(), file)
    source = MiniDetection(
        model="inception", weights=file, classes=CLASSES, preprocess=SMALL, head="keep"
    )
    kept = source.load(CLASSES, seed=2)
    assert kept.head_kept
    assert all(
        torch.equal(a, first.model.state_dict()[n]) for n, a in kept.model.state_dict().items()
    )
    with pytest.raises(InvalidValue, match=r"cannot be kept: its classes are .*same order"):
        source.load(("b", "a", "c"))
    new = MiniDetection(model="inception", weights=file, classes=CLASSES, preprocess=SMALL)
    other = new.load(("x", "y", "z"), seed=2)
    assert not other.head_kept and any("new head for 3 classes" in note for note in other.notes)
    assert torch.equal(other.model.locate.weight, first.model.locate.weight)
    assert not torch.equal(other.model.classify.weight, first.model.classify.weight)
    wider = new.load((*CLASSES, "d"), seed=2)
    assert wider.model.classify.out_channels == 4 and not wider.head_kept


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"model": "vgh"}, UnknownName, "no model of source mini_detection is called 'vgh'"),
        ({"weights": "default"}, InvalidValue, "has weights: default, and there are none"),
        ({"preprocess": PreprocessOverride(size=40)}, InvalidValue, "preprocess.size 40.*size: 32"),
        (
            {"preprocess": PreprocessOverride(test_flip=True)},
            InvalidValue,
            "has preprocess.test_flip",
        ),
        (
            {"preprocess": PreprocessOverride(squash=False)},
            InvalidValue,
            "preprocess.resize or squash: false; expected the whole image once",
        ),
        ({"weights": Path("none.safetensors")}, WeightsError, "is not there"),
    ],
)
def test_what_cannot_be_is_said_before_loading(fields, error, message) -> None:
    with pytest.raises(error, match=message):
        MiniDetection(**{"model": "vgg", **fields}).check()


@pytest.mark.slow
def test_torchvisions_ssdlite_keeps_the_contract_and_its_weights(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    from fusetune.members.sources.torchvision_detection import TorchvisionDetection

    small = PreprocessOverride(size=64)
    source = TorchvisionDetection(
        model="ssdlite320_mobilenet_v3_large", weights="none", preprocess=small
    )
    member = source.load(CLASSES, seed=0)
    assert member.preprocess.squash and member.head == ("net.head",)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    objects = torch.tensor([[[0.1, 0.1, 0.6, 0.7, 2.0, 0]], [[0, 0, 0, 0, -1.0, 0]]])
    net = member.model.net
    with torch.no_grad():
        boxes = [torch.tensor([[6.4, 6.4, 38.4, 44.8]]), torch.zeros(0, 4)]
        labels = [torch.tensor([3]), torch.zeros(0, dtype=torch.int64)]
        told = [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]
        net.eval()
        net.training = True
        expected = net(list(images), told)
        net.training = False
        losses = member.model.eval()(images, objects)
        torch.testing.assert_close(losses, torch.stack([expected[n] for n in sorted(expected)]))
        found = member.model(images)
        raw = net(list(images))
    assert found.shape == (2, NUM_DETECTIONS, 6)
    for row in range(2):
        num = min(NUM_DETECTIONS, len(raw[row]["scores"]))
        ours = found[row, :num]
        torch.testing.assert_close(ours[:, 4], raw[row]["scores"][:num])
        np.testing.assert_array_equal(ours[:, 5], raw[row]["labels"][:num] - 1)
    file = tmp_path / "own.safetensors"
    save_file(net.state_dict(), file)
    again = TorchvisionDetection(
        model=source.model, weights=file, classes=CLASSES, preprocess=small
    ).load(CLASSES)
    assert again.head_kept
    state = again.model.net.state_dict()
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())


@pytest.mark.slow
def test_a_backbone_comes_from_a_classification_checkpoint(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    from fusetune.members.sources.torchvision_detection import TorchvisionDetection

    published = models.mobilenet_v3_large(weights=None).state_dict()
    save_file(published, tmp_path / "mobilenet.safetensors")
    source = TorchvisionDetection(
        model="fasterrcnn_mobilenet_v3_large_320_fpn",
        weights="none",
        backbone=tmp_path / "mobilenet.safetensors",
        preprocess=PreprocessOverride(size=64),
    )
    assert source.files() == (tmp_path / "mobilenet.safetensors",)
    member = source.load(CLASSES)
    state = member.model.net.backbone.body.state_dict()
    assert state and all(torch.equal(published[f"features.{n}"], v) for n, v in state.items())
    assert source.portable().backbone is None and source.portable().files() == ()


def test_torchvision_names_that_are_no_detectors_are_refused() -> None:
    pytest.importorskip("torchvision")
    from fusetune.members.sources.torchvision_detection import TorchvisionDetection

    names = TorchvisionDetection.model_names()
    assert "fcos_resnet50_fpn" in names and not any(name.startswith("mask") for name in names)
    with pytest.raises(UnknownName, match="no detection model of torchvision is called 'resnet18'"):
        TorchvisionDetection(model="resnet18").check()
    with pytest.raises(InvalidValue, match="has weights and a backbone; expected one of them"):
        TorchvisionDetection(model="fcos_resnet50_fpn", backbone=Path("a.pth")).check()
    with pytest.raises(InvalidValue, match="those of SSDs are cut and extended"):
        TorchvisionDetection(model="ssd300_vgg16", weights="none", backbone=Path("a.pth")).check()
