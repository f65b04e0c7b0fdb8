# SPDX-License-Identifier: Apache-2.0
import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from fusetune.data.inputs import (
    EncodedImages,
    FileImages,
    PixelImages,
    check_readable,
    concat_images,
    decode,
    load_images,
)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photograph(height: int = 200, width: int = 300) -> Image.Image:
    """Smooth enough to compress like a photograph."""
    rows, columns = np.mgrid[:height, :width] / 40
    waves = [np.sin(rows * k) * np.cos(columns / k) for k in (1, 2, 3)]
    return Image.fromarray(np.uint8(127 + 120 * np.stack(waves, axis=2)))


def test_decode_gives_rgb_of_every_mode():
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    rgb = np.stack([gray] * 3, axis=2)
    assert (decode(saved(Image.fromarray(gray))) == rgb).all()
    assert (decode(saved(Image.fromarray(rgb))) == rgb).all()
    rgba = np.dstack([rgb, np.full((8, 8), 7, np.uint8)])
    assert (decode(saved(Image.fromarray(rgba))) == rgb).all()
    wide = gray.astype(np.uint16) * 257
    assert (decode(saved(Image.fromarray(wide))) == rgb).all()
    assert (decode(saved(Image.fromarray(gray > 100))) == np.where(rgb > 100, 255, 0)).all()


def test_decode_keeps_the_colors_of_a_palette_with_transparency():
    image = photograph(16, 16).quantize(8)
    expected = np.asarray(image.convert("RGB"))
    assert (decode(saved(image, transparency=bytes([0] * 8))) == expected).all()


def test_decode_turns_by_exif():
    image = photograph(10, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    turned = decode(saved(image, exif=exif))
    assert (turned == np.rot90(np.asarray(image), -1)).all()


def test_decode_takes_the_first_frame():
    frames = [photograph(8, 8).quantize(4), Image.new("P", (8, 8))]
    animation = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(animation) == np.asarray(frames[0].convert("RGB"))).all()


@pytest.mark.parametrize("read", [decode, check_readable])
def test_floating_point_pixels_are_refused(read):
    image = Image.fromarray(np.zeros((4, 4), dtype=np.float32))
    with pytest.raises(OSError, match="floating-point"):
        read(saved(image, "TIFF"))


@pytest.mark.parametrize("read", [decode, check_readable])
@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_is_refused(read, content):
    with pytest.raises(OSError, match=r"."):
        read(content)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
    ],
)
def test_the_fast_check_finds_truncation_wherever_decoding_does(kind, options):
    whole = saved(photograph(), kind, **options)
    check_readable(whole)
    found = 0
    cuts = np.unique(np.linspace(1, len(whole) - 1, 60).astype(int)).tolist()
    for kept in [*cuts, *range(len(whole) - 20, len(whole))]:
        outcomes = []
        for read in (decode, check_readable):
            try:
                read(whole[:kept])
                outcomes.append(True)
            except OSError:
                outcomes.append(False)
        assert outcomes[0] == outcomes[1], f"{kept} of {len(whole)} bytes"
        found += not outcomes[0]
    assert found >= 50


def test_damaged_bytes_end_in_oserror_only():
    whole = {
        kind: saved(photograph(40, 60), kind) for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP")
    }
    random = np.random.default_rng(0)
    for content in whole.values():
        for _ in range(60):
            damaged = bytearray(content)
            for place in random.integers(0, len(damaged), 8):
                damaged[place] = random.integers(256)
            for read in (decode, check_readable):
                with contextlib.suppress(OSError):
                    read(bytes(damaged))


def test_images_of_every_kind_agree(tmp_path, image_file):
    files = [image_file(seed, (6, 9)) for seed in range(5)]
    paths = tuple(tmp_path / f"{number}.png" for number in range(5))
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    pixels = np.stack([decode(content) for content in files])
    collections = [PixelImages(pixels), EncodedImages.of(files), FileImages(paths)]
    rows = np.array([3, 0, 3])
    for number, images in enumerate(collections):
        assert len(images) == 5
        assert len(images.take(np.array([], dtype=int))) == 0
        assert [len(set(images.digests())), len(set(images.take(rows).digests()))] == [5, 2]
        for taken, row in zip(range(3), rows, strict=True):
            assert (images.take(rows).pixels(taken) == pixels[row]).all()
        folder = tmp_path / f"saved-{number}"
        folder.mkdir()
        images.save(folder)
        loaded = load_images(folder)
        assert loaded.digests() == images.digests()
        assert (loaded.pixels(4) == pixels[4]).all()
    assert collections[1].digests() == collections[2].digests()
    for name in ("data.npy", "offsets.npy"):
        one, two = (tmp_path / f"saved-{number}" / name for number in (1, 2))
        assert one.read_bytes() == two.read_bytes()


def test_concat_keeps_pixels_and_files_and_encodes_mixtures(tmp_path, image_file):
    pixels = PixelImages(np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3))
    other = PixelImages(np.ones((1, 5, 4, 3), dtype=np.uint8))
    path = tmp_path / "a.png"
    path.write_bytes(image_file(1))
    files = FileImages((path,))
    assert isinstance(concat_images([pixels, pixels]), PixelImages)
    assert isinstance(concat_images([files, files]), FileImages)
    mixed = concat_images([pixels, files, other])
    assert isinstance(mixed, EncodedImages)
    assert (mixed.pixels(1) == pixels.pixels(1)).all()
    assert mixed.encoded(2) == path.read_bytes()
    assert (mixed.pixels(3) == 1).all()


@pytest.mark.data
def test_the_fast_check_finds_truncation_in_real_photographs(data_folder):
    paths = sorted((data_folder / "coco128").rglob("*.jpg"))[:10]
    assert paths
    for path in paths:
        whole = path.read_bytes()
        check_readable(whole)
        for share in (0.3, 0.6, 0.9, 0.99):
            with pytest.raises(OSError, match="truncated"):
                check_readable(whole[: int(share * len(whole))])
