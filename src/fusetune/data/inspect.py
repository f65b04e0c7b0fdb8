# SPDX-License-Identifier: Apache-2.0
"""Write a recipe for labelled images, from what they look like: `fusetune init`.

Shapes: N rows, C classes.
"""

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.data.dataset import Rows
from fusetune.data.guess import Guess, guess_sources
from fusetune.data.inputs import Encoded, Images
from fusetune.data.prepare import Prepared, divide
from fusetune.data.roles import DEFAULT_SHARES, ROLES, Roles
from fusetune.predictions.targets import Targets

__all__ = ["suggest_recipe"]

MOST_ROWS = {"validation": 2000, "holdout": 5000}
"""More rows than these buy nothing: an accuracy of 0.9 is then known to 0.7 and 0.4 points."""
MIRRORS_MATTER = frozenset("0123456789abcdefghijklmnopqrstuvwxyz") | {"left", "right"}
NUM_MEASURED_IMAGES = 200


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What decides the recipe."""

    divided: Prepared
    roles: Mapping[str, float | int | str]
    side: int
    sizes: str

    @property
    def num_train(self) -> int:
        return len(self.divided.rows("train"))

    @property
    def counts_C(self) -> list[int]:
        truth = self.divided.truth
        assert isinstance(truth, Targets)  # what `guess_sources` finds are classes
        return np.bincount(truth.labels_N, minlength=len(truth.classes)).tolist()

    @property
    def imbalanced(self) -> bool:
        """Whether the largest class has over three times the rows of the smallest."""
        return max(self.counts_C) > 3 * min(self.counts_C)

    @property
    def mirrors_matter(self) -> bool:
        """Whether most classes are single letters or digits, or left and right."""
        names = [name.lower() for name in self.divided.classes]
        return sum(name in MIRRORS_MATTER for name in names) * 2 > len(names)


def suggest_recipe(path: Path, *, recipe_folder: Path | None = None) -> str:
    """A commented YAML recipe that runs on the labelled images at a path, without a network.

    Args:
        path: A folder with a folder per class (also inside train and test folders), a table, an
            .npz file, or a folder with one such file or one for each split.
        recipe_folder: Where the recipe will lie: data in or below it are named relative to it.
            None: the path is written absolute.

    Raises:
        DataError: Nothing usable is there, or its rows cannot be divided (too few of them, say).
    """
    guesses = guess_sources(path)
    facts = _facts({role: guess.dataset().read() for role, guess in guesses.items()})
    blocks = [
        _head(path, facts),
        _data(guesses, facts, recipe_folder),
        _finetune(facts),
        _members(facts),
        _rest(facts),
    ]
    return "\n".join(blocks)


def _facts(parts: Mapping[str, Rows]) -> Facts:
    given = {role for role in parts if role != "all"}
    num_divided = len(parts["train" if given else "all"])
    for rows in parts.values():
        given |= set() if rows.roles is None else {*np.unique(rows.roles).tolist()} - {""}
    classes = {name for r in parts.values() if r.labels is not None for name in r.labels.tolist()}
    sizes = _role_sizes(num_divided, len(classes), given)
    keep_first = Roles(**sizes, duplicates="keep_first")  # type: ignore[arg-type]
    divided = divide(parts, keep_first)
    roles: dict[str, float | int | str] = dict(sizes)
    if len(divided) < sum(len(rows) for rows in parts.values()):
        roles["duplicates"] = "keep_first"
    side, text = _measured(divided.images)
    return Facts(divided=divided, roles=roles, side=side, sizes=text)


def _role_sizes(num_rows: int, num_classes: int, given: set[str]) -> dict[str, float | int]:
    """The default shares where they make sense, else numbers of rows."""
    sizes: dict[str, float | int] = {}
    for role in ("validation", "holdout", "test"):
        if role in given:
            continue
        share = DEFAULT_SHARES[role]
        count = share * num_rows
        fair = max(count, 5 * num_classes if role == "holdout" else num_classes)
        wanted = min(fair, 0.3 * num_rows, MOST_ROWS.get(role, num_rows))
        sizes[role] = share if round(wanted) == round(count) else max(1, round(wanted))
    return sizes


def _measured(images: Images) -> tuple[int, str]:
    """Median shorter side in pixels, and the sizes in words, of some images spread over all."""
    from PIL import Image

    rows = np.unique(np.linspace(0, len(images) - 1, NUM_MEASURED_IMAGES).astype(int))
    shapes = []
    for row in rows.tolist():
        if isinstance(images, Encoded):
            try:
                with Image.open(io.BytesIO(images.encoded(row))) as image:
                    shapes.append(image.size)
            except (OSError, ValueError, SyntaxError):
                continue  # `run` names what cannot be read
        else:
            height, width, _ = images.pixels(row).shape
            shapes.append((width, height))
    if not shapes:
        return 1, "not to be read"
    side = int(np.median([min(shape) for shape in shapes]))
    low, high = min(shapes), max(shapes)
    text = f"{low[0]}×{low[1]} pixels"
    return side, text if low == high else f"{text} to {high[0]}×{high[1]}"


def _head(path: Path, facts: Facts) -> str:
    num_rows, classes = len(facts.divided), facts.divided.classes
    listed = ", ".join(
        f"{name} {count:,}" for name, count in zip(classes[:12], facts.counts_C, strict=False)
    )
    more = f" and {len(classes) - 12} more" if len(classes) > 12 else ""
    return (
        f"# Written by `fusetune init {_comment(path.name)}`: change what you like, then"
        " `fusetune run` it.\n"
        f"# Found: {num_rows:,} images ({facts.sizes}) of {len(classes)} classes:\n"
        f"#   {_comment(listed)}{more}\n"
        "task: image_classification"
    )


def _data(guesses: Mapping[str, Guess], facts: Facts, folder: Path | None) -> str:
    lines = ["data:"]
    for role, guess in guesses.items():
        options = {"path": _place(guess.path, folder), **guess.options}
        if role == "all":
            lines += [f"  source: {guess.source}"]
            lines += [f"  {key}: {_yaml(value)}" for key, value in options.items()]
        else:
            inside = ", ".join(f"{key}: {_yaml(value)}" for key, value in options.items())
            lines += [f"  {role}: {{source: {guess.source}, {inside}}}"]
    counts = ", ".join(f"{role} {len(facts.divided.rows(role)):,}" for role in ROLES)
    lines += [
        f"  # rows: {counts}",
        "  # train fits the members, validation chooses epochs, holdout fits the fusion,",
        "  # and test is reported once. Shares below 1, or numbers of rows.",
    ]
    if facts.roles:
        lines += ["  roles:"]
        lines += [f"    {role}: {_yaml(size)}" for role, size in facts.roles.items()]
    if "duplicates" in facts.roles:
        lines[-1] += "   # some images occur more than once: later copies are dropped"
    lines += ["  # limit: 1000   # try the recipe on fewer rows first"] * (len(guesses) == 1)
    return "\n".join(lines)


def _finetune(facts: Facts) -> str:
    epochs = int(np.clip(20000 // max(1, facts.num_train), 5, 40))
    padding = max(1, min(facts.side, 64) // 8)
    reason = "a mirrored letter or digit is another one" if facts.mirrors_matter else ""
    reason = reason or "off where left and right matter (letters, digits, signs)"
    return f"""finetune:
  epochs: {epochs}
  batch_size: {32 if facts.num_train < 2000 else 64}
  optimizer: {{name: adamw, lr: 1e-3}}
  augmentation:
    flip: {_yaml(not facts.mirrors_matter)}   # {reason}
    crop_padding: {padding}"""


def _members(facts: Facts) -> str:
    side = 16 if facts.side < 24 else 32 if facts.side <= 64 else 64
    size = f", preprocess: {{size: {side}}}" if side != 16 else ""
    large = min(224, max(64, -(-facts.side // 32) * 32))
    lines = [
        "members:",
        "  # Three small networks that come with fusetune: quick, and no network access is needed.",
        *(f"  - {{source: mini, model: {name}{size}}}" for name in ("resnet", "vgg", "inception")),
        "  # Larger ones from torchvision, downloaded at first use and better on photographs; remove",
        "  # the # to use them (a GPU helps), and a # in front of the small ones leaves these out.",
    ]
    for name, smallest in (("resnet18", 32), ("efficientnet_b0", 32), ("inception_v3", 96)):
        options = f"preprocess: {{size: {max(large, smallest)}}}, finetune: {{epochs: 5}}"
        lines += [f"  # - {{source: torchvision, model: {name}, {options}}}"]
    return "\n".join(lines)


def _rest(facts: Facts) -> str:
    low, high = min(facts.counts_C), max(facts.counts_C)
    why = f"classes have {low:,} to {high:,} rows"
    if facts.imbalanced:
        why += ", and every class counts the same"
    return f"""fuse:
  methods: [vote, mean, weighted_mean, stacking, greedy_selection]
  choose: auto   # a blend of all of them, fitted on the holdout
metric: {"macro_f1" if facts.imbalanced else "accuracy"}   # {why}
seed: 0
"""


def _place(path: Path, folder: Path | None) -> str:
    absolute = Path(os.path.abspath(path))
    if folder is not None and absolute.is_relative_to(start := Path(os.path.abspath(folder))):
        return absolute.relative_to(start).as_posix()
    return absolute.as_posix()


def _yaml(value: Any) -> str:  # noqa: ANN401
    """A value as YAML: JSON, which YAML contains."""
    return json.dumps(value, ensure_ascii=False)


def _comment(text: str) -> str:
    """A text that stays on its comment's line."""
    return " ".join(text.split())
