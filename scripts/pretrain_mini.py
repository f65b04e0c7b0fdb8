# SPDX-License-Identifier: Apache-2.0
"""Pretrains the three networks of the member source `mini` and writes their weights.

The task is rendered letters and symbols, no digits: the fonts that matplotlib ships, warped, thickened
or thinned, averaged down to 8x8 pixels, with sensor noise, and enlarged again. So the weights know
strokes at the resolution of scikit-learn's digits, and have never seen a digit.

    python scripts/pretrain_mini.py            # a few minutes on two cores

The same machine, versions and thread count give the same bytes.

Shapes: N rows, G glyphs, S stroke widths, C classes, H W pixels.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save as serialize
from torch import Tensor, nn

from fusetune.members.mini_nets import MEAN, NETS, SIZE, STD, build

RECIPE = "mini-glyphs-1"
WEIGHTS = Path(__file__).parent.parent / "src" / "fusetune" / "members" / "mini_weights"

# One case only of letters that differ by size alone: scale is augmented away.
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghijkmnqrty"
GREEK = "ΓΔΘΛΞΠΣΦΨΩαβγδεζηλμξπρστφω"
SYMBOLS = "&?!@#$%+=*<>/(]{~^"
CLASSES = LETTERS + GREEK + SYMBOLS

# The Computer Modern fonts hold only Latin letters where Unicode expects them.
FONTS = {
    "DejaVuSans": CLASSES,
    "DejaVuSans-Bold": CLASSES,
    "DejaVuSans-Oblique": CLASSES,
    "DejaVuSans-BoldOblique": CLASSES,
    "DejaVuSansMono": CLASSES,
    "DejaVuSansMono-Bold": CLASSES,
    "DejaVuSansMono-BoldOblique": CLASSES,
    "DejaVuSerif": CLASSES,
    "DejaVuSerif-Bold": CLASSES,
    "DejaVuSerif-BoldItalic": CLASSES,
    "STIXGeneral": CLASSES,
    "STIXGeneralBol": CLASSES,
    "STIXGeneralItalic": CLASSES,
    "cmr10": LETTERS,
    "cmb10": LETTERS,
    "cmss10": LETTERS,
    "cmti10": LETTERS,
}
HELD_OUT_FONTS = {
    "DejaVuSansMono-Oblique": CLASSES,
    "DejaVuSerif-Italic": CLASSES,
    "STIXGeneralBolIta": CLASSES,
    "cmtt10": LETTERS,
}

CANVAS = 48  # pixels of a rendered glyph; the glyph's longer side fills GLYPH of them
GLYPH = 36
NUM_STROKES = 4  # stroke widths of a rendered glyph, from thin to thick
SENSOR = 8  # pixels of the imagined camera


@dataclasses.dataclass(frozen=True, kw_only=True)
class Glyphs:
    """Clean renderings, ink 1 on paper 0, each with strokes from thin to thick."""

    images_GSHW: Tensor
    labels_G: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How long and how fast one network is pretrained."""

    steps: int
    batch_size: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05


def render(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    """Returns one character, its longer side scaled to GLYPH and centered: (CANVAS, CANVAS) in [0, 1]."""
    page = Image.new("L", (256, 256))
    ImageDraw.Draw(page).text((128, 128), character, fill=255, font=font, anchor="mm")
    ink = page.crop(page.getbbox())
    scale = GLYPH / max(ink.size)
    width, height = (max(1, round(side * scale)) for side in ink.size)
    canvas = Image.new("L", (CANVAS, CANVAS))
    ink = ink.resize((width, height), Image.Resampling.LANCZOS)
    canvas.paste(ink, ((CANVAS - width) // 2, (CANVAS - height) // 2))
    return np.asarray(canvas, dtype=np.float32) / 255


def render_all(fonts: dict[str, str]) -> Glyphs:
    """Returns every character of every font, without those that a font lacks."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    images, labels = [], []
    for name, characters in fonts.items():
        path = folder / f"{name}.ttf"
        known = FT2Font(str(path)).get_charmap()
        font = ImageFont.truetype(str(path), size=96)
        for character in characters:
            if ord(character) in known:
                images.append(render(font, character))
                labels.append(CLASSES.index(character))
    plain = torch.from_numpy(np.stack(images))[:, None]
    thin = -F.max_pool2d(-plain, 3, 1, 1)
    thick = F.max_pool2d(plain, 3, 1, 1)
    strokes = (torch.lerp(plain, thin, 0.6), plain, thick, F.max_pool2d(thick, 3, 1, 1))
    return Glyphs(images_GSHW=torch.cat(strokes, dim=1), labels_G=torch.tensor(labels))


def _uniform(low: float, high: float, num: int, rng: torch.Generator) -> Tensor:
    return torch.rand(num, generator=rng) * (high - low) + low


def _warp(images_N1HW: Tensor, rng: torch.Generator) -> Tensor:
    """Shifts, scales, rotates, shears and bends every image by its own random amount."""
    num = len(images_N1HW)
    angle, shear = torch.randn(num, generator=rng) * 0.15, torch.randn(num, generator=rng) * 0.2
    fill = CANVAS / GLYPH  # at scale 1 the glyph's longer side fills the frame
    scale_x = _uniform(0.9, 1.6, num, rng) / fill
    scale_y = _uniform(0.9, 1.2, num, rng) / fill
    cos, sin = torch.cos(angle), torch.sin(angle)
    shift_x, shift_y = _uniform(-0.15, 0.15, num, rng), _uniform(-0.12, 0.12, num, rng)
    row_x = torch.stack([cos * scale_x, (shear * cos - sin) * scale_y, shift_x], dim=1)
    row_y = torch.stack([sin * scale_x, (shear * sin + cos) * scale_y, shift_y], dim=1)
    frame = [num, 1, 4 * SENSOR, 4 * SENSOR]
    grid = F.affine_grid(torch.stack([row_x, row_y], dim=1), frame, align_corners=False)
    bend = torch.randn(num, 2, 4, 4, generator=rng) * 0.06
    bend = F.interpolate(bend, size=frame[2:], mode="bicubic", align_corners=True)
    grid = grid + bend.permute(0, 2, 3, 1)
    return F.grid_sample(images_N1HW, grid, align_corners=False)


def draw(glyphs: Glyphs, num: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns `num` photographs of random glyphs, (N, 3, SIZE, SIZE) and normalized, and labels."""
    chosen = torch.randint(len(glyphs.labels_G), (num,), generator=rng)
    thin = torch.randint(NUM_STROKES - 1, (num,), generator=rng)
    part = _uniform(0, 1, num, rng).reshape(-1, 1, 1)
    strokes = torch.lerp(
        glyphs.images_GSHW[chosen, thin], glyphs.images_GSHW[chosen, thin + 1], part
    )
    seen = F.avg_pool2d(_warp(strokes[:, None], rng), 4)
    blur, gain, sigma = (
        _uniform(low, high, num, rng).reshape(-1, 1, 1, 1)
        for low, high in ((0, 0.3), (0.8, 1.1), (0, 0.28))
    )
    seen = gain * torch.lerp(seen, F.avg_pool2d(seen, 3, 1, 1), blur)
    seen = (seen + sigma * torch.randn(seen.shape, generator=rng)).clamp(0, 1)
    return preprocess(seen.expand(-1, 3, -1, -1)), glyphs.labels_G[chosen]


def preprocess(images_N3HW: Tensor) -> Tensor:
    """Returns the images at the networks' size, normalized."""
    large = F.interpolate(images_N3HW, size=(SIZE, SIZE), mode="bilinear")
    mean, std = torch.tensor(MEAN).reshape(3, 1, 1), torch.tensor(STD).reshape(3, 1, 1)
    return ((large - mean) / std).contiguous(memory_format=torch.channels_last)


def pretrain(name: str, glyphs: Glyphs, training: Training, seed: int) -> nn.Module:
    """Returns the network `name`, trained on `training.steps` fresh batches, in evaluation mode."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    net = build(name, len(CLASSES)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=training.steps, pct_start=0.15
    )
    for step in range(training.steps):
        images, labels = draw(glyphs, training.batch_size, rng)
        loss = F.cross_entropy(net(images), labels, label_smoothing=training.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 500 == 0:
            print(
                f"{name}: step {step:,} of {training.steps:,}, loss {loss.item():.3f}", flush=True
            )
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, glyphs: Glyphs, num: int, seed: int) -> float:
    """Returns the accuracy on `num` photographs."""
    images, labels = draw(glyphs, num, torch.Generator().manual_seed(seed))
    return float((net(images).argmax(dim=1) == labels).float().mean())


def save(net: nn.Module, path: Path) -> None:
    """Writes the weights in half precision, with what a loader needs to know as metadata."""
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in net.state_dict().items()
    }
    metadata = {
        "size": json.dumps(SIZE),
        "mean": json.dumps(MEAN),
        "std": json.dumps(STD),
        "classes": json.dumps(list(CLASSES), ensure_ascii=False),
        "recipe": RECIPE,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(serialize(state, metadata=metadata))


def main() -> None:
    """Pretrains each network, prints its held-out accuracy and writes its weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder for the weights")
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--steps", type=int, default=2000, help="batches of 128 per network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    glyphs, held_out = render_all(FONTS), render_all(HELD_OUT_FONTS)
    print(f"{len(CLASSES)} classes, {len(glyphs.labels_G):,} glyphs to train on")
    for name in arguments.nets:
        seed = arguments.seed + list(NETS).index(name)
        start = time.perf_counter()
        net = pretrain(name, glyphs, Training(steps=arguments.steps), seed)
        path = arguments.out / f"{name}.safetensors"
        save(net, path)
        score = accuracy(net, held_out, 4000, arguments.seed + 1_000)
        seconds = time.perf_counter() - start
        print(f"{name}: {score:.1%} on fonts held out, {seconds:.0f} s, {path.stat().st_size:,} B")


if __name__ == "__main__":
    main()
