# SPDX-License-Identifier: Apache-2.0
"""Models in the Hugging Face hub's layout: `config.json` and the weights beside it, in one folder.

A repository of the hub is fetched once into the hub's own cache, and read like any such folder from
then on, so that a run that is resumed sees the same weights with and without a network.
"""

import json
from pathlib import Path
from typing import Any

from fusetune.errors import WeightsError, name_some
from fusetune.members.weights import Weights, read_weights
from fusetune.plugins import missing_extra

__all__ = ["CONFIG", "fetch", "layout_files", "read_config", "read_folder", "weights_files"]

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the former is preferred, as everywhere
INDEX = "model.safetensors.index.json"
"""Says in which files the weights of a large model lie."""

TIMEOUT_S = 10.0
"""Of the look-up of a repository: the hub's own default."""


def weights_files(folder: Path) -> tuple[Path, ...]:
    """The files of a folder that hold its weights, one or, with an index, several.

    Raises:
        WeightsError: There is none.
    """
    if (folder / INDEX).is_file():
        shards = _read_json(folder / INDEX).get("weight_map", {}).values()
        return tuple(folder / name for name in sorted(set(shards)))
    for name in WEIGHTS:
        if (folder / name).is_file():
            return (folder / name,)
    held = sorted(entry.name for entry in folder.iterdir())
    raise WeightsError(
        f"the folder '{folder}' holds {name_some(held) if held else 'nothing'}",
        f"a model in the hub's layout: {CONFIG} and {WEIGHTS[0]}",
        "Give the folder that save_pretrained, or timm's save_for_hf, wrote.",
    )


def layout_files(folder: Path) -> tuple[Path, ...]:
    """The files of a folder that decide what is loaded from it; none that are not there."""
    configs = [folder / name for name in (CONFIG, PREPROCESSOR, INDEX)]
    return (*(path for path in configs if path.is_file()), *weights_files(folder))


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's `config.json`.

    Raises:
        WeightsError: It is not there, or no JSON object.
    """
    return _read_json(folder / CONFIG)


def read_folder(folder: Path) -> Weights:
    """All tensors of a folder's weights.

    Raises:
        WeightsError: As `read_weights`, or there are none.
    """
    parts = [read_weights(path) for path in weights_files(folder)]
    tensors = {name: tensor for part in parts for name, tensor in part.tensors.items()}
    notes = tuple(note for part in parts for note in part.notes)
    return Weights(parts[0].path, tensors, parts[0].versions, notes)


def fetch(repository: str, member: str, *, weights: bool = True) -> Path:
    """The folder of a repository of the hub, from the hub's cache, or fetched into it.

    Args:
        repository: `owner/name`.
        member: Its name, for messages.
        weights: False fetches the configuration only.

    Raises:
        WeightsError: It is neither cached nor to be had; the message says how to go without.
        MissingExtra: huggingface_hub is not installed.
    """
    configs = [CONFIG, PREPROCESSOR]
    steps = [(True, configs), (False, configs)]  # the cache first
    if weights:
        kinds = ([INDEX, "model*.safetensors"], [WEIGHTS[1]])
        steps = [(True, configs), *((False, [*configs, *patterns]) for patterns in kinds)]
    reason = "it holds no model"
    for cached, patterns in steps:
        try:
            folder = _snapshot(repository, patterns, cached=cached)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            continue
        if (folder / CONFIG).is_file() and (not weights or _has_weights(folder)):
            return folder
    raise WeightsError(
        f"the weights of '{member}' could not be fetched ({reason})",
        f"network access to the repository '{repository}' of the hub, or its files",
        f"Fetch it elsewhere with `hf download {repository} --local-dir DIR`, and name that folder "
        "in the recipe: weights: DIR; or write weights: none.",
    )


def _snapshot(repository: str, patterns: list[str], *, cached: bool) -> Path:
    """A repository's folder in the hub's cache, with the files that the patterns name.

    Raises:
        OSError: It is not cached, or not to be had.
        ValueError: This is no name of a repository.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_extra(str(error.name), "vision") from None
    try:
        folder = snapshot_download(
            repository,
            allow_patterns=patterns,
            local_files_only=cached,
            etag_timeout=TIMEOUT_S,
        )
    except OSError:
        raise
    except Exception as error:  # those of its HTTP library, which it does not wrap
        raise OSError(str(error) or type(error).__name__) from error
    return Path(folder)


def _has_weights(folder: Path) -> bool:
    try:
        return all(path.is_file() for path in weights_files(folder))
    except WeightsError:
        return False


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(
            f"the folder '{path.parent}' has no {path.name}",
            f"a model in the hub's layout: {CONFIG} and {WEIGHTS[0]}",
            "Give the folder that save_pretrained, or timm's save_for_hf, wrote.",
        ) from None
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"'{path}' cannot be read ({reason})", "a JSON file", "Download or save it again."
        ) from None
    if not isinstance(content, dict):
        raise WeightsError(
            f"'{path}' holds a {type(content).__name__}", "a JSON object", "Save the model again."
        )
    return content
