# SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation: which views are seen, that predictions average them and remember to."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fusetune.data.inputs import PixelImages
from fusetune.errors import InvalidValue
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.pytorch.views import prediction_views
from fusetune.members.member import Member, PreprocessOverride
from small_runs import PREPROCESS, SPLITS, member

IMAGES = SPLITS[0].images
PIXELS = np.stack([IMAGES.pixels(row) for row in range(len(IMAGES))])


def with_views(**views: bool | int) -> Member:
    return replace(member(), preprocess=PreprocessOverride(**views).apply(PREPROCESS))


def outputs(made: Member, pixels: np.ndarray = PIXELS) -> np.ndarray:
    return Torch().outputs(made, PixelImages(pixels), lambda event: None)


def seen_of(images: torch.Tensor, **views: Any) -> list[list[list[float]]]:
    """The first channel of the first row of every batch that a model is run on."""
    seen = []

    def run(batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch[0, 0].tolist())
        return batch

    prediction_views(with_views(**views).preprocess)(run, images)
    return seen


def test_views_are_the_image_moved_each_way_and_mirrored() -> None:
    images = torch.arange(9.0).view(1, 1, 3, 3)
    assert seen_of(images, test_shift=1) == [
        [[0, 1, 2], [3, 4, 5], [6, 7, 8]],
        [[3, 4, 5], [6, 7, 8], [6, 7, 8]],
        [[0, 1, 2], [0, 1, 2], [3, 4, 5]],
        [[1, 2, 2], [4, 5, 5], [7, 8, 8]],
        [[0, 0, 1], [3, 3, 4], [6, 6, 7]],
    ]
    both = seen_of(images, test_shift=1, test_flip=True)
    assert len(both) == 10
    assert both[3] == [[5, 4, 3], [8, 7, 6], [8, 7, 6]]
    assert len(seen_of(images)) == 1


def test_predictions_average_the_outputs_of_views() -> None:
    mirrored = np.ascontiguousarray(PIXELS[:, :, ::-1])
    plain = [outputs(member(), pixels) for pixels in (PIXELS, mirrored)]
    flipped = outputs(with_views(test_flip=True))
    np.testing.assert_allclose(flipped, (plain[0] + plain[1]) / 2, atol=1e-6)
    np.testing.assert_array_equal(flipped, outputs(with_views(test_flip=True), mirrored))
    padded = np.pad(PIXELS, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    moved = [padded[:, y : y + 8, x : x + 8] for y, x in ((1, 1), (2, 1), (0, 1), (1, 2), (1, 0))]
    expected = np.mean([outputs(member(), pixels) for pixels in moved], axis=0)
    np.testing.assert_allclose(outputs(with_views(test_shift=1)), expected, atol=1e-6)


def maps_of(images: torch.Tensor, run: Any = lambda batch: batch, **views: Any) -> torch.Tensor:
    preprocess = replace(PreprocessOverride(**views).apply(PREPROCESS), dense=True)
    return prediction_views(preprocess)(run, images)


def test_maps_of_views_are_put_back_where_they_came_from() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(maps_of(images, test_flip=True), images)
    torch.testing.assert_close(maps_of(images, test_window=8), images)
    torch.testing.assert_close(maps_of(images, test_window=5, test_flip=True), images)
    torch.testing.assert_close(maps_of(images, test_window=40), images)
    smooth = images.mean(dim=(2, 3), keepdim=True).expand_as(images).contiguous()
    torch.testing.assert_close(maps_of(smooth, test_scales=(0.5, 1.0, 1.5)), smooth)


def test_maps_of_scales_and_windows_are_means_of_what_a_model_says_there() -> None:
    images = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sides: list[tuple[int, ...]] = []

    def run(batch: torch.Tensor) -> torch.Tensor:
        sides.append(tuple(batch.shape[2:]))
        return torch.full((len(batch), 2, 2, 2), float(len(sides)))

    made = maps_of(images, run, test_scales=(0.5, 1.0), test_flip=True)
    assert sides == [(4, 4), (4, 4), (8, 8), (8, 8)] and made.shape == (1, 2, 8, 8)
    torch.testing.assert_close(made, torch.full((1, 2, 8, 8), 2.5))
    sides.clear()
    made = maps_of(images, run, test_window=6)
    assert sides == [(6, 6)] * 4
    assert made[0, 0, 0, 0] == 1 and made[0, 0, 7, 7] == 4 and made[0, 0, 4, 4] == 2.5


def test_features_are_those_of_images_as_they_are() -> None:
    plain, viewed = (
        Torch().features(made, IMAGES, lambda event: None)
        for made in (member(), with_views(test_flip=True, test_shift=2))
    )
    for one, other in zip(plain, viewed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_shift_below_zero_is_refused() -> None:
    with pytest.raises(
        InvalidValue, match=r"preprocess.test_shift is -1; expected a number of pix"
    ):
        PreprocessOverride(test_shift=-1)
