# SPDX-License-Identifier: Apache-2.0
"""The user's own networks: what is called how, what is refused, and real pretrained weights."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fusetune.errors import InvalidValue, UnknownName, WeightsError
from fusetune.members.member import Preprocess, PreprocessOverride
from fusetune.members.sources.module import IMAGENET_MEAN, IMAGENET_STD, Module

EXAMPLES = Path(__file__).parents[3] / "examples"
CIFAR10 = (
    "airplane automobile bird cat deer dog frog horse ship truck".split()  # noqa: SIM905
)
CODE = """
from torch import nn

CALLS = []

def net(num_classes=2, width=3, **more):
    CALLS.append((num_classes, width, more))
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))

def anything(**more):
    return net(**more)

def broken(num_classes):
    raise OSError("no disk")

def no_net():
    return [1, 2]

instance = net()
number = 3
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "fusetune_own.py").write_text(CODE)
    return tmp_path


def source(folder: Path, model: str, **fields) -> Module:
    settings = {"weights": "none", "preprocess": PreprocessOverride(size=4), **fields}
    return Module(model=f"fusetune_own.{model}", import_from=folder, **settings)


def calls() -> list:
    return sys.modules["fusetune_own"].CALLS


@pytest.mark.parametrize(
    ("model", "fields", "expected"),
    [
        ("net", {}, (4, 3, {})),
        ("net", {"classes": ("x", "y")}, (2, 3, {})),
        ("net", {"arguments": {"num_classes": 7, "depth": 1}}, (7, 3, {"depth": 1})),
        ("anything", {"arguments": {"depth": 1}}, (2, 3, {"depth": 1})),
    ],
)
def test_the_function_gets_the_number_of_classes_if_it_takes_it(folder, model, fields, expected):
    member = source(folder, model, **fields).load(("a", "b", "c", "d"))
    assert calls()[-1] == expected
    assert member.model(torch.rand(2, 3, 4, 4)).shape == (2, 4)


def test_preprocessing_is_imagenets_unless_given(folder):
    given = PreprocessOverride(size=4, mean=(0.5, 0.5, 0.5))
    member = source(folder, "net", preprocess=given).load(("a", "b"))
    assert member.preprocess == Preprocess(size=4, mean=(0.5, 0.5, 0.5), std=IMAGENET_STD)
    member = source(folder, "net").load(("a", "b"))
    assert member.preprocess == Preprocess(size=4, mean=IMAGENET_MEAN, std=IMAGENET_STD)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"weights": "default"},
            WeightsError,
            "'module-fusetune_own.net' has no weights; expected a file: a network of your own has",
        ),
        ({"preprocess": None}, InvalidValue, "does not say how large its images are; expected"),
        (
            {"preprocess": PreprocessOverride(mean=(0.5, 0.5, 0.5))},
            InvalidValue,
            "Add preprocess: {size: 32}",
        ),
    ],
)
def test_what_is_missing_in_the_recipe_is_said(folder, fields, error, message):
    with pytest.raises(error) as caught:
        source(folder, "net", **fields).check()
    assert message in str(caught.value)


def test_an_unknown_function_is_refused_by_check(folder):
    with pytest.raises(UnknownName, match=r"no function or class is called 'nets'.*mean 'net'\?"):
        source(folder, "nets").check()


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        ("broken", {}, "fusetune_own.broken(num_classes=2) failed (OSError: no disk); expected a"),
        (
            "anything",
            {"arguments": {"width": "x"}},
            "fusetune_own.anything(width='x') failed (TypeE",
        ),
        (
            "no_net",
            {},
            "fusetune_own.no_net gives list; expected a class, or a function, that builds",
        ),
        ("instance", {}, "fusetune_own.instance is Sequential; expected a class, or a function"),
        ("number", {}, "fusetune_own.number is int; expected a class, or a function, that builds"),
    ],
)
def test_what_builds_no_network_is_refused(folder, model, fields, message):
    with pytest.raises(InvalidValue) as caught:
        source(folder, model, **fields).load(("a", "b"))
    assert message in str(caught.value)


def test_the_python_file_and_the_weights_decide_the_member(folder):
    weights = folder / "w.pt"
    assert source(folder, "net", weights=weights).files() == (weights, folder / "fusetune_own.py")
    assert source(folder, "net").files() == (folder / "fusetune_own.py",)


def test_checking_imports_no_torch(folder):
    code = (
        "import sys; from pathlib import Path\n"
        "from fusetune.members.member import PreprocessOverride\n"
        "from fusetune.members.sources.module import Module\n"
        f"Module(model='fusetune_own.net', import_from=Path({str(folder)!r}), weights='none',"
        " preprocess=PreprocessOverride(size=4)).check()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("model", "depth", "num_millions"),
    [("resnet20", 20, 0.27), ("resnet32", 32, 0.46), ("resnet44", 44, 0.66)],
)
def test_the_examples_networks_are_those_of_the_paper(model, depth, num_millions):
    """Depth and number of parameters as in table 6 of He et al. 2015."""
    member = Module(
        model=f"my_nets.{model}",
        weights="none",
        import_from=EXAMPLES,
        preprocess=PreprocessOverride(size=32),
    ).load(tuple(CIFAR10))
    layers = [m for m in member.model.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    assert len(layers) == depth
    num_parameters = sum(parameter.numel() for parameter in member.model.parameters())
    assert num_parameters / 1e6 == pytest.approx(num_millions, abs=0.005)


@pytest.mark.slow
@pytest.mark.data
def test_real_weights_give_the_published_probabilities(data_folder):
    """Probabilities of the first 1,000 test images, against those computed elsewhere."""
    import pyarrow.parquet as pq

    from fusetune.data.inputs import decode

    member = Module(
        model="my_nets.resnet20",
        weights=data_folder / "weights" / "resnet20_cifar10.safetensors",
        import_from=EXAMPLES,
        classes=tuple(CIFAR10),
        preprocess=PreprocessOverride(size=32),
        head="keep",
    ).load(tuple(reversed(CIFAR10)))
    images = pq.read_table(data_folder / "cifar10" / "jpeg_test.parquet").slice(0, 1000)
    pixels_NHWC = np.stack([decode(cell["bytes"]) for cell in images["image"].to_pylist()])
    preprocess = member.preprocess
    inputs = (pixels_NHWC / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    with torch.no_grad():
        batch = torch.from_numpy(inputs).float().permute(0, 3, 1, 2)
        probs_NC = member.model.eval()(batch).softmax(1).numpy()[:, ::-1]
    published = pq.read_table(data_folder / "cifar10_predictions" / "resnet20.parquet").to_pydict()
    row_of = {id_: row for row, id_ in enumerate(published["id"])}
    rows = [row_of[id_] for id_ in images["id"].to_pylist()]
    expected_NC = np.stack([np.array(published[name])[rows] for name in CIFAR10], axis=1)
    np.testing.assert_allclose(probs_NC, expected_NC, atol=1e-3)
    right = probs_NC.argmax(1) == images["label"].to_numpy()
    assert right.mean() == pytest.approx(0.81, abs=0.02)
    assert member.head_kept and member.notes == ()
