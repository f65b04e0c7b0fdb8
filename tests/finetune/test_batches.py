# SPDX-License-Identifier: Apache-2.0
"""In what order rows come, how they are augmented, at what size they are kept."""

import io

import numpy as np
import pytest
from PIL import Image

from fusetune.data.inputs import EncodedImages, PixelImages
from fusetune.finetune.batches import PixelStore, epoch_order, in_batches, row_slices
from fusetune.finetune.randomness import row_keys
from fusetune.members.member import Preprocess

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
KEYS = row_keys([f"row-{i}" for i in range(50)])
HALF = (0.5, 0.5, 0.5)


def epoch_batches(keys: np.ndarray, size: int, epoch: int) -> list[np.ndarray]:
    return in_batches(epoch_order(keys, seed=0, epoch=epoch), size)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def test_an_epoch_holds_every_row_once_and_the_next_in_another_order() -> None:
    first, second = (epoch_batches(KEYS, 16, e) for e in (0, 1))
    for batches in (first, second):
        assert [len(b) for b in batches] == [16, 16, 16, 2]
        assert sorted(np.concatenate(batches)) == list(range(50))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))
    again = epoch_batches(KEYS, 16, 0)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(("rows", "sizes"), [(33, [16, 17]), (32, [16, 16]), (1, [1]), (17, [17])])
def test_a_last_batch_of_one_row_joins_the_one_before(rows: int, sizes: list[int]) -> None:
    assert [len(b) for b in epoch_batches(KEYS[:rows], 16, 0)] == sizes


def test_the_order_follows_ids_when_rows_are_permuted() -> None:
    order = RNG.permutation(50)
    straight = np.concatenate(epoch_batches(KEYS, 16, 3))
    permuted = np.concatenate(epoch_batches(KEYS[order], 16, 3))
    assert np.array_equal(order[permuted], straight)


def test_small_images_keep_their_size_and_large_ones_are_fitted_once() -> None:
    small = PixelStore(PixelImages(PIXELS), Preprocess(size=16, mean=HALF, std=HALF))
    assert np.array_equal(small.batch(np.array([3, 1])), PIXELS[[3, 1]])
    large = PixelStore(PixelImages(PIXELS), Preprocess(size=4, mean=HALF, std=HALF))
    batch = large.batch(np.array([3, 1, 3]))
    assert batch.shape == (3, 4, 4, 3)
    expected = np.asarray(Image.fromarray(PIXELS[3]).resize((4, 4), Image.Resampling.BILINEAR))
    assert np.array_equal(batch[0], expected)
    assert np.array_equal(batch[2], expected)


def test_photos_are_resized_by_their_shorter_side_and_cropped_in_the_center() -> None:
    photo = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    store = PixelStore(
        EncodedImages.of([png(photo)]), Preprocess(size=16, resize=20, mean=HALF, std=HALF)
    )
    resized = np.asarray(Image.fromarray(photo).resize((30, 20), Image.Resampling.BILINEAR))
    assert np.array_equal(store.batch(np.array([0]))[0], resized[2:18, 7:23])


def test_row_slices_cover_all_rows() -> None:
    assert [s.tolist() for s in row_slices(5, 2)] == [[0, 1], [2, 3], [4]]
    assert list(row_slices(0, 2)) == []


def test_balanced_orders_take_as_many_rows_of_every_class() -> None:
    labels = np.array([0] * 40 + [4] * 7 + [2] * 3)
    orders = [epoch_order(KEYS, labels, seed=1, epoch=epoch) for epoch in range(3)]
    for order in orders:
        assert np.bincount(labels[order]).tolist() == [17, 0, 17, 0, 16]
        times = np.bincount(order, minlength=50)
        assert set(times[labels == 0]) == {0, 1}
        assert set(times[labels == 4]) == {2, 3}
        assert set(times[labels == 2]) == {5, 6}
        assert not np.array_equal(labels[order], np.sort(labels[order]))
    assert np.array_equal(orders[1], epoch_order(KEYS, labels, seed=1, epoch=1))
    taken = [set(order[labels[order] == 0]) for order in orders]
    assert taken[0] != taken[1] != taken[2]
    assert len(set.union(*taken)) > 25
    copies = [np.flatnonzero(orders[0] == row) for row in np.flatnonzero(labels == 2)]
    assert any(np.diff(places).max() > 1 for places in copies)  # of a row, not all in a line


def test_balanced_orders_follow_ids_when_rows_are_permuted() -> None:
    order, labels = RNG.permutation(50), np.arange(50) % 7 // 5
    straight = epoch_order(KEYS, labels, seed=0, epoch=3)
    permuted = epoch_order(KEYS[order], labels[order], seed=0, epoch=3)
    assert np.array_equal(order[permuted], straight)
