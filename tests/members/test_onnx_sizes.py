# SPDX-License-Identifier: Apache-2.0
"""A network whose sizes are changed is the one that was exported for the other size."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from fusetune.errors import InvalidValue
from fusetune.members.onnx_sizes import EXPORTED, with_size
from onnx_nets import saved, shuffling


@pytest.mark.parametrize("new", [16, 48, 64])
def test_sizes_within_the_network_are_scaled(tmp_path: Path, new: int) -> None:
    changed = with_size(shuffling(tmp_path / "old.onnx", 32).read_bytes(), 32, new)
    other = shuffling(tmp_path / "new.onnx", new).read_bytes()
    images = np.random.default_rng(1).normal(size=(1, 3, new, new)).astype(np.float32)
    sessions = [onnxruntime.InferenceSession(one) for one in (changed, other)]
    ours, expected = (one.run(None, {"images": images})[0] for one in sessions)
    assert expected.shape == (1, 5, new // 4, new // 4) and np.abs(expected).max() > 1
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    assert sessions[0].get_modelmeta().custom_metadata_map == {EXPORTED: "32"}


@pytest.mark.parametrize(
    ("nodes", "constants", "message"),
    [
        (
            [helper.make_node("Expand", ["images", "shape"], ["out"])],
            {"shape": np.array([1, 3, 32, 32])},
            "it has the operation Expand, which may hold sizes",
        ),
        (
            [helper.make_node("Resize", ["images", "", "", "sizes"], ["out"])],
            {"sizes": np.array([1, 3, 64, 64])},
            "it has the operation Resize, which may hold sizes",
        ),
        (
            [helper.make_node("Slice", ["images", "a", "b", "axis"], ["out"], name="top")],
            {"a": np.array([0]), "b": np.array([16]), "axis": np.array([2])},
            "'top' cuts a part out",
        ),
        (
            [helper.make_node("Reshape", ["images", "shape"], ["out"], name="odd")],
            {"shape": np.array([3, 4, 8, 32])},  # the sides are divided unevenly
            r"'odd' reshapes to \[3, 4, 8, 32\]; expected preprocess.size 32, or a network",
        ),
    ],
)
def test_what_cannot_be_scaled_is_refused(
    tmp_path: Path, nodes: list, constants: dict, message: str
) -> None:
    file = saved(tmp_path / "net.onnx", nodes, constants, shape=(1, 3, 32, 32))
    with pytest.raises(
        InvalidValue, match=f"for images of 32 pixels, and preprocess.size is 48: {message}"
    ):
        with_size(file.read_bytes(), 32, 48)
