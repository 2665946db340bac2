"""Character patches rendered from the fonts that matplotlib ships, and clutter: for textcnn."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import torch

from mtlfast.train import Samples

__all__ = ["CHARACTERS", "FAMILIES", "SIDE", "patches"]

SIDE = 32
CHARACTERS = string.digits + string.ascii_letters
FAMILIES = {
    "DejaVu": ("Sans", "Sans-Bold", "Sans-Oblique", "SansMono", "Serif", "Serif-Bold"),
    "cm": ("b10", "r10", "ss10", "ti10", "tt10"),
    "STIXGeneral": ("", "Bol", "BolIta", "Italic"),
}


def patches(family: str, count: int, seed: int) -> Samples:
    """Returns patches, every other one a character, and their labels.

    ``text`` is 1 for a character, else 0; ``character`` is -1 where there is none; ``region`` is
    the true mask as a row of pixels, empty where there is no character.

    Args:
        family: a name in ``FAMILIES``: whose fonts are used.
        count: how many.
        seed: of all that is drawn.
    """
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    fonts = [folder / f"{family}{face}.ttf" for face in FAMILIES[family]]
    random = np.random.default_rng(seed)
    sizes = range(18, 31, 2)
    loaded = [[ImageFont.truetype(str(font), size) for size in sizes] for font in fonts]

    images = np.empty((count, 1, SIDE, SIDE), dtype=np.float32)
    masks = np.zeros((count, SIDE * SIDE), dtype=np.float32)
    text = np.arange(count) % 2
    labels = np.where(text, random.integers(0, len(CHARACTERS), count), -1)
    for number in range(count):
        clutter = strokes(random)
        mark = strokes(random)
        if text[number]:
            font = loaded[random.integers(len(fonts))][random.integers(len(sizes))]
            patch = Image.new("L", (SIDE, SIDE))
            place = tuple(SIDE / 2 + random.uniform(-3, 3, 2))
            character = CHARACTERS[labels[number]]
            ImageDraw.Draw(patch).text(place, character, fill=255, font=font, anchor="mm")
            mark = (
                np.asarray(
                    patch.rotate(random.uniform(-12, 12), Image.Resampling.BILINEAR), np.float32
                )
                / 255
            )
            masks[number] = (mark > 0.5).reshape(-1)
        ink = random.uniform(0.25, 1.0) * random.choice((-1, 1))
        image = 0.5 + ink * mark + random.uniform(-0.4, 0.4) * clutter
        images[number, 0] = image + random.uniform(0.02, 0.2) * random.standard_normal(image.shape)
    targets = {"text": text, "character": labels, "region": masks}
    return Samples(
        torch.from_numpy(images), {name: torch.from_numpy(y) for name, y in targets.items()}
    )


def strokes(random: np.random.Generator) -> np.ndarray:
    """Returns clutter as thick as letters: one to four lines, arcs and ellipses, from 0 to 1."""
    from PIL import Image, ImageDraw

    patch = Image.new("L", (SIDE, SIDE))
    pen = ImageDraw.Draw(patch)
    for _ in range(random.integers(1, 5)):
        kind, width = random.integers(3), int(random.integers(1, 5))
        ends = random.integers(-4, SIDE + 4, (2, 2))
        corners = [*map(int, ends.min(0)), *map(int, ends.max(0) + 4)]
        if kind == 0:
            pen.line([*map(int, ends.reshape(-1))], fill=255, width=width)
        elif kind == 1:
            start = random.integers(360)
            pen.arc(corners, int(start), int(start + random.integers(60, 300)), 255, width)
        else:
            pen.ellipse(corners, outline=255, width=width)
    return np.asarray(patch, np.float32) / 255
