# SPDX-License-Identifier: Apache-2.0
"""Members one after another, or side by side, each in a worker process of its own."""

import threading
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace

from fusetune.entries import MemberEntry
from fusetune.recipe import Recipe
from fusetune.runtime.machine import available_bytes, num_cores, num_threads
from fusetune.runtime.runner import Call, Event, Runner
from fusetune.stages.folds import folded, folded_member_stage
from fusetune.stages.members import Context, Outcome, member_stage
from fusetune.store.artifact import Artifact

__all__ = ["all_members", "how_many", "threads_each"]

WORKER_BYTES = 800 * 10**6
"""Of a worker beside what fine-tuning needs: PyTorch, accelerate and torchvision as imported."""
MEMORY_SHARE = 0.8
"""Of the available memory; the rest is for the files that the kernel keeps at hand."""


def how_many(recipe: Recipe, needs: Mapping[str, int | None]) -> int:
    """Members to make at the same time.

    What the recipe says; for `auto` one per core, but no more than are to be fine-tuned, nor than
    fit into memory if it is the largest that meet. A GPU is left to one: side by side, processes
    would take turns on it.

    Args:
        recipe: Its `parallel`.
        needs: Bytes that each member's fine-tuning takes; None: it runs on a GPU.
    """
    if recipe.parallel != "auto":
        return int(recipe.parallel)
    sizes = [size for size in needs.values() if size is not None]
    if len(sizes) < len(needs):
        return 1
    free, number = available_bytes(), min(num_cores(), len(sizes))
    largest_first = sorted(sizes, reverse=True)
    while number > 1 and free is not None:
        if sum(WORKER_BYTES + size for size in largest_first[:number]) <= MEMORY_SHARE * free:
            break
        number -= 1
    return max(1, number)


def threads_each(recipe: Recipe) -> int:
    """Threads of each worker, where there are several.

    From the recipe and the machine's cores alone, not from what is left to do or free: the same
    run, killed and resumed, adds up numbers in the same order.
    """
    given = recipe.parallel
    workers = len(recipe.members) if given == "auto" else int(given)
    return min(num_threads(), max(1, num_cores() // min(num_cores(), workers)))


def all_members(context: Context, data: Artifact) -> dict[str, Outcome]:
    """Name → what became of each of the recipe's members, in its order.

    Args:
        context: The run's; `side_by_side` says how many are made at the same time.
        data: The stored rows.
    """
    entries = context.recipe.members
    made: dict[str, Outcome] = {}
    if context.recipe.parallel == 1:
        for entry in entries:
            made[entry.name] = _member(context, entry, data, made)
        return made
    threads = threads_each(context.recipe)
    with ExitStack() as stack:
        number = min(context.side_by_side, len(entries))
        others = [stack.enter_context(context.runner.another()) for _ in range(number - 1)]
        crew = _Crew(context, data, threads, [context.runner, *others])
        made = crew.make(entries)
    return {entry.name: made[entry.name] for entry in entries}


def _member(
    context: Context, entry: MemberEntry, data: Artifact, before: Mapping[str, Outcome]
) -> Outcome:
    if folded(context, entry):
        return folded_member_stage(context, entry, data, before)
    return member_stage(context, entry, data, before)


class _Crew:
    """Workers that make members side by side.

    Args:
        context: The run's.
        data: The stored rows.
        threads: Of each worker.
        runners: One per worker.
    """

    def __init__(
        self, context: Context, data: Artifact, threads: int, runners: list[Runner]
    ) -> None:
        self.context, self.data, self.threads = context, data, threads
        self.runners, self.idle = runners, list(runners)
        self.lock, self.stopped = threading.Lock(), False

    def make(self, entries: tuple[MemberEntry, ...]) -> dict[str, Outcome]:
        """What became of each; one that is made of others waits for them."""
        waiting, made = list(entries), dict[str, Outcome]()
        running: dict[Future[Outcome], tuple[MemberEntry, Runner]] = {}
        with ThreadPoolExecutor(len(self.runners)) as pool:
            try:
                while waiting or running:
                    ready = [one for one in waiting if set(one.made_of) <= made.keys()]
                    for entry in ready[: len(self.idle)]:
                        waiting.remove(entry)
                        runner = self.idle.pop(0)
                        future = pool.submit(self.one, entry, runner, dict(made))
                        running[future] = (entry, runner)
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        entry, runner = running.pop(future)
                        self.idle.append(runner)
                        made[entry.name] = future.result()
            except BaseException:
                self.stopped = True
                for runner in self.runners:
                    runner.close()
                raise
        return made

    def one(self, entry: MemberEntry, runner: Runner, before: Mapping[str, Outcome]) -> Outcome:
        """Make one member in a worker."""
        limit = Call("fusetune.runtime.machine:limit_threads", {"number": self.threads})
        runner.call(limit, self.listen)
        context = replace(self.context, runner=runner, listen=self.listen)
        return _member(context, entry, self.data, before)

    def listen(self, event: Event) -> None:
        """Pass events on, one at a time; what ending the workers makes of their calls is none."""
        with self.lock:
            if not self.stopped:
                self.context.listen(event)
