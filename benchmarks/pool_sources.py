# SPDX-License-Identifier: Apache-2.0
"""Rows that the benchmark's members learn from: features and targets of real data.

Shapes: N rows, D features.
"""

import csv
import os
import wave
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["DATA", "SOURCES", "Rows"]

DATA = Path(os.environ.get("FUSETUNE_DATA", "../shared/data"))
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Features and what is to be predicted.

    Args:
        features: `(N, D)` numbers, or `(N,)` texts.
        targets_N: `(N,)` class names, or numbers.
        groups_N: `(N,)` what a row belongs to (a speaker, for instance), or None.
    """

    features: npt.NDArray[np.generic]
    targets_N: npt.NDArray[np.generic]
    groups_N: npt.NDArray[np.generic] | None = None


def embedded(name: str) -> Rows:
    """A data set that scikit-learn brings along."""
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")()
    targets_N = found.target
    if targets_N.dtype.kind in "iu":
        targets_N = np.asarray(found.target_names).astype(str)[targets_N]
    return Rows(np.asarray(found.data, dtype=np.float64), targets_N)


def shoppers() -> Rows:
    """Shop sessions: did the visitor buy?"""
    with (DATA / "online_shoppers" / "sessions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = []
    for name in rows[0]:
        if name == "Revenue":
            continue
        values = [row[name] for row in rows]
        if name in ("Month", "VisitorType", "Weekend"):
            columns += [[value == one for value in values] for one in sorted(set(values))]
        else:
            columns.append(values)
    targets = np.array(["bought" if row["Revenue"].upper() == "TRUE" else "left" for row in rows])
    return Rows(np.array(columns, dtype=np.float64).T, targets)


def sentences() -> Rows:
    """12,000 sentences of film reviews, negative or positive."""
    with (DATA / "sst2" / "train.tsv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    chosen = np.random.default_rng(0).permutation(len(rows))[:12_000]
    texts = np.array([rows[n][0] for n in chosen], dtype=object)
    return Rows(texts, np.array([("negative", "positive")[int(rows[n][1])] for n in chosen]))


def ratings() -> Rows:
    """12,000 film ratings: mean ratings of the user and the film before, genres, year."""
    from collections import defaultdict

    folder = DATA / "ml-latest-small"
    with (folder / "movies.csv").open(newline="", encoding="utf-8") as file:
        films = {row["movieId"]: row for row in csv.DictReader(file)}
    with (folder / "ratings.csv").open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["timestamp"]))
    genres = sorted({genre for film in films.values() for genre in film["genres"].split("|")})
    sums: dict[str, list[float]] = defaultdict(lambda: [3.5, 1.0])
    features, targets = [], []
    for row in rows:
        user, film, rating = "u" + row["userId"], "f" + row["movieId"], float(row["rating"])
        year = films[row["movieId"]]["title"].strip()[-5:-1]
        kinds = films[row["movieId"]]["genres"].split("|")
        known = [sums[user][0] / sums[user][1], sums[user][1]]
        known += [sums[film][0] / sums[film][1], sums[film][1]]
        known += [float(year) if year.isdigit() else 1990.0]
        features.append([*known, *(genre in kinds for genre in genres)])
        targets.append(rating)
        for key in (user, film):
            sums[key][0] += rating
            sums[key][1] += 1
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:12_000])
    return Rows(np.array(features, dtype=np.float64)[chosen], np.array(targets)[chosen])


def liked() -> Rows:
    """The same films: did the user give at least four stars?"""
    rows = ratings()
    return Rows(rows.features, np.where(rows.targets_N >= 4, "liked", "not"))


def spoken() -> Rows:
    """1,000 spoken digits as cepstra over 10 stretches of time; groups are the speakers."""
    features, digits, speakers = [], [], []
    for path in sorted((DATA / "fsdd").glob("*.wav")):
        digit, speaker, _ = path.stem.split("_")
        with wave.open(str(path)) as file:
            sound = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(float)
        features.append(cepstra(sound))
        digits.append(digit)
        speakers.append(speaker)
    return Rows(np.array(features), np.array(digits), np.array(speakers))


def cepstra(sound_T: Floats) -> Floats:
    """`(130,)`: 13 cepstral coefficients of the mean log-spectrum in each of 10 stretches."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(sound_T, (0, 256)), 256)[::80]
    power = np.abs(np.fft.rfft(frames * np.hanning(256))) ** 2
    edges = 700 * (10 ** (np.linspace(0, 2146, 26) / 2595) - 1) / 4000 * 128
    bands = np.stack([np.interp(np.arange(129), edges[i : i + 3], [0, 1, 0]) for i in range(24)])
    logs = np.log(power @ bands.T + 1)
    cosines = np.cos(np.pi * np.outer(np.arange(13), np.arange(24) + 0.5) / 24)
    return np.concatenate([part.mean(axis=0) for part in np.array_split(logs @ cosines.T, 10)])


def speakers() -> Rows:
    """The same sounds: who speaks?"""
    rows = spoken()
    assert rows.groups_N is not None
    return Rows(rows.features, rows.groups_N)


def photographs() -> Rows:
    """5,085 small photographs of CIFAR-10: gradients in 4 x 4 cells, and mean colors."""
    with np.load(DATA / "cifar10" / "exact_train.npz") as file:
        images, labels = file["images"] / 255.0, file["labels"]
    gray = images.mean(axis=1)
    down, right = np.gradient(gray, axis=(1, 2))
    size, angle = np.hypot(down, right), np.arctan2(down, right) % np.pi
    parts = [
        np.where((angle >= k * np.pi / 8) & (angle < (k + 1) * np.pi / 8), size, 0)
        .reshape(-1, 4, 8, 4, 8)
        .mean(axis=(2, 4))
        .reshape(len(gray), -1)
        for k in range(8)
    ]
    colors = images.reshape(-1, 3, 4, 8, 4, 8).mean(axis=(3, 5)).reshape(len(gray), -1)
    names = np.array(["airplane", "automobile", "bird", "cat", "deer"])
    names = np.array([*names, "dog", "frog", "horse", "ship", "truck"])
    return Rows(np.concatenate([np.sqrt(np.hstack(parts)), colors], axis=1), names[labels])


SOURCES: dict[str, Callable[[], Rows]] = {
    "digits": lambda: embedded("digits"),
    "breast_cancer": lambda: embedded("breast_cancer"),
    "wine": lambda: embedded("wine"),
    "iris": lambda: embedded("iris"),
    "diabetes": lambda: embedded("diabetes"),
    "shoppers": cache(shoppers),
    "sentences": cache(sentences),
    "ratings": cache(ratings),
    "liked": cache(liked),
    "spoken": cache(spoken),
    "speakers": cache(speakers),
    "photographs": cache(photographs),
}
