# SPDX-License-Identifier: Apache-2.0
"""PyTorch: any `torch.nn.Module` that turns `(B, 3, H, W)` floats into logits."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_model, save_model

from fusetune.atomic import replacing
from fusetune.data.inputs import Images
from fusetune.finetune.batches import PixelStore
from fusetune.finetune.engine import Engine, History, Plan, Report, Split
from fusetune.finetune.features import makes_outputs, no_linear_head
from fusetune.finetune.pytorch.features import head_inputs, linear_head
from fusetune.finetune.pytorch.inputs import Feed, ModelInput, model_outputs
from fusetune.finetune.pytorch.loop import Training
from fusetune.finetune.pytorch.lora import put_adapters
from fusetune.finetune.pytorch.memory import finetune_bytes
from fusetune.finetune.pytorch.precision import memory_format
from fusetune.finetune.pytorch.probe import solve_head
from fusetune.finetune.pytorch.statistics import reestimate, statistics_names
from fusetune.finetune.pytorch.views import Views, as_they_are, prediction_views
from fusetune.finetune.settings import FineTune
from fusetune.finetune.snapshots import snapshot_weights
from fusetune.fuse.soup import State
from fusetune.members.member import Member
from fusetune.predictions.kinds import Array, Floats

__all__ = ["Torch"]


@dataclass(frozen=True, kw_only=True)
class Torch(Engine):
    """Fine-tunes and runs PyTorch members on the device that accelerate finds."""

    def check(self, member: Member, settings: FineTune) -> None:
        """Refuse adapters that the model cannot have."""
        if settings.adapters is not None:
            put_adapters(member, settings.adapters, seed=0)

    def finetune(
        self, member: Member, plan: Plan, splits: tuple[Split, Split], work: Path, report: Report
    ) -> History:
        """Fine-tune in place, ending with the best epoch's weights; see `pytorch.loop`."""
        usual = plan.objective.usual_smoothing
        settings = plan.settings.for_head(kept=member.head_kept, usual_smoothing=usual)
        plan = replace(plan, settings=settings)
        if not plan.settings.solves_head:
            return self._trained(member, plan, splits, work, report)
        before = time.perf_counter()
        probe = solve_head(member, plan, splits, self._features_of(member, splits, report))
        seconds = time.perf_counter() - before
        if plan.settings.train == "probe":
            return probe.history(len(splits[0].ids), seconds)
        history = self._trained(member, plan, splits, work, report)
        return replace(
            history, seconds=history.seconds + seconds, notes=(probe.note, *history.notes)
        )

    def _trained(
        self, member: Member, plan: Plan, splits: tuple[Split, Split], work: Path, report: Report
    ) -> History:
        """What the loop makes of it, with a file of weights per snapshot."""
        training = Training(member, plan, splits, Accelerator().device)
        history = training.run(work, report)
        for number, snapshot in enumerate(training.state.snapshots, 1):
            member.model.load_state_dict(snapshot["weights"])
            self.save(member, work / snapshot_weights(number))
        return history

    def outputs(self, member: Member, images: Images, report: Report) -> Array:
        """`(N, ...)` outputs of the main head in evaluation mode, means over test-time views."""
        return _outputs(member, images, prediction_views(member.preprocess))

    def features(self, member: Member, images: Images, report: Report) -> tuple[Array, Array]:
        """`(N, D)` float32 inputs of the head, and the outputs of images as they are."""
        with head_inputs(member, len(images)) as seen:
            outputs = _outputs(member, images, as_they_are)
            return seen(), outputs

    def head_outputs(self, member: Member, features_ND: Floats) -> Array | None:
        """`(N, C)` outputs of the head's linear layer; None without one of so many inputs."""
        layer = linear_head(member, features_ND.shape[1])
        if layer is None:
            return None
        with torch.inference_mode():
            features = torch.from_numpy(np.ascontiguousarray(features_ND))
            return layer(features.to(layer.weight.device)).cpu().numpy()

    def _features_of(
        self, member: Member, splits: tuple[Split, Split], report: Report
    ) -> tuple[Floats, Floats]:
        """Those that were computed before, or computed now."""
        found = [split.features_ND for split in splits if split.features_ND is not None]
        if len(found) < len(splits):
            made = [self.features(member, split.images, report) for split in splits]
            if not makes_outputs(self, member, *made[1]):
                raise no_linear_head()
            found = [features_ND for features_ND, _ in made]
        return found[0], found[1]

    def save(self, member: Member, path: Path) -> None:
        """Write the weights as safetensors; shared tensors are written once."""
        with replacing(path) as temporary:
            save_model(member.model, str(temporary))

    def load(self, member: Member, path: Path) -> None:
        """Read weights that `save` wrote, in place."""
        load_model(member.model, str(path), strict=True)

    def num_parameters(self, member: Member) -> int:
        """Number of weights, buffers not counted."""
        return sum(p.numel() for p in member.model.parameters() if isinstance(p, torch.Tensor))

    def finetune_bytes(self, member: Member, settings: FineTune) -> int | None:
        """Of weights, gradients, moments, averages and activations on the CPU; see `pytorch/memory.py`."""
        on_cpu = Accelerator().device.type == "cpu"
        return finetune_bytes(member, settings) if on_cpu else None

    def state(self, member: Member) -> State:
        """The model's state dict; bfloat16, which NumPy lacks, as float32."""
        copied = {}
        for name, value in member.model.state_dict().items():
            tensor = value.detach().cpu()
            tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor.clone()
            copied[name] = tensor.numpy()
        return copied

    def set_state(self, member: Member, state: State) -> None:
        """Copy them into the model, in its own types."""
        tensors = {name: torch.tensor(value) for name, value in state.items()}
        member.model.load_state_dict(tensors)

    def statistics(self, member: Member) -> frozenset[str]:
        """Running means and variances of all batch-norm layers that keep them."""
        return statistics_names(member.model)

    def refresh_statistics(self, member: Member, split: Split) -> None:
        """One pass over the train rows with the batch-norm layers in training mode."""
        reestimate(member.model.to(Accelerator().device), split, member.preprocess)


def _outputs(member: Member, images: Images, views: Views) -> Array:
    device = Accelerator().device
    model = member.model.to(device)
    feed = Feed(PixelStore(images, member.preprocess), device)
    model_input = ModelInput(member.preprocess, device, memory_format(device))
    return model_outputs(model, feed, model_input, views=views)
