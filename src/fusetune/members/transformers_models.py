# SPDX-License-Identifier: Apache-2.0
"""What sources of transformers' models ask of its library: configurations, models, image processors."""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fusetune.errors import InvalidValue, WeightsError
from fusetune.members.weights import Weights

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Config",
    "Job",
    "build_model",
    "class_names",
    "flipped",
    "interpolate_positions",
    "logits_alone",
    "model_config",
    "processor_settings",
    "quiet",
    "renamed",
]

Config = Any
"""An object of a class of transformers' own per architecture."""

Job = Literal["image classification", "object detection", "semantic segmentation"]


def model_config(content: Mapping[str, Any], member: str, job: Job) -> Config:
    """The configuration that a `config.json` holds.

    Raises:
        InvalidValue: It describes no model for this job that transformers itself has.
    """
    from transformers import AutoConfig

    fields = dict(content)
    try:
        config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    except Exception as error:  # what the values happen to provoke
        raise _no_such_model(member, f"({reason_of(error)})", job) from None
    if type(config) not in _models(job)._model_mapping:
        raise _no_such_model(member, f"of the type '{config.model_type}'", job)
    return config


def _no_such_model(member: str, found: str, job: Job) -> InvalidValue:
    return InvalidValue(
        f"the configuration of '{member}' {found} describes no such model",
        f"a model of {job} that transformers itself has",
        "Choose another one; code that comes with a repository is not run.",
    )


def _models(job: Job) -> Any:  # noqa: ANN401 - transformers is untyped
    """The class that knows transformers' models for this job."""
    import transformers

    words = "".join(word.capitalize() for word in job.split())
    return getattr(transformers, f"AutoModelFor{words}")


def processor_settings(folder: Path | None, member: str) -> dict[str, Any]:
    """The settings of a checkpoint's image processor, defaults filled in.

    Args:
        folder: In the hub's layout; None: the model is given by its configuration alone.
        member: Name for messages.

    Raises:
        InvalidValue: There is none.
    """
    from transformers import AutoImageProcessor

    try:
        if folder is None:
            raise OSError("the model is given by its config alone")
        processor = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise InvalidValue(
            f"'{member}' has no image processor ({reason_of(error)})",
            "preprocessor_config.json beside its config, or preprocess: {size, mean, std}",
            "Add preprocess: {size: 224, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}, as the "
            "weights were trained with.",
        ) from None
    return dict(processor.to_dict())


def build_model(config: Config, job: Job) -> "nn.Module":
    """The model of a configuration, its weights drawn from torch's random state."""
    import torch

    return _models(job).from_config(config, dtype=torch.float32, trust_remote_code=False)


def renamed(config: Config, weights: Weights, job: Job) -> Weights:
    """What transformers makes of a checkpoint's tensors; those that do not fit stay as they are."""
    import torch

    cls = _models(job)._model_mapping[type(config)]
    try:
        model, found = cls.from_pretrained(
            None,
            config=config,
            state_dict=dict(weights.tensors),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # what the tensors happen to provoke
        raise WeightsError(
            f"transformers cannot load the weights of '{weights.path}' ({reason_of(error)})",
            "weights of the model that config.json describes",
            "Download or save them again, beside their own config.json.",
        ) from None
    state = dict(model.state_dict())
    misfits = {key if isinstance(key, str) else key[0] for key in found["mismatched_keys"]}
    for name in misfits | set(found["missing_keys"]):
        state.pop(name, None)  # drawn, not read
    state |= {name: weights.tensors[name] for name in misfits & set(weights.tensors)}
    return Weights(weights.path, state, {}, weights.notes)


def class_names(config: Config) -> tuple[str, ...] | None:
    """The names of `id2label` in order; None for the names that transformers makes up."""
    names = tuple(str(config.id2label[index]) for index in sorted(config.id2label))
    return None if all(name == f"LABEL_{i}" for i, name in enumerate(names)) else names


def flipped(model: "nn.Module", weights: Weights) -> Weights:
    """Weights that see RGB as they saw BGR: the first layer's input channels are turned round."""
    layers = (name for name, p in model.named_parameters() if p.ndim == 4 and p.shape[1] == 3)
    first = next(layers)
    turned = {**weights.tensors, first: weights.tensors[first].flip(1)}
    return Weights(weights.path, turned, weights.versions, weights.notes)


def logits_alone(model: "nn.Module") -> None:
    """Let the model give its `(N, C)` logits instead of transformers' object around them."""
    model.register_forward_hook(lambda _model, _inputs, output: output.logits)


def interpolate_positions(model: "nn.Module") -> None:
    """Let a model that can do so take images of another size than it was trained on."""
    if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
        model.register_forward_pre_hook(
            lambda _, inputs, options: (inputs, {**options, "interpolate_pos_encoding": True}),
            with_kwargs=True,
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and its warnings on what `make_member` reports."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def reason_of(error: Exception) -> str:
    """The first line of a message of the library's."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
