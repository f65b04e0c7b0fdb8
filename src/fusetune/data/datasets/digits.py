# SPDX-License-Identifier: Apache-2.0
"""Scans of handwritten digits that scikit-learn brings along: needs no file and no network.

Shapes: N rows, H = W = 8 pixels.
"""

from dataclasses import dataclass

import numpy as np

from fusetune.data.dataset import Dataset, Rows
from fusetune.data.inputs import PixelImages
from fusetune.errors import InvalidValue

__all__ = ["Digits"]


@dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    """1,797 gray 8x8 images of the digits "0" to "9", with ids `digit-0000` to `digit-1796`.

    Clean, they are so easy that fusing hardly matters; `noise` makes them a fair small test bed.

    Args:
        noise: Standard deviation of Gaussian sensor noise, as a share of the range from black to
            white; 0 by default. What leaves the range is clipped.
        noise_seed: Of the noise.

    Raises:
        InvalidValue: Negative or non-finite noise, or a negative seed.

    Reference:
        Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998.
    """

    noise: float = 0.0
    noise_seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.noise < np.inf:
            raise InvalidValue(
                f"data.noise is {self.noise}", "a number of at least 0", "Write noise: 0.2."
            )
        if self.noise_seed < 0:
            raise InvalidValue(
                f"data.noise_seed is {self.noise_seed}",
                "a whole number of at least 0",
                "Write noise_seed: 0.",
            )

    def read(self) -> Rows:
        """All 1,797 rows; the same arguments give the same bytes."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        share_NHW = digits.images / 16  # 17 levels of gray
        if self.noise:
            random = np.random.default_rng(self.noise_seed)
            share_NHW = share_NHW + self.noise * random.standard_normal(share_NHW.shape)
        gray_NHW = np.round(255 * np.clip(share_NHW, 0, 1)).astype(np.uint8)
        return Rows(
            ids=np.array([f"digit-{row:04d}" for row in range(len(gray_NHW))]),
            images=PixelImages(np.repeat(gray_NHW[..., None], 3, axis=3)),
            labels=digits.target.astype(str),
            classes=tuple("0123456789"),
        )
