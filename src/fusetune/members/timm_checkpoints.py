# SPDX-License-Identifier: Apache-2.0
"""What timm's checkpoints say of themselves, and those that lie outside the hub."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusetune.errors import InvalidValue, WeightsError
from fusetune.members import hub
from fusetune.members.member import Preprocess

__all__ = ["configuration_in", "download", "preprocess_in"]

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


def configuration_in(folder: Path, model: str, member: str) -> dict[str, Any]:
    """What the `config.json` of a folder that timm wrote says of the checkpoint.

    Args:
        folder: In the hub's layout; files of timm before 0.9 have it all in one block.
        model: What the recipe says that it holds.
        member: Name for messages.

    Raises:
        WeightsError: No configuration.
        InvalidValue: It is another model, or none of timm's.
    """
    from timm.models import PretrainedCfg

    content = hub.read_config(folder)
    architecture = content.get("architecture")
    if architecture != model.partition(".")[0]:
        named = f" Write model: {architecture}." if architecture else ""
        raise InvalidValue(
            f"'{member}' is the model '{model}', and '{folder}' holds "
            f"{'no model of timm' if architecture is None else repr(architecture)}",
            "the folder of that model",
            f"Correct model: or weights: in the recipe.{named}",
        )
    stored = {**content.get("pretrained_cfg", content)}
    stored.setdefault("label_names", stored.get("labels"))
    stored |= {key: content[key] for key in ("num_classes", "label_names") if content.get(key)}
    known = PretrainedCfg.__dataclass_fields__
    entry = PretrainedCfg(**{key: value for key, value in stored.items() if key in known})
    return dict(entry.to_dict(remove_source=True))


def preprocess_in(configuration: Mapping[str, Any]) -> Preprocess:
    """The evaluation preprocessing of a checkpoint, as timm resolves it.

    Interpolations that Pillow and torch do not both have (`lanczos`) become bicubic, the nearest.
    """
    from timm.data import resolve_data_config

    data = resolve_data_config(pretrained_cfg=dict(configuration))
    size, interpolation = data["input_size"][-1], data["interpolation"]
    return Preprocess(
        size=size,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        resize=math.floor(size / data["crop_pct"]),  # as timm's evaluation transform rounds it
        squash=data["crop_mode"] == "squash",
        interpolation=interpolation if interpolation in INTERPOLATIONS else "bicubic",
    )


def download(url: str, member: str) -> Path:
    """A weights file in torch's cache, downloaded if it is not there.

    Raises:
        WeightsError: It is not to be had; the message says how to go without.
    """
    from torch import hub as torch_hub

    path = Path(torch_hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch_hub.download_url_to_file(url, str(path), progress=False)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"the weights of '{member}' could not be downloaded ({error})",
            f"network access to {url}, or the file itself",
            f"Fetch it elsewhere and name it in the recipe: weights: path/to/{path.name}.",
        ) from None
    return path
