# SPDX-License-Identifier: Apache-2.0
"""What members see: images, as pixels of one size or as encoded files.

    Images
    ├── PixelImages        one size, decoded
    ├── ChosenImages       some of any others, not copied
    └── Encoded            the bytes of JPEG, PNG, ... files, decoded on every call
        ├── EncodedImages  in memory or memory-mapped
        └── FileImages     still on disk, so that a folder of any size can be listed

Shapes: N rows, H height, W width, 3 RGB channels, B bytes.
"""

import abc
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from fusetune.errors import DataError
from fusetune.predictions.kinds import Array

if TYPE_CHECKING:
    from PIL import Image as PILImage

__all__ = [
    "IMAGE_ENDINGS",
    "ChosenImages",
    "Encoded",
    "EncodedImages",
    "FileImages",
    "Images",
    "PixelImages",
    "check_readable",
    "concat_images",
    "decode",
    "load_images",
    "rgb_pixels",
]

Pixels = npt.NDArray[np.uint8]

IMAGE_ENDINGS = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg"}
    | {".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Endings of the formats that Pillow usually reads; files of other endings are passed over."""


class Images(abc.ABC):
    """N images, of one size or of many."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abc.abstractmethod
    def pixels(self, row: int) -> Pixels:
        """`(H, W, 3)` RGB values of one image."""

    @abc.abstractmethod
    def take(self, rows: Array) -> "Images":
        """Some of the images, by position or by mask, in the order given."""

    @abc.abstractmethod
    def digests(self) -> list[bytes]:
        """One digest per image, equal where the bytes are equal."""

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write the images into an existing folder; read back by `load_images`."""


@dataclass(frozen=True, eq=False)
class PixelImages(Images):
    """Images of one size, decoded: `(N, H, W, 3)` uint8."""

    pixels_NHW3: Pixels

    def __post_init__(self) -> None:
        assert self.pixels_NHW3.ndim == 4 and self.pixels_NHW3.shape[3] == 3
        assert self.pixels_NHW3.dtype == np.uint8

    def __len__(self) -> int:
        return len(self.pixels_NHW3)

    def pixels(self, row: int) -> Pixels:
        """`(H, W, 3)` RGB values of one image, not copied."""
        return self.pixels_NHW3[row]

    def take(self, rows: Array) -> Self:
        """Some of the images, by position or by mask, in the order given."""
        return type(self)(self.pixels_NHW3[rows])

    def digests(self) -> list[bytes]:
        """One digest per image, of its pixels."""
        return [_digest(pixels.tobytes()) for pixels in self.pixels_NHW3]

    def save(self, folder: Path) -> None:
        """Write `pixels.npy`."""
        np.save(folder / "pixels.npy", self.pixels_NHW3)


class Encoded(Images):
    """Images as the bytes of their files (JPEG, PNG, ...)."""

    @abc.abstractmethod
    def encoded(self, row: int) -> bytes:
        """The bytes of one file."""

    def pixels(self, row: int) -> Pixels:
        """`(H, W, 3)` RGB values of one image, decoded on every call."""
        return decode(self.encoded(row))

    def digests(self) -> list[bytes]:
        """One digest per image, of its file's bytes."""
        return [_digest(self.encoded(row)) for row in range(len(self))]


@dataclass(frozen=True, eq=False)
class EncodedImages(Encoded):
    """Encoded images one after another.

    Args:
        data: `(B,)` uint8, all files concatenated.
        offsets: `(N + 1,)` int64; image i is `data[offsets[i]:offsets[i + 1]]`.
    """

    data: Pixels
    offsets: npt.NDArray[np.int64]

    @classmethod
    def of(cls, files: Sequence[bytes]) -> Self:
        """Images from the bytes of N files."""
        return cls(np.frombuffer(b"".join(files), dtype=np.uint8), _offsets(map(len, files)))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def encoded(self, row: int) -> bytes:
        """The bytes of one file."""
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def take(self, rows: Array) -> Self:
        """Some of the images, by position or by mask, in the order given."""
        return type(self).of([self.encoded(int(row)) for row in np.arange(len(self))[rows]])

    def save(self, folder: Path) -> None:
        """Write `data.npy` and `offsets.npy`."""
        np.save(folder / "data.npy", self.data)
        np.save(folder / "offsets.npy", self.offsets)


@dataclass(frozen=True, eq=False)
class FileImages(Encoded):
    """Images in files of their own, read when they are needed.

    Args:
        paths: N files.
    """

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def encoded(self, row: int) -> bytes:
        """The bytes of one file.

        Raises:
            OSError: The file cannot be read.
        """
        return self.paths[row].read_bytes()

    def take(self, rows: Array) -> Self:
        """Some of the images, by position or by mask, in the order given."""
        return type(self)(tuple(self.paths[row] for row in np.arange(len(self))[rows]))

    def save(self, folder: Path) -> None:
        """Write `data.npy` and `offsets.npy`, one image in memory at a time.

        Raises:
            DataError: A file has gone or changed since it was listed.
        """
        offsets = _offsets(self._size(row) for row in range(len(self)))
        shape = (int(offsets[-1]),)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        with (folder / "data.npy").open("wb") as file:  # on a full disk a memory map would crash
            np.lib.format.write_array_header_1_0(file, header)
            for row in range(len(self)):
                self._size(row, int(offsets[row + 1] - offsets[row]))
                file.write(self.encoded(row))
        np.save(folder / "offsets.npy", offsets)

    def _size(self, row: int, expected: int | None = None) -> int:
        """Bytes of one file, which have to be as many as before."""
        try:
            size = self.paths[row].stat().st_size
        except OSError as error:
            raise _moved(self.paths[row], str(error.strerror)) from error
        if expected is not None and size != expected:
            raise _moved(self.paths[row], "its size changed")
        return size


@dataclass(frozen=True, eq=False)
class ChosenImages(Images):
    """Some images of a collection, none of which is copied until it is read.

    Args:
        base: All of them.
        rows_N: `(N,)` positions there.
    """

    base: Images
    rows_N: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows_N)

    def pixels(self, row: int) -> Pixels:
        """`(H, W, 3)` RGB values of one image."""
        return self.base.pixels(int(self.rows_N[row]))

    def take(self, rows: Array) -> Self:
        """Some of the images, by position or by mask, in the order given."""
        return type(self)(self.base, self.rows_N[rows])

    def digests(self) -> list[bytes]:
        """One digest per image, as the collection gives it."""
        return self.base.take(self.rows_N).digests()

    def save(self, folder: Path) -> None:
        """Write these images only, as the collection would."""
        self.base.take(self.rows_N).save(folder)


def _moved(path: Path, reason: str) -> DataError:
    return DataError(
        f"the image '{path}' cannot be read any more ({reason})",
        "files that stay as they are until fusetune has stored them",
        "Put it back, or run again without it.",
    )


def load_images(folder: Path) -> Images:
    """Images as `save` wrote them, memory-mapped."""
    if (folder / "pixels.npy").exists():
        return PixelImages(np.load(folder / "pixels.npy", mmap_mode="r"))
    return EncodedImages(
        np.load(folder / "data.npy", mmap_mode="r"), np.load(folder / "offsets.npy")
    )


def concat_images(parts: Sequence[Images]) -> Images:
    """The images of several collections, one after another.

    Pixels of one size stay pixels and files stay on disk. In any other mixture all become encoded
    in memory, pixels as (lossless) PNG.
    """
    if len(parts) == 1:
        return parts[0]
    pixels = [part.pixels_NHW3 for part in parts if isinstance(part, PixelImages)]
    if len(pixels) == len(parts) and len({array.shape[1:] for array in pixels}) == 1:
        return PixelImages(np.concatenate(pixels))
    files = [part.paths for part in parts if isinstance(part, FileImages)]
    if len(files) == len(parts):
        return FileImages(tuple(path for paths in files for path in paths))
    return EncodedImages.of([_encode(part, row) for part in parts for row in range(len(part))])


def decode(encoded: bytes) -> Pixels:
    """`(H, W, 3)` RGB values of an image file's bytes, its EXIF orientation applied.

    Gray images fill the three channels, 16-bit values are divided by 257, transparency is dropped,
    and of an animation the first frame is taken.

    Raises:
        OSError: The bytes are no image, end too early, or hold floating-point pixels.
    """
    image = _open(encoded)
    try:
        return rgb_pixels(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers let anything escape on damaged bytes
        raise OSError(str(error) or type(error).__name__) from error


def check_readable(encoded: bytes) -> None:
    """Find out whether `decode` would succeed, in about half its time on photographs.

    JPEGs are reconstructed at an eighth of their size. All their bytes are still read, so that a
    truncated file is found as `decode` finds it.

    Raises:
        OSError: The bytes are no image, end too early, or hold floating-point pixels.
    """
    image = _open(encoded)
    try:
        image.draft("RGB", (1, 1))
        rgb_pixels(image)
    except MemoryError:
        raise
    except Exception as error:
        raise OSError(str(error) or type(error).__name__) from error


def rgb_pixels(image: "PILImage.Image") -> Pixels:
    """`(H, W, 3)` RGB values of a Pillow image, as `decode` gives them; it may share memory."""
    from PIL import Image, ImageOps

    image.load()
    if image.getexif().get(0x0112, 1) != 1:  # asked first: a transposition copies
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise OSError("floating-point pixels, whose range is not known; save it with 8 bits")
    if image.mode.startswith("I"):
        values = np.clip(np.asarray(image, dtype=np.int64), 0, 65535) / 257
        image = Image.fromarray(np.round(values).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns where a palette's transparency gets lost
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _open(encoded: bytes) -> "PILImage.Image":
    from PIL import Image

    try:
        return Image.open(io.BytesIO(encoded))
    except Image.UnidentifiedImageError as error:  # its own message shows a memory address
        raise OSError("not an image in a known format" if encoded else "empty file") from error
    except MemoryError:
        raise
    except Exception as error:
        raise OSError(str(error) or type(error).__name__) from error


def _encode(images: Images, row: int) -> bytes:
    from PIL import Image

    if isinstance(images, Encoded):
        return images.encoded(row)
    file = io.BytesIO()
    Image.fromarray(images.pixels(row)).save(file, "PNG")
    return file.getvalue()


def _offsets(sizes: Iterable[int]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.fromiter(sizes, dtype=np.int64))]).astype(np.int64)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
