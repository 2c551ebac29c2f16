"""Photographs that the demo's training did not see, with object regions: whole, composites, and pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

MASKER = Path(__file__).with_name("masker") / "masker.safetensors"
"""Trained by `python -m benchmarks.demo_masker`; card.json beside it says how, sources.tsv on what."""
SIDE = 224
"""Pixels of a view."""

OBJECTS: dict[str, str] = {
    "chelsea": (
        "0,300 0,240 15,215 38,190 40,140 45,95 32,60 40,30 62,0 320,0 330,25 355,5 395,0 395,20 "
        "370,60 345,95 362,112 350,150 345,175 330,215 320,250 300,275 262,280 245,300"
    ),
    "coffee": (
        "77,215 80,170 95,130 120,100 150,78 178,70 195,40 235,22 285,17 340,25 380,50 400,72 415,68 "
        "423,75 412,105 440,130 465,165 476,205 470,255 450,300 415,340 370,365 310,383 250,380 "
        "190,365 140,335 100,290 82,250"
    ),
    "astronaut": (
        "150,75 165,45 200,22 240,16 275,28 298,60 300,95 285,125 265,150 262,175 295,205 305,245 "
        "340,270 362,340 395,345 430,345 480,375 500,430 511,450 511,511 20,511 15,440 30,390 25,330 "
        "45,285 80,250 115,210 112,180 140,155 185,150 180,130 155,110"
    ),
    "rocket": "323,127 332,140 335,178 334,402 308,402 310,178 312,145",
    "flower": (
        "315,85 345,93 385,100 410,118 428,145 436,180 445,215 440,255 428,290 415,315 390,335 "
        "360,345 325,352 300,360 265,348 230,343 205,322 190,295 175,265 168,225 172,185 188,150 "
        "205,118 240,102 280,98"
    ),
}
"""Photographs with one clear object, and its outline, x,y in pixels."""
GROUNDS = ("grass", "china", "brick", "gravel", "hubble_deep_field")
"""What the objects are pasted on."""


@dataclass(frozen=True)
class View:
    """A square image with one object."""

    name: str
    image: np.ndarray
    """uint8 (SIDE, SIDE, 3), RGB."""
    region: np.ndarray
    """bool (SIDE, SIDE): the pixels of its object."""


@dataclass(frozen=True)
class Pair:
    """Two images of two objects each, on different grounds; one object is in both."""

    views: tuple[View, View]
    """Their regions are the object that is in both."""
    other: tuple[np.ndarray, np.ndarray]
    """bool (SIDE, SIDE): the pixels of the object that is not."""


def photographs() -> list[View]:
    """The whole photographs, on black."""
    views = []
    for name in OBJECTS:
        parts = load(name), cutout(name).getchannel("A")
        views.append(_view(name, *(ImageOps.pad(part, (SIDE, SIDE)) for part in parts)))
    return views


def composites(count: int = 50, *, seed: int = 0) -> list[View]:
    """Objects in turn, at random places and sizes, on random squares of the other photographs."""
    rng = np.random.default_rng(seed)
    objects = [cutout(name) for name in OBJECTS]
    grounds = [load(name) for name in GROUNDS]
    views = []
    for i in range(count):
        which = int(rng.integers(len(grounds)))
        ground = square(grounds[which], rng, side=SIDE)
        name = f"{i:02d}_{list(OBJECTS)[i % len(objects)]}_{GROUNDS[which]}"
        views.append(_view(name, *paste(ground, objects[i % len(objects)], rng)))
    return views


def pairs(count: int = 20, *, seed: int = 0) -> list[Pair]:
    """Each object in turn is shared; the other objects, the places and the grounds are random."""
    rng = np.random.default_rng(seed)
    objects, found = list(OBJECTS), []
    for i in range(count):
        shared = objects[i % len(objects)]
        others = rng.permutation([name for name in objects if name != shared])[:2]
        grounds = rng.permutation(GROUNDS)[:2]
        (a, not_in_b), (b, not_in_a) = (
            _two(f"{i:02d}{side}", load(ground), cutout(shared), cutout(other), rng)
            for side, ground, other in zip("ab", grounds, others, strict=True)
        )
        found.append(Pair((a, b), (not_in_b, not_in_a)))
    return found


def _two(
    name: str, ground: Image.Image, shared: Image.Image, other: Image.Image, rng: np.random.Generator
) -> tuple[View, np.ndarray]:
    """Two cut-outs on one ground, in a half each: the image with the first, and the second's pixels."""
    image = square(ground, rng, side=SIDE)
    half, left = SIDE // 2, bool(rng.random() < 0.5)
    regions = []
    for cutout, first in ((shared, left), (other, not left)):
        box = (0 if first else half, 0, half if first else SIDE, SIDE)
        cut = cutout.crop(cutout.getchannel("A").getbbox())
        fits = min(half / cut.width, SIDE / cut.height) * max(cut.size) / half
        drawn, alpha = paste(image.crop(box), cut, rng, low=0.75 * fits, high=0.95 * fits)
        image.paste(drawn, box)
        region = Image.new("L", image.size)
        region.paste(alpha, box)
        regions.append(region)
    return _view(name, image, regions[0]), np.asarray(regions[1]) > 127


def inside_and_outside(regions: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> tuple[float, float]:
    """Mean mask inside the region and outside, averaged over images.

    Args:
        regions: bool (H, W) each.
        masks: float (H, W) each.
    """
    pairs = list(zip(regions, masks, strict=True))
    inside = float(np.mean([mask[region].mean() for region, mask in pairs]))
    outside = float(np.mean([mask[~region].mean() for region, mask in pairs]))
    return inside, outside


def shared_and_other(pairs: Sequence[Pair], masks: Sequence[np.ndarray]) -> dict[str, float]:
    """Mean mask on the objects that are in both images, and on those that are not.

    Args:
        masks: float (SIDE, SIDE) each, of the first pair's two images, the second's, …
    """
    shared = [view.region for pair in pairs for view in pair.views]
    other = [region for pair in pairs for region in pair.other]
    return {
        "shared": inside_and_outside(shared, masks)[0],
        "other": inside_and_outside(other, masks)[0],
    }


def _view(name: str, image: Image.Image, alpha: Image.Image) -> View:
    return View(name, np.asarray(image), np.asarray(alpha) > 127)


def cutout(name: str) -> Image.Image:
    """A photograph of OBJECTS with everything but its object transparent, RGBA."""
    image = load(name)
    alpha = Image.new("L", image.size)
    outline = [tuple(map(int, point.split(","))) for point in OBJECTS[name].split()]
    ImageDraw.Draw(alpha).polygon(outline, fill=255)
    image.putalpha(alpha)
    return image


def load(name: str) -> Image.Image:
    """A photograph of scikit-image or scikit-learn, RGB."""
    import skimage.data
    from sklearn.datasets import load_sample_image

    if name in ("china", "flower"):
        return Image.fromarray(load_sample_image(f"{name}.jpg"))
    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB")


def square(photograph: Image.Image, rng: np.random.Generator, *, side: int) -> Image.Image:
    """A random square of at least half of the shorter side, scaled to `side` pixels; half are mirrored."""
    shorter = min(photograph.size)
    width = rng.uniform(0.5, 1) * shorter
    left, top = (rng.uniform(0, length - width) for length in photograph.size)
    cut = photograph.resize(
        (side, side), Image.Resampling.LANCZOS, box=(left, top, left + width, top + width)
    )
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else cut


def paste(
    ground: Image.Image,
    cutout: Image.Image,
    rng: np.random.Generator,
    *,
    low: float = 0.45,
    high: float = 0.85,
) -> tuple[Image.Image, Image.Image]:
    """A cut-out (RGBA) somewhere on a square photograph: the image, and the cut-out's alpha there (L).

    Args:
        low, high: the cut-out's longer side is between these shares of the photograph's side.
    """
    cut = cutout.crop(cutout.getchannel("A").getbbox())
    scale = rng.uniform(low, high) * ground.width / max(cut.size)
    size = (max(8, round(cut.width * scale)), max(8, round(cut.height * scale)))
    cut = cut.resize(size, Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    at = int(rng.integers(ground.width - cut.width + 1)), int(rng.integers(ground.height - cut.height + 1))
    image, alpha = ground.copy(), Image.new("L", ground.size)
    image.paste(cut, at, cut)
    alpha.paste(cut.getchannel("A"), at)
    return image, alpha
