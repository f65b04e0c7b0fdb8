# SPDX-License-Identifier: Apache-2.0
"""timm's models from folders that timm itself wrote: weights, head, preprocessing."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

pytest.importorskip("timm")
import huggingface_hub
import timm
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf

from fusetune.data.inputs import PixelImages
from fusetune.ensemble import saved_source
from fusetune.errors import InvalidValue, UnknownName, WeightsError
from fusetune.finetune.engine import Plan, Split
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.settings import FineTune, Optimizer
from fusetune.members.member import Preprocess, PreprocessOverride
from fusetune.members.sources.timm import Timm
from fusetune.predictions.targets import Targets
from fusetune.values import build

CLASSES = ("ant", "bee", "cat")
MODEL, SIZE = "test_resnet", 32


def folder_of(
    path: Path, model: str = MODEL, label_names=("cat", "ant", "bee"), arguments=None, **config
) -> Path:
    """A small random model in the hub's layout, as timm writes it."""
    torch.manual_seed(0)
    net = timm.create_model(model, num_classes=len(label_names), **(arguments or {}))
    # the heads of these models start near 0: outputs would be alike whatever is loaded
    torch.nn.init.normal_(net.get_classifier().weight)
    data = {
        "input_size": (3, SIZE, SIZE),
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.3, 0.4),
        **config,
    }
    save_for_hf(
        net, path, {"label_names": list(label_names)}, safe_serialization=True, data_config=data
    )
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return folder_of(
        tmp_path_factory.mktemp("timm") / "pets", crop_pct=0.8, interpolation="bilinear"
    )


def pictures(height: int, width: int) -> np.ndarray:
    """Three smooth images: resizing them does not hang on a library's exact kernel."""
    ramp_HW = np.add.outer(np.arange(height), np.arange(width)) / (height + width)
    phases = np.arange(9).reshape(3, 1, 1, 3)
    return (127 + 120 * np.sin(3 * ramp_HW[None, :, :, None] + phases)).astype(np.uint8)


def outputs_of(member, pixels_NHW3: np.ndarray) -> np.ndarray:
    return Torch().outputs(member, PixelImages(pixels_NHW3), lambda event: None)


def outputs_of_timm(folder: Path, pixels_NHW3: np.ndarray) -> np.ndarray:
    """The logits of timm's own pipeline: its model, its transform."""
    net = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config(pretrained_cfg=net.pretrained_cfg))
    with torch.no_grad():
        images = torch.stack([transform(Image.fromarray(pixels)) for pixels in pixels_NHW3])
        return net(images).numpy()


@pytest.mark.parametrize("shape", [(64, 64), (90, 60), (24, 24)])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_a_kept_model_gives_what_timms_own_pipeline_gives(tmp_path, shape, crop_mode):
    path = folder_of(tmp_path, crop_pct=0.8, interpolation="bilinear", crop_mode=crop_mode)
    member = Timm(model=MODEL, weights=path, head="keep").load(CLASSES)
    assert member.head_kept
    expected = outputs_of_timm(path, pictures(*shape))[:, [1, 2, 0]]  # as the task orders them
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(outputs_of(member, pictures(*shape)), expected, atol=0.05)


def test_preprocessing_is_the_folders_own(folder):
    own = Timm(model=MODEL, weights=folder)
    expected = Preprocess(
        size=32, resize=40, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), interpolation="bilinear"
    )
    assert own.load(CLASSES).preprocess == expected
    override = PreprocessOverride(size=48)
    overridden = Timm(model=MODEL, weights=folder, preprocess=override).load(CLASSES).preprocess
    assert (overridden.size, overridden.resize, overridden.mean) == (48, None, expected.mean)


def test_preprocessing_of_default_weights_is_that_of_the_tag():
    """Values as timm's documentation gives them for resnet18.a1_in1k and inception_v3.tv_in1k."""
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    for model, expected in {
        "resnet18": {"size": 224, "resize": 235, "interpolation": "bicubic", **imagenet},
        "inception_v3.tf_in1k": {
            "size": 299, "resize": 341, "interpolation": "bicubic",
            "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
        },
    }.items():  # fmt: skip
        source = Timm(model=model, weights="none")
        assert source._preprocess(source._configuration()) == Preprocess(**expected)


def test_a_folder_is_fine_tuned_with_a_new_head(folder, tmp_path):
    classes = ("dark", "light")
    member = Timm(model=MODEL, weights=folder).load(classes, seed=1)
    assert not member.head_kept
    assert member.head == ("fc",)
    assert member.notes == ("new head for 2 classes: fc",)
    pixels = np.repeat(np.array([20, 230] * 8, np.uint8), 32 * 32 * 3).reshape(16, 32, 32, 3)
    targets = Targets(np.arange(16).astype(str), classes, np.tile([0, 1], 8))
    split = Split(PixelImages(pixels), targets)
    settings = FineTune(
        epochs=20, batch_size=8, train="head", clip_norm=None, optimizer=Optimizer(lr=0.03)
    )
    plan = Plan(Classification(), settings, 0)
    history = Torch().finetune(member, plan, (split, split), tmp_path, lambda event: None)
    losses = [epoch["validation_loss"] for epoch in history.epochs]
    assert min(losses) == losses[history.best_epoch - 1] < np.log(2)
    prediction = Classification().to_prediction(
        targets.ids, member.classes, outputs_of(member, pixels)
    )
    assert np.mean(prediction.labels() == targets.names()) == 1


def test_a_weights_file_needs_no_folder(folder, tmp_path):
    source = Timm(model=MODEL, weights=folder / "model.safetensors", classes=("cat", "ant", "bee"))
    override = PreprocessOverride(size=SIZE)
    member = Timm(**{**vars(source), "preprocess": override}).load(CLASSES)
    assert member.head_kept
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(member.model.fc.weight, stored["fc.weight"][[1, 2, 0]])
    torch.save(
        {"state_dict": {f"module.{name}": t for name, t in stored.items()}}, tmp_path / "c.pt"
    )
    wrapped = Timm(model=MODEL, weights=tmp_path / "c.pt", preprocess=override).load(CLASSES)
    assert torch.equal(wrapped.model.conv1[0].weight, stored["conv1.0.weight"])
    assert any("the prefix 'module.' was stripped" in note for note in wrapped.notes)


def test_position_embeddings_are_interpolated_to_the_size(tmp_path):
    model, small = "vit_tiny_patch16_224", {"depth": 1, "embed_dim": 48}
    path = folder_of(tmp_path / "vit", model, arguments=small, input_size=(3, 224, 224))
    stored = load_file(path / "model.safetensors")
    override = PreprocessOverride(size=96)
    member = Timm(model=model, weights=path, preprocess=override).load(CLASSES)
    assert member.head_kept
    assert member.model.pos_embed.shape == (1, 6 * 6 + 1, 48)
    assert torch.equal(member.model.head.weight, stored["head.weight"][[1, 2, 0]])
    assert outputs_of(member, pictures(96, 96)).shape == (3, 3)
    headless = {name: t for name, t in stored.items() if not name.startswith("head.")}
    save_file(headless, tmp_path / "headless.safetensors")
    source = Timm(
        model=model,
        weights=tmp_path / "headless.safetensors",
        arguments=small,
        preprocess=override,
    )
    bare = source.load(CLASSES)
    assert bare.notes == ("the weights have no head", "new head for 3 classes: head")
    assert torch.equal(bare.model.pos_embed, member.model.pos_embed)


def test_arguments_of_the_folder_and_the_recipe_reach_the_model(tmp_path):
    torch.manual_seed(0)
    net = timm.create_model(MODEL, num_classes=3, output_stride=8)
    save_for_hf(net, tmp_path, model_args={"output_stride": 8}, safe_serialization=True)
    source = Timm(
        model=MODEL, weights=tmp_path, arguments={"drop_rate": 0.25},
        preprocess=PreprocessOverride(size=SIZE),
    )  # fmt: skip
    member = source.load(CLASSES)
    assert member.model.feature_info[-1]["reduction"] == 8
    assert member.model.drop_rate == 0.25
    spelled = source.portable().arguments
    assert (spelled["output_stride"], spelled["drop_rate"]) == (8, 0.25)
    assert "num_classes" not in spelled


def test_the_saved_source_needs_neither_folder_nor_network(folder, tmp_path):
    source = Timm(model=MODEL, weights=folder, head="keep")
    member = source.load(CLASSES)
    Torch().save(member, tmp_path / "own.safetensors")
    saved = saved_source(source.portable(), vars(member.preprocess))
    assert str(folder) not in json.dumps(saved)
    assert saved.pop("source") == "timm"
    again = build(Timm, saved, "member", tmp_path).load(CLASSES, pretrained=False)
    Torch().load(again, tmp_path / "own.safetensors")
    pixels = pictures(40, 40)
    assert np.array_equal(outputs_of(again, pixels), outputs_of(member, pixels))


def test_files_are_those_that_decide_what_is_loaded(folder):
    names = [path.name for path in Timm(model=MODEL, weights=folder).files()]
    assert names == ["config.json", "model.safetensors"]
    assert Timm(model=MODEL).files() == Timm(model=MODEL, weights="none").files() == ()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda p: (p / "config.json").unlink(),
            WeightsError,
            "has no config.json; expected a mod",
        ),
        (
            lambda p: (p / "config.json").write_text("{"),
            WeightsError,
            r"config.json' cannot be read",
        ),
        (lambda p: (p / "model.safetensors").unlink(), WeightsError, "holds 'config.json'; expec"),
        (lambda p: (p / "model.safetensors").write_bytes(b"x" * 99), WeightsError, "neither safet"),
        (
            lambda p: (p / "config.json").write_text('{"architecture": "resnet18"}'),
            InvalidValue,
            r"is the model 'test_resnet', and '.*' holds 'resnet18'.*Write model: resnet18\.",
        ),
        (
            lambda p: (p / "config.json").write_text('{"model_type": "vit"}'),
            InvalidValue,
            "holds no model of timm",
        ),
    ],
)
def test_a_folder_that_is_none_is_refused_by_check(tmp_path, change, error, message):
    path = folder_of(tmp_path / "model")
    change(path)
    with pytest.raises(error, match=message):
        Timm(model=MODEL, weights=path).check()


def test_unknown_models_and_tags_are_refused_with_the_nearest():
    with pytest.raises(UnknownName, match=r"timm is called 'resnet81'.* mean 'resnet18"):
        Timm(model="resnet81").check()
    with pytest.raises(UnknownName, match=r"'resnet18.a9_in1k'.* mean 'resnet18\.a\d_in1k'"):
        Timm(model="resnet18.a9_in1k").check()


def test_arguments_that_the_model_does_not_take_are_named():
    source = Timm(model=MODEL, weights="none", arguments={"wings": 2})
    with pytest.raises(InvalidValue, match=r"could not build 'test_resnet' with wings=2 \(TypeErr"):
        source.load(CLASSES)


def test_weights_of_another_model_are_refused(folder):
    source = Timm(model="test_convnext", weights=folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"of the model's \d+ weights are missing in"):
        source.load(CLASSES)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub's, and no network, as `HF_HUB_OFFLINE=1` sets it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_without_a_network_the_error_says_how_to_give_a_folder(hub_cache):
    with pytest.raises(WeightsError) as caught:
        Timm(model=MODEL).load(CLASSES)
    message = str(caught.value)
    assert message.startswith("the weights of 'timm-test_resnet' could not be fetched (")
    assert "network access to the repository 'timm/test_resnet.r160_in1k' of the hub" in message
    assert "hf download timm/test_resnet.r160_in1k --local-dir DIR" in message
    assert "weights: DIR; or write weights: none." in message


def test_default_weights_come_from_the_hubs_cache(hub_cache):
    place = hub_cache / "models--timm--test_resnet.r160_in1k"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    folder_of(place / "snapshots" / ("0" * 40), label_names=[str(c) for c in range(1000)])
    member = Timm(model=MODEL).load(CLASSES)
    stored = load_file(place / "snapshots" / ("0" * 40) / "model.safetensors")
    assert torch.equal(member.model.conv1[0].weight, stored["conv1.0.weight"])
    assert member.preprocess.size == 160
    assert not member.head_kept


def test_loading_warns_of_nothing_and_leaves_the_callers_random_state(folder):
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (Timm(model=MODEL, weights="none").load(CLASSES, seed=5) for _ in range(2))
        Timm(model=MODEL, weights=folder).load(("dark", "light"))
    assert torch.equal(torch.get_rng_state(), state)
    pairs = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_weights_outside_the_hub_are_looked_for_in_torchs_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # refuses every connection at once
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(WeightsError, match=r"weights: path/to/gcvit_xxtiny_224_nvidia-d1d86009"):
        Timm(model="gcvit_xxtiny").load(CLASSES)
    cached = tmp_path / "hub" / "checkpoints" / "gcvit_xxtiny_224_nvidia-d1d86009.pth"
    assert not cached.exists()
    cached.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=r"gcvit_xxtiny_.*' cannot be read"):
        Timm(model="gcvit_xxtiny").load(CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "size", "head"),
    [
        ("inception_v3", 75, ("fc",)),
        ("vgg11", 32, ("head.fc",)),
        ("efficientnet_b0", 32, ("classifier",)),
        ("mobilenetv3_small_050", 32, ("classifier",)),
        ("convnext_atto", 32, ("head.fc",)),
        ("vit_tiny_patch16_224", 32, ("head",)),
        ("swin_tiny_patch4_window7_224", 224, ("head.fc",)),
        ("deit_tiny_distilled_patch16_224", 32, ("head", "head_dist")),
        ("densenet121", 32, ("classifier",)),
        ("regnety_002", 32, ("head.fc",)),
    ],
)
def test_every_family_gets_its_head_replaced(model, size, head):
    source = Timm(model=model, weights="none", preprocess=PreprocessOverride(size=size))
    member = source.load(CLASSES)
    assert (member.head, member.preprocess.size) == (head, size)
    assert member.model.eval()(torch.rand(2, 3, size, size)).shape == (2, 3)


@pytest.mark.network
def test_the_published_weights_are_fetched():
    member = Timm(model="test_resnet.r160_in1k").load(CLASSES)
    theirs = timm.create_model("test_resnet.r160_in1k", pretrained=True)
    assert torch.equal(member.model.conv1[0].weight, theirs.conv1[0].weight)
