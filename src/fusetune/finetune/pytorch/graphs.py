# SPDX-License-Identifier: Apache-2.0
"""Whole training steps as CUDA graphs: one launch in the place of hundreds.

Small images keep a GPU busy for microseconds per kernel, less than Python takes to launch one.
"""

import random
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["StepGraphs"]

EAGER_STEPS = 3  # of each batch size before its graph: they fill the optimizer's state and caches

Step = Callable[[Tensor], None]


class StepGraphs:
    """Runs a training step on given rows; records it once per batch size, then replays the record.

    A step that cannot be recorded (it waits for the device, or makes decisions by random numbers on
    the host) goes on being run as it is, and `notes` says why.

    Args:
        step: Takes `(B,)` row numbers on the device, and reads nothing else that changes but
            tensors that stay where they are.
        stream: The stream that everything runs on, or None: never record.
    """

    def __init__(self, step: Step, stream: "torch.cuda.Stream | None") -> None:
        self.step, self.stream = step, stream
        self.notes: list[str] = []
        self._seen: Counter[int] = Counter()
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, rows: Tensor) -> None:
        """Do the step."""
        num = len(rows)
        if self.stream is None:
            self.step(rows)
        elif num in self._recorded:
            self._replay(rows)
        elif self._seen[num] < EAGER_STEPS:
            self._seen[num] += 1
            before = _host_randomness()
            self.step(rows)
            if self._seen[num] > 1 and before != _host_randomness():  # the first one may compile
                self._give_up("it draws random numbers on the host")
        else:
            self._record(rows)
            self(rows)

    def _replay(self, rows: Tensor) -> None:
        graph, static_rows = self._recorded[len(rows)]
        static_rows.copy_(rows)
        graph.replay()

    def _record(self, rows: Tensor) -> None:
        graph, static_rows = torch.cuda.CUDAGraph(), rows.clone()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.step(static_rows)
        except RuntimeError as error:
            self._give_up(str(error).splitlines()[0])
        else:
            self._recorded[len(rows)] = graph, static_rows

    def _give_up(self, reason: str) -> None:
        self.stream = None
        self.notes.append(f"steps are not recorded as CUDA graphs: {reason}")


def _host_randomness() -> tuple[bytes, object]:
    return torch.default_generator.get_state().numpy().tobytes(), random.getstate()
