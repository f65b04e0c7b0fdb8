# SPDX-License-Identifier: Apache-2.0
"""Small ONNX networks, made by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 13
Side = int | str


def saved(
    path: Path,
    nodes: Sequence[Any],
    constants: dict[str, Any],
    *,
    shape: Sequence[Side] = ("n", 3, "h", "w"),
    outputs: Sequence[str] = ("out",),
    dtype: int = TensorProto.FLOAT,
) -> Path:
    """A network with the input `images`, written to a file."""
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("images", dtype, list(shape))],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.save_model(model, path)
    return path


def color_classifier(path: Path, *, end: str = "", **about: Any) -> Path:
    """Three numbers: ten times the mean of red, green and blue, perhaps through `end`."""
    last = "means" if end else "out"
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Mul", ["flat", "ten"], [last]),
    ]
    if end:
        nodes.append(helper.make_node(end, [last], ["out"]))
    return saved(path, nodes, {"ten": np.float32([10])}, **about)


def says_always(path: Path, *outputs: Any, **about: Any) -> Path:
    """A network that gives the same arrays for whatever image, one row each of its batch of 1."""
    constants = {f"said{number}": np.float32(one) for number, one in enumerate(outputs)}
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    nodes += [
        helper.make_node("Add", [f"said{number}", "nothing"], [f"out{number}"])
        for number in range(len(outputs))
    ]
    about = {"shape": (1, 3, 32, 32), **about}
    names = [f"out{number}" for number in range(len(outputs))]
    return saved(path, nodes, {**constants, "zero": np.float32(0)}, outputs=names, **about)


def shuffling(path: Path, side: int, *, weights: int = 0) -> Path:
    """Two convolutions of stride 2, between them the channel shuffle as a tracing exporter writes it."""
    random = np.random.default_rng(weights)
    half = side // 2
    constants: dict[str, Any] = {
        "first": random.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "second": random.normal(size=(5, 4, 3, 3)).astype(np.float32),
        "merged": np.array([4, 2, half * half]),
        "divided": np.array([2, -1, 4, half, half]),
        "one": np.array(1),
    }
    strided = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["images", "first"], ["a"], **strided),
        helper.make_node("Reshape", ["a", "merged"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["c", "divided"], ["d"]),
        helper.make_node("Gather", ["d", "one"], ["e"], axis=0),
        helper.make_node("Conv", ["e", "second"], ["out"], **strided),
    ]
    return saved(path, nodes, constants, shape=(1, 3, side, side))
