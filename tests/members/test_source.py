# SPDX-License-Identifier: Apache-2.0
"""What every source of members must be: a documented frozen dataclass that checks without torch."""

import dataclasses
import subprocess
import sys

import pytest

from fusetune.errors import UnknownName
from fusetune.members.source import Source
from fusetune.plugins import discover, find

SOURCES = discover(Source)


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_a_documented_frozen_dataclass(name):
    source = SOURCES[name]
    assert source.__dataclass_params__.frozen
    fields = dataclasses.fields(source)
    assert all(field.kw_only for field in fields)
    added = {field.name for field in fields} - {field.name for field in dataclasses.fields(Source)}
    assert all(f"        {field}: " in f"    {source.__doc__}" for field in added)
    made = source(model="some/net.v2")
    assert (made.name, made.member_name) == (name, f"{name}-some-net.v2")
    assert made == source(model="some/net.v2")


def test_an_unknown_source_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match=r"no source is called 'torchvison'.*'torchvision'\?"):
        find(Source, "torchvison")


@pytest.mark.parametrize(
    ("source", "absent", "extra"),
    [
        ("mini.Mini(model='vgg')", "torch", "torch"),
        ("mini.Mini(model='vgg')", "safetensors", "torch"),
        ("module.Module(model='a.b', weights='none', preprocess=P(size=8))", "torch", "torch"),
        ("torchvision.Torchvision(model='resnet18')", "torchvision", "vision"),
        ("timm.Timm(model='resnet18')", "timm", "vision"),
        ("transformers.Transformers(model='a/b')", "transformers", "text"),
        ("onnx.Onnx(model='a', classes=('b',))", "onnxruntime", "onnx"),
        ("onnx.Onnx(model='a', classes=('b',))", "onnx", "onnx"),
    ],
)
def test_a_missing_package_is_named_by_check(source, absent, extra):
    code = (
        f"import sys; sys.modules[{absent!r}] = None\n"  # as Python itself marks an absent module
        "from fusetune.errors import MissingExtra\n"
        "from fusetune.members.member import PreprocessOverride as P\n"
        "from fusetune.members.sources import (\n    mini, module, onnx, timm, torchvision, transformers)\n"
        f"try: {source}.check()\n"
        "except MissingExtra as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == (
        f"the package '{absent}' is not installed; expected it for this step. "
        f"Run: pip install 'fusetune[{extra}]'\n"
    )
