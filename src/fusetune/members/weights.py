# SPDX-License-Identifier: Apache-2.0
"""Read weights files, and load them into a model with a clear report.

Two kinds of files are read: safetensors, and checkpoints that `torch.load(weights_only=True)` reads.
Nothing is ever unpickled, because a pickle can run any code.
"""

import json
import re
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusetune.errors import WeightsError, name_some

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Weights", "check_weights", "has_head", "load_weights", "read_metadata", "read_weights"]

NESTED = ("state_dict", "model_state_dict", "model", "net", "module", "weights", "params")
"""Keys under which training scripts keep the model's weights, the most telling first."""

_LFS = b"version https://git-lfs"
_MAX_HEADER_BYTES = 100_000_000  # of safetensors itself


@dataclass(frozen=True, eq=False)
class Weights:
    """The tensors of a weights file.

    Args:
        path: The file, for messages.
        tensors: Name → tensor, as in the file.
        versions: Versions of the modules' formats that torch keeps with a checkpoint (module name →
            `{"version": n}`); empty for safetensors.
        notes: What the user should know of the reading.
    """

    path: Path
    tensors: "dict[str, Tensor]"
    versions: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def check_weights(path: Path) -> None:
    """Refuse a file that cannot hold weights, from its first bytes, without importing torch.

    Raises:
        WeightsError: It is not there, a folder, empty, truncated, or not a weights file.
    """
    head = _open(path)
    if _is_safetensors(head):
        _safetensors_header(path)
    elif head.startswith(b"PK"):
        if not zipfile.is_zipfile(path):
            raise _unreadable(path, "it is cut off")
    elif not head.startswith(b"\x80"):
        raise _unreadable(path, "it is neither safetensors nor a checkpoint of torch.save")


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without reading its tensors; empty if it has none.

    Raises:
        WeightsError: As `check_weights`.
    """
    if not _is_safetensors(_open(path)):
        return {}
    metadata = _safetensors_header(path).get("__metadata__", {})
    return {str(name): str(value) for name, value in metadata.items()}


def read_weights(path: Path) -> Weights:
    """Read all tensors of a weights file, on the CPU.

    In a checkpoint the weights may lie under a key such as `state_dict` or `model`; other entries
    (optimizer, epoch, ...) are left out.

    Args:
        path: A safetensors file or a checkpoint; the content tells which, not the ending.

    Raises:
        WeightsError: As `check_weights`; or a checkpoint that holds pickled objects, or no tensors.
    """
    check_weights(path)
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if _is_safetensors(_open(path)):
        try:
            return Weights(path, load_file(path), {})
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, str(error)) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what the bytes happen to provoke
        raise _explain(path, error) from None
    return _find_tensors(path, content)


def load_weights(
    model: "nn.Module", weights: Weights, *, head: Collection[str], keep_head: bool
) -> tuple[str, ...]:
    """Copy weights into a model, cast to its own types, and say what did not fit.

    A prefix that all or many names share (`module.`, `_orig_mod.`, `model.`) is stripped when more
    names match without it.

    Args:
        model: Changed in place; to be thrown away after an error.
        weights: As `read_weights` gave them; unchanged.
        head: Names of the head's layers.
        keep_head: True if the head's weights must fit too; False if it is replaced afterward: then
            weights of the head that do not fit or are absent are noted only.

    Returns:
        Notes for the user: what was stripped, left out, and not used.

    Raises:
        WeightsError: Weights that the model needs are missing, have another shape, or hold NaN.
    """
    expected = dict(model.state_dict())
    prefix = _best_prefix(weights.tensors, expected)
    tensors = {_strip(name, prefix): tensor for name, tensor in weights.tensors.items()}
    notes = list(weights.notes)
    if prefix:
        notes.append(f"the prefix '{prefix}' was stripped from the names of the weights")
    in_head = {name for name in expected if _is_within(name, head)}
    wrong = {
        name for name in expected if _shape(tensors.get(name)) not in (None, _shape(expected[name]))
    }
    if fatal := [name for name in expected if name in wrong and (keep_head or name not in in_head)]:
        raise _wrong_shapes(weights.path, fatal, tensors, expected)
    state = {name: tensor for name, tensor in tensors.items() if name not in wrong}
    _refuse_nan(weights.path, {name: state[name] for name in expected if name in state})
    missing, unexpected = _load(model, state, weights, prefix)
    absent = [name for name in missing if not name.endswith("num_batches_tracked")]
    if lacking := [name for name in absent if keep_head or name not in in_head]:
        raise _missing(weights.path, lacking, len(expected), unexpected)
    if wrong:
        rows = tensors[min(wrong)].shape[0]
        notes.append(f"the head of the weights ({rows} outputs) was left out")
    elif absent:
        notes.append("the weights have no head")
    if unexpected:
        notes.append(
            f"{len(unexpected)} of the weights are not in the model and were left out: "
            f"{name_some(unexpected, 3)}"
        )
    return tuple(notes)


def has_head(model: "nn.Module", weights: Weights, head: Collection[str]) -> bool:
    """True if the weights name every parameter of the head's layers (of whatever shape)."""
    expected = dict(model.state_dict())
    prefix = _best_prefix(weights.tensors, expected)
    names = {_strip(name, prefix) for name in weights.tensors}
    return all(name in names for name in expected if _is_within(name, head))


def _load(
    model: "nn.Module", state: "dict[str, Tensor]", weights: Weights, prefix: str
) -> tuple[list[str], list[str]]:
    """Names that are missing and unexpected, after torch's own renaming of old formats."""
    from collections import OrderedDict

    ordered = OrderedDict(state)
    versions = {_strip(f"{name}.", prefix)[:-1]: entry for name, entry in weights.versions.items()}
    if not versions and set(model.state_dict()) <= set(state):
        versions = model.state_dict()._metadata
    ordered._metadata = OrderedDict(versions)  # type: ignore[attr-defined]
    try:
        result = model.load_state_dict(ordered, strict=False)
    except (RuntimeError, ValueError) as error:
        raise _unreadable(weights.path, str(error)) from None
    return list(result.missing_keys), list(result.unexpected_keys)


def _open(path: Path) -> bytes:
    """The first bytes of a file that may hold weights."""
    remedy = "Give the path of a .safetensors file or of a checkpoint with a state_dict."
    if path.is_dir():
        raise WeightsError(f"the weights '{path}' are a folder", "a file", remedy)
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except FileNotFoundError:
        raise WeightsError(
            f"the weights file '{path}' is not there",
            "a file",
            "Check the path (relative paths start at the recipe's folder), or write weights: none.",
        ) from None
    except OSError as error:
        raise WeightsError(
            f"the weights file '{path}' cannot be opened ({error.strerror})",
            "a readable file",
            remedy,
        ) from None
    if head.startswith(_LFS):
        raise WeightsError(
            f"'{path}' is a Git LFS pointer, not the weights themselves",
            "the file that it points to",
            "Run: git lfs pull",
        )
    if head.lstrip()[:1] == b"<":
        raise WeightsError(
            f"'{path}' is a web page, not weights", "a weights file", "Download the file again."
        )
    if len(head) < 9:
        raise WeightsError(f"'{path}' is empty", "a weights file", "Download or save it again.")
    return head


def _is_safetensors(head: bytes) -> bool:
    """True if the bytes start like a safetensors file: eight of length, then JSON."""
    return head[8:9] == b"{"


def _safetensors_header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        num_bytes = int.from_bytes(file.read(8), "little")
        if num_bytes > _MAX_HEADER_BYTES:
            raise _unreadable(path, "its header is damaged")
        encoded = file.read(num_bytes)
    try:
        header: dict[str, Any] = json.loads(encoded)
    except ValueError:
        raise _unreadable(path, "its header is cut off or damaged") from None
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if not ends:
        raise WeightsError(f"'{path}' holds no tensors", "the model's weights", "Save them again.")
    if (given := path.stat().st_size) < (needed := 8 + num_bytes + max(ends)):
        raise _unreadable(path, f"it has {given:,} bytes of {needed:,}")
    return header


def _explain(path: Path, error: Exception) -> WeightsError:
    """Why `torch.load` refused a file."""
    message = str(error)
    if "TorchScript" in message:
        return WeightsError(
            f"'{path}' is a TorchScript archive",
            "weights only",
            "Save them with torch.save(torch.jit.load(file).state_dict(), 'weights.pt').",
        )
    if found := re.search(r"(?:Unsupported global: |allowed global: )?GLOBAL (\S+)", message):
        return WeightsError(
            f"'{path}' holds pickled objects ('{found[1]}'), which can run any code and are not loaded",
            "tensors only",
            "Save the weights alone: torch.save(model.state_dict(), 'weights.pt'), "
            "or as safetensors.",
        )
    return _unreadable(path, message.strip().splitlines()[0] if message else type(error).__name__)


def _unreadable(path: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"the weights file '{path}' cannot be read ({reason.strip().rstrip('.')})",
        "a whole .safetensors file, or a checkpoint saved by torch.save",
        "Download or save it again.",
    )


def _find_tensors(path: Path, content: object) -> Weights:
    """The state dict inside a checkpoint."""
    import torch

    notes: list[str] = []
    place = ""
    while isinstance(content, Mapping):
        tensors = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
        nested = [key for key in NESTED if _holds_tensors(content.get(key))]
        nested = nested or [key for key in content if _holds_tensors(content[key])]
        if tensors and not nested:
            if place:
                notes.append(f"the weights were read from the checkpoint's '{place}'")
            return Weights(path, tensors, getattr(content, "_metadata", {}), tuple(notes))
        if not nested:
            break
        place = f"{place}.{nested[0]}".lstrip(".")
        content = content[nested[0]]
    keys = name_some(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
    raise WeightsError(
        f"'{path}' holds no state dict (but {keys or 'nothing'})",
        "tensors by name, at the top or under a key like 'state_dict' or 'model'",
        "Save the weights alone: torch.save(model.state_dict(), 'weights.pt').",
    )


def _holds_tensors(value: object) -> bool:
    import torch

    return isinstance(value, Mapping) and any(
        isinstance(entry, torch.Tensor) or _holds_tensors(entry) for entry in value.values()
    )


def _best_prefix(names: Collection[str], expected: Collection[str]) -> str:
    """The prefix without which most names match; none if the names match as well with it."""
    if set(expected) <= set(names):
        return ""
    candidates = {""}
    for name in names:
        parts = name.split(".")
        candidates |= {".".join(parts[:depth]) + "." for depth in range(1, min(len(parts), 5))}

    def num_matches(prefix: str) -> int:
        return sum(name.startswith(prefix) and name[len(prefix) :] in expected for name in names)

    return max(sorted(candidates, key=len), key=num_matches)


def _strip(name: str, prefix: str) -> str:
    return name[len(prefix) :] if prefix and name.startswith(prefix) else name


def _is_within(name: str, modules: Collection[str]) -> bool:
    return any(name.startswith(f"{module}.") or not module for module in modules)


def _shape(tensor: "Tensor | None") -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _refuse_nan(path: Path, tensors: "Mapping[str, Tensor]") -> None:
    broken = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if broken:
        raise WeightsError(
            f"{len(broken)} tensors of '{path}' hold NaN or infinity: {name_some(broken)}",
            "finite numbers",
            "Use a checkpoint from before the training diverged.",
        )


def _wrong_shapes(
    path: Path,
    names: Sequence[str],
    tensors: "Mapping[str, Tensor]",
    expected: "Mapping[str, Tensor]",
) -> WeightsError:
    shown = ", ".join(
        f"'{name}' {_shape(tensors[name])} in the file and {_shape(expected[name])} in the model"
        for name in names[:3]
    )
    more = f", and {len(names) - 3} more" if len(names) > 3 else ""
    return WeightsError(
        f"{len(names)} weights of '{path}' have another shape: {shown}{more}",
        "weights of this very model",
        "Check the model's name and arguments, and that `classes` names the weights' own classes.",
    )


def _missing(
    path: Path, names: Sequence[str], num_expected: int, unexpected: Sequence[str]
) -> WeightsError:
    besides = f"; the file has {name_some(unexpected, 3)} besides" if unexpected else ""
    return WeightsError(
        f"{len(names)} of the model's {num_expected} weights are missing in '{path}': "
        f"{name_some(names)}{besides}",
        "weights of this very model",
        "Check the model's name and arguments: these may be the weights of another model.",
    )
