# SPDX-License-Identifier: Apache-2.0
"""transformers' models from folders that transformers itself wrote: weights, head, preprocessing."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")
import huggingface_hub
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ConvNextImageProcessor,
    MobileViTConfig,
    MobileViTImageProcessor,
    ResNetConfig,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from fusetune.data.inputs import PixelImages
from fusetune.ensemble import saved_source
from fusetune.errors import InvalidValue, WeightsError
from fusetune.finetune.engine import Plan, Split
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.settings import FineTune, Optimizer
from fusetune.members.member import Preprocess, PreprocessOverride
from fusetune.members.sources.transformers import Transformers
from fusetune.predictions.targets import Targets
from fusetune.values import build

pytestmark = pytest.mark.slow

CLASSES = ("ant", "bee", "cat")
NAMES = {0: "cat", 1: "ant", 2: "bee"}
HALF = (0.5, 0.5, 0.5)


def vit(**changes) -> ViTConfig:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    common = {"intermediate_size": 32, "image_size": 32, "patch_size": 8, "id2label": NAMES}
    return ViTConfig(**{**sizes, **common, **changes})


def save(path: Path, config, processor=None, model=None) -> Path:
    """A small random model in the hub's layout, as transformers writes it."""
    torch.manual_seed(0)
    net = model or AutoModelForImageClassification.from_config(config)
    with torch.no_grad():  # the usual draws are so small that outputs hardly hang on the image
        for parameter in net.parameters():
            parameter.normal_(0, 0.3)
    net.save_pretrained(path)
    if processor is not None:
        processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6])
    return save(tmp_path_factory.mktemp("transformers") / "pets", vit(), processor)


def source(folder: Path, **fields) -> Transformers:
    return Transformers(model="my-pets", weights=folder, **fields)


def pictures(height: int, width: int) -> np.ndarray:
    """Three smooth images: resizing them does not hang on a library's exact kernel."""
    ramp_HW = np.add.outer(np.arange(height), np.arange(width)) / (height + width)
    phases = np.arange(9).reshape(3, 1, 1, 3)
    return (127 + 120 * np.sin(3 * ramp_HW[None, :, :, None] + phases)).astype(np.uint8)


def outputs_of(member, pixels_NHW3: np.ndarray) -> np.ndarray:
    return Torch().outputs(member, PixelImages(pixels_NHW3), lambda event: None)


CONFIGS = {
    "vit": (vit(), ViTImageProcessor(size={"height": 32, "width": 32})),
    "resnet": (
        ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16],
            depths=[1, 1],
            layer_type="basic",
            id2label=NAMES,
        ),
        ConvNextImageProcessor(size={"shortest_edge": 32}),
    ),
    "mobilevit": (  # sees BGR
        MobileViTConfig(
            image_size=64,
            hidden_sizes=[8, 8, 8],
            neck_hidden_sizes=[8] * 7,
            num_attention_heads=2,
            id2label=NAMES,
        ),
        MobileViTImageProcessor(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}),
    ),
}


@pytest.mark.parametrize("shape", [(64, 64), (90, 60)])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_kept_model_gives_what_transformers_own_pipeline_gives(tmp_path, architecture, shape):
    path = save(tmp_path, *CONFIGS[architecture])
    member = source(path, head="keep").load(CLASSES)
    assert member.head_kept
    assert member.notes == ()
    processor = AutoImageProcessor.from_pretrained(path)
    net = AutoModelForImageClassification.from_pretrained(path).eval()
    images = [Image.fromarray(pixels) for pixels in pictures(*shape)]
    with torch.no_grad():
        logits = net(**processor(images=images, return_tensors="pt")).logits.numpy()
    expected = logits[:, [1, 2, 0]]  # as the task orders them
    spread = float(np.ptp(expected))
    assert spread > 1e-3
    np.testing.assert_allclose(outputs_of(member, pictures(*shape)), expected, atol=0.03 * spread)


def test_preprocessing_is_the_folders_own(folder):
    expected = Preprocess(size=32, resize=32, squash=True, mean=(0.4, 0.5, 0.6), std=HALF)
    assert source(folder).load(CLASSES).preprocess == expected
    override = PreprocessOverride(std=(0.1, 0.2, 0.3), squash=False)
    overridden = source(folder, preprocess=override).load(CLASSES).preprocess
    assert overridden == Preprocess(size=32, resize=32, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))


def test_channels_are_turned_whatever_the_recipe_overrides(tmp_path):
    path = save(tmp_path, *CONFIGS["mobilevit"])
    override = PreprocessOverride(size=64, mean=(0, 0, 0), std=(1, 1, 1))
    member = source(path, preprocess=override).load(CLASSES)
    pixels = pictures(64, 64)
    net = AutoModelForImageClassification.from_pretrained(path).eval()
    bgr = torch.from_numpy(pixels[..., ::-1].copy()).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        logits = net(bgr).logits[:, [1, 2, 0]]
    np.testing.assert_allclose(outputs_of(member, pixels), logits, rtol=1e-4, atol=1e-5)


def test_a_folder_is_fine_tuned_with_a_new_head(folder, tmp_path):
    classes = ("dark", "light")
    member = source(folder).load(classes, seed=1)
    assert member.notes == ("new head for 2 classes: classifier",)
    pixels = np.repeat(np.array([20, 230] * 8, np.uint8), 32 * 32 * 3).reshape(16, 32, 32, 3)
    targets = Targets(np.arange(16).astype(str), classes, np.tile([0, 1], 8))
    split = Split(PixelImages(pixels), targets)
    plan = Plan(
        Classification(), FineTune(epochs=15, batch_size=8, optimizer=Optimizer(lr=0.02)), 0
    )
    history = Torch().finetune(member, plan, (split, split), tmp_path, lambda event: None)
    assert min(epoch["validation_loss"] for epoch in history.epochs) < 0.5 * np.log(2)
    prediction = Classification().to_prediction(
        targets.ids, member.classes, outputs_of(member, pixels)
    )
    assert (prediction.labels() == targets.names()).all()


def test_a_checkpoint_without_a_head_gets_one(tmp_path):
    config = vit()
    path = save(tmp_path, config, ViTImageProcessor(), model=ViTModel(config))
    override = PreprocessOverride(size=32)
    member = source(path, preprocess=override).load(CLASSES)
    assert member.notes == (
        "the weights have no head",
        "new head for 3 classes: classifier",
    )
    body = ViTModel.from_pretrained(path).state_dict()
    loaded = member.model.vit.state_dict()
    assert all(torch.equal(loaded[name], body[name]) for name in loaded)


def test_a_vision_transformer_takes_images_of_another_size(folder):
    member = source(folder, preprocess=PreprocessOverride(size=48)).load(CLASSES)
    pixels = pictures(48, 48)
    net = AutoModelForImageClassification.from_pretrained(folder).eval()
    mean = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / 0.5
    with torch.no_grad():
        logits = net(images, interpolate_pos_encoding=True).logits[:, [1, 2, 0]]
    np.testing.assert_allclose(outputs_of(member, pixels), logits, rtol=1e-4, atol=1e-5)


def test_a_weights_file_comes_with_a_config(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    override = PreprocessOverride(size=32, mean=HALF, std=HALF)
    given = Transformers(
        model="my-pets",
        weights=folder / "model.safetensors",
        config=config,
        classes=("cat", "ant", "bee"),
        preprocess=override,
    )
    member = given.load(CLASSES)
    assert member.head_kept
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(member.model.classifier.weight, stored["classifier.weight"][[1, 2, 0]])
    other = replace(given, classes=None).load(("dark", "light"))
    assert other.notes == (
        "the head of the weights (3 outputs) was left out",
        "new head for 2 classes: classifier",
    )
    scratch = Transformers(model="own", weights="none", config=config, preprocess=override)
    assert scratch.load(("x", "y"), seed=1).model.classifier.out_features == 2
    with pytest.raises(
        InvalidValue, match=r"no image processor \(the model is given by its config"
    ):
        Transformers(model="own", weights="none", config=config).load(CLASSES)


def test_the_saved_source_needs_neither_folder_nor_network(folder, tmp_path):
    given = source(folder, head="keep")
    member = given.load(CLASSES)
    Torch().save(member, tmp_path / "own.safetensors")
    saved = json.loads(json.dumps(saved_source(given.portable(), vars(member.preprocess))))
    assert str(folder) not in json.dumps(saved)
    assert saved.pop("source") == "transformers"
    again = build(Transformers, saved, "member", tmp_path).load(CLASSES, pretrained=False)
    Torch().load(again, tmp_path / "own.safetensors")
    pixels = pictures(40, 40)
    assert np.array_equal(outputs_of(again, pixels), outputs_of(member, pixels))


def test_files_are_those_that_decide_what_is_loaded(folder):
    names = [path.name for path in source(folder).files()]
    assert names == ["config.json", "preprocessor_config.json", "model.safetensors"]
    assert Transformers(model="owner/name").files() == ()


def edited(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda p: (p / "config.json").unlink(),
            WeightsError,
            "has no config.json; expected a mod",
        ),
        (
            lambda p: (p / "config.json").write_text("[]"),
            WeightsError,
            "holds a list; expected a J",
        ),
        (lambda p: (p / "model.safetensors").unlink(), WeightsError, "holds 'config.json', 'prepr"),
        (
            lambda p: edited(p / "config.json", model_type="bert"),
            InvalidValue,
            "type 'bert' describ",
        ),
        (
            lambda p: edited(p / "config.json", model_type="mine", auto_map={"AutoConfig": "m.C"}),
            InvalidValue,
            "code that comes with a repository is not run",
        ),
        (
            lambda p: (p / "preprocessor_config.json").unlink(),
            InvalidValue,
            r"'transformers-my-pets' has no image processor \(",
        ),
        (
            lambda p: save_file({"x": torch.ones(2)}, p / "model.safetensors"),
            WeightsError,
            r"of the model's \d+ weights are missing",
        ),
        (
            lambda p: edited(p / "config.json", hidden_size=8),
            WeightsError,
            r"weights of '.*model.safetensors' have another shape",
        ),
    ],
)
def test_a_folder_that_is_none_is_refused(tmp_path, change, error, message):
    path = save(tmp_path / "model", vit(), ViTImageProcessor(size={"height": 32, "width": 32}))
    change(path)
    with pytest.raises(error, match=message):
        source(path).load(CLASSES)


def test_head_keep_needs_names(tmp_path):
    config = vit(id2label={0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"})
    path = save(tmp_path, config, ViTImageProcessor(size={"height": 32, "width": 32}))
    with pytest.raises(InvalidValue, match="has head: keep but no classes"):
        source(path, head="keep").load(CLASSES)
    assert source(path, head="keep", classes=("cat", "ant", "bee")).load(CLASSES).head_kept


def test_a_folder_as_the_models_name_is_refused_with_the_way_to_write_it(folder):
    with pytest.raises(InvalidValue, match=r"model: pets, weights: .*pets\}"):
        Transformers(model=str(folder)).check()


def test_a_config_beside_weights_with_their_own_is_refused(folder):
    with pytest.raises(InvalidValue, match="has both config and weights that come with their own"):
        source(folder, config={"model_type": "vit"}).check()


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub's, and no network, as `HF_HUB_OFFLINE=1` sets it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_without_a_network_the_error_says_how_to_give_a_folder(hub_cache):
    with pytest.raises(WeightsError) as caught:
        Transformers(model="owner/name").load(CLASSES)
    message = str(caught.value)
    assert message.startswith("the weights of 'transformers-owner-name' could not be fetched (")
    assert "network access to the repository 'owner/name' of the hub, or its files." in message
    assert "hf download owner/name --local-dir DIR" in message
    with pytest.raises(WeightsError, match="Repo id must be"):
        Transformers(model="no such/na/me").load(CLASSES)


def test_default_weights_come_from_the_hubs_cache(hub_cache):
    place = hub_cache / "models--owner--name"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    snapshot = place / "snapshots" / ("0" * 40)
    save(snapshot, vit(), ViTImageProcessor(size={"height": 32, "width": 32}))
    member = Transformers(model="owner/name").load(CLASSES)
    assert member.head_kept
    stored = load_file(snapshot / "model.safetensors")
    assert torch.equal(member.model.classifier.weight, stored["classifier.weight"][[1, 2, 0]])
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="could not be fetched"):
        Transformers(model="owner/name").load(CLASSES)
    assert Transformers(model="owner/name").load(CLASSES, pretrained=False).head_kept


def test_loading_warns_of_nothing_and_leaves_the_callers_random_state(folder, capfd):
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (source(folder).load(("x", "y"), seed=5) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr().err == ""
    pairs = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.network
def test_the_published_weights_are_fetched():
    member = Transformers(model="microsoft/resnet-18").load(CLASSES)
    theirs = AutoModelForImageClassification.from_pretrained("microsoft/resnet-18").state_dict()
    name = "resnet.embedder.embedder.convolution.weight"
    assert torch.equal(member.model.state_dict()[name], theirs[name])
