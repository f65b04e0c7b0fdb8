# SPDX-License-Identifier: Apache-2.0
"""Members see the pixels that transformers' own image processors make."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")
import transformers

from fusetune.data.inputs import PixelImages
from fusetune.errors import InvalidValue
from fusetune.finetune.batches import PixelStore
from fusetune.finetune.pytorch.inputs import ModelInput
from fusetune.members.image_processors import preprocess_of

OTHER = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
CROPPED = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
SQUARE = {"size": {"height": 32, "width": 32}}
PROCESSORS = [
    ("ViTImageProcessor", {**SQUARE, **OTHER}),
    ("ViTImageProcessor", {**SQUARE, "do_normalize": False}),
    ("ViTImageProcessor", {**SQUARE, "do_rescale": False, "image_mean": [9, 8, 7]}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}, **OTHER}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}, **OTHER}),
    ("MobileNetV2ImageProcessor", {**CROPPED, **OTHER}),
    ("MobileViTImageProcessor", CROPPED),
    ("LevitImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": SQUARE["size"], **OTHER}),
    ("PoolFormerImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": SQUARE["size"]}),
    ("EfficientNetImageProcessor", {**SQUARE, **OTHER}),
    ("EfficientNetImageProcessor", {**SQUARE, "rescale_offset": True, "rescale_factor": 1 / 127.5}),
    ("CLIPImageProcessor", CROPPED),
    ("BeitImageProcessor", {**SQUARE, "do_center_crop": False}),
]


def pictures(height: int, width: int) -> np.ndarray:
    """Three smooth images: resizing them does not hang on a library's exact kernel."""
    ramp_HW = np.add.outer(np.arange(height), np.arange(width)) / (height + width)
    phases = np.arange(9).reshape(3, 1, 1, 3)
    return (127 + 120 * np.sin(3 * ramp_HW[None, :, :, None] + phases)).astype(np.uint8)


@pytest.mark.parametrize("shape", [(64, 64), (90, 60), (24, 24)])
@pytest.mark.parametrize(("name", "settings"), PROCESSORS)
def test_members_see_what_the_processor_makes(name, settings, shape):
    processor = getattr(transformers, name)(**settings)
    if name == "EfficientNetImageProcessor" and settings.get("rescale_offset"):
        processor.do_normalize = False
    pixels = pictures(*shape)
    images = [Image.fromarray(one) for one in pixels]
    expected = processor(images=images, return_tensors="pt")["pixel_values"]
    preprocess = preprocess_of(processor.to_dict(), "some-member")
    store = PixelStore(PixelImages(pixels), preprocess)
    seen = ModelInput(preprocess, torch.device("cpu"))(torch.from_numpy(store.batch(np.arange(3))))
    if name == "MobileViTImageProcessor":  # BGR: there the first layer is turned round
        seen = seen.flip(1)
    assert seen.shape == expected.shape
    tolerance = 0.012 * float(expected.max() - expected.min())  # 2 of 255 steps, and rounding
    assert float((seen - expected).abs().max()) <= tolerance


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"size": {"height": 32, "width": 48}},
            "'some-member' wants images of 32×48 pixels; expec",
        ),
        ({"size": {"longest_edge": 512}}, "wants images of no fixed size; expected square images"),
    ],
)
def test_images_that_are_not_square_are_refused(settings, message):
    with pytest.raises(InvalidValue, match=message):
        preprocess_of({**settings, "rescale_factor": 1 / 255, "do_normalize": False}, "some-member")
