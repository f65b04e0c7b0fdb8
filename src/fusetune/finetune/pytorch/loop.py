# SPDX-License-Identifier: Apache-2.0
"""The fine-tuning loop for PyTorch, to be read from top to bottom.

Nothing here hangs on global random state: row order, augmentation and dropout come from (seed,
epoch, step or row), and a checkpoint holds the rest, so that a run killed anywhere and started
again ends with the same bits.

Shapes: B rows of a batch, H height, W width, 3 RGB channels.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fusetune.finetune.batches import epoch_order, in_batches
from fusetune.finetune.engine import History, Plan, Report, Split
from fusetune.finetune.judging import Judging
from fusetune.finetune.lr_range import RangeTest
from fusetune.finetune.pytorch.augment import augmented, epoch_draws, mixed, partners
from fusetune.finetune.pytorch.averages import Averages
from fusetune.finetune.pytorch.checkpoint import Checkpoints, State, Stateful, read_checkpoint
from fusetune.finetune.pytorch.convolutions import one_position_products
from fusetune.finetune.pytorch.distill import Lessons
from fusetune.finetune.pytorch.graphs import StepGraphs, own_stream
from fusetune.finetune.pytorch.lora import put_adapters
from fusetune.finetune.pytorch.lr_range import find_rate
from fusetune.finetune.pytorch.memory import (
    freed_memory_kept,
    is_out_of_memory,
    out_of_memory,
    release,
)
from fusetune.finetune.pytorch.optimizer import (
    LearningRates,
    begin_momentum,
    build_optimizer,
    default_lr,
    num_trained,
    parameter_groups,
    set_trained,
)
from fusetune.finetune.pytorch.precision import autocast, chosen_precision, memory_format
from fusetune.finetune.pytorch.progress import epoch_record, progress
from fusetune.finetune.pytorch.random import seed_dropout
from fusetune.finetune.pytorch.trainees import Trainees
from fusetune.finetune.randomness import Keys, mixed_seed, row_keys
from fusetune.finetune.stopping import Stopwatch, diverged, goes_on
from fusetune.members.member import Member
from fusetune.predictions.kinds import Array

__all__ = ["Training"]

CHECKPOINT_SECONDS = 60.0  # within an epoch
REPORT_SECONDS = 0.2


class Training:
    """One member's fine-tuning, from wherever the last checkpoint left it to its best epoch."""

    def __init__(
        self, member: Member, plan: Plan, splits: tuple[Split, Split], device: torch.device
    ) -> None:
        self.member, self.objective, self.device = member, plan.objective, device
        self.settings, self.seed = plan.settings, plan.seed
        self.num_epochs, self.keeps_last = plan.num_epochs, plan.only_epochs is not None
        self.stopwatch = Stopwatch(plan.budget, len(splits[1].ids))
        self.keys: Keys = row_keys(splits[0].ids)
        train_targets = self.objective.collate(splits[0].targets, np.arange(len(self.keys)))
        by, truth = plan.settings.stop_by, splits[1].targets
        self.judging = Judging(plan.objective, by, truth, member.classes)
        self.targets = torch.from_numpy(train_targets).to(device)
        self.strata = self.objective.strata(train_targets, plan.settings)
        weights = self.objective.class_weights(train_targets, len(member.classes), plan.settings)
        self.class_weights = None if weights is None else torch.from_numpy(weights).to(device)
        lora = plan.settings.adapters
        self.adapters = lora and put_adapters(member, lora, mixed_seed(plan.seed, "adapters"))
        self.lessons = Lessons(plan, len(self.keys), device)
        self.model: nn.Module = member.model.to(device)
        if device.type == "cuda":  # on CPUs the fused optimizers would copy such weights
            self.model.to(memory_format=memory_format(device))
        self.trainees = Trainees(member, splits, device)
        groups = parameter_groups(member, plan.settings)
        self.optimizer = build_optimizer(groups, plan.settings.optimizer, device)
        self.default_lr = default_lr(self.model, plan.settings.optimizer)
        self.averages = Averages(plan.settings)
        self.state = State(precision=chosen_precision(plan.settings, self.model, device))
        self.checkpoints = Checkpoints()

    def run(self, work: Path, report: Report) -> History:
        """Train to the end; the member keeps the best epoch's weights."""
        checkpoint = work / "checkpoint.pt"
        self.restore(checkpoint, report)
        cuda = self.device.type == "cuda"
        with (
            torch.random.fork_rng(devices=[self.device] if cuda else []),
            own_stream(self.device) as stream,
            freed_memory_kept(self.device),
            one_position_products(self.model),
        ):
            self.prepare(stream)
            find_rate(self)
            while goes_on(self.settings, self.num_epochs, self.state.epoch, self.state.best_epoch):
                self.train_epoch(checkpoint, report)
                if self.stopwatch.stopped is None:
                    self.end_epoch(report)
                    if self.checkpoints.pays:
                        self.save(checkpoint)
                    continue
                self.save(checkpoint)  # as it is: a run that has the time goes on from here
                if not (self.state.best_weights or self.state.snapshots):
                    self.end_epoch(report)
                break
        return self.conclude()

    def conclude(self) -> History:
        """Put the weights that were kept into the member."""
        state = self.state
        if self.adapters:
            self.adapters.remove()
        self.model.to(memory_format=torch.contiguous_format)
        if self.settings.snapshots > 1 and not state.snapshots:  # the first cycle was cut short
            state.end_cycle(range(self.settings.num_epochs))
        best_epoch, weights = state.kept
        self.member.model.load_state_dict(weights)
        return History(
            tuple(state.epochs),
            best_epoch,
            state.seconds,
            state.precision,
            (*self.notes(best_epoch), *self.stopwatch.notes(self.num_epochs, best_epoch)),
            self.stopwatch.stopped,
            num_trained(self.optimizer),
            RangeTest(**state.range_test) if state.range_test else None,
            tuple(snapshot["about"] for snapshot in state.snapshots),
        )

    def notes(self, best_epoch: int) -> tuple[str, ...]:
        """What the user may want to know of how it went."""
        parts = self.state.parts
        note = f"memory was short: gradients of a batch were added up over {parts} parts, each normalized by itself"
        adapted = self.adapters.notes if self.adapters else ()
        tested = RangeTest(**self.state.range_test).notes if self.state.range_test else ()
        recorded, divided = self.recorded.notes, [note] * (parts > 1)
        averaged = self.averages.notes(best_epoch)
        return (*adapted, *tested, *self.lessons.notes, *averaged, *recorded, *divided)

    def prepare(self, stream: "torch.cuda.Stream | None") -> None:
        """Put on the device what every step reads; a recorded step finds it where it was."""
        self.trainee = self.trainees.of(self.settings, self.state.epoch)
        self.compiled = torch.compile(self.model, dynamic=False) if self.settings.compile else None
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        self.loss_sum = torch.zeros((), dtype=exact, device=self.device)
        self.rates = LearningRates(self.optimizer, self.device)
        self.draws = self.epoch_draws(0).to(self.device)
        self.stream = stream
        self.record_anew()

    def epoch_draws(self, epoch: int) -> Tensor:
        """All of an epoch's randomness in augmentation, on the host."""
        return epoch_draws(self.keys, self.settings.augmentation, seed=self.seed, epoch=epoch)

    def train_epoch(self, checkpoint: Path, report: Report) -> None:
        """One pass over the train rows, from the state's step on."""
        state, settings = self.state, self.settings
        last_report = time.perf_counter()
        order = epoch_order(self.keys, self.strata, seed=self.seed, epoch=state.epoch)
        batches = in_batches(order, settings.batch_size)
        before, self.trainee = self.trainee, self.trainees.of(settings, state.epoch)
        if set_trained(self.member, settings, state.epoch) or before is not self.trainee:
            self.record_anew()
            self.stopwatch.forget_validating()
        self.averages.follow(self.model)
        if settings.head_epochs:
            begin_momentum(self.optimizer)
        self.draws.copy_(self.epoch_draws(state.epoch))
        self.loss_sum.fill_(state.loss_sum)
        for step in self.steps(batches, self.before_step):
            self.averages.after_step()
            state.rows += len(batches[step])
            state.step = step + 1
            now = time.perf_counter()
            save_due = now - self.checkpoints.last > CHECKPOINT_SECONDS
            if save_due or now - last_report > REPORT_SECONDS or state.step == len(batches):
                self.check_finite()  # waits for the device
                state.epoch_seconds += time.perf_counter() - last_report
                report(progress(state, self.num_epochs, len(self.keys), len(batches)))
                if save_due:
                    self.save(checkpoint)
                last_report = time.perf_counter()
                if self.stopwatch.is_over(state.epoch, state.step, state.rows, state.epoch_seconds):
                    return

    def steps(self, batches: list[Array], before_step: Callable[[int, int], None]) -> Iterator[int]:
        """Do one step of the optimizer after the other, and say which was done."""
        state, todo = self.state, range(self.state.step, len(batches))
        if self.trainee.train.resident is not None:
            order = torch.from_numpy(np.concatenate(batches)).to(self.device)
            rows = order.split([len(batch) for batch in batches])
            for step in todo:
                before_step(step, len(batches))
                self.step_within_memory(rows[step], None)
                yield step
            return
        pixels_of = self.trainee.train.batches(batches[state.step :])
        for step, pixels in zip(todo, pixels_of, strict=True):
            before_step(step, len(batches))
            rows_on_device = torch.from_numpy(batches[step]).to(self.device)
            self.step_within_memory(rows_on_device, pixels)
            yield step

    def before_step(self, step: int, num_steps: int) -> None:
        """Set what changes from step to step: the learning rate and the seed of dropout."""
        scheduled = self.settings.scheduled_epochs(self.state.epoch)
        epoch, num_epochs = self.state.epoch - scheduled.start, len(scheduled)
        progress = epoch / num_epochs + step / (num_steps * num_epochs)
        peak = self.state.range_test.get("lr", self.default_lr)
        self.rates.set(peak * self.settings.schedule.factor(progress))
        seed_dropout(mixed_seed(self.seed, "dropout", self.state.epoch, step), self.device)

    def step_within_memory(self, rows: Tensor, pixels: Tensor | None) -> None:
        """One step; in smaller parts from now on if memory does not suffice."""
        while True:
            try:
                if pixels is None:
                    self.recorded(rows)
                else:
                    self.train_step(pixels, rows)
                return
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self.num_parts(rows) < self.state.parts or len(rows) < 4:
                    raise out_of_memory(self.member) from None
            self.state.parts *= 2
            self.record_anew()
            release(self.device)

    def num_parts(self, rows: Tensor) -> int:
        """Of a batch: at least two rows each, for batch normalization."""
        return max(1, min(self.state.parts, len(rows) // 2))

    def record_anew(self) -> None:
        """Forget recorded steps, which hold their own memory."""
        resident = self.trainee.train.resident is not None
        self.recorded = StepGraphs(self.resident_step, self.stream if resident else None)

    def resident_step(self, rows: Tensor) -> None:
        """One step on rows of pixels that are on the device already."""
        assert self.trainee.train.resident is not None
        self.train_step(self.trainee.train.resident[rows], rows)

    def train_step(self, pixels: Tensor, rows: Tensor) -> None:
        """One step of the optimizer; the device adds up the loss, and nobody waits for it."""
        settings = self.settings
        draws, targets = self.draws[rows], self.targets[rows]
        targets = self.objective.moved(targets, draws, settings.augmentation, pixels.shape[1:3])
        pixels = augmented(pixels, draws, settings.augmentation)
        pixels, shares = mixed(pixels, draws, settings.augmentation)
        if shares is not None:
            num_classes = len(self.member.classes)
            targets = self.objective.mixed(targets, partners(targets), shares, num_classes)
        self.optimizer.zero_grad()
        parts = self.num_parts(rows)
        batch = pixels, targets, self.lessons.of(rows, shares)
        pieces = zip(*(part.tensor_split(parts) for part in batch), strict=True)
        losses = [self.backward(p, t, s, len(rows)) for p, t, s in pieces]
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        self.optimizer.step()
        self.loss_sum += torch.stack(losses).sum()

    def backward(self, pixels: Tensor, targets: Tensor, soft: Tensor, num_rows: int) -> Tensor:
        """Add to the gradients of a batch's mean loss what some of its rows give; their loss' sum."""
        # An epoch's last batch is not worth a translation of its own.
        whole = self.trainee.model is self.model and num_rows == self.settings.batch_size
        model = self.compiled if whole and self.compiled is not None else self.trainee.model
        with autocast(self.state.precision, self.device):
            outputs = model(self.trainee.model_input(pixels), *self.objective.shown(targets))
        loss = self.objective.loss(outputs, targets, self.settings, self.class_weights)
        loss = self.lessons.blended(loss, outputs, soft)
        (loss * (len(pixels) / num_rows)).backward()
        return loss.detach().to(self.loss_sum.dtype) * len(pixels)

    def end_epoch(self, report: Report) -> None:
        """Note the epoch's figures; where weights are averaged, these are what is judged and kept."""
        self.averages.after_epoch(self.state.epoch)
        with self.averages.in_place_of_weights():
            record = self.judge()
        report({"phase": "finetune", "epochs": self.num_epochs, "end_of_epoch": True, **record})
        if not self.state.best_weights:
            raise diverged("validation", self.state.epoch)
        cycle = self.settings.scheduled_epochs(self.state.epoch - 1)
        if self.settings.snapshots > 1 and self.state.epoch == cycle.stop:
            self.state.end_cycle(cycle)

    def judge(self) -> dict[str, float]:
        """Score the validation rows, and keep the weights if they are the best."""
        state = self.state
        with self.stopwatch.validating():
            digest = self.digest if self.objective.digests else None
            outputs = self.trainee.validation_outputs(state.precision, digest)
        figures = self.judging.figures(outputs)
        state.epoch += 1
        state.seconds += state.epoch_seconds
        record = epoch_record(state, self.optimizer.param_groups[0]["lr"], figures)
        state.epochs.append(record)
        goodness = self.judging.goodness(figures)
        if math.isfinite(figures["loss"]) and (self.keeps_last or goodness > state.best):
            state.best, state.best_epoch = goodness, state.epoch
            weights = (self.adapters.merged if self.adapters else self.model.state_dict)()
            state.best_weights = {
                name: value.detach().cpu().clone() for name, value in weights.items()
            }
        state.step, state.loss_sum, state.rows, state.epoch_seconds = 0, 0.0, 0, 0.0
        return record

    def digest(self, outputs: Tensor, rows: Array) -> Tensor:
        """What scoring takes of some validation rows' outputs."""
        targets = torch.from_numpy(self.judging.targets[rows]).to(self.device)
        return self.objective.digest(outputs, targets)

    def check_finite(self) -> None:
        """Read the sum of losses; stop a diverged run before it wastes more time."""
        self.state.loss_sum = float(self.loss_sum)
        if not math.isfinite(self.state.loss_sum):
            raise diverged("training", self.state.epoch + 1)

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        self.checkpoints.write(path, self.state, self.stateful())

    def restore(self, path: Path, report: Report) -> None:
        """Go on from a checkpoint, if there is one and it is whole."""
        if not path.exists():
            return
        state = read_checkpoint(path, self.stateful())
        if state is None:
            report({"phase": "damaged", "file": path.name})
        else:
            self.state = state

    def stateful(self) -> dict[str, Stateful]:
        """What a checkpoint holds beside the state, by name."""
        return {
            "model": self.member.model,
            "optimizer": self.optimizer,
            "averages": self.averages,
        }
