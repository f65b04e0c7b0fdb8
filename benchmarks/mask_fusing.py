# SPDX-License-Identifier: Apache-2.0
"""Fusing large masks: how fast beside the memory's bandwidth, and how much memory it takes.

Members are float32 `.npy` files of 1024 x 2048 pixels and 19 classes, which the system has cached, or
arrays in memory. Each round measures the bandwidth (`np.add` of arrays of 160 MB, three of them moved)
and then every way of fusing, so that all of them see the same machine. Peak resident memory is
the kernel's, of a process of its own for each number of members.

    python benchmarks/mask_fusing.py > docs/results/mask_fusing.md
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np

from fusetune.fuse.forms import WeightedAverage
from fusetune.fuse.method import FusionMethod
from fusetune.metrics.mean_iou import MeanIou
from fusetune.plugins import find
from fusetune.predictions.segmentation.files import FileMask
from fusetune.predictions.segmentation.masks import ArrayMask, Mask, Masks
from fusetune.predictions.stack import Stack

SHAPE = (19, 1024, 2048)
MASK_BYTES = 4 * SHAPE[0] * SHAPE[1] * SHAPE[2]
CLASSES = tuple(f"class{c}" for c in range(SHAPE[0]))
PEAK = """
import sys, resource
sys.path.insert(0, {benchmarks!r})
from mask_fusing import fuse, stack_of_files, peak_bytes
from pathlib import Path
files = sorted(Path({folder!r}).glob("*.npy"))[:{members}]
fuse({method!r}, stack_of_files([]))
before = peak_bytes()
stack = stack_of_files(files)
fuse({method!r}, stack)
print(peak_bytes() - before)
"""


def peak_bytes() -> int:
    """Highest resident memory of this process so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError


def write_members(folder: Path, members: int) -> None:
    """Softmaxes of one seeded band of squares, shifted from band to band and member to member."""
    random = np.random.default_rng(0)
    coarse = 2 * random.standard_normal((SHAPE[0], 4, SHAPE[2] // 32), dtype=np.float32)
    exp = np.exp(coarse.repeat(32, axis=1).repeat(32, axis=2))
    band = exp / exp.sum(axis=0)
    for member in range(members):
        out = np.lib.format.open_memmap(
            folder / f"member{member:02d}.npy", mode="w+", dtype=np.float32, shape=SHAPE
        )
        for top in range(0, SHAPE[1], 128):
            out[:, top : top + 128] = np.roll(band, 31 * member + top, axis=2)
        out.flush()


def stack_of(masks: list[Mask]) -> Stack[Masks]:
    """Members of one row each; without any, of no rows."""
    ids = ["image"] if masks else []
    parts = tuple(Masks(ids, CLASSES, (mask,)) for mask in masks) or (Masks([], CLASSES, ()),) * 2
    return Stack(tuple(f"m{m}" for m in range(len(parts))), parts, CLASSES)


def stack_of_files(files: list[Path]) -> Stack[Masks]:
    """Members as their files."""
    return stack_of([FileMask(path) for path in files])


def fuse(method: str, stack: Stack[Masks], out: np.ndarray | None = None) -> None:
    """Fuse every row into an array, a new one if none is given."""
    if method == "weighted_mean":
        weights = {name: 1.0 + index for index, name in enumerate(stack.members)}
        fusion = WeightedAverage.of(weights)
    else:
        fusion = find(FusionMethod, method)().fit(stack, None, MeanIou())
    for mask in fusion(stack).masks:
        whole = np.empty(SHAPE, dtype=np.float32) if out is None else out
        for top, bottom in mask.spans():
            mask.write(top, bottom, whole[:, top:bottom])


def bandwidth(arrays: list[np.ndarray]) -> float:
    """Bytes a second of adding two arrays into a third."""
    begun = time.perf_counter()
    np.add(arrays[0], arrays[1], out=arrays[2])
    return 3 * arrays[0].nbytes / (time.perf_counter() - begun)


def reading(files: list[Path], out: np.ndarray) -> float:
    """Bytes a second of reading files that the system has cached, into memory that is in a cache."""
    begun, lines = time.perf_counter(), memoryview(out.reshape(-1)[: 2**18]).cast("B")
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(lines):
                pass
    return len(files) * MASK_BYTES / (time.perf_counter() - begun)


def seconds(method: str, stack: Stack[Masks], out: np.ndarray) -> float:
    """Of fusing one image into an array that was used before."""
    begun = time.perf_counter()
    fuse(method, stack, out)
    return time.perf_counter() - begun


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--most", type=int, default=10, help="members")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_members(folder, args.most)
        files = sorted(folder.glob("*.npy"))[:5]
        speeds = measured_speeds(files, args.rounds)
        peaks = {
            (method, members): measured_peak(folder, method, members)
            for method in ("mean", "geometric_mean", "label_voting", "staple")
            for members in (2, 5, args.most)
        }
    print(page(speeds, peaks, args))


def measured_speeds(files: list[Path], rounds: int) -> dict[str, list[float]]:
    """Way → bytes a second of each round; `bandwidth` among them."""
    stacks = {
        "files": stack_of_files(files),
        "arrays": stack_of([ArrayMask(np.load(path)) for path in files]),
    }
    room = [np.ones(MASK_BYTES // 4, dtype=np.float32) for _ in range(3)]
    ways = [(m, of) for m in ("mean", "weighted_mean") for of in stacks]
    slower = [(m, "files") for m in ("geometric_mean", "label_voting", "staple")]
    moved = (len(files) + 1) * MASK_BYTES
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        found.setdefault("bandwidth", []).append(max(bandwidth(room) for _ in range(3)))
        found.setdefault("reading", []).append(max(reading(files, room[2]) for _ in range(3)))
        for method, of in ways + (slower if number < 1 else []):
            took = seconds(method, stacks[of], room[2].reshape(SHAPE))
            found.setdefault(f"{method}, {of}", []).append(moved / took)
    return found


def measured_peak(folder: Path, method: str, members: int) -> float:
    """Peak resident memory of fusing, in masks."""
    code = PEAK.format(
        benchmarks=str(Path(__file__).parent), folder=str(folder), members=members, method=method
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    return int(done.stdout) / MASK_BYTES


def page(
    speeds: dict[str, list[float]],
    peaks: dict[tuple[str, int], float],
    args: argparse.Namespace,
) -> str:
    """The result as a page."""
    base, read = speeds.pop("bandwidth"), speeds.pop("reading")
    lines = [
        "# Fusing large masks",
        "",
        f"{date.today()}, 2 CPU cores, shared ({platform.machine()}, beside other work), numpy "
        f"{np.__version__}; `python benchmarks/mask_fusing.py --rounds {args.rounds}`. 5 members of 1024 × 2048 "
        "pixels and 19 classes, float32: 160 MB each. Fusing has to move six masks (five read, one "
        "written); the bandwidth is that of `np.add` of such arrays, measured in every round, the best "
        "of three. Medians, and the ratio's range over the rounds.",
        "",
        "| fused by | members from | seconds | GB/s moved | of the bandwidth | range | of reading files |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for way, rates in speeds.items():
        method, of = way.split(", ")
        ratios = [rate / top for rate, top in zip(rates, base, strict=False)]
        of_reading = statistics.median(
            rate * 5 / 6 / top for rate, top in zip(rates, read, strict=False)
        )
        middle = statistics.median(rates)
        shown = f"{of_reading:.2f}" if of == "files" else ""
        lines.append(
            f"| `{method}` | {of} | {6 * MASK_BYTES / middle:.2f} | {middle / 1e9:.1f} | "
            f"**{statistics.median(ratios):.2f}** | {min(ratios):.2f} to {max(ratios):.2f} | {shown} |"
        )
    most = max(members for _, members in peaks)
    lines += [
        "",
        f"Bandwidth: {statistics.median(base) / 1e9:.1f} GB/s ({min(base) / 1e9:.1f} to {max(base) / 1e9:.1f}). "
        f"Reading the cached files and nothing else: {statistics.median(read) / 1e9:.1f} GB/s "
        f"({min(read) / 1e9:.1f} to {max(read) / 1e9:.1f}).",
        "",
        "Peak resident memory of reading the files and fusing them into an array, over that of the "
        "process before, in masks (the result itself is one):",
        "",
        f"| fused by | 2 members | 5 members | {most} members |",
        "| --- | ---: | ---: | ---: |",
    ]
    for method in dict.fromkeys(method for method, _ in peaks):
        cells = [f"{peaks[method, members]:.2f}" for members in (2, 5, most)]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
