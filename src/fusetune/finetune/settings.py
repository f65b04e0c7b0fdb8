# SPDX-License-Identifier: Apache-2.0
"""How a member is fine-tuned: the recipe's `finetune:` block."""

import bisect
import math
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from fusetune.errors import InvalidValue

__all__ = ["Augmentation", "Distill", "FineTune", "Lora", "Optimizer", "Schedule"]

USUAL_STEPS, LEAST_EPOCHS, MOST_EPOCHS, USUAL_EMA = 400, 10, 40, 0.98
"""Of a fine-tuning where the recipe does not say: chosen on four tasks, docs/results/recipes.md."""

CYCLE_START, CYCLE_END = 1 / 25, 1 / 250_000
"""Factors of the peak learning rate that one cycle starts and ends with."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Which optimizer, with its usual settings.

    Args:
        name: `sgd` (with Nesterov momentum if `momentum` > 0) or `adamw`.
        lr: Peak learning rate; None: 0.01 for sgd (Kornblith et al. 2019, fine-tuning at batch
            256, scaled down to small batches); for adamw 1e-3 (docs/results/recipes.md), but 5e-5
            for networks with layer normalization (transformers, ConvNeXt: Liu et al. 2022).
            `range_test`: what up to 100 steps on a copy of the member suggest, at rates that
            rise from 1e-7 (Smith 2017).
        momentum: Of sgd; 0.9 as usual since Sutskever et al. 2013.
        nesterov: Nesterov's form of the momentum.
        betas: Of adamw (Kingma & Ba 2015).
        weight_decay: Decoupled for adamw, L2 for sgd; not applied to biases and norms.
    """

    name: Literal["sgd", "adamw"] = "adamw"
    lr: float | Literal["range_test"] | None = None
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        good = self.lr is None or self.tests_lr or self.peak_lr() > 0
        _check("optimizer.lr", self.lr, good, "a number above 0, or range_test")
        _check("optimizer.momentum", self.momentum, 0 <= self.momentum < 1, "a number in [0, 1)")
        _check(
            "optimizer.weight_decay",
            self.weight_decay,
            self.weight_decay >= 0,
            "a number of at least 0",
        )
        _check(
            "optimizer.betas",
            self.betas,
            all(0 <= b < 1 for b in self.betas),
            "two numbers in [0, 1)",
        )
        if self.nesterov:
            _check(
                "optimizer.momentum",
                self.momentum,
                self.momentum > 0,
                "a number above 0 with nesterov: true",
            )

    @property
    def tests_lr(self) -> bool:
        """True if the learning rate comes from a range test."""
        return self.lr == "range_test"

    def peak_lr(self, layer_norms: bool = False) -> float:
        """The learning rate at the schedule's peak; the default one where a test is to find it.

        Args:
            layer_norms: Whether the network has layer normalization.
        """
        if isinstance(self.lr, int | float):
            return self.lr
        return {"sgd": 0.01, "adamw": 5e-5 if layer_norms else 1e-3}[self.name]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate over the steps of the run, as a factor of the peak.

    Args:
        name: `cosine` falls to 0 (Loshchilov & Hutter 2017), `constant` stays, `one_cycle` (Smith &
            Topin 2018) rises from 1/25 of the peak and falls to 1/250,000 of it, both along half
            cosines, as PyTorch and fastai have it; the momentum stays, unlike there. It bears a
            higher peak than the others.
        warmup: Share of all steps over which the rate rises, linearly from 0 but for `one_cycle`
            (Goyal et al. 2017); None: 0.3, as PyTorch and fastai have it for `one_cycle`, which for
            `cosine` was best, too (docs/results/recipes.md), and 0.05 for `constant`.
    """

    name: Literal["cosine", "constant", "one_cycle"] = "cosine"
    warmup: float | None = None

    def __post_init__(self) -> None:
        good = self.warmup is None or 0 <= self.warmup < 1
        _check("schedule.warmup", self.warmup, good, "a share in [0, 1), or null")

    @property
    def rising(self) -> float:
        """The share of all steps over which the rate rises."""
        if self.warmup is not None:
            return self.warmup
        return 0.05 if self.name == "constant" else 0.3

    def factor(self, progress: float) -> float:
        """Factor of the peak learning rate at a share of all steps in [0, 1)."""
        rising = self.rising
        if progress < rising:
            if self.name == "one_cycle":
                return _half_cosine(CYCLE_START, 1.0, math.pi * progress / rising)
            return progress / rising
        if self.name == "constant":
            return 1.0
        end = CYCLE_END if self.name == "one_cycle" else 0.0
        return _half_cosine(1.0, end, math.pi * (progress - rising) / (1 - rising))


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes to training images, before the member's own resize and normalize, in this order.

    Pixels are those of the data set's images if these are all of one size and at most as large as
    the member's input, else of the member's input.

    Args:
        flip: Mirror left-right with probability 1/2; leave off where it changes the class (digits).
        crop_padding: Shift by up to this many pixels each way (padded crop; 4 of 32 in He et al.
            2016).
        resized_crop: Resize a window of random area, at least this share of the image, and of an
            aspect ratio between 3/4 and 4/3 to the whole (Szegedy et al. 2015 took 0.08); null: no.
        crop: Train on a square window of so many pixels, anywhere in the image, where outputs have
            places there (segmentation); null: on the whole image.
        rand_augment: Number of random operations on each image, of fourteen (RandAugment, Cubuk et
            al. 2020, who took 2).
        rand_augment_magnitude: Of these, from 0 to 30; 9 as for ImageNet there.
        color_jitter: Brightness, contrast and saturation each by a factor in 1 ± this (Krizhevsky
            et al. 2012 began it; 0.4 is usual).
        cutout: Side in pixels of a gray square put anywhere (DeVries & Taylor 2017 took 16 of 32).
        mixup: Blend images, and their targets, with others of the batch by shares from a beta
            distribution with this parameter (Zhang et al. 2018 took 0.2 to 1; one share per row
            here); 0: no.
        cutmix: Paste a box of another image of the batch, with its share of the target, sized by a
            beta distribution with this parameter (Yun et al. 2019 took 1); 0: no. With mixup and
            cutmix on, each row gets either with probability 1/2.
    """

    flip: bool = True
    crop_padding: int = 0
    resized_crop: float | None = None
    crop: int | None = None
    rand_augment: int = 0
    rand_augment_magnitude: float = 9.0
    color_jitter: float = 0.0
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop_padding", "rand_augment", "cutout"):
            value = getattr(self, name)
            _check(f"augmentation.{name}", value, value >= 0, "a whole number of at least 0")
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            _check(f"augmentation.{name}", value, value >= 0, "a number of at least 0")
        share, magnitude = self.resized_crop, self.rand_augment_magnitude
        good = share is None or 0 < share <= 1
        _check("augmentation.resized_crop", share, good, "a share in (0, 1], or null")
        _check(
            "augmentation.crop", self.crop, self.crop is None or self.crop > 0, "a number of pixels"
        )
        name = "augmentation.rand_augment_magnitude"
        _check(name, magnitude, 0 <= magnitude <= 30, "a number from 0 to 30")
        jitter = self.color_jitter
        _check("augmentation.color_jitter", jitter, 0 <= jitter <= 1, "a number from 0 to 1")

    @property
    def is_off(self) -> bool:
        """True if training images stay as they are."""
        changes = (self.flip, self.crop_padding, self.rand_augment, self.color_jitter, self.cutout)
        windows = (self.resized_crop is not None, self.crop is not None)
        return not any((*changes, *windows, self.mixup, self.cutmix))


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters (Hu et al. 2022): what `train: lora` trains besides the head.

    A layer's weight W stays, and `B A · alpha / rank` is added to it, where A has `rank` rows and B
    as many columns. A convolution's A is a convolution with `rank` channels, its B one of 1×1.

    Args:
        rank: Of the added matrices; 8 as in most of Hu et al.'s experiments.
        alpha: What is added is multiplied by `alpha / rank`; 16 with rank 8 as there for RoBERTa
            large.
        dropout: Share of what goes into A that is dropped at random; 0 as there for RoBERTa.
        targets: Layers that have adapters, by their names in the model or the ends of these
            (`attention.query`); None: every linear layer and every convolution before the head, as
            Dettmers et al. 2023 needed to match full fine-tuning.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check("lora.rank", self.rank, self.rank >= 1, "a whole number of at least 1")
        _check("lora.alpha", self.alpha, self.alpha > 0, "a number above 0")
        _check("lora.dropout", self.dropout, 0 <= self.dropout < 1, "a share in [0, 1)")
        some = self.targets is None or len(self.targets) > 0
        _check("lora.targets", self.targets, some, "names of layers, or null for all")


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Distillation (Hinton et al. 2015): a member learns from what another says of the train rows.

    With weight w and temperature T the loss is `(1 - w) · task + w · T² · KL(teacher ‖ student)`, both
    distributions softened by T; for sets of labels the mean of each label's divergence, for numbers
    the squared distance from the teacher's, without a temperature. Label smoothing and weights of
    classes belong to the task's part.

    Args:
        teacher: Name of a member above it.
        weight: Of the teacher's part; 0.5 as in Hinton et al.'s section 4.
        temperature: Divides both's logits; 2 was best there of 1, 2, 5 and 10.
    """

    teacher: str
    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        _check("distill.weight", self.weight, 0 < self.weight <= 1, "a share in (0, 1]")
        good = self.temperature > 0
        _check("distill.temperature", self.temperature, good, "a number above 0")


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """How one member is fine-tuned.

    Args:
        epochs: Passes over the train rows; None: as many as take 400 steps, but at least 10 and
            at most 40 (docs/results/recipes.md).
        batch_size: Rows per step.
        train: `full` trains every weight, `head` only the head, the rest frozen in evaluation mode;
            `head_then_full` (LP-FT, Kumar et al. 2022) first the head, so that a new one does not
            distort what was learned before, then every weight, each by a schedule of its own;
            `probe` solves for the head's linear layer on features of images as they are, with
            the L2 penalty that is best on validation rows (Kornblith et al. 2019): of the other
            keys, only `label_smoothing`, `class_weights` and `stop_by` mean anything then;
            `probe_then_full` is LP-FT with a head so found, as its authors did it, and then
            `epochs` of every weight; `gradual` (Howard & Ruder 2018) first the head, which the
            layers before it join one after another, the deepest first; `lora` the head and
            low-rank adapters, which are merged into the weights in the end, the rest frozen in
            evaluation mode.
        lora: The adapters of `train: lora`; None: `Lora()` with it.
        head_epochs: How many of the epochs come before every weight is trained; for
            `head_then_full` and `gradual` only. Howard & Ruder let one layer join per epoch: as
            many epochs as layers.
        layer_decay: Factor of the learning rate from every layer to the one before it, counted from
            the head, whose rate is the optimizer's (Clark et al. 2020, Bao et al. 2022, who took
            0.65 to 0.95 for transformers); 1: all layers alike. What a layer is stands in
            `finetune/pytorch/layers.py`.
        label_smoothing: Share of the target spread over all classes (Szegedy et al. 2016); None: 0.1
            for classes with a new head that is not solved for (docs/results/recipes.md), else 0. It
            makes probabilities cautious, which calibration mends (Müller et al. 2019).
        class_weights: `balanced` weighs the training loss of every class by its rarity among the train
            rows, so that all classes count alike (King & Zeng 2001, as scikit-learn has it; for
            sets of labels, a label's presence by rows without it per row with it). Validation
            figures, by which the epoch is chosen, stay plain.
        sampling: `balanced` takes as many rows of every class in an epoch (class-balanced sampling,
            Kang et al. 2020): some of a common class, others every time; those of a rare class
            repeatedly, augmented alike within an epoch. `natural` takes every row once.
        clip_norm: Largest global norm of the gradients; None: no clipping.
        patience: Stop after this many epochs without a better one; None: never. The best epoch's
            weights are kept either way.
        stop_by: Validation figure that says which epoch is better: `loss`, or any metric of the
            task's predictions (of boxes and masks, those that their objectives name); of epochs as
            good, that of the lower loss. The loss notices more than right and wrong, which is what
            fusing probabilities needs; accuracy may go on rising while the loss does (Guo et al.
            2017).
        ema: Decay per step of an exponential moving average of the weights, which is validated and
            kept in their place (Tarvainen & Valpola 2017 took 0.99 to 0.999); 0: no; None: 0.98,
            the mean of about 50 steps (docs/results/recipes.md), or 0 with `swa`.
        swa: Share of the epochs, the last ones, whose weights are averaged evenly, which is
            validated and kept in their place (Izmailov et al. 2018 took 0.25, at a learning rate
            that does not fall to 0: schedule `constant`); 0: no.
        snapshots: Number of cosine cycles of equal length (give or take an epoch), each from the peak
            learning rate down to 0; every cycle's best epoch becomes a member (Huang et al. 2017,
            who took 5 or 6 and each cycle's last epoch); 1: one cycle, one member.
        distill: What it learns from another member; None: nothing.
        precision: Of matrix products and convolutions in training; weights, sums and predictions
            stay in `fp32`. `auto` takes `bf16` (Kalamkar et al. 2019: no loss scaling is needed) on
            GPUs that have it, and on CPUs with AVX-512-BF16 or AMX for networks of at least a
            million weights without grouped convolutions (docs/results/finetune.md), else `fp32`.
            A resumed run keeps what it began with.
        compile: Translate the model by `torch.compile`, which takes half a minute to some minutes
            before the first step: worth it for long runs.
        optimizer: Which optimizer.
        schedule: Learning rate over time.
        augmentation: Random changes to training images.
    """

    epochs: int | None = None
    batch_size: int = 32
    train: Literal[
        "full", "head", "probe", "head_then_full", "probe_then_full", "gradual", "lora"
    ] = "full"
    lora: Lora | None = None
    head_epochs: int | None = None
    layer_decay: float = 1.0
    label_smoothing: float | None = None
    class_weights: Literal["none", "balanced"] = "none"
    sampling: Literal["natural", "balanced"] = "natural"
    clip_norm: float | None = 1.0
    patience: int | None = None
    stop_by: str = "loss"
    ema: float | None = None
    swa: float = 0.0
    snapshots: int = 1
    distill: Distill | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        good = self.epochs is None or self.epochs >= 1
        _check("epochs", self.epochs, good, "a whole number of at least 1, or null")
        _check("batch_size", self.batch_size, self.batch_size >= 1, "a whole number of at least 1")
        _check_head_epochs(self)
        _check("layer_decay", self.layer_decay, 0 < self.layer_decay <= 1, "a number in (0, 1]")
        good = self.layer_decay == 1 or self.train not in ("head", "probe", "lora")
        expected = f"1 with train: {self.train}, which has one learning rate"
        _check("layer_decay", self.layer_decay, good, expected)
        good = self.lora is None or self.train == "lora"
        _check("lora", "given", good, f"null with train: {self.train}")
        good = self.distill is None or self.train != "probe"
        _check("distill", "given", good, "null with train: probe, which is solved for")
        _check(
            "label_smoothing",
            self.label_smoothing,
            self.label_smoothing is None or 0 <= self.label_smoothing < 1,
            "a share in [0, 1), or null",
        )
        _check(
            "clip_norm",
            self.clip_norm,
            self.clip_norm is None or self.clip_norm > 0,
            "a number above 0, or null",
        )
        _check(
            "patience",
            self.patience,
            self.patience is None or self.patience >= 1,
            "at least 1, or null",
        )
        _check("ema", self.ema, 0 <= self.ema_decay < 1, "a number in [0, 1), or null")
        _check("swa", self.swa, 0 <= self.swa < 1, "a share in [0, 1)")
        one = not (self.ema and self.swa)
        _check("swa", self.swa, one, f"0 with ema: {self.ema}; weights are averaged in one way")
        _check_cycles(self)

    def for_rows(self, num: int) -> Self:
        """The same, the number of epochs and how weights are averaged known.

        Args:
            num: Of train rows.
        """
        needed = math.ceil(USUAL_STEPS * self.batch_size / max(1, num))
        usual = min(max(needed, LEAST_EPOCHS), MOST_EPOCHS)
        epochs = usual if self.epochs is None else self.epochs
        return replace(self, epochs=epochs, ema=self.ema_decay)

    def for_head(self, *, kept: bool, usual_smoothing: float) -> Self:
        """The same, the label smoothing known.

        A checkpoint's own head is not smoothed, which would move its outputs from where they were
        trained to be, nor one that is solved for.

        Args:
            kept: True if the checkpoint's own head is trained on.
            usual_smoothing: The objective's for a new head.
        """
        if self.label_smoothing is not None:
            return self
        smoothing = 0.0 if kept or self.solves_head else usual_smoothing
        return replace(self, label_smoothing=smoothing)

    @property
    def num_epochs(self) -> int:
        """Passes over the train rows; `for_rows` has to have been asked."""
        assert self.epochs is not None
        return self.epochs

    @property
    def ema_decay(self) -> float:
        """Per step; 0: weights are not averaged so."""
        if self.ema is not None:
            return self.ema
        return 0.0 if self.swa else USUAL_EMA

    @property
    def averages(self) -> bool:
        """True if averages of weights are kept beside them."""
        return bool(self.ema_decay or self.swa)

    @property
    def least_epochs(self) -> int:
        """As many epochs there will be, or more."""
        return LEAST_EPOCHS if self.epochs is None else self.epochs

    @property
    def adapters(self) -> Lora | None:
        """The adapters that are trained; None: there are none."""
        return (self.lora or Lora()) if self.train == "lora" else None

    @property
    def solves_head(self) -> bool:
        """True if the head is solved for, before or instead of any epoch."""
        return self.train in ("probe", "probe_then_full")

    @property
    def reads_features(self) -> bool:
        """True if the head alone is solved for, or trained at first, on images as they are."""
        begins_with_head = self.train in ("head", "head_then_full", "gradual")
        return self.solves_head or (begins_with_head and self.augmentation.is_off)

    @property
    def keeps_backbone(self) -> bool:
        """True if nothing but the head is ever trained."""
        return self.train in ("head", "probe")

    def scheduled_epochs(self, epoch: int) -> range:
        """The epochs, counted from 0, that share a run of the schedule with this one."""
        if self.snapshots > 1:
            edges = [
                self.num_epochs * cycle // self.snapshots for cycle in range(self.snapshots + 1)
            ]
            cycle = bisect.bisect_right(edges, epoch)
            return range(edges[cycle - 1], edges[cycle])
        first = (self.head_epochs or 0) if self.train == "head_then_full" else 0
        return range(first) if epoch < first else range(first, self.num_epochs)


def _check_head_epochs(settings: FineTune) -> None:
    """Refuse head epochs that are none, or where there are none."""
    train, num = settings.train, settings.head_epochs
    if train in ("head_then_full", "gradual"):
        good = num is not None and 1 <= num < settings.least_epochs
        expected = f"a whole number above 0 and below epochs ({settings.least_epochs})"
        _check("head_epochs", num, good, f"{expected} with train: {train}")
    else:
        _check("head_epochs", num, num is None, f"null with train: {train}")


def _check_cycles(settings: FineTune) -> None:
    """Refuse more snapshots than epochs, and what has no meaning with more than one."""
    good = 1 <= settings.snapshots <= settings.least_epochs
    expected = f"a whole number above 0 and at most epochs ({settings.least_epochs})"
    _check("snapshots", settings.snapshots, good, expected)
    if settings.snapshots == 1:
        return
    epochs_alike = settings.head_epochs is None and settings.train != "probe"
    ways = "full, head, lora or probe_then_full"
    for name, value, good, expected in (
        ("schedule.name", settings.schedule.name, settings.schedule.name == "cosine", "cosine"),
        ("train", settings.train, epochs_alike, ways),
        ("patience", settings.patience, settings.patience is None, "null"),
        ("swa", settings.swa, settings.swa == 0, "0"),
    ):
        _check(name, value, good, f"{expected} with snapshots: {settings.snapshots}")


def _half_cosine(start: float, end: float, angle: float) -> float:
    """From the start at 0 to the end at π."""
    return end + (start - end) * (0.5 * (1 + math.cos(angle)))


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise InvalidValue(
            f"finetune.{name} is {value}", expected, "Change it, or leave it out for the default."
        )
