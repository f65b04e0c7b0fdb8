# SPDX-License-Identifier: Apache-2.0
"""torchvision's architectures: their heads, their own preprocessing, their weights files."""

import copy
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("torchvision")
from torchvision import models

from fusetune.errors import InvalidValue, UnknownName, WeightsError
from fusetune.members.heads import Head, find_head, permute_head, replace_head
from fusetune.members.member import Preprocess, PreprocessOverride
from fusetune.members.sources.torchvision import Torchvision

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CLASSES = ("ant", "bee", "cat")
SMALL = "shufflenet_v2_x0_5"
SMALL_FILE = "shufflenetv2_x0.5-f707e7126e.pth"


def source(model: str = SMALL, size: int | None = 32, **fields) -> Torchvision:
    return Torchvision(model=model, preprocess=size and PreprocessOverride(size=size), **fields)


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    """The small architecture with ImageNet's head, random weights."""
    torch.manual_seed(0)
    return models.get_model(SMALL, weights=None)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of torch's, and a network that refuses every connection at once."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hub" / "checkpoints"


ARCHITECTURES = [
    ("resnet18", 32, ("fc",)),
    ("vgg11", 32, ("classifier.6",)),
    ("squeezenet1_1", 32, ("classifier.1",)),
    ("densenet121", 32, ("classifier",)),
    ("mobilenet_v3_small", 32, ("classifier.3",)),
    ("efficientnet_b0", 32, ("classifier.1",)),
    ("inception_v3", 75, ("fc",)),
    ("inception_v3", 299, ("AuxLogits.fc", "fc")),
    ("googlenet", 32, ("aux1.fc2", "aux2.fc2", "fc")),
    ("vit_b_16", 32, ("heads.head",)),
    ("convnext_tiny", 32, ("classifier.2",)),
    ("swin_t", 32, ("head",)),
    ("regnet_y_400mf", 32, ("fc",)),
    ("mnasnet0_5", 32, ("classifier.1",)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "size", "names"), ARCHITECTURES)
def test_every_family_gets_its_head_replaced_and_permuted(model, size, names):
    member = source(model, size, weights="none").load(CLASSES)
    net = member.model
    assert (member.head, member.preprocess.size) == (names, size)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    head = Head(names, 3)
    assert find_head(net, size) == head
    replace_head(net, head, 5, seed=1)
    changed = {
        name
        for name, tensor in net.state_dict().items()
        if tensor.shape != before[name].shape or not torch.equal(tensor, before[name])
    }
    assert changed == {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        logits = net.eval()(images)
        permute_head(net, Head(names, 5), [3, 1, 0, 4, 2])
        permuted = net(images)
    assert logits.shape == (2, 5)
    torch.testing.assert_close(permuted, logits[:, [3, 1, 0, 4, 2]], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "size"), [("vgg16", 32), ("inception_v3", 75), ("googlenet", 32)]
)
def test_the_classic_networks_train_at_small_sizes(model, size):
    """One step moves every weight that training mode reaches, the heads among them."""
    net = source(model, size, weights="none").load(CLASSES).model
    net.train()
    logits = net(torch.rand(4, 3, size, size))
    entries = logits if isinstance(logits, tuple) else (logits,)
    assert all(entry.shape == (4, 3) for entry in entries)
    assert hasattr(logits, "logits") == (model == "googlenet")
    sum(entry.square().sum() for entry in entries).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("resnet18", {"size": 224, "resize": 256, **IMAGENET}),
        ("resnet50", {"size": 224, "resize": 232, **IMAGENET}),
        ("inception_v3", {"size": 299, "resize": 342, **IMAGENET}),
        ("efficientnet_b0", {"size": 224, "resize": 256, "interpolation": "bicubic", **IMAGENET}),
        (
            "efficientnet_v2_l",
            {
                "size": 480,
                "resize": 480,
                "interpolation": "bicubic",
                "mean": (0.5, 0.5, 0.5),
                "std": (0.5, 0.5, 0.5),
            },
        ),
    ],
)
def test_preprocessing_is_the_checkpoints_own(model, expected):
    """Values as torchvision's documentation gives them for the default weights."""
    assert source(model, None)._preprocess() == Preprocess(**expected)
    overridden = source(model, 96)._preprocess()
    assert (overridden.size, overridden.resize, overridden.mean) == (96, None, expected["mean"])


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        (
            "inception_v3",
            74,
            "'torchvision-inception_v3' has preprocess.size 74; expected at least 75",
        ),
        (
            "vgg16",
            16,
            "has preprocess.size 16; expected at least 32. Write preprocess: {size: 32}.",
        ),
        ("vit_b_16", 40, "has preprocess.size 40; expected a multiple of its patches' 16 pixels"),
        ("maxvit_t", 100, "has preprocess.size 100; expected a multiple of 224 pixels. Write pre"),
    ],
)
def test_sizes_that_an_architecture_cannot_take_are_refused_by_check(model, size, message):
    with pytest.raises(InvalidValue) as caught:
        source(model, size).check()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("model", "size"), [("inception_v3", 75), ("vgg16", 32), ("vit_b_16", 48), ("swin_t", 32)]
)
def test_the_least_sizes_are_accepted(model, size):
    source(model, size).check()


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match=r"torchvision is called 'resnet81'.* mean 'resnet18'\?"):
        source("resnet81").check()


def test_detection_models_are_no_classifiers():
    with pytest.raises(UnknownName):
        source("fasterrcnn_resnet50_fpn").check()


def test_keep_needs_class_names_unless_the_weights_are_the_default(net, tmp_path):
    source(head="keep").check()
    torch.save(net.state_dict(), tmp_path / "own.pth")
    with pytest.raises(InvalidValue, match="has head: keep but no classes"):
        source(head="keep", weights=tmp_path / "own.pth").check()


def test_default_weights_come_from_torchs_cache(net, cache):
    cache.mkdir(parents=True)
    torch.save(net.state_dict(), cache / SMALL_FILE)
    member = source().load(CLASSES, seed=3)
    assert member.notes == ("new head for 3 classes: fc",)
    assert torch.equal(member.model.conv5[0].weight, net.conv5[0].weight)


def test_a_file_of_the_default_weights_keeps_imagenets_classes(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / SMALL_FILE)
    with pytest.raises(
        InvalidValue, match=r"cannot be kept: it lacks 'cat' and has 'Afghan hound'"
    ):
        source(weights=tmp_path / SMALL_FILE, head="keep").load(CLASSES)


def test_without_a_network_the_error_says_how_to_give_a_file(cache):
    with pytest.raises(WeightsError) as caught:
        source().load(CLASSES)
    message = str(caught.value)
    assert f"the weights of 'torchvision-{SMALL}' could not be downloaded (" in message
    assert (
        f"; expected network access to https://download.pytorch.org/models/{SMALL_FILE}, or"
        in message
    )
    assert f"put it at {cache / SMALL_FILE} (set TORCH_HOME to move that folder)" in message
    assert f"weights: path/to/{SMALL_FILE}; or write weights: none." in message
    assert list(cache.iterdir()) == []


def test_without_weights_nothing_is_downloaded(cache):
    member = source().load(CLASSES, pretrained=False)
    assert member.model(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    assert not cache.exists()


def test_a_file_with_a_head_of_its_own_classes(net, tmp_path):
    own = copy.deepcopy(net)
    own.fc = torch.nn.Linear(1024, 3)
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    fields = {"weights": tmp_path / "own.safetensors", "classes": CLASSES}
    kept = source(**fields).load(("cat", "ant", "bee"))
    assert kept.head_kept and kept.notes == ()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = own.eval()(images)[:, [2, 0, 1]]
        torch.testing.assert_close(kept.model.eval()(images), expected)
    replaced = source(weights=fields["weights"]).load(CLASSES)
    assert replaced.notes == (
        "the head of the weights (3 outputs) was left out",
        "new head for 3 classes: fc",
    )


def test_weights_of_another_architecture_are_refused(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "own.pth")
    with pytest.raises(
        WeightsError, match=r"\d+ of the model's \d+ weights are missing in '.*own.pth'"
    ):
        source("mobilenet_v3_small", weights=tmp_path / "own.pth").load(CLASSES)


def test_loading_warns_of_nothing_and_leaves_the_callers_random_state(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "own.pth")
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (source(weights="none").load(CLASSES, seed=5) for _ in range(2))
        source(weights=tmp_path / "own.pth").load(CLASSES)
    assert torch.equal(torch.get_rng_state(), state)
    pairs = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.slow
def test_old_names_of_densenet_are_understood(tmp_path):
    net = models.get_model("densenet121", weights=None)
    old = {}
    for name, tensor in net.state_dict().items():
        for kind in ("norm", "conv"):
            name = name.replace(f".{kind}1.", f".{kind}.1.").replace(f".{kind}2.", f".{kind}.2.")
        old[name] = tensor
    assert sum(name in net.state_dict() for name in old) < len(old)
    torch.save(old, tmp_path / "old.pth")
    member = source("densenet121", weights=tmp_path / "old.pth").load(CLASSES)
    weight = member.model.features.denseblock1.denselayer1.norm1.weight
    assert torch.equal(weight, net.features.denseblock1.denselayer1.norm1.weight)


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 64])
def test_position_embeddings_are_interpolated_to_the_size(tmp_path, size):
    net = models.get_model("vit_b_32", weights=None)
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    member = source("vit_b_32", size, weights=tmp_path / "vit.pth").load(CLASSES)
    own, theirs = member.model.encoder.pos_embedding, net.encoder.pos_embedding
    assert own.shape[1] == (size // 32) ** 2 + 1
    assert torch.equal(own[:, 0], theirs[:, 0])
    if size == 224:
        assert torch.equal(own, theirs)
    else:  # aligned corners: the corner patches stay what they are
        torch.testing.assert_close(own[:, [1, 2, 3, 4]], theirs[:, [1, 7, 43, 49]])


@pytest.mark.slow
@pytest.mark.parametrize("model", ["inception_v3", "googlenet"])
def test_published_inception_weights_expect_a_converted_input(tmp_path, model):
    """A file of the full network loads whole; auxiliary heads that do not fit are left out."""
    theirs = models.get_model(model, weights=None, init_weights=False, transform_input=True)
    path = tmp_path / source(model)._file_name()
    torch.save(theirs.state_dict(), path)
    member = source(model, 75, weights=path).load(CLASSES)
    assert member.model.transform_input
    assert not member.model.aux_logits
    assert member.head == ("fc",)
    assert any(
        "are not in the model and were left out: 'Aux" in n or "'aux1" in n for n in member.notes
    )
    override = PreprocessOverride(size=75, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    own = Torchvision(model=model, weights=path, preprocess=override)
    assert not own.load(CLASSES, pretrained=False).model.transform_input


@pytest.mark.data
def test_real_squeezenet_features_get_a_new_head(data_folder):
    path = data_folder / "weights" / "squeezenet1_1_imagenet_features.safetensors"
    member = source("squeezenet1_1", 64, weights=path).load(CLASSES)
    assert member.notes == ("the weights have no head", "new head for 3 classes: classifier.1")
    from safetensors.torch import load_file

    features = load_file(path)
    state = member.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in features.items())
    assert set(state) - set(features) == {"classifier.1.weight", "classifier.1.bias"}


@pytest.mark.network
def test_the_published_weights_are_downloaded():
    member = source("squeezenet1_1", None).load(CLASSES)
    assert member.notes == ("new head for 3 classes: classifier.1",)
    weights = models.get_model_weights("squeezenet1_1").DEFAULT
    theirs = weights.get_state_dict(weights_only=True)["features.0.weight"]
    assert torch.equal(member.model.features[0].weight, theirs)
