# SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation: which views are seen, that predictions average them and remember to."""

from dataclasses import replace

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


def test_views_are_the_image_moved_each_way_and_mirrored() -> None:
    images = torch.arange(9.0).view(1, 1, 3, 3)
    seen = [v[0, 0].tolist() for v in prediction_views(with_views(test_shift=1).preprocess)(images)]
    assert seen == [
        [[0, 1, 2], [3, 4, 5], [6, 7, 8]],
        [[3, 4, 5], [6, 7, 8], [6, 7, 8]],
        [[0, 1, 2], [0, 1, 2], [3, 4, 5]],
        [[1, 2, 2], [4, 5, 5], [7, 8, 8]],
        [[0, 0, 1], [3, 3, 4], [6, 6, 7]],
    ]
    both = list(prediction_views(with_views(test_shift=1, test_flip=True).preprocess)(images))
    assert len(both) == 10
    assert both[3][0, 0].tolist() == [[5, 4, 3], [8, 7, 6], [8, 7, 6]]
    assert len(list(prediction_views(PREPROCESS)(images))) == 1


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
