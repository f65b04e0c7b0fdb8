# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from fusetune.data.datasets.digits import Digits
from fusetune.errors import InvalidValue


def test_clean_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    rows, expected = Digits().read(), load_digits()
    pixels = rows.images.pixels_NHW3
    assert (pixels[..., 0] == np.round(expected.images * 255 / 16)).all()
    assert (pixels == pixels[..., :1]).all()
    assert rows.labels.tolist() == [str(label) for label in expected.target]
    assert rows.ids[[0, 1796]].tolist() == ["digit-0000", "digit-1796"]
    assert rows.classes == tuple("0123456789")


def test_noise_has_the_stated_size_and_seed():
    clean = Digits().read().images.pixels_NHW3.astype(float) / 255
    noisy = Digits(noise=0.2).read().images.pixels_NHW3.astype(float) / 255
    middle = (clean > 0.45) & (clean < 0.55)  # 2.25 standard deviations from being clipped
    assert abs((noisy - clean)[middle].std() - 0.2) < 0.01
    assert abs((noisy - clean)[middle].mean()) < 0.01
    again = Digits(noise=0.2).read().images.pixels_NHW3
    assert (again == noisy * 255).all()
    assert (Digits(noise=0.2, noise_seed=1).read().images.pixels_NHW3 != again).any()


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_impossible_noise_is_refused(noise):
    with pytest.raises(InvalidValue, match=r"data.noise is .* a number of at least 0"):
        Digits(noise=noise)


def test_a_negative_seed_is_refused():
    with pytest.raises(InvalidValue, match=r"data.noise_seed is -1"):
        Digits(noise_seed=-1)
