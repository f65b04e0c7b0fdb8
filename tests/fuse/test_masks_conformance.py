# SPDX-License-Identifier: Apache-2.0
"""Label voting and STAPLE against the stored outputs of SimpleITK and crowd-kit, and by hand."""

import json

import numpy as np
import pytest

from fusetune.errors import InvalidValue
from fusetune.fuse.methods.masks.label_voting import LabelVoting
from fusetune.fuse.methods.masks.staple import Staple
from fusetune.fuse.raters import combinations, rate
from fusetune.metrics.mean_iou import MeanIou
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.stack import Stack

UNDECIDED = 255
VOTES_OF_ITK = 0.94  # see `test_several_labels_are_nearly_those_of_itk`


def stack_of(maps, num_classes):
    """Members that are sure; class names are numbers."""
    names = tuple(map(str, range(num_classes)))
    parts = {
        f"m{m}": Masks.from_arrays(["row"], names, [np.moveaxis(np.eye(num_classes)[one], -1, 0)])
        for m, one in enumerate(np.asarray(maps))
    }
    return Stack.align(parts)


def fused(method, maps, num_classes):
    stack = stack_of(maps, num_classes)
    return method.fit(stack, None, MeanIou())(stack).masks[0].array()


def stored(data_folder, name):
    path = data_folder.parent / "conformance" / name
    if not path.is_file():
        pytest.skip("the stored outputs of other tools are not here")
    return json.loads(path.read_text(encoding="utf-8"))


def cases_of_itk(data_folder, method):
    found = stored(data_folder, "simpleitk/label_fusion.json")
    return [
        (np.array(found["inputs"][case["input"]]), case)
        for case in found["cases"]
        if case["method"] == method
    ]


@pytest.mark.data
def test_votes_are_those_of_itk(data_folder):
    cases = cases_of_itk(data_folder, "LabelVoting")
    assert len(cases) == 10
    for maps, case in cases:
        num_classes = maps.max() + 2  # one more, for undecided pixels
        array = fused(LabelVoting(undecided=str(num_classes - 1)), maps, num_classes)
        found = array.argmax(axis=0)
        found[found == num_classes - 1] = UNDECIDED
        assert found.tolist() == case["labels"], case["input"]


@pytest.mark.data
def test_two_labels_are_those_of_itk(data_folder):
    cases = cases_of_itk(data_folder, "STAPLE")
    assert len(cases) == 5
    for maps, case in cases:
        found = fused(Staple(), maps, 2)[1]
        np.testing.assert_allclose(found, case["prob"], atol=1e-6, err_msg=case["input"])
        raters = rate(combinations(maps.astype(np.int16)), 2, max_rounds=100, tolerance=1e-7)
        rates = [raters.chances_MCC[:, label, label] for label in (0, 1)]
        np.testing.assert_allclose(rates, [case["specificity"], case["sensitivity"]], atol=1e-12)


@pytest.mark.data
def test_several_labels_are_nearly_those_of_itk(data_folder):
    """ITK starts from the majority's confusions, where ties spill over (ITK#6579), we from shares."""
    cases = cases_of_itk(data_folder, "MultiLabelSTAPLE")
    assert len(cases) == 5
    same = [
        float((fused(Staple(), maps, maps.max() + 1).argmax(axis=0) == case["labels"]).mean())
        for maps, case in cases
    ]
    assert min(same) > VOTES_OF_ITK and max(same) == 1


@pytest.mark.data
def test_majorities_are_those_of_crowd_kit(data_folder):
    found = stored(data_folder, "crowd-kit/segmentation.json")
    inputs = {one["task"]: np.array(list(one["masks"].values())) for one in found["inputs"]}
    cases = [one for one in found["cases"] if one["method"] == "SegmentationMajorityVote"]
    assert len(cases) == 6
    for case in cases:
        shares = fused(LabelVoting(), inputs[case["task"]], 2)
        tied = shares[0] == shares[1]
        wanted = np.array(case["mask"]).astype(int)
        assert (shares.argmax(axis=0) == wanted)[~tied].all(), case["task"]


def test_combinations_give_back_what_was_said():
    random = np.random.default_rng(0)
    maps = random.integers(-1, 5, size=(7, 9, 11)).astype(np.int16)
    found = combinations(iter(maps))
    assert np.array_equal(np.moveaxis(found.labels_UM[found.which_HW], -1, 0), maps)
    assert found.counts_U.sum() == 99 and len(found.counts_U) <= 99


def test_two_rounds_of_staple_by_hand():
    """Six pixels, three raters; the sums that the paper's equations ask for, written out."""
    maps = np.array([[[1, 1, 0, 0, 1, 0]], [[1, 0, 0, 0, 1, 1]], [[1, 1, 1, 0, 0, 0]]])
    prior, believed = maps.mean(), maps.mean(axis=0)[0]
    for _ in range(2):
        said = maps[:, 0]
        hit = said @ believed / believed.sum()
        quiet = (1 - said) @ (1 - believed) / (1 - believed).sum()
        yes = prior * np.prod(np.where(said == 1, hit[:, None], 1 - hit[:, None]), axis=0)
        no = (1 - prior) * np.prod(np.where(said == 0, quiet[:, None], 1 - quiet[:, None]), axis=0)
        believed = yes / (yes + no)
    np.testing.assert_allclose(fused(Staple(max_rounds=2), maps, 2)[1, 0], believed, atol=1e-6)


def test_a_member_that_calls_too_much_is_believed_less():
    random = np.random.default_rng(1)
    truth = (random.random((40, 40)) < 0.3).astype(int)
    flipped = [np.where(random.random((40, 40)) < 0.05, 1 - truth, truth) for _ in range(2)]
    eager = [np.where(random.random((40, 40)) < 0.5, 1, truth) for _ in range(3)]
    maps = np.stack([*flipped, *eager])
    right = [
        (fused(method, maps, 2).argmax(axis=0) == truth).mean()
        for method in (LabelVoting(), Staple())
    ]
    assert right[1] > right[0] + 0.05


def test_any_number_of_members_can_be_heard():
    """A product of a thousand chances is no number of double precision."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, (20, 20))
    said = [
        np.where(random.random(truth.shape) < 0.4, truth, random.integers(0, 3, truth.shape))
        for _ in range(1000)
    ]
    found = combinations(np.array(said, dtype=np.int16))
    raters = rate(found, 3, max_rounds=20, tolerance=1e-7)
    decided = raters.posterior_UC.argmax(axis=1)[found.which_HW]
    np.testing.assert_array_equal(decided, truth)


def test_bad_options_are_refused():
    with pytest.raises(InvalidValue, match="max_rounds is 0"):
        Staple(max_rounds=0)
    with pytest.raises(InvalidValue, match="tolerance is 2"):
        Staple(tolerance=2)
