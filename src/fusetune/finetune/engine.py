# SPDX-License-Identifier: Apache-2.0
"""Interface of an engine: how a framework fine-tunes and predicts. An engine knows no task."""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusetune.data.inputs import Images
from fusetune.errors import MemberFailed
from fusetune.finetune.lr_range import RangeTest
from fusetune.finetune.objective import Objective
from fusetune.finetune.settings import FineTune
from fusetune.fuse.soup import State
from fusetune.members.member import Member
from fusetune.plugins import plugin_name
from fusetune.predictions.kinds import Array, Floats, Ids
from fusetune.predictions.targets import GroundTruth

__all__ = ["Budget", "Engine", "History", "Plan", "Report", "Split"]

Report = Callable[[Mapping[str, Any]], None]
"""Takes progress events: plain values under string keys."""


@dataclass(frozen=True, eq=False)
class Split:
    """The rows of one role, with their targets.

    Args:
        images: N images.
        targets: What is true of them.
        features_ND: `(N, D)` what goes into the head, where it was computed before; it may stand in
            for the images in epochs that train the head alone, on images as they are.
    """

    images: Images
    targets: GroundTruth
    features_ND: Floats | None = None

    @property
    def ids(self) -> Ids:
        """`(N,)` row names."""
        return self.targets.ids


@dataclass(frozen=True)
class Budget:
    """The time that a member has for fine-tuning and for predicting afterwards.

    Args:
        ends_at: When both have to be done, by `time.monotonic()`, which processes share.
        rows: Number of rows to predict afterwards.
    """

    ends_at: float
    rows: int


@dataclass(frozen=True)
class Plan:
    """What a member is fine-tuned for, how, and with which random draws.

    Args:
        objective: What to minimize, and what outputs become.
        settings: The recipe's `finetune:` block.
        seed: Of row order, augmentation and dropout, and of what is new before fine-tuning.
        start_seed: Of what is new before fine-tuning (a head, `weights: none`), where members of
            a soup share it; None: `seed`.
        budget: When to stop before the last epoch, keeping the best one; None: never.
        teacher: Raw outputs of the settings' `distill.teacher` on the train rows (npy); None without.
        only_epochs: End after so many of the epochs that the learning rates are scheduled for, and
            keep the weights as they are then, whatever the validation rows say; None: all, and
            the best ones.
    """

    objective: Objective[Any]
    settings: FineTune
    seed: int
    start_seed: int | None = None
    budget: Budget | None = None
    teacher: Path | None = None
    only_epochs: int | None = None

    @property
    def num_epochs(self) -> int:
        """Epochs at most."""
        return self.settings.num_epochs if self.only_epochs is None else self.only_epochs

    @property
    def seed_of_start(self) -> int:
        """The one of both that what is new is drawn from."""
        return self.seed if self.start_seed is None else self.start_seed


@dataclass(frozen=True)
class History:
    """What happened in fine-tuning.

    Args:
        epochs: One mapping per epoch: `epoch` (from 1), `lr`, `train_loss`, `validation_loss`,
            other validation figures, and `images_per_second`.
        best_epoch: The epoch whose weights were kept.
        seconds: Time spent, attempts that were killed included up to their last checkpoint.
        precision: `fp32` or `bf16`: what the settings' `auto` meant.
        notes: What the user may want to know of how it went.
        stopped: Epochs and steps of the next one after which the budget ended it; None: it was not.
        trained: Number of weights that were trained: of adapters, before they were merged.
        range_test: What the learning-rate range test found; None: there was none.
        snapshots: `first_epoch`, `last_epoch` and `best_epoch` of every cycle that was finished (of
            a part of the first, if none was); none without `snapshots`.
    """

    epochs: tuple[Mapping[str, float], ...]
    best_epoch: int
    seconds: float
    precision: str = "fp32"
    notes: tuple[str, ...] = ()
    stopped: tuple[int, int] | None = None
    trained: int | None = None
    range_test: RangeTest | None = None
    snapshots: tuple[Mapping[str, int], ...] = ()


class Engine(abc.ABC):
    """Fine-tunes and runs members of one framework. Frozen dataclasses."""

    @property
    def name(self) -> str:
        """Name in members: the plug-in's file."""
        return plugin_name(type(self))

    @abc.abstractmethod
    def check(self, member: Member, settings: FineTune) -> None:
        """Refuse settings that a member cannot be fine-tuned by; it is not used afterwards.

        Raises:
            UsageError: Names the key.
        """

    @abc.abstractmethod
    def finetune(
        self, member: Member, plan: Plan, splits: tuple[Split, Split], work: Path, report: Report
    ) -> History:
        """Fine-tune a member in place, ending with the best epoch's weights.

        With `snapshots` it ends with the last cycle's, and those of every cycle lie in `work`, in
        files named by `snapshot_weights`, as `save` writes them.

        Args:
            member: Changed in place.
            plan: What for, and how.
            splits: Train and validation rows; the latter choose the epoch.
            work: Folder for checkpoints: a call that finds one goes on from it, and ends with the
                same bits as a call that was never stopped.
            report: Takes progress events.

        Raises:
            MemberFailed: The loss is no longer finite.
        """

    @abc.abstractmethod
    def outputs(self, member: Member, images: Images, report: Report) -> Array:
        """`(N, ...)` raw outputs in evaluation mode, with evaluation preprocessing.

        With test-time augmentation (`Preprocess`), the means over an image's views.
        """

    @abc.abstractmethod
    def features(self, member: Member, images: Images, report: Report) -> tuple[Array, Array]:
        """`(N, D)` float32 inputs of the head, and raw outputs, of images as they are, in one pass."""

    def head_outputs(self, member: Member, features_ND: Floats) -> Array | None:
        """`(N, ...)` raw outputs from inputs of the head; None if no one layer makes them."""
        return None

    @abc.abstractmethod
    def save(self, member: Member, path: Path) -> None:
        """Write the weights as safetensors."""

    @abc.abstractmethod
    def load(self, member: Member, path: Path) -> None:
        """Read weights that `save` wrote into a member of the same architecture, in place."""

    @abc.abstractmethod
    def num_parameters(self, member: Member) -> int:
        """Number of weights."""

    @abc.abstractmethod
    def finetune_bytes(self, member: Member, settings: FineTune) -> int | None:
        """An estimate of the memory that fine-tuning takes; None: it is not the processor's."""

    def state(self, member: Member) -> State:
        """Weights and buffers by name, copied; what soups average.

        Raises:
            MemberFailed: Models of this engine have no weights that could be averaged.
        """
        raise self._no_weights()

    def set_state(self, member: Member, state: State) -> None:
        """Put weights and buffers that `state` gave, or an average of such, into a member."""
        raise self._no_weights()

    def statistics(self, member: Member) -> frozenset[str]:
        """Names of the state's batch-norm statistics; none for models without."""
        raise self._no_weights()

    def refresh_statistics(self, member: Member, split: Split) -> None:
        """Re-estimate a member's batch-norm statistics, in place, on train rows.

        The cumulative average over one pass, in batches of equal size and an order that depends on
        the ids only, with evaluation preprocessing: the statistics are then those of images as
        they will be predicted. All else is in evaluation mode.
        """
        raise self._no_weights()

    def _no_weights(self) -> MemberFailed:
        return MemberFailed(
            f"models of the engine '{self.name}' have no weights that could be averaged",
            "neural networks of one architecture",
            "Leave these members out of soups.",
        )
