# SPDX-License-Identifier: Apache-2.0
"""Weights files are read without unpickling, and loaded with a report of what did not fit."""

import collections
import json
import pickle
import struct
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fusetune.errors import WeightsError
from fusetune.members.weights import check_weights, load_weights, read_metadata, read_weights


def net(num_classes: int = 3) -> nn.Sequential:
    return nn.Sequential(
        collections.OrderedDict(
            conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), fc=nn.Linear(4, num_classes)
        )
    )


class Custom:
    """Something that a pickle would run code for."""


def equal(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def read_of(content: object, path: Path):
    torch.save(content, path)
    check_weights(path)
    return read_weights(path)


def test_safetensors_and_checkpoints_give_the_same_tensors(tmp_path):
    source, target = net(), net()
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    torch.save(source.state_dict(), tmp_path / "b.pth")
    (tmp_path / "c.bin").write_bytes((tmp_path / "a.safetensors").read_bytes())
    for name in ("a.safetensors", "b.pth", "c.bin"):
        check_weights(tmp_path / name)
        target = net()
        weights = read_weights(tmp_path / name)
        assert load_weights(target, weights, head=("fc",), keep_head=True) == ()
        assert equal(source, target)


def test_a_checkpoint_of_the_old_format_is_read(tmp_path):
    source, target = net(), net()
    torch.save(source.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    check_weights(tmp_path / "old.pth")
    load_weights(target, read_weights(tmp_path / "old.pth"), head=("fc",), keep_head=True)
    assert equal(source, target)


@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (lambda state: {"state_dict": state, "epoch": 3}, "state_dict"),
        (lambda state: {"model": state, "optimizer": {"state": {0: {}}}}, "model"),
        (lambda state: {"model_state_dict": state, "loss": 0.1}, "model_state_dict"),
        (lambda state: {"best": {"model": state}}, "best.model"),
        (
            lambda state: {"model": state, "model_ema": state, "step": torch.tensor(3)},
            "model",
        ),
    ],
)
def test_the_state_dict_is_found_inside_a_checkpoint(tmp_path, wrap, note):
    source, target = net(), net()
    weights = read_of(wrap(source.state_dict()), tmp_path / "checkpoint.pt")
    notes = load_weights(target, weights, head=("fc",), keep_head=True)
    assert equal(source, target)
    assert notes == (f"the weights were read from the checkpoint's '{note}'",)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.net."])
def test_prefixes_are_stripped_where_that_makes_names_match(tmp_path, prefix):
    source, target = net(), net()
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    weights = read_of({**state, "other.weight": torch.ones(1)}, tmp_path / "w.pt")
    notes = load_weights(target, weights, head=("fc",), keep_head=True)
    assert equal(source, target)
    assert notes == (
        f"the prefix '{prefix}' was stripped from the names of the weights",
        "1 of the weights are not in the model and were left out: 'other.weight'",
    )


def test_names_that_match_as_they_are_are_not_stripped(tmp_path):
    source, target = nn.Sequential(net(), net()), nn.Sequential(net(), net())
    weights = read_of(source.state_dict(), tmp_path / "w.pt")
    assert load_weights(target, weights, head=("1.fc",), keep_head=True) == ()
    assert equal(source, target)


def test_half_precision_is_cast_to_the_models_type(tmp_path):
    source, target = net(), net()
    state = {n: t.half() if t.is_floating_point() else t for n, t in source.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    load_weights(target, read_weights(tmp_path / "w.safetensors"), head=("fc",), keep_head=True)
    assert target.conv.weight.dtype == torch.float32
    assert torch.equal(target.conv.weight, source.conv.weight.half().float())
    assert target.norm.num_batches_tracked.dtype == torch.int64


def test_old_checkpoints_without_batch_counters_are_complete(tmp_path):
    source, target = net(), net()
    state = {n: t for n, t in source.state_dict().items() if "num_batches" not in n}
    weights = read_of(dict(state), tmp_path / "w.pt")
    assert load_weights(target, weights, head=("fc",), keep_head=True) == ()


def test_a_head_of_other_classes_is_left_out_if_it_is_replaced(tmp_path):
    source, target = net(1000), net(3)
    weights = read_of(source.state_dict(), tmp_path / "w.pt")
    before = target.fc.weight.clone()
    notes = load_weights(target, weights, head=("fc",), keep_head=False)
    assert notes == ("the head of the weights (1000 outputs) was left out",)
    assert torch.equal(target.fc.weight, before)
    assert torch.equal(target.conv.weight, source.conv.weight)
    with pytest.raises(WeightsError) as caught:
        load_weights(target, weights, head=("fc",), keep_head=True)
    assert str(caught.value) == (
        f"2 weights of '{tmp_path / 'w.pt'}' have another shape: "
        "'fc.weight' (1000, 4) in the file and (3, 4) in the model, "
        "'fc.bias' (1000,) in the file and (3,) in the model; expected weights of this very model. "
        "Check the model's name and arguments, and that `classes` names the weights' own classes."
    )


def test_a_wrong_shape_outside_the_head_is_refused_in_any_case(tmp_path):
    state = net().state_dict()
    state["conv.weight"] = torch.ones(8, 3, 3, 3)
    weights = read_of(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"'conv.weight' \(8, 3, 3, 3\) in the file and \(4, 3"):
        load_weights(net(), weights, head=("fc",), keep_head=False)


def test_weights_without_a_head_fit_if_it_is_replaced(tmp_path):
    state = {n: t for n, t in net().state_dict().items() if not n.startswith("fc")}
    weights = read_of(state, tmp_path / "w.pt")
    notes = load_weights(net(), weights, head=("fc",), keep_head=False)
    assert notes == ("the weights have no head",)
    with pytest.raises(
        WeightsError, match=r"2 of the model's 9 weights are missing .*'fc.weight', 'fc.b"
    ):
        load_weights(net(), weights, head=("fc",), keep_head=True)


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    weights = read_of(
        {"layer.weight": torch.ones(2), "fc.weight": torch.ones(3, 4)}, tmp_path / "w.pt"
    )
    with pytest.raises(WeightsError) as caught:
        load_weights(net(), weights, head=("fc",), keep_head=False)
    assert str(caught.value) == (
        f"6 of the model's 9 weights are missing in '{tmp_path / 'w.pt'}': 'conv.weight', "
        "'conv.bias', 'norm.weight', 'norm.bias', 'norm.running_mean' and 1 more; the file has "
        "'layer.weight' besides; expected weights of this very model. Check the model's name and "
        "arguments: these may be the weights of another model."
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_checkpoint_is_refused(tmp_path, value):
    state = net().state_dict()
    state["norm.running_var"][1] = value
    weights = read_of(state, tmp_path / "w.pt")
    with pytest.raises(
        WeightsError, match=r"1 tensors of .* hold NaN or infinity: 'norm.running_var'"
    ):
        load_weights(net(), weights, head=("fc",), keep_head=False)


def test_metadata_of_safetensors(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", metadata={"size": "16"})
    save_file({"a": torch.ones(1)}, tmp_path / "b.safetensors")
    torch.save({"a": torch.ones(1)}, tmp_path / "c.pt")
    read = [read_metadata(tmp_path / name) for name in ("a.safetensors", "b.safetensors", "c.pt")]
    assert read == [{"size": "16"}, {}, {}]


def truncated(path: Path) -> bytes:
    return path.read_bytes()[:-20]


def safetensors_header(header: object) -> bytes:
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded


def bad_file(kind: str, path: Path) -> None:
    """Write a file that is wrong in the way of that name."""
    match kind:
        case "absent":
            return
        case "folder":
            path.mkdir()
            return
        case "cut safetensors":
            save_file({"a": torch.ones(9)}, path)
            content = truncated(path)
        case "cut header":
            save_file({"a": torch.ones(9)}, path)
            content = path.read_bytes()[:30]
        case "cut checkpoint":
            torch.save(net().state_dict(), path)
            content = truncated(path)
        case _:
            content = {
                "empty": b"",
                "text": b"these are my weights, really",
                "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
                "page": b"<!DOCTYPE html><html>Not found</html>",
                "no tensors": safetensors_header({"__metadata__": {"a": "b"}}),
                "huge header": struct.pack("<Q", 1 << 60) + b'{"a": 1}',
            }[kind]
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("absent", "the weights file '{}' is not there; expected a file. Check the path"),
        ("folder", "the weights '{}' are a folder; expected a file. Give the path of"),
        ("empty", "'{}' is empty; expected a weights file. Download or save it again."),
        (
            "text",
            "the weights file '{}' cannot be read (it is neither safetensors nor a checkpoint",
        ),
        ("pointer", "'{}' is a Git LFS pointer, not the weights themselves; expected the file"),
        ("page", "'{}' is a web page, not weights; expected a weights file. Download the file"),
        ("no tensors", "'{}' holds no tensors; expected the model's weights. Save them again."),
        ("cut safetensors", "the weights file '{}' cannot be read (it has 80 bytes of 100)"),
        ("cut header", "the weights file '{}' cannot be read (its header is cut off or damaged)"),
        ("huge header", "the weights file '{}' cannot be read (its header is damaged)"),
        ("cut checkpoint", "the weights file '{}' cannot be read (it is cut off)"),
    ],
)
def test_files_that_are_no_weights_are_refused_at_once(tmp_path, kind, message):
    path = tmp_path / "w.safetensors"
    bad_file(kind, path)
    for refuse in (check_weights, read_weights):
        with pytest.raises(WeightsError) as caught:
            refuse(path)
        assert message.format(path) in str(caught.value)


@pytest.mark.parametrize("new_format", [True, False])
def test_pickled_objects_are_never_loaded(tmp_path, new_format):
    path = tmp_path / "w.pt"
    content = {"model": net().state_dict(), "config": Custom()}
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    assert f"'{path}' holds pickled objects ('{__name__}.Custom'), which can run" in str(
        caught.value
    )
    assert "Save the weights alone: torch.save(model.state_dict(), 'weights.pt')" in str(
        caught.value
    )


def test_a_plain_pickle_is_refused(tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(WeightsError, match=r"cannot be read \(.*checkpoint saved by torch.save"):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 3, "lr": 0.1}, "'epoch', 'lr'"),
        ({}, "nothing"),
        ([torch.ones(2)], "list"),
        (torch.ones(2), "Tensor"),
    ],
)
def test_a_checkpoint_without_a_state_dict_is_refused(tmp_path, content, found):
    with pytest.raises(WeightsError) as caught:
        read_of(content, tmp_path / "w.pt")
    assert f"holds no state dict (but {found}); expected tensors by name" in str(caught.value)


def test_a_torchscript_archive_is_refused(tmp_path):
    path = tmp_path / "w.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch says that it is an old format
        torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(str(path))
    with pytest.raises(WeightsError, match=r"is a TorchScript archive; expected weights only"):
        read_weights(path)
