# SPDX-License-Identifier: Apache-2.0
"""The networks that come with the package: names, preprocessing, heads, and no torch for checks."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusetune.errors import UnknownName, WeightsError
from fusetune.members.member import Preprocess, PreprocessOverride
from fusetune.members.mini_nets import MEAN, NETS, SIZE, STD
from fusetune.members.sources.mini import Mini, _folder

DIGITS = tuple("0123456789")


def test_every_network_has_weights_and_every_weights_file_a_network():
    assert sorted(path.stem for path in _folder().glob("*.safetensors")) == sorted(NETS)


@pytest.mark.parametrize("model", sorted(NETS))
def test_the_packages_weights_are_loaded_with_a_new_head(model):
    source = Mini(model=model)
    source.check()
    member = source.load(DIGITS)
    assert (member.head, member.head_kept, member.engine) == (("head",), False, "torch")
    assert member.preprocess == Preprocess(size=SIZE, mean=MEAN, std=STD)
    assert member.classes == DIGITS
    state = member.model.state_dict()
    shipped = load_file(source.files()[0])
    assert state.keys() == shipped.keys()
    for name, tensor in shipped.items():
        if not name.startswith("head."):
            assert torch.equal(state[name], tensor.to(state[name].dtype))
    assert member.model(torch.rand(2, 3, SIZE, SIZE)).shape == (2, 10)


def test_a_task_of_the_same_symbols_keeps_the_head():
    import json

    from fusetune.members.weights import read_metadata

    own = json.loads(read_metadata(Mini(model="vgg").files()[0])["classes"])
    assert not set(own) & set(DIGITS)
    member = Mini(model="vgg").load(tuple(reversed(own)))
    kept = Mini(model="vgg", head="keep").load(tuple(own))
    assert member.head_kept and kept.head_kept
    images = torch.rand(4, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = kept.model.eval()(images).flip(1)
        assert torch.equal(member.model.eval()(images), expected)


def test_a_size_of_the_recipe_replaces_the_files():
    member = Mini(model="vgg", preprocess=PreprocessOverride(size=8)).load(DIGITS)
    assert member.preprocess == Preprocess(size=8, mean=MEAN, std=STD)


def test_a_file_of_the_users_is_loaded_with_or_without_metadata(tmp_path):
    first = Mini(model="resnet", weights="none").load(("a", "b"), seed=1)
    save_file(first.model.state_dict(), tmp_path / "own.safetensors")
    source = Mini(model="resnet", weights=tmp_path / "own.safetensors", classes=("a", "b"))
    member = source.load(("b", "a"))
    assert source.files() == (tmp_path / "own.safetensors",)
    assert member.head_kept
    assert torch.equal(member.model.head.weight, first.model.head.weight.flip(0))
    assert member.preprocess == Preprocess(size=SIZE, mean=MEAN, std=STD)


def test_random_initialization_follows_the_seed():
    weights = [Mini(model="vgg", weights="none").load(DIGITS, seed=s).model for s in (1, 1, 2)]
    first, second, third = (net.convs[0][0].weight for net in weights)
    assert torch.equal(first, second) and not torch.equal(first, third)
    assert Mini(model="vgg", weights="none").files() == ()


def test_unknown_names_and_absent_files_are_refused(tmp_path):
    with pytest.raises(UnknownName) as caught:
        Mini(model="resnext").check()
    assert str(caught.value) == (
        "no model of source mini is called 'resnext'; expected one of inception, resnet, vgg. "
        "Did you mean 'resnet'?"
    )
    with pytest.raises(WeightsError, match=r"'.*no.safetensors' is not there; expected a file"):
        Mini(model="resnet", weights=tmp_path / "no.safetensors").check()


def test_checking_imports_no_torch():
    code = (
        "import sys; from fusetune.members.sources.mini import Mini; Mini(model='vgg').check();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
