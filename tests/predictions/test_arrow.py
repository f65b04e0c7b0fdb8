# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pyarrow as pa
import pytest

from fusetune.predictions.arrow import arrow_of, numpy_of

KINDS = ["i1", "u2", "i4", "i8", "u8", "f2", "f4", "f8", "?"]


@pytest.mark.parametrize("dtype", KINDS)
def test_numbers_go_there_and_back(dtype: str) -> None:
    values_N = np.arange(7).astype(dtype)
    column = arrow_of(values_N)
    assert column.equals(pa.array(values_N))
    for held in (column, pa.chunked_array([column[:3], column[3:3], column[3:]]), column[2:5]):
        found_N = numpy_of(held)
        assert found_N.dtype == values_N.dtype
        np.testing.assert_array_equal(found_N, np.asarray(held.to_pylist(), dtype=dtype))
    assert len(numpy_of(column[:0])) == 0


def test_every_other_number_is_written_as_it_is() -> None:
    values_N = np.arange(10.0)[::2]
    assert arrow_of(values_N).to_pylist() == [0.0, 2.0, 4.0, 6.0, 8.0]


def test_numbers_are_not_copied() -> None:
    values_N = np.arange(5.0)
    assert np.shares_memory(numpy_of(arrow_of(values_N)), values_N)


@pytest.mark.parametrize("kind", [pa.float32(), pa.int64(), pa.bool_()])
def test_empty_cells_become_nan(kind: pa.DataType) -> None:
    column = pa.array([1, None, 0, 1]).cast(kind)[1:]
    np.testing.assert_array_equal(numpy_of(column), [np.nan, 0.0, 1.0])
    assert numpy_of(column).dtype == (np.float32 if kind == pa.float32() else np.float64)


def test_text_goes_there_and_back() -> None:
    texts_N = np.array(["a", "", "Zürich", "東京 \U0001f600"])
    column = arrow_of(texts_N)
    assert column.equals(pa.array(texts_N.tolist()))
    np.testing.assert_array_equal(numpy_of(column), texts_N)
    np.testing.assert_array_equal(numpy_of(column.cast(pa.large_string())[1:3]), texts_N[1:3])
    assert numpy_of(column[:0]).dtype.kind == "U"
    assert arrow_of(texts_N[:0]).type == pa.string()
