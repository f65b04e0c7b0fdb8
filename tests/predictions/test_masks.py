# SPDX-License-Identifier: Apache-2.0
"""Masks: bands, pixels, pieces, sizes; and what is no mask."""

import os
import weakref

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import map_coordinates

from fusetune.choose import cross_choose
from fusetune.errors import InvalidValue, PredictionError
from fusetune.evaluate.side_by_side import look_side_by_side
from fusetune.fuse.methods.distributions.mean import Mean
from fusetune.fuse.methods.distributions.weighted_mean import WeightedMean
from fusetune.metrics.boundary_f1 import BoundaryF1
from fusetune.metrics.mean_iou import MeanIou
from fusetune.predictions.segmentation.files import FileLabels, FileMask, Legend
from fusetune.predictions.segmentation.label_maps import ArrayLabels, LabelMaps, LabelMask
from fusetune.predictions.segmentation.masks import (
    ArrayMask,
    FusedMask,
    Mask,
    Masks,
    MeanRule,
    Rule,
)
from fusetune.predictions.segmentation.pixels import chosen_places, pixel_rows, sampled_masks
from fusetune.predictions.segmentation.resampled import ResampledMask
from fusetune.predictions.segmentation.sharing import sharing
from fusetune.predictions.segmentation.writing import recording, write_masks
from fusetune.predictions.stack import Stack
from mask_pools import mask_pool, whole


class Watched(Mask):
    """Counts the bands of all such masks that are alive at once."""

    alive = most = 0

    def __init__(self, array):
        super().__init__(array.shape[1:], len(array))
        self.array_CHW = array

    def band(self, top, bottom):
        band = self.array_CHW[:, top:bottom].copy()
        Watched.alive += 1
        Watched.most = max(Watched.most, Watched.alive)
        weakref.finalize(band, Watched.gone)
        return band

    @classmethod
    def gone(cls):
        cls.alive -= 1


def test_rows_are_taken_joined_and_cut_into_pieces():
    stack, _ = mask_pool(rows=5)
    masks = stack.parts[0]
    order = np.array([3, 0, 4])
    taken = masks.take(order)
    assert taken.ids.tolist() == ["image3", "image0", "image4"]
    assert taken.masks[1] is masks.masks[0]
    assert masks.take(masks.ids == "image2").ids.tolist() == ["image2"]
    joined = Masks.concat([masks.take(np.array([n])) for n in range(5)])
    assert joined.masks == masks.masks
    size = 4 * 3 * 12 * 16
    assert [len(piece) for piece in masks.chunks(2 * size)] == [2, 2, 1]
    assert [len(piece) for piece in masks.chunks(1)] == [1] * 5
    wider = masks.over(("other", *masks.classes[::-1]))
    assert np.array_equal(whole(wider)[0][1:], whole(masks)[0][::-1])
    assert not whole(wider)[0][0].any()


def test_pixels_are_those_of_the_bands_wherever_they_lie():
    array = np.random.default_rng(0).random((3, 7, 5), dtype=np.float32)
    places = np.array([34, 0, 3, 3, 17, 12])
    wanted = array.reshape(3, -1)[:, places]
    watched = Watched(array)
    watched.spans = lambda: iter([(0, 2), (2, 3), (3, 7)])
    assert np.array_equal(watched.pixels(places), wanted)
    assert np.array_equal(ArrayMask(array).pixels(places), wanted)
    assert np.array_equal(watched.array(), array)
    labels = ArrayLabels(array.argmax(axis=0))
    assert np.array_equal(LabelMask(labels, 3).pixels(places).argmax(axis=0), wanted.argmax(axis=0))
    assert np.array_equal(watched.decided(1, 4), array[:, 1:4].argmax(axis=0))


def test_averages_hold_one_member_at_a_time():
    arrays = [np.full((2, 4, 4), 0.5, dtype=np.float32) for _ in range(9)]
    names = [f"m{m}" for m in range(9)]
    parts = tuple(Masks(["a"], ("x", "y"), (Watched(array),)) for array in arrays)
    stack = Stack(tuple(names), parts, ("x", "y"))
    fused = Mean().fit(stack, None, MeanIou())(stack)
    Watched.alive = Watched.most = 0
    assert np.array_equal(fused.masks[0].array(), arrays[0])
    assert Watched.most <= 3


@pytest.mark.parametrize("size", [(14, 10), (3, 4), (7, 5), (20, 3), (1, 1)])
def test_resampling_is_bilinear_between_pixel_centers(size):
    array = np.random.default_rng(1).dirichlet(np.ones(3), size=(7, 5)).transpose(2, 0, 1)
    mask = ResampledMask(ArrayMask(array), size)
    lines = (np.arange(size[0]) + 0.5) * 7 / size[0] - 0.5
    columns = (np.arange(size[1]) + 0.5) * 5 / size[1] - 0.5
    places = np.meshgrid(lines, columns, indexing="ij")
    wanted = [map_coordinates(plane, places, order=1, mode="nearest") for plane in array]
    np.testing.assert_allclose(mask.array(), wanted, atol=1e-12)
    np.testing.assert_allclose(mask.array().sum(axis=0), 1, atol=1e-12)
    bands = [mask.band(top, top + 1) for top in range(size[0])]
    np.testing.assert_allclose(np.concatenate(bands, axis=1), wanted, atol=1e-12)


@pytest.mark.parametrize("size", [(14, 10), (3, 4), (7, 5), (20, 3), (1, 1)])
def test_pixels_of_resampled_masks_are_those_of_their_bands_to_the_bit(size):
    array = np.random.default_rng(1).dirichlet(np.ones(3), size=(7, 5)).transpose(2, 0, 1)
    mask = ResampledMask(ArrayMask(array.astype(np.float32)), size)
    places = np.random.default_rng(2).integers(0, size[0] * size[1], 40)
    assert np.array_equal(mask.pixels(places), mask.array().reshape(3, -1)[:, places])


class Counted(Rule):
    """The mean, and how often it was asked for; all such rules are alike."""

    asked = 0

    def __call__(self, bands):
        Counted.asked += 1
        return sum(bands) / 2

    def __eq__(self, other):
        return isinstance(other, Counted)

    def __hash__(self):
        return 1


def test_what_is_made_of_the_same_masks_is_made_once():
    """A fusion and its blend with others share masks, and inside of `sharing` bands."""
    stack, _ = mask_pool(members=2, rows=2)
    one, other = (
        Masks(stack.ids, stack.classes, FusedMask.rows(stack.parts, 3, Counted())) for _ in "ab"
    )
    assert one.masks == other.masks and len(set(one.masks)) == 2
    assert FusedMask.rows(stack.parts[::-1], 3, Counted())[0] is not one.masks[0]
    assert one.over(("z", *one.classes)).masks[0] is other.over(("z", *one.classes)).masks[0]
    blend = FusedMask([one.masks[0], other.masks[0]], 3, MeanRule())
    Counted.asked = 0
    ((_, whole_band),) = blend.bands()
    assert Counted.asked == 1
    assert np.array_equal(whole_band, one.masks[0].array())
    with sharing():
        first = one.masks[0].band(0, 4)
        assert other.masks[0].band(0, 4) is first and other.masks[0].band(0, 3) is not first
        with sharing():
            assert one.masks[0].band(0, 4) is not first
    assert one.masks[0].band(0, 4) is not first


def test_metrics_that_looked_side_by_side_read_nothing_again():
    stack, targets = mask_pool(members=2, rows=3)
    metrics = [MeanIou(), BoundaryF1()]
    rows = FusedMask.rows(stack.parts, 3, Counted())
    fused = Masks(stack.ids, stack.classes, rows)
    apart = Masks.from_arrays(stack.ids, stack.classes, whole(fused))
    Counted.asked = 0
    look_side_by_side([fused, *stack.parts, fused], targets, metrics)
    assert Counted.asked == 3
    for metric in metrics:
        wanted = metric.statistics(apart, targets)
        assert np.array_equal(metric.statistics(fused, targets), wanted)
    look_side_by_side([fused], targets, metrics)
    assert Counted.asked == 3


@pytest.mark.parametrize(
    "read", [[], [(0, 4), (4, 12)], [(0, 5)], [(5, 12)], [(0, 3), (6, 12), (3, 6)]]
)
def test_masks_that_are_recorded_are_written_whole_however_they_are_read(tmp_path, read):
    stack, _ = mask_pool(rows=2)
    masks = stack.parts[0]
    write_masks(tmp_path / "wanted", masks)
    with recording(tmp_path / "found", masks) as recorded:
        for span in read:
            assert np.array_equal(recorded.masks[0].band(*span), masks.masks[0].band(*span))
        assert np.array_equal(
            recorded.masks[1].pixels(np.arange(5)), masks.masks[1].pixels(np.arange(5))
        )
        assert not (tmp_path / "found").exists()
    files = [path.name for path in sorted((tmp_path / "wanted").iterdir())]
    assert files == [path.name for path in sorted((tmp_path / "found").iterdir())]
    for name in files:
        assert (tmp_path / "found" / name).read_bytes() == (tmp_path / "wanted" / name).read_bytes()


def test_files_give_the_bits_that_were_written(tmp_path):
    stack, _ = mask_pool(rows=3)
    write_masks(tmp_path / "out", stack.parts[0])
    for name, array in zip(stack.ids.tolist(), whole(stack.parts[0]), strict=True):
        mask = FileMask(tmp_path / "out" / f"{name}.npy")
        assert np.array_equal(mask.array(), array.astype(np.float16).astype(np.float32))
    write_masks(tmp_path / "out", stack.parts[1].take(np.array([0])))
    assert len(list((tmp_path / "out").glob("*.npy"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    np.savez_compressed(tmp_path / "one.npz", probs=whole(stack.parts[0])[0])
    assert np.array_equal(FileMask(tmp_path / "one.npz").array(), whole(stack.parts[0])[0])


def test_a_mask_that_cannot_be_computed_leaves_nothing_behind(tmp_path):
    class Fails(Rule):
        def __call__(self, bands):
            raise RuntimeError

    mask = FusedMask([ArrayMask(np.ones((1, 2, 2)))], 1, Fails())
    with pytest.raises(RuntimeError):
        write_masks(tmp_path / "out", Masks(["a"], ("x",), (mask,)))
    assert not list(tmp_path.iterdir())


def test_chosen_pixels_hang_on_id_and_size_alone():
    some, more = (chosen_places("a", (512, 512), rows) for rows in (4096, 16))
    assert len(some) == 16 and len(more) == 2048
    assert np.array_equal(more[:16], some)
    assert not np.array_equal(chosen_places("b", (512, 512), 4096), some)
    assert np.array_equal(chosen_places("a", (3, 4), 4096), np.arange(12))
    stack, targets = mask_pool(rows=3, size=(5, 6))
    labels = targets.maps[0].read().copy()
    labels[:2] = -1
    maps = [labels, *(one.read() for one in targets.maps[1:])]
    holed = LabelMaps.from_arrays(targets.ids, targets.classes, maps)
    weights_N = np.array([2.0, 1.0, 0.5])
    pixels, truth, weights_K, rows_K = pixel_rows(stack, holed, weights_N)
    assert np.bincount(rows_K).tolist() == [18, 30, 30]
    np.testing.assert_allclose(np.bincount(rows_K, weights_K), weights_N)
    assert np.array_equal(truth.labels_N[:18], labels[2:].ravel())
    wanted = whole(stack.parts[1])[0][:, 2:].reshape(3, -1).T
    assert np.array_equal(pixels.parts[1].probs_NC[:18], wanted)
    assert sampled_masks(stack.parts[0]).masks[0].size == (1, 30)


def test_weights_are_those_of_the_pixels_as_rows():
    """Fitting masks is fitting all of their pixels, where they are few."""
    from fusetune.metrics.log_loss import LogLoss

    stack, targets = mask_pool(rows=4, noise=2.0)
    masks = WeightedMean().fit(stack, targets, MeanIou())
    pixels, truth, _, _ = pixel_rows(stack, targets, np.ones(4))
    rows = WeightedMean().fit(pixels, truth, LogLoss())
    assert masks.weights() == pytest.approx(rows.weights(), abs=1e-6)


def test_weights_per_class_are_fitted_and_applied_to_every_pixel():
    stack, targets = mask_pool(noise=2.0)
    fusion = WeightedMean(per_class=True, shrink=0.0).fit(stack, targets, MeanIou())
    average = fusion.fusion
    fused = whole(fusion(stack))[0]
    rows = [average.members.index(name) for name in average.members]
    arrays = [whole(stack[average.members[row]])[0] for row in rows]
    weights_MC = average.weights_MC / average.weights_MC.sum(axis=0)
    wanted = sum(w_C[:, None, None] * array for w_C, array in zip(weights_MC, arrays, strict=True))
    np.testing.assert_allclose(fused, wanted / wanted.sum(axis=0), atol=1e-6)


def test_auto_blends_masks_and_judges_each_by_a_choice_that_did_not_see_it():
    stack, targets = mask_pool(rows=10, noise=2.0)
    methods = {"mean": Mean(), "weighted_mean": WeightedMean()}
    for metric in (MeanIou(), BoundaryF1()):
        choice = cross_choose(stack, targets, metric, methods)
        assert choice.chosen == "auto" and sum(choice.fusion.parts().values()) == pytest.approx(1)
        order = [stack.ids.tolist().index(name) for name in choice.honest.ids.tolist()]
        value = metric.value(metric.statistics(choice.honest, targets.take(np.array(order))))
        worst = min(metric.value(metric.statistics(part, targets)) for part in stack.parts)
        assert value > worst


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ([np.ones((2, 3, 3))], "has the shape"),
        ([np.ones((3, 3))], "has the shape"),
        ([np.full((3, 2, 2), np.nan)], "line 0, column 0 of row 'a'"),
        ([np.full((3, 2, 2), 0.5)], "sum to 1.5"),
        ([np.stack([np.full((2, 2), v) for v in (1.5, -0.5, 0)])], "finite probabilities"),
    ],
)
def test_what_is_no_mask_is_refused(arrays, match):
    with pytest.raises(PredictionError, match=match):
        Masks.from_arrays(["a"], ("x", "y", "z"), arrays)


def test_other_bad_input_is_refused():
    with pytest.raises(PredictionError, match="each named once"):
        Masks.from_arrays([], ("x", "x"), [])
    with pytest.raises(InvalidValue, match="tolerance is 0"):
        BoundaryF1(tolerance=0)


@pytest.mark.parametrize("ending", ["png", "npy", "npz"])
def test_a_label_map_that_was_written_anew_is_read_anew(tmp_path, ending):
    """Decoded files are kept, but not beyond the next one of that name."""
    path, legend = tmp_path / f"one.{ending}", Legend(("a", "b"))
    for number in (0, 1):
        labels = np.full((2, 3), number, dtype=np.uint8)
        if ending == "png":
            Image.fromarray(labels).save(path)
        elif ending == "npy":
            np.save(path, labels)
        else:
            np.savez(path, labels)
        stamp = 10**18 + number  # as two files that are not of the same instant
        os.utime(path, ns=(stamp, stamp))
        assert (FileLabels(path, legend).read() == number).all()
