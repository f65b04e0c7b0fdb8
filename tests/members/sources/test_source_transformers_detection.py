# SPDX-License-Identifier: Apache-2.0
"""transformers' detectors from folders that transformers itself wrote: losses, boxes, heads, layers."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForObjectDetection,
    ConditionalDetrImageProcessor,
    DeformableDetrImageProcessor,
    DetrImageProcessor,
    RTDetrImageProcessor,
    YolosImageProcessor,
)

from fusetune.data.datasets.scenes import Scenes
from fusetune.ensemble import saved_source
from fusetune.errors import InvalidValue, WeightsError
from fusetune.finetune.engine import Plan, Split
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.objectives.detection import Detection
from fusetune.finetune.pytorch.layers import depths
from fusetune.finetune.settings import Augmentation, FineTune, Optimizer
from fusetune.members.member import PreprocessOverride
from fusetune.members.sources.transformers_detection import TransformersDetection
from fusetune.predictions.detection.objects import Objects
from fusetune.values import build, plain

pytestmark = pytest.mark.slow

SIDE = 64
NAMES = {0: "ant", 1: "bee", 2: "N/A", 3: "cat", 4: "N/A"}
SMALL = {"encoder_layers": 1, "decoder_layers": 2, "decoder_ffn_dim": 16, "encoder_ffn_dim": 16}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 12}
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage4"],
}
LEVELS = {**RESNET, "out_features": ["stage2", "stage3", "stage4"]}
DETR = {
    **SMALL,
    **HEADS,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone_config": RESNET,
    "d_model": 32,
}
CONFIGS = {
    "yolos": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": [SIDE, SIDE],
        "patch_size": 16,
        "num_detection_tokens": 12,
    },
    "detr": DETR,
    "conditional_detr": DETR,
    "deformable_detr": {**DETR, "backbone_config": LEVELS, "num_feature_levels": 3},
    "rt_detr": {
        "backbone_config": {**LEVELS, "model_type": "rt_detr_resnet"},
        "encoder_hidden_dim": 16,
        "encoder_in_channels": [16, 24, 32],
        "encoder_ffn_dim": 16,
        "encoder_attention_heads": 2,
        "d_model": 16,
        "num_queries": 12,
        "decoder_in_channels": [16, 16, 16],
        "decoder_ffn_dim": 16,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "num_denoising": 4,
    },
}
EDGES = {"shortest_edge": SIDE, "longest_edge": 2 * SIDE}
PROCESSORS = {
    "conditional_detr": ConditionalDetrImageProcessor(size=EDGES),
    "deformable_detr": DeformableDetrImageProcessor(size=EDGES),
    "detr": DetrImageProcessor(size=EDGES),
    "yolos": YolosImageProcessor(size=EDGES),
    "rt_detr": RTDetrImageProcessor(size={"height": SIDE, "width": SIDE}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small random model of each architecture in the hub's layout, as transformers writes it."""
    found = {}
    for name, fields in CONFIGS.items():
        torch.manual_seed(0)
        config = AutoConfig.for_model(name, id2label=NAMES, **copy.deepcopy(fields))
        net = AutoModelForObjectDetection.from_config(config)
        with torch.no_grad():  # the usual draws are so small that outputs hardly hang on the image
            for layer in net.modules():
                if isinstance(layer, torch.nn.Linear):
                    layer.weight.normal_(0, 0.3)
        found[name] = tmp_path_factory.mktemp("detectors") / name
        net.save_pretrained(found[name])
        PROCESSORS[name].save_pretrained(found[name])
    return found


def source(folder: Path, **fields) -> TransformersDetection:
    return TransformersDetection(model="mine", weights=folder, **fields)


def pictures(num: int = 2) -> torch.Tensor:
    return torch.randn(num, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_and_boxes_are_those_of_transformers(name: str, folders: dict[str, Path]) -> None:
    classes = ("cat", "ant")
    member = source(folders[name]).load(classes)
    assert member.head_kept and member.gives == "detections" and member.classes == classes
    assert member.preprocess.squash and member.preprocess.size == SIDE
    assert member.preprocess.mean == ((0,) * 3 if name == "rt_detr" else (0.485, 0.456, 0.406))
    assert member.notes == ("3 classes of its own left out: not the task's",)
    config = AutoConfig.from_pretrained(folders[name])
    net = AutoModelForObjectDetection.from_pretrained(folders[name], config=config).eval()
    with torch.no_grad():
        raw, found = net(pixel_values=pictures()), member.model.eval()(pictures())
        picked = member.model.net(pixel_values=pictures())
    plus = raw.logits.shape[2] - len(NAMES)
    rows = [3, 0, 5][: 2 + plus]
    torch.testing.assert_close(picked.logits, raw.logits[..., rows], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(picked.pred_boxes, raw.pred_boxes, rtol=1e-4, atol=1e-5)
    processor = AutoImageProcessor.from_pretrained(folders[name])
    expected = processor.post_process_object_detection(
        picked, threshold=0.0, target_sizes=[(1, 1)] * 2
    )
    for ours, theirs in zip(found, expected, strict=True):
        ours = ours[: len(theirs["scores"])]
        order = theirs["scores"].argsort(descending=True, stable=True)
        torch.testing.assert_close(ours[:, 4], theirs["scores"][order])
        assert ours[:, 5].tolist() == theirs["labels"][order].tolist()
        torch.testing.assert_close(ours[:, :4], theirs["boxes"][order].clamp(0, 1))
    objects = torch.tensor(
        [
            [[0.1, 0.2, 0.5, 0.8, 1, 0], [0.2, 0.2, 0.4, 0.4, 0, 1], [0.3, 0.3, 0.3, 0.5, 0, 0]],
            [[0, 0, 0, 0, -1.0, 0]] * 3,
        ]
    )
    empty = {"boxes": torch.zeros(0, 4), "class_labels": torch.zeros(0, dtype=torch.int64)}
    told = [
        {"boxes": torch.tensor([[0.3, 0.5, 0.4, 0.6]]), "class_labels": torch.tensor([1])},
        empty,
    ]
    with torch.no_grad():
        losses = member.model(pictures(), objects)
        torch.manual_seed(0)
        expected_loss = member.model.net(pixel_values=pictures(), labels=told).loss
        torch.manual_seed(0)
        again = member.model(pictures(), objects)
    assert losses.shape == (1,) and losses.isfinite().all()
    torch.testing.assert_close(again[0], expected_loss)


@pytest.mark.parametrize("name", CONFIGS)
def test_other_classes_get_a_new_head_and_keep_the_rest(
    name: str, folders: dict[str, Path]
) -> None:
    classes = ("cat", "dog", "ewe")
    member = source(folders[name]).load(classes, seed=1)
    again = source(folders[name], head="replace").load(classes, seed=1)
    saved = source(folders[name]).load(("ant", "bee", "cat"))
    assert not member.head_kept and saved.head_kept
    (note,) = [note for note in member.notes if "new head for 3 classes" in note]
    layers = note.partition(": ")[2].split(", ")
    states = [one.model.state_dict() for one in (member, again, saved)]
    for key in states[0]:
        assert torch.equal(states[0][key], states[1][key])
        is_new = any(key.startswith(f"net.{layer}.") for layer in layers)
        same = torch.equal(states[0][key], states[2][key])
        assert same or is_new, key
        assert not (same and is_new and key.endswith("weight")), key
    assert all(f"net.{layer}" in member.head for layer in layers)
    found = member.model.eval()(pictures())
    assert set(found[..., 5].unique().tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("name", CONFIGS)
def test_layers_are_in_the_order_of_what_is_seen(name: str, folders: dict[str, Path]) -> None:
    member = source(folders[name]).load(("cat", "dog"))
    found = depths(member)
    parts = {
        "yolos": ("net.vit.encoder.layer.0.", "net.vit.encoder.layer.1."),
        "rt_detr": ("net.model.backbone.", "net.model.encoder.", "net.model.decoder.layers.0."),
    }.get(name, ("net.model.backbone.", "net.model.encoder.", "net.model.decoder.layers.1."))
    ends = []
    for part in parts:
        own = [depth for key, depth in found.items() if key.startswith(part)]
        ends += [min(own), max(own)]
    assert ends == sorted(ends) and ends[-1] < max(found.values())
    heads = {d for k, d in found.items() if any(k.startswith(f"{h}.") for h in member.head)}
    assert heads == {max(found.values())}
    assert any("bbox" in name for name in member.head)


def split(first: int, last: int) -> Split:
    rows = Scenes(num_images=last, size=SIDE).read_as(Objects).take(np.arange(first, last))
    return Split(rows.images, rows.truth)


@pytest.mark.parametrize("name", ["yolos", "detr", "rt_detr"])
def test_it_learns_and_is_loaded_without_its_folder(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders[name], tmp_path / "hub")
    given, rows = source(tmp_path / "hub"), split(0, 12)
    member = given.load(rows.targets.classes, seed=1)
    settings = FineTune(
        epochs=8,
        batch_size=4,
        optimizer=Optimizer(lr=0.002),
        augmentation=Augmentation(flip=False),
        layer_decay=0.9,
    )
    plan, engine = Plan(Detection(), settings, seed=3), Torch()
    history = engine.finetune(member, plan, (rows, rows), tmp_path / "work", lambda event: None)
    losses = [epoch["train_loss"] for epoch in history.epochs]
    assert losses[-1] < 0.85 * losses[0]
    engine.save(member, tmp_path / "weights.safetensors")
    saved = json.loads(json.dumps(saved_source(given.portable(), plain(member.preprocess))))
    shutil.rmtree(tmp_path / "hub")
    assert saved.pop("source") == "transformers_detection"
    elsewhere = build(TransformersDetection, saved, "member 'mine'", Path.cwd())
    again = elsewhere.load(member.classes, pretrained=False)
    engine.load(again, tmp_path / "weights.safetensors")
    engine.save(again, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (
        tmp_path / "weights.safetensors"
    ).read_bytes()
    outputs = [engine.outputs(one, rows.images, lambda event: None) for one in (member, again)]
    np.testing.assert_array_equal(*outputs)


def test_weights_in_a_file_need_the_architecture(folders: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads((folders["detr"] / "config.json").read_text())
    config.pop("id2label"), config.pop("label2id")
    given = PreprocessOverride(size=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)
    file = folders["detr"] / "model.safetensors"
    names = ("ant", "bee", "x", "cat", "y")
    alone = source(file, config=config, classes=names, preprocess=given)
    member, published = alone.load(("bee",)), source(folders["detr"]).load(("bee",))
    assert member.head_kept and member.preprocess.mean == (0.5,) * 3
    expected = published.model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in member.model.state_dict().items())
    assert load_file(file)["class_labels_classifier.weight"].shape == (6, 32)
    with pytest.raises(InvalidValue, match=r"names 4 classes, and its head has 6 outputs"):
        replace(alone, classes=names[:4]).load(("bee",))
    untrained = replace(alone, weights="none", classes=None).load(("bee", "dog"), seed=1)
    assert not untrained.head_kept and untrained.model.num_classes == 2
    with pytest.raises(InvalidValue, match="cannot be kept: its classes are"):
        replace(alone, head="keep").load(("bee", "dog"))


def test_what_is_no_detector_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        InvalidValue,
        match=r"of the type .vit. describes no such model; expected a model of object detection",
    ):
        TransformersDetection(model="m", weights="none", config={"model_type": "vit"}).check()
    with pytest.raises(InvalidValue, match=r"is a folder.*source: transformers_detection, model"):
        TransformersDetection(model=str(folders["detr"])).check()
    with pytest.raises(WeightsError, match="holds nothing; expected a model in the hub's layout"):
        source(tmp_path).check()
    flipped = PreprocessOverride(test_flip=True)
    with pytest.raises(InvalidValue, match=r"has preprocess\.test_flip; expected the whole image"):
        source(folders["detr"], preprocess=flipped).check()
