# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation models of Hugging Face's transformers."""

from dataclasses import dataclass
from typing import ClassVar

from fusetune.members.sources.transformers import Transformers
from fusetune.members.transformers_models import Job

__all__ = ["TransformersSegmentation"]


@dataclass(frozen=True, kw_only=True)
class TransformersSegmentation(Transformers):
    """Any model of transformers that gives logits of pixels: `nvidia/segformer-b0-finetuned-ade-512-512`.

    SegFormer, UPerNet, MobileViT, DPT, BEiT and others, read as the source `transformers` reads its
    own: from the hub, a folder in its layout, or a configuration. Images are normalized as the
    checkpoint's own image processor does it, and resized to a square of its size.

    Args:
        config: The architecture, as `config.json` describes it, for a weights file or for
            `weights: none`; null: the folder's, or the repository's.

    Example:
        >>> TransformersSegmentation(model="nvidia/mit-b0").member_name
        'transformers_segmentation-nvidia-mit-b0'
    """

    job: ClassVar[Job] = "semantic segmentation"
