# SPDX-License-Identifier: Apache-2.0
"""An ONNX network for images of another size than it was exported for.

A tracing exporter writes sizes into the file as numbers: of the input, and in `Reshape` operations
that stand between convolutions (the channel shuffle of ShuffleNets). Both are scaled; slices of
other axes may stay. Networks with other operations that may hold sizes are refused.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from fusetune.errors import InvalidValue

__all__ = ["EXPORTED", "with_size"]

EXPORTED = "fusetune.exported_size"
"""Key of the file's metadata that remembers the side of the input before it was changed."""

INDIFFERENT = """
    Add AveragePool BatchNormalization Cast Clip Concat Constant Conv ConvTranspose Div Elu
    Erf Exp Flatten Gather Gemm GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity
    LeakyRelu MatMul MaxPool Mul Pad Pow PRelu Relu Reshape Resize Sigmoid Softmax Softplus
    ReduceMax ReduceMean Slice Split Sqrt Squeeze Sub Sum Tanh Transpose Unsqueeze
"""
"""Operations that hold no size, but for `Reshape` and `Slice`, and `Resize` to sizes instead of scales."""
SMALL = 64  # numbers of a constant that may be a shape

Shapes = Mapping[str, tuple[int, ...]]


def with_size(content: bytes, old: int, new: int) -> bytes:
    """The same network with another side of its square input.

    Args:
        content: Of the file.
        old: Side of the input as the file has it.
        new: Side wanted.

    Raises:
        InvalidValue: The network holds sizes that cannot be scaled.
    """
    import onnx

    model = onnx.load_model_from_string(content)
    graph = model.graph
    constants = _constants(graph)
    if found := _may_hold_sizes(graph):
        raise _fixed(old, new, f"it has the operation {found}, which may hold sizes")
    before = _shapes(_light(model))
    _open(graph, old, new)
    for number, node in enumerate(graph.node):
        if node.op_type not in ("Reshape", "Slice"):
            continue
        after = _shapes(_light(model))
        source, target = node.input[0], node.output[0]
        if not {source, target} <= before.keys() or source not in after:
            raise _fixed(old, new, f"the shapes at '{node.name}' are not known")
        if node.op_type == "Slice":
            axes = constants.get(node.input[3]) if len(node.input) > 3 else None
            if axes is None or any(before[source][k] != after[source][k] for k in axes):
                raise _fixed(old, new, f"'{node.name}' cuts a part out")
        elif node.input[1] in constants:
            shape = _scaled(before[source], after[source], before[target], new / old)
            if shape is None:
                raise _fixed(old, new, f"'{node.name}' reshapes to {list(before[target])}")
            name = f"shape_{number}_for_{new}"
            graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape, np.int64), name))
            node.input[1] = name
    model.metadata_props.add(key=EXPORTED, value=str(old))
    return model.SerializeToString()


def _constants(graph: Any) -> dict[str, Any]:  # noqa: ANN401 - onnx is untyped
    """Name → array of all that the file says in numbers."""
    import onnx

    given = {one.name: one for one in graph.initializer}
    given |= {
        node.output[0]: node.attribute[0].t
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    return {name: onnx.numpy_helper.to_array(one) for name, one in given.items()}


def _may_hold_sizes(graph: Any) -> str | None:  # noqa: ANN401
    """Name of an operation that may hold sizes which are not looked after; None: there is none."""
    known = set(INDIFFERENT.split())
    for node in graph.node:
        if node.op_type not in known or (node.op_type == "Resize" and len(node.input) > 3):
            return str(node.op_type)
    return None


def _open(graph: Any, old: int, new: int) -> None:  # noqa: ANN401 - onnx is untyped
    """Give the input its new sides; what the file says of other shapes is no longer true."""
    names = {one.name for one in graph.initializer}
    given = next(one for one in graph.input if one.name not in names)
    for axis in given.type.tensor_type.shape.dim[1:]:
        if axis.dim_value == old:
            axis.dim_value = new
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")


def _light(model: Any) -> Any:  # noqa: ANN401
    """The same graph with its large constants declared as inputs: shapes are found without them."""
    import onnx

    light = onnx.ModelProto()
    light.CopyFrom(model)
    large = [one for one in model.graph.initializer if prod(one.dims) > SMALL]
    names, declared = {one.name for one in large}, {one.name for one in model.graph.input}
    kept = [one for one in model.graph.initializer if one.name not in names]
    del light.graph.initializer[:]
    light.graph.initializer.extend(kept)
    light.graph.input.extend(
        onnx.helper.make_tensor_value_info(one.name, one.data_type, one.dims)
        for one in large
        if one.name not in declared
    )
    return light


def _shapes(model: Any) -> Shapes:  # noqa: ANN401
    """Of all tensors whose shapes are known."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # what the new size happens to provoke
        return {}
    shapes = {}
    for one in (*graph.input, *graph.value_info, *graph.output):
        sides = [axis.dim_value for axis in one.type.tensor_type.shape.dim]
        if all(sides):
            shapes[one.name] = tuple(sides)
    return shapes


def _scaled(
    source: Sequence[int], scaled: Sequence[int], target: Sequence[int], factor: float
) -> list[int] | None:
    """The shape that a scaled tensor is reshaped to, where the unscaled one is to `target`.

    A reshape merges axes that follow each other, or divides them. Where the axes that are merged
    have grown by the factor's k-th power, either one axis takes it all, or k do, the factor each.

    Example:
        >>> _scaled((1, 48, 44, 44), (1, 48, 64, 64), (24, 2, 1936), 64 / 44)
        [24, 2, 4096]
        >>> _scaled((2, 24, 1936), (2, 24, 4096), (2, 1, 24, 44, 44), 64 / 44)
        [2, 1, 24, 64, 64]
    """
    if len(source) != len(scaled):
        return None
    groups, made = _groups(source, target), list[int]()
    if not groups:
        return None
    for own, other in groups:
        growth = prod(scaled[k] for k in own) / prod(source[k] for k in own)
        power = round(np.log(growth) / np.log(factor))
        if not np.isclose(growth, factor**power):
            return None
        wide = [k for k in other if target[k] > 1]
        grown = [target[k] * (growth if len(wide) == 1 else factor) for k in wide]
        if not power:
            grown = [float(target[k]) for k in wide]
        elif len(wide) not in (1, power):
            return None
        if any(not np.isclose(side, round(side)) for side in grown):
            return None
        sides = dict(zip(wide, map(round, grown), strict=True))
        made += [sides.get(k, 1) for k in other]
    return made


def _groups(source: Sequence[int], target: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Axes of both that hold the same numbers: the shortest runs with equal products."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) and j < len(target):
        own, other = [i], [j]
        while (left := prod(source[k] for k in own)) != (right := prod(target[k] for k in other)):
            axes, shape = (own, source) if left < right else (other, target)
            if axes[-1] + 1 == len(shape):
                return []
            axes.append(axes[-1] + 1)
        i, j = own[-1] + 1, other[-1] + 1
        groups.append((own, other))
    if groups:
        groups[-1][0].extend(range(i, len(source)))
        groups[-1][1].extend(range(j, len(target)))
    return groups


def _fixed(old: int, new: int, reason: str) -> InvalidValue:
    return InvalidValue(
        f"the network was exported for images of {old} pixels, and preprocess.size is {new}: {reason}",
        f"preprocess.size {old}, or a network whose size can be changed",
        f"Leave preprocess.size out, try a multiple of 32, or export it for {new} pixels or any size.",
    )
