# SPDX-License-Identifier: Apache-2.0
"""Networks in ONNX files: what they take, and how onnxruntime runs them on the processor.

Shapes: B rows of a batch, C classes, D detections, H W pixels, 3 channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from fusetune.errors import InvalidValue, MemberFailed, WeightsError
from fusetune.members.decoder import Decoder, View, best_detections
from fusetune.members.onnx_sizes import EXPORTED
from fusetune.predictions.kinds import Array, Floats
from fusetune.runtime.machine import num_threads

__all__ = [
    "Channels",
    "ClassScores",
    "Detections",
    "Meaning",
    "OnnxModel",
    "Scores",
    "check_file",
    "num_weights",
    "read_content",
]

Channels = Literal["rgb", "bgr"]
Scores = Literal["logits", "probabilities", "marginals"]

BATCH = 32
"""Rows at a time where the file leaves their number open."""
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
FARTHEST = 1e-3  # of a sum of probabilities from 1
LEAST = 1e-7  # a probability whose logarithm is taken


class Meaning(Protocol):
    """How a network's raw outputs become what a member gives."""

    def __call__(self, outputs: Sequence[Floats], view: View) -> Floats:
        """`(B, ...)` logits or detections of the classes that are kept."""


@dataclass(frozen=True)
class NetworkInput:
    """What the one input of a network is.

    Args:
        name: In the file.
        batch: Number of rows that it takes at a time; None: any.
        size: Side in pixels of the square that it takes; None: any.
        channels_last: Whether its axes are rows, height, width, channels.
        dtype: Of its numbers.
    """

    name: str
    batch: int | None
    size: int | None
    channels_last: bool
    dtype: type


@dataclass(eq=False)
class OnnxModel:
    """A network and what its outputs mean.

    Args:
        meaning: Of the outputs.
        channels: Order of the colors that it sees.
        name: Of the member, for messages.
        content: The file's bytes; None until `load` gives them.
    """

    meaning: Meaning
    channels: Channels
    name: str
    content: bytes | None = None
    _session: Any = field(default=None, repr=False)
    _input: NetworkInput | None = field(default=None, repr=False)
    _exported: int | None = field(default=None, repr=False)

    def load(self, content: bytes) -> None:
        """Take these bytes for the network.

        Raises:
            WeightsError: onnxruntime cannot run them.
            InvalidValue: A network with another input than images.
        """
        self._session = _session(content, self.name)
        self._input = network_input(self._session, self.name)
        about = self._session.get_modelmeta().custom_metadata_map
        self._exported = int(about[EXPORTED]) if EXPORTED in about else self._input.size
        self.content = content

    @property
    def batch(self) -> int:
        """How many rows it takes at a time at most."""
        assert self._input is not None
        return self._input.batch or BATCH

    @property
    def size(self) -> int | None:
        """Side in pixels of the images that it takes; None: any."""
        assert self._input is not None
        return self._input.size

    def __call__(self, images_BHW3: Floats) -> Floats:
        """Logits or detections of normalized images, at most `batch` of them, RGB, channels last.

        Raises:
            MemberFailed: The network failed, or gave NaN or infinity.
        """
        assert self._input is not None
        size = images_BHW3.shape[1]
        seen = images_BHW3[..., ::-1] if self.channels == "bgr" else images_BHW3
        if not self._input.channels_last:
            seen = seen.transpose(0, 3, 1, 2)
        lacking = 0 if self._input.batch is None else self._input.batch - len(seen)
        if lacking:
            seen = np.concatenate([seen, np.zeros((lacking, *seen.shape[1:]), seen.dtype)])
        given: dict[str, Array] = {
            self._input.name: np.ascontiguousarray(seen, dtype=self._input.dtype)
        }
        try:
            outputs = self._session.run(None, given)
        except Exception as error:  # onnxruntime has a class per code of its own
            raise MemberFailed(
                f"the network of '{self.name}' failed on {len(seen)} images of "
                f"{size} pixels ({_reason(error)})",
                "a network that takes them",
                "Give the size that it was exported for: preprocess: {size: ...}.",
            ) from None
        if any(output.dtype.kind == "f" and not np.isfinite(output).all() for output in outputs):
            raise MemberFailed(
                f"the network of '{self.name}' gives NaN or infinity",
                "finite numbers",
                "Check its preprocessing, and export it again.",
            )
        numbers = [np.asarray(output, dtype=np.float32) for output in outputs]
        meant = self.meaning(numbers, View(size, self._exported or size))
        return meant[: len(images_BHW3)]

    def try_out(self, size: int) -> None:
        """Let it see images of noise, so that what it cannot do is said before any work.

        Raises:
            WeightsError: It fails.
            InvalidValue: Its outputs are not what they are taken for.
        """
        images = np.random.default_rng(0).random((min(2, self.batch), size, size, 3))
        try:
            self(images.astype(np.float32))
        except MemberFailed as error:
            raise WeightsError(error.given, error.expected, error.remedy) from None


@dataclass(frozen=True, eq=False)
class ClassScores:
    """One number per class, of the classes that are kept.

    Args:
        scores: What the numbers are.
        num_classes: Of the network's own.
        kept: Positions of the classes that stay, in the order wanted.
    """

    scores: Scores
    num_classes: int
    kept: tuple[int, ...]

    def __call__(self, outputs: Sequence[Floats], view: View) -> Floats:
        """`(B, C)` logits.

        Raises:
            InvalidValue: Outputs of another shape, or none that are what `scores` says.
        """
        flat = [one.reshape(len(one), -1) for one in outputs if one.ndim >= 2]
        if len(flat) != 1 or flat[0].shape[1] != self.num_classes:
            raise InvalidValue(
                f"the network gives {' and '.join(str(one.shape) for one in outputs)}",
                f"one number for each of {self.num_classes} classes: (B, {self.num_classes})",
                "Correct classes: [...], or export the network with that output alone.",
            )
        said_BC = flat[0]
        if self.scores == "logits":
            return said_BC[:, self.kept]
        within = (said_BC >= -FARTHEST).all() and (said_BC <= 1 + FARTHEST).all()
        sums = self.scores == "marginals" or np.allclose(said_BC.sum(1), 1, atol=FARTHEST)
        if not within or not sums:
            raise InvalidValue(
                f"the network gives numbers from {said_BC.min():.3g} to {said_BC.max():.3g}, and "
                f"outputs is {self.scores}",
                "numbers from 0 to 1" + (" that sum to 1" if self.scores != "marginals" else ""),
                "Write outputs: logits (any numbers) or marginals (each class by itself).",
            )
        probs_BC = said_BC[:, self.kept].clip(LEAST, 1)
        if self.scores == "probabilities":
            return np.log(probs_BC)
        return np.log(probs_BC) - np.log((1 - probs_BC).clip(LEAST))


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes and scores of the classes that are kept.

    Args:
        decoder: Knows the network.
        num_classes: Of the network's own.
        kept: Positions of the classes that stay, in the order wanted.
    """

    decoder: Decoder
    num_classes: int
    kept: tuple[int, ...]

    def __call__(self, outputs: Sequence[Floats], view: View) -> Floats:
        """`(B, D, 6)` detections; see `detectors`.

        Raises:
            InvalidValue: Outputs that the decoder does not know, or scores outside of 0 to 1.
        """
        boxes_BP4, scores_BPC = self.decoder.decode(outputs, view, self.num_classes)
        low, high = float(scores_BPC.min(initial=0)), float(scores_BPC.max(initial=0))
        if not -FARTHEST <= low <= high <= 1 + FARTHEST:
            raise InvalidValue(
                f"the decoder {self.decoder.name} reads scores from {low:.3g} to {high:.3g}",
                "scores from 0 to 1",
                "Check decoder, or export the network with its last sigmoid.",
            )
        scores_BPC = scores_BPC[..., self.kept].clip(0, 1)
        return best_detections((boxes_BP4, scores_BPC), self.decoder.most_overlap)


def check_file(path: Path) -> None:
    """Refuse what cannot be an ONNX file, without reading it.

    Raises:
        WeightsError: It is not there, a folder, or empty.
    """
    if not path.is_file() or not path.stat().st_size:
        fault = "is empty" if path.is_file() else "is a folder" if path.is_dir() else "is not there"
        raise WeightsError(f"the file '{path}' {fault}", "an ONNX file", "Correct weights: ...")


def read_content(path: Path) -> bytes:
    """An ONNX file that holds all of its weights.

    Raises:
        WeightsError: As `check_file`; it is cut off or none, or its weights lie in other files.
    """
    check_file(path)
    import onnx

    content = path.read_bytes()
    try:
        graph = onnx.load_model_from_string(content).graph
    except Exception as error:  # of protobuf
        raise WeightsError(
            f"the file '{path}' cannot be read as ONNX ({_reason(error)})",
            "a whole ONNX file",
            "Download or export it again.",
        ) from None
    if any(one.data_location == onnx.TensorProto.EXTERNAL for one in graph.initializer):
        raise WeightsError(
            f"the weights of '{path}' lie in other files",
            "one file that holds them",
            "Save it by onnx.save_model(onnx.load(FILE), NEW, save_as_external_data=False).",
        )
    return content


def network_input(session: Any, name: str) -> NetworkInput:  # noqa: ANN401 - onnxruntime is untyped
    """What a network takes.

    Raises:
        InvalidValue: No images, or other things beside them.
    """
    inputs = session.get_inputs()
    shape = [side if isinstance(side, int) else None for side in inputs[0].shape]
    last = len(shape) == 4 and shape[3] == 3 and shape[1] != 3
    sides = shape[1:3] if last else shape[2:]
    color = shape[-1 if last else 1] if len(shape) == 4 else 0
    fits = len(inputs) == 1 and color in (3, None) and inputs[0].type in TYPES
    if not fits or len({side for side in sides if side is not None}) > 1:
        given = ", ".join(f"'{one.name}' {one.type} {one.shape}" for one in inputs)
        raise InvalidValue(
            f"the network of '{name}' takes {given}",
            "one input: squares of floats, of the shape (rows, 3, size, size) or (rows, size, size, 3)",
            "Export it so.",
        )
    size = next((side for side in sides if side is not None), None)
    return NetworkInput(inputs[0].name, shape[0], size, last, TYPES[inputs[0].type])


def num_weights(content: bytes) -> int:
    """Number of a network's weights: of all its floating-point constants."""
    import onnx

    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8}
    graph = onnx.load_model_from_string(content).graph
    sizes = [int(np.prod(one.dims)) for one in graph.initializer if one.data_type in floats]
    return sum(sizes)


def _session(content: bytes, name: str) -> Any:  # noqa: ANN401 - onnxruntime is untyped
    """On the processor, by as many threads as this process takes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads(), 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3  # what goes wrong is raised
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class per code of its own
        raise WeightsError(
            f"onnxruntime cannot run the network of '{name}' ({_reason(error)})",
            "a network of operators that onnxruntime knows",
            "Export it again, for an opset that your onnxruntime has.",
        ) from None


def _reason(error: Exception) -> str:
    """The first line of a message of the library's, without its codes."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.rpartition(" : ")[2].rstrip(". ")
