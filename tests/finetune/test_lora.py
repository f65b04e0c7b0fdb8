# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters: on which layers they stand, what they compute, and how they are merged."""

import copy
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from fusetune.errors import InvalidValue, MissingExtra
from fusetune.finetune.engine import Plan
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.pytorch.loop import Training
from fusetune.finetune.pytorch.lora import adaptable, put_adapters
from fusetune.finetune.pytorch.optimizer import set_trained
from fusetune.finetune.settings import FineTune, Lora
from fusetune.members.heads import find_head
from fusetune.members.member import Member, Preprocess
from small_runs import (
    CLASSES,
    SETTINGS,
    SPLITS,
    assert_resumes,
    finetune,
    member,
    untimed,
    validation_loss,
    weights,
)

pytestmark = [
    pytest.mark.slow,  # peft imports transformers
    pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed"),
]

LORA = replace(SETTINGS, train="lora", lora=Lora(rank=2, alpha=8))


def member_of(model: nn.Module, size: int = 32) -> Member:
    preprocess = Preprocess(size=size, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    head = find_head(model, size).names
    return Member(model=model, engine="torch", classes=CLASSES, preprocess=preprocess, head=head)


def disturb(model: nn.Module) -> None:
    """B starts at 0, where adapters do nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.1, generator=generator)


def transformers_vit() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_labels=3,
    )

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = transformers.ViTForImageClassification(config)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images).logits

    return Logits()


def timm_model(name: str, **arguments: int) -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model(name, num_classes=3, **arguments)


class Odd(nn.Module):
    """Layers that adapters must not be put on, and names that end alike."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(3, 6, 3, groups=3)
        self.dilated = nn.Conv2d(6, 6, 3, dilation=2)
        self.circular = nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular")
        self.strided = nn.Conv2d(6, 4, 3, stride=2, padding=1)
        self.inner = nn.ModuleDict({"strided": nn.Conv2d(4, 4, 1)})
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.twice = nn.Linear(4, 4)
        self.again = self.twice
        self.unused = nn.Linear(4, 4)
        self.fc = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.circular(self.dilated(self.grouped(images))).relu()
        maps = self.inner["strided"](self.strided(maps))
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = self.attention(tokens, tokens, tokens)[0]
        return self.fc(self.again(self.twice(tokens.mean(1))))


MODELS = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=3),
    "mobilenet": lambda: torchvision.models.mobilenet_v3_small(num_classes=3),
    "torchvision_vit": lambda: torchvision.models.VisionTransformer(
        32, 8, 2, 2, 16, 32, num_classes=3
    ),
    "timm_vit": lambda: timm_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2),
    "timm_convnext": lambda: timm_model("convnext_atto"),
    "transformers_vit": transformers_vit,
    "odd": Odd,
}


@pytest.mark.parametrize("name", MODELS)
def test_merged_weights_give_what_the_adapters_gave(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    made = member_of(model)
    nn.init.normal_(model.get_submodule(made.head[0]).weight)  # some begin at 0
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.rand(2, 3, 32, 32)
    before = model(images)
    adapters = put_adapters(made, Lora(rank=3, alpha=6), seed=0)
    model.eval()
    size = float(before.detach().abs().max())
    torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-5 * size)  # B is 0
    disturb(model)
    adapted = model(images)
    assert float((adapted - before).detach().abs().max()) > 1e-3 * size
    merged = adapters.merged()
    adapters.remove()
    assert list(model.state_dict()) == list(merged) == list(plain)
    assert all(torch.equal(value, plain[name]) for name, value in model.state_dict().items())
    model.load_state_dict(merged)
    torch.testing.assert_close(model(images), adapted, rtol=1e-4, atol=1e-5 * size)
    changed = {name for name in plain if not torch.equal(plain[name], merged[name])}
    assert changed == {f"{layer}.weight" for layer in adapters.layers}
    assert not hasattr(model, "peft_config")


def test_layers_that_cannot_have_adapters_are_left_alone() -> None:
    assert adaptable(member_of(Odd())) == ("strided", "inner.strided")
    vit = adaptable(member_of(MODELS["torchvision_vit"]()))
    assert vit == (
        "conv_proj",
        *(f"encoder.layers.encoder_layer_{i}.mlp.{j}" for i in (0, 1) for j in (0, 3)),
    )


def test_a_merged_layer_is_the_formula() -> None:
    made = member()
    weight = made.model.body[0].weight.detach().clone()
    adapters = put_adapters(made, Lora(rank=2, alpha=8), seed=0)
    disturb(made.model)
    layer = made.model.body[0]
    a, b = layer.lora_A["fusetune"].weight, layer.lora_B["fusetune"].weight
    assert a.shape == (2, 3, 3, 3) and b.shape == (8, 2, 1, 1)
    expected = weight + 4.0 * torch.einsum("or,rihw->oihw", b[:, :, 0, 0], a)
    torch.testing.assert_close(adapters.merged()["body.0.weight"], expected)


def test_adapters_and_head_are_trained_and_all_else_is_frozen_in_evaluation_mode() -> None:
    settings = replace(LORA, lora=Lora(rank=2, dropout=0.5))
    training = Training(member(), Plan(Classification(), settings, 0), SPLITS, torch.device("cpu"))
    set_trained(training.member, settings, 0)
    model = training.model
    adapters = {f"body.0.lora_{part}.fusetune.weight" for part in "AB"}
    head = {"fc.weight", "fc.bias"}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == adapters | head
    groups = training.optimizer.param_groups
    assert sum(len(group["params"]) for group in groups) == 4
    modes = {name for name, module in model.named_modules() if module.training}
    assert modes == {"fc", "body.0.lora_dropout", "body.0.lora_dropout.fusetune"}


def test_a_run_changes_adapted_layers_and_head_and_leaves_no_trace(tmp_path: Path) -> None:
    before = weights(member())
    made, history = finetune(tmp_path, LORA)
    after = weights(made)
    assert list(after) == list(before)
    assert {n for n in after if after[n] != before[n]} == {"body.0.weight", "fc.weight", "fc.bias"}
    losses = [epoch["validation_loss"] for epoch in history.epochs]
    assert validation_loss(made) == pytest.approx(min(losses), rel=1e-5)
    assert losses[-1] < losses[0]
    assert history.trained == (2 * 27 + 8 * 2) + (8 * 2 + 2)
    assert history.notes[0] == (
        "low-rank adapters on 1 layer, 70 weights, were merged into the model's own"
    )
    assert "peft" not in {type(m).__module__.partition(".")[0] for m in made.model.modules()}


def test_the_first_values_of_adapters_come_from_the_seed_alone(tmp_path: Path) -> None:
    one, _ = finetune(tmp_path / "a", LORA)
    torch.manual_seed(99)
    two, _ = finetune(tmp_path / "b", LORA)
    assert weights(one) == weights(two)


@pytest.mark.parametrize(
    "more",
    [{}, {"ema": 0.9, "lora": Lora(rank=2, dropout=0.3)}, {"swa": 0.5}, {"precision": "bf16"}],
)
def test_a_stopped_run_with_adapters_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, object]
) -> None:
    assert_resumes(tmp_path, replace(LORA, **more), monkeypatch, stops=(2,))


def test_a_compiled_model_with_adapters_learns_the_same(tmp_path: Path) -> None:
    _, plain = finetune(tmp_path / "plain", replace(LORA, precision="fp32"))
    _, compiled = finetune(tmp_path / "compiled", replace(LORA, precision="fp32", compile=True))
    for one, two in zip(untimed(plain), untimed(compiled), strict=True):
        assert one == pytest.approx(two, rel=1e-3)


def test_targets_are_named_by_their_ends() -> None:
    adapters = put_adapters(member_of(Odd()), Lora(targets=("inner.strided",)), seed=0)
    assert adapters.layers == ("inner.strided",)
    adapters = put_adapters(member_of(Odd()), Lora(targets=("strided",)), seed=0)
    assert adapters.layers == ("strided", "inner.strided")
    with pytest.raises(
        InvalidValue,
        match=r"no layer is called 'stride' \(finetune.lora.targets\); expected one of inner.strided, strided. Did you mean 'strided'",
    ):
        put_adapters(member_of(Odd()), Lora(targets=("stride",)), seed=0)


def test_what_cannot_have_adapters_is_refused_before_any_work() -> None:
    only_head = member_of(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), size=4)
    with pytest.raises(InvalidValue, match="the model has no layers that can have adapters"):
        Torch().check(only_head, FineTune(train="lora"))
    Torch().check(only_head, FineTune(train="head"))


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"'peft' is not installed.*fusetune\[lora\]"):
        put_adapters(member(), Lora(), seed=0)


def test_the_original_model_is_not_needed_to_predict(tmp_path: Path) -> None:
    made, _ = finetune(tmp_path, LORA)
    Torch().save(made, tmp_path / "weights.safetensors")
    other = copy.deepcopy(member())
    Torch().load(other, tmp_path / "weights.safetensors")
    images = SPLITS[1].images
    outputs = [Torch().outputs(one, images, lambda event: None) for one in (made, other)]
    np.testing.assert_array_equal(*outputs)


def test_snapshots_are_merged_each(tmp_path: Path) -> None:
    made, history = finetune(tmp_path, replace(LORA, snapshots=2))
    losses = [epoch["validation_loss"] for epoch in history.epochs]
    plain = weights(member())
    for number, part in ((1, losses[:2]), (2, losses[2:])):
        Torch().load(made, tmp_path / f"weights-{number}.safetensors")
        assert list(weights(made)) == list(plain)
        assert validation_loss(made) == pytest.approx(min(part), rel=1e-5)
