# SPDX-License-Identifier: Apache-2.0
"""A head is kept, permuted or replaced as the recipe says, and the member says what happened."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fusetune.errors import InvalidValue, WeightsError
from fusetune.members.member import PreprocessOverride
from fusetune.members.sources.module import Module

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, softmax=False):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, num_classes)
        self.softmax = softmax

    def forward(self, images):
        logits = self.fc(self.body(images).mean((2, 3)))
        return logits.softmax(1) if self.softmax else logits

class Fixed(Net):
    def __init__(self):
        super().__init__(3)

class Stubborn(Fixed):
    def forward(self, images):
        return super().forward(images)[:, :3]
"""
OWN = ("ant", "bee", "cat")


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "fusetune_small.py").write_text(CODE)
    generator = torch.Generator().manual_seed(0)
    shapes = {"body.weight": (4, 3, 3, 3), "body.bias": (4,), "fc.weight": (3, 4), "fc.bias": (3,)}
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(state, tmp_path / "w.safetensors")
    body = {name: tensor for name, tensor in state.items() if name.startswith("body")}
    save_file(body, tmp_path / "body.safetensors")
    return tmp_path


def source(folder: Path, model: str = "Net", weights: str = "w.safetensors", **fields) -> Module:
    return Module(
        model=f"fusetune_small.{model}",
        weights="none" if weights == "none" else folder / weights,
        import_from=folder,
        preprocess=PreprocessOverride(size=8),
        **fields,
    )


def logits(member) -> torch.Tensor:
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return member.model.eval()(images).detach()


@pytest.mark.parametrize("head", ["auto", "keep"])
@pytest.mark.parametrize("model", ["Net", "Fixed"])
def test_a_kept_head_is_permuted_to_the_tasks_classes(folder, head, model):
    same = source(folder, model, classes=OWN, head=head).load(OWN)
    other = source(folder, model, classes=OWN, head=head).load(("cat", "ant", "bee"))
    assert same.head_kept and other.head_kept
    assert (same.head, other.classes, other.notes) == (("fc",), ("cat", "ant", "bee"), ())
    assert torch.equal(logits(other), logits(same)[:, [2, 0, 1]])
    weight = torch.from_numpy(same.model.fc.weight.detach().numpy())
    assert torch.equal(weight, load_file_tensor(folder, "fc.weight"))


def load_file_tensor(folder: Path, name: str) -> torch.Tensor:
    from safetensors import safe_open

    with safe_open(folder / "w.safetensors", "pt") as file:
        return file.get_tensor(name)


@pytest.mark.parametrize(
    ("fields", "task"),
    [
        ({"classes": OWN, "head": "replace"}, OWN),
        ({"classes": OWN}, ("ant", "bee", "dog")),
        ({"classes": OWN}, ("ant", "bee")),
        ({}, OWN),
        ({}, ("x", "y", "z", "u", "v")),
        ({}, ("x",)),
    ],
)
@pytest.mark.parametrize("model", ["Net", "Fixed"])
def test_a_replaced_head_has_one_logit_per_class(folder, fields, task, model):
    member = source(folder, model, **fields).load(task, seed=4)
    assert not member.head_kept
    assert logits(member).shape == (5, len(task))
    assert torch.equal(member.model.body.weight, load_file_tensor(folder, "body.weight"))
    assert f"new head for {len(task)} classes: fc" in member.notes
    again = source(folder, model, **fields).load(task, seed=4)
    assert torch.equal(again.model.fc.weight, member.model.fc.weight)
    other = source(folder, model, **fields).load(task, seed=5)
    assert not torch.equal(other.model.fc.weight, member.model.fc.weight)


def test_auto_replaces_a_head_that_the_weights_lack(folder):
    member = source(folder, weights="body.safetensors", classes=OWN).load(OWN)
    assert not member.head_kept
    assert member.notes == ("the weights have no head", "new head for 3 classes: fc")


def test_keep_refuses_weights_that_lack_the_head(folder):
    with pytest.raises(WeightsError, match=r"2 of the model's 4 weights are missing.*'fc.weight'"):
        source(folder, weights="body.safetensors", classes=OWN, head="keep").load(OWN)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            ("ant", "bee", "dog"),
            "the head of 'module-fusetune_small.Net' cannot be kept: it lacks 'dog' and has 'cat' "
            "besides; expected the task's classes, in any order. Write head: replace, or correct",
        ),
        (("ant", "bee"), "it has 'cat' besides; expected"),
        ((*OWN, "dog"), "it lacks 'dog'; expected"),
    ],
)
def test_keep_refuses_other_classes_and_names_the_differences(folder, task, message):
    with pytest.raises(InvalidValue) as caught:
        source(folder, classes=OWN, head="keep").load(task)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"classes": ("a", "b", "a")},
            "classes of 'module-fusetune_small.Net' names 'a' more than once; expected one name per",
        ),
        (
            {"head": "keep", "weights": "none"},
            "has head: keep and weights: none; expected weights that come with a head",
        ),
        ({"head": "keep"}, "has head: keep but no classes; expected the class names of"),
    ],
)
def test_fields_that_contradict_each_other_are_refused_by_check(folder, fields, message):
    with pytest.raises(InvalidValue) as caught:
        source(folder, **fields).check()
    assert message in str(caught.value)


def test_check_looks_at_the_weights_file(folder):
    with pytest.raises(WeightsError, match="is not there; expected a file"):
        source(folder, weights="no.safetensors").check()


def test_as_many_class_names_as_outputs_are_expected(folder):
    with pytest.raises(
        InvalidValue, match=r"names 4 classes, and its head has 3 outputs; expected one"
    ):
        source(folder, "Fixed", classes=(*OWN, "dog")).load(OWN)
    with pytest.raises(WeightsError, match=r"'fc.weight' \(3, 4\) in the file and \(4, 4\) in the"):
        source(folder, classes=(*OWN, "dog"), head="keep").load((*OWN, "dog"))


def test_a_model_that_ignores_its_new_head_is_refused(folder):
    with pytest.raises(
        InvalidValue, match="a head for 4 classes the model still gives 3 logits; exp"
    ):
        source(folder, "Stubborn").load(("a", "b", "c", "d"))


def test_a_softmax_at_the_end_is_noted(folder):
    plain, soft = (
        source(folder, classes=OWN, arguments={"softmax": softmax}).load(OWN)
        for softmax in (False, True)
    )
    assert plain.notes == ()
    assert len(soft.notes) == 1 and soft.notes[0].startswith("the model seems to end in a softmax")


@pytest.mark.parametrize("fields", [{"classes": OWN}, {"classes": OWN, "head": "replace"}, {}])
def test_without_weights_the_same_modules_are_built(folder, fields):
    loaded = source(folder, **fields).load(OWN)
    built = source(folder, **fields).load(OWN, pretrained=False, seed=9)
    assert str(built.model) == str(loaded.model)
    assert (built.head, built.preprocess) == (loaded.head, loaded.preprocess)
    assert not torch.equal(built.model.body.weight, loaded.model.body.weight)
    built.model.load_state_dict(loaded.model.state_dict())
    assert torch.equal(logits(built), logits(loaded))


def test_building_reads_no_weights(folder):
    (folder / "w.safetensors").write_bytes((folder / "body.safetensors").read_bytes())
    source(folder, classes=OWN, head="keep").load(OWN, pretrained=False)


def test_random_initialization_follows_the_seed_and_leaves_the_callers_state(folder):
    state = torch.get_rng_state()
    first, second, third = (source(folder, weights="none").load(OWN, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.model.body.weight, second.model.body.weight)
    assert not torch.equal(first.model.body.weight, third.model.body.weight)
    assert not first.head_kept
