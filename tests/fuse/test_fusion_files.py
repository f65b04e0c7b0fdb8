# SPDX-License-Identifier: Apache-2.0
"""Saved fusions: damage, foreign code and newer versions are refused."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from fusetune.errors import InvalidValue, UnknownName
from fusetune.fuse.forms import Blend, WeightedAverage
from fusetune.fuse.fusion import load_fusion, save_fusion
from fusetune.fuse.methods.distributions.stacking import Stacking
from fusetune.fuse.methods.distributions.vote import MajorityVote
from fusetune.metrics.log_loss import LogLoss
from pools import pool


@pytest.fixture
def saved(tmp_path):
    """A nested fusion, and the folder it is saved in."""
    stack, targets = pool(dtype=np.float32)
    fusion = Blend(
        names=("vote", "stacking", "nested"),
        fusions=(
            MajorityVote(members=stack.members),
            Stacking().fit(stack, targets, LogLoss()),
            Blend(
                names=("member1",),
                fusions=(WeightedAverage.of({"member1": 0.1}),),
                weights_F=np.array([1.0]),
            ),
        ),
        weights_F=np.array([1.0, 2.0, 1 / 3]),
    )
    save_fusion(fusion, tmp_path / "fusion")
    return stack, fusion, tmp_path / "fusion"


def edit(folder, change):
    path = folder / "fusion.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_nested_fusions_come_back_with_the_same_bits(saved):
    stack, fusion, folder = saved
    loaded = load_fusion(folder)
    assert isinstance(loaded, Blend)
    assert loaded.names == fusion.names
    assert loaded.members == fusion.members
    assert loaded(stack).probs_NC.tobytes() == fusion(stack).probs_NC.tobytes()


def test_the_same_fusion_gives_the_same_files(saved, tmp_path):
    _, fusion, folder = saved
    save_fusion(fusion, tmp_path / "again")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert sorted(files) == [
        "fusion.json",
        "fusions.1.coefficients_FC.npy",
        "fusions.2.fusions.0.weights_M.npy",
        "fusions.2.weights_F.npy",
        "weights_F.npy",
    ]


def test_no_saved_fusion(tmp_path):
    with pytest.raises(InvalidValue, match=r"holds no fusion\.json"):
        load_fusion(tmp_path)


def test_a_newer_version(saved):
    edit(saved[2], lambda content: content.update(version=2))
    with pytest.raises(InvalidValue, match="has version 2; expected version 1"):
        load_fusion(saved[2])


@pytest.mark.parametrize(
    "form",
    [
        "os.system",
        "fusetune.cli.main.main",
        "fusetune.fuse.forms.nothing",
        "fusetune.fuse.gone.Form",
    ],
)
def test_other_classes_are_not_built(saved, form):
    edit(saved[2], lambda content: content["fusion"].update(form=form))
    with pytest.raises(UnknownName, match=f"no form of a fusion is called '{form}'"):
        load_fusion(saved[2])


def test_a_class_imported_into_a_fusion_module_is_not_built(saved):
    # forms.py imports Fusion itself; only classes defined in the module count.
    edit(saved[2], lambda content: content["fusion"].update(form="fusetune.fuse.forms.Fusion"))
    with pytest.raises(UnknownName):
        load_fusion(saved[2])


def test_pickled_arrays_are_not_read(saved):
    folder = saved[2]
    np.save(folder / "weights_F.npy", np.array([1.0, "x"], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidValue, match="cannot be read"):
        load_fusion(folder)


def test_arrays_outside_the_folder_are_not_read(saved):
    edit(
        saved[2],
        lambda content: content["fusion"]["fields"].update(weights_F={"array": "../weights_F.npy"}),
    )
    with pytest.raises(InvalidValue, match="lies outside the folder"):
        load_fusion(saved[2])


@pytest.mark.parametrize(
    "damage", ["cut", "array_cut", "array_gone", "field_gone", "list", "shape"]
)
def test_damaged_files_are_named(saved, damage):
    folder = saved[2]
    array = folder / "weights_F.npy"
    match damage:
        case "cut":
            text = (folder / "fusion.json").read_text()
            (folder / "fusion.json").write_text(text[: len(text) // 2])
        case "array_cut":
            array.write_bytes(array.read_bytes()[:-5])
        case "array_gone":
            array.unlink()
        case "field_gone":
            edit(folder, lambda content: content["fusion"]["fields"].pop("names"))
        case "list":
            (folder / "fusion.json").write_text("[1]")
        case "shape":
            np.save(array, np.array([1.0]))
    with pytest.raises(InvalidValue, match=r"fusion\.json' cannot be read"):
        load_fusion(folder)


def test_a_form_that_holds_an_object_is_refused(tmp_path):
    @dataclass(frozen=True)
    class Strange(MajorityVote):
        thing: object

    with pytest.raises(AssertionError):
        save_fusion(Strange(members=("a",), thing=[1]), tmp_path)
    assert not (tmp_path / "fusion.json").exists()
