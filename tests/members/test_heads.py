# SPDX-License-Identifier: Apache-2.0
"""Heads are found by what they do, replaced and permuted without touching anything else."""

from collections import namedtuple

import pytest
import torch
from torch import nn

from fusetune.errors import InvalidValue
from fusetune.members.heads import Head, find_head, permute_head, replace_head, trial_logits

SIZE = 8
Output = namedtuple("Output", ["logits", "aux_logits"])


def linear_net(num_classes: int = 5) -> nn.Sequential:
    """A hidden layer as wide as the head: only its place tells them apart."""
    width = num_classes
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * SIZE * SIZE, width), nn.ReLU(), nn.Linear(width, num_classes)
    )


class ConvHead(nn.Module):
    """As in SqueezeNet: a convolution, an activation, then pooling."""

    def __init__(self, bias: bool = True):
        super().__init__()
        self.features = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Conv2d(6, 4, 1, bias=bias),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
        )

    def forward(self, images):
        return self.classifier(self.norm(self.features(images))).flatten(1)


class Gated(nn.Module):
    """Channel gates as wide as the head, called after features and before it."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(3, 3)
        self.out = nn.Linear(3, 3)

    def forward(self, images):
        pooled = images.mean((2, 3))
        return self.out(pooled * self.gate(pooled).sigmoid())


class Auxiliary(nn.Module):
    """An auxiliary head in training mode, as in Inception v3."""

    def __init__(self):
        super().__init__()
        self.AuxLogits = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
        self.fc = nn.Linear(3, 4)

    def forward(self, images):
        pooled = images.mean((2, 3))
        if self.training:
            return Output(self.fc(pooled), self.AuxLogits(pooled))
        return self.fc(pooled)


class Sum(nn.Module):
    """Two heads whose outputs are added, and one layer under two names."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(3, 4)
        self.alias = self.second

    def forward(self, images):
        pooled = images.mean((2, 3))
        return self.first(pooled) + self.alias(pooled)


class NoGrad(Gated):
    """Cuts the autograd graph."""

    @torch.no_grad()
    def forward(self, images):
        return super().forward(images)


@pytest.mark.parametrize(
    ("model", "names", "num_outputs"),
    [
        (linear_net(), ("3",), 5),
        (ConvHead(), ("classifier.1",), 4),
        (Gated(), ("out",), 3),
        (Auxiliary(), ("AuxLogits.1", "fc"), 4),
        (Sum(), ("first", "second"), 4),
        (NoGrad(), ("out",), 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_head_is_found_by_what_it_does(model, names, num_outputs):
    assert find_head(model, SIZE) == Head(names, num_outputs)


def test_a_model_that_is_a_single_layer_has_no_name_to_replace():
    class Flat(nn.Linear):
        def forward(self, images):
            return super().forward(images.flatten(1))

    model = nn.Sequential(Flat(3 * SIZE * SIZE, 2))
    assert find_head(model, SIZE) == Head(("0",), 2)


@pytest.mark.parametrize("num_classes", [1, 4, 7])
@pytest.mark.parametrize("make", [linear_net, ConvHead, Gated, Auxiliary, Sum])
def test_a_new_head_changes_the_head_only(make, num_classes):
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    head = find_head(model, SIZE)
    replace_head(model, head, num_classes, seed=0)
    assert trial_logits(model, SIZE).shape == (2, num_classes)
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        if name.startswith((*head.names, "alias")):
            assert tensor.shape[0] == num_classes
        else:
            assert torch.equal(tensor, before[name])
    if make is not Auxiliary:  # its heads are two, one of them silent in evaluation mode
        assert find_head(model, SIZE) == Head(head.names, num_classes)


def test_a_new_head_starts_near_uniform_and_keeps_the_lack_of_a_bias():
    model = ConvHead(bias=False)
    replace_head(model, find_head(model, SIZE), 300, seed=0)
    layer = model.classifier[1]
    assert layer.bias is None
    assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1)
    probs = trial_logits(model, SIZE).softmax(1)
    assert probs.max() < 2 / 300


def test_the_seed_alone_decides_a_new_head():
    def weights(seed: int, burn: int) -> torch.Tensor:
        torch.rand(burn)
        model = linear_net()
        replace_head(model, Head(("3",), 5), 4, seed=seed)
        return model[3].weight

    assert torch.equal(weights(3, burn=1), weights(3, burn=2))
    assert not torch.equal(weights(3, burn=1), weights(4, burn=1))


def test_the_model_and_the_callers_random_state_stay_as_they_were():
    model = ConvHead()
    model.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    head = find_head(model, SIZE)
    trial_logits(model, SIZE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.features._forward_hooks
    replace_head(model, head, 2, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_new_head_keeps_the_mode_of_the_old_one():
    model = linear_net().eval()
    replace_head(model, Head(("3",), 5), 2, seed=0)
    assert not model[3].training


@pytest.mark.parametrize("make", [linear_net, ConvHead, Auxiliary, Sum])
def test_a_permuted_head_gives_permuted_logits(make):
    model = make().eval()
    images = torch.rand(6, 3, SIZE, SIZE)
    before = model(images)
    order = [2, 0, 3, 1, *range(4, before.shape[1])]
    permute_head(model, find_head(model, SIZE), order)
    assert torch.equal(model(images), before[:, order])


def test_auxiliary_heads_are_permuted_too():
    model = Auxiliary()
    images = torch.rand(2, 3, SIZE, SIZE)
    before = model(images).aux_logits
    permute_head(model, find_head(model, SIZE), [3, 2, 1, 0])
    assert torch.equal(model(images).aux_logits, before[:, [3, 2, 1, 0]])


class Failing(nn.Module):
    def forward(self, images):
        raise KeyError("no such thing")


class Volumes(nn.Module):
    def forward(self, images):
        return images[..., None]


class WithFeatures(Gated):
    """Returns more than the logits."""

    def forward(self, images):
        return super().forward(images), images.mean(1)


class Nothing(nn.Module):
    def forward(self, images):
        return "logits"


class Norm(nn.Module):
    """Ends in a weight that is no layer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))

    def forward(self, images):
        return images.mean((2, 3)) @ self.weight


class Reshaped(nn.Module):
    """Its last layer is wider than its logits."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(3, 8)

    def forward(self, images):
        return self.out(images.mean((2, 3))).reshape(2, 4, 2).mean(2)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(7, 2)),
            "the model failed on a batch of 2 images of 8×8 pixels (RuntimeError: ",
        ),
        (Failing(), "(KeyError: 'no such thing')"),
        (
            Volumes(),
            "the model gives a tensor of shape (2, 3, 8, 8, 1) for 2 images in training mode; exp",
        ),
        (
            Nothing(),
            "the model gives str for 2 images in training mode; expected one tensor of logits",
        ),
        (
            WithFeatures(),
            "the model gives (a tensor of shape (2, 3), a tensor of shape (2, 8, 8)) for 2 images in",
        ),
        (Norm(), "no layer of the model could be identified as the head that gives its 4 logits"),
        (Reshaped(), "no layer of the model could be identified as the head that gives its 4"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_classifier_is_refused(model, message):
    with pytest.raises(InvalidValue) as caught:
        find_head(model, SIZE)
    assert message in str(caught.value)


def test_more_than_logits_in_evaluation_mode_is_refused():
    class Pair(Auxiliary):
        def forward(self, images):
            pooled = images.mean((2, 3))
            return self.fc(pooled), self.AuxLogits(pooled)

    assert find_head(Pair(), SIZE).names == ("AuxLogits.1", "fc")
    with pytest.raises(InvalidValue, match=r"for 2 images in evaluation mode; expected one tensor"):
        trial_logits(Pair(), SIZE)


def test_a_grouped_convolution_cannot_be_replaced():
    model = nn.Sequential(nn.Conv2d(3, 6, SIZE, groups=3), nn.Flatten())
    with pytest.raises(InvalidValue, match="a convolution with 3 groups; expected one group"):
        replace_head(model, find_head(model, SIZE), 4, seed=0)
