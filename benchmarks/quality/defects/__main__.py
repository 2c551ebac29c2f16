"""Planted defects: products with normal images for a bank, and test images whose defects are known.

    python -m benchmarks.defects debs --out DEFECTS --seed 0

    DEFECTS/PRODUCT/bank/000.png …            normal images
    DEFECTS/PRODUCT/test/good/000.png …       more of them
    DEFECTS/PRODUCT/test/scratch/000.png …    a scratch; blob, missing and swapped beside it
    DEFECTS/PRODUCT/truth/scratch/000.png …   white where it is

A product is one cut-out before one photograph, both of the test split of
`benchmarks.quality.natural.natural_data`, whose first lines say where the sources are from.  Normal
images differ by the object's place, size and rotation, by the crop of the photograph, brightness and
noise.  The sources are partly under the GPL: the images are for measurements and are not part of this
repository.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from benchmarks.common.record import command, exits
from runtime.atomic import atomic_folder
from runtime.media.encode import save_png

SIDE = 224
BANK, GOOD, EACH = 40, 20, 10
"""Images of a product: for the bank, normal ones for the test, and of each kind of defect."""
PRODUCTS = {
    "Lightbulb": "Wood",
    "drum_tomtom": "gravel",
    "firetruck": "Path",
    "trumpet": "china",
    "garbagetruck": "Garden",
    "Strawberry2": "Kite",
    "green_korean": "Storm",
    "747": "BytheWater",
}
"""How a cut-out's title begins → the photograph that it is in front of."""
LEAST_PIXELS, LEAST_CHANGE = 24, 20.0
"""Fewest pixels of a defect, and least mean difference to the image without it (0 to 255)."""
_SHARE = 0.7
"""The object's longer side, as a share of the image's."""

Layer = np.ndarray
"""float32 (SIDE, SIDE, 4): the object where it stands, 0 to 255, and its opacity, 0 to 1."""
Change = Callable[[Layer, Layer, np.random.Generator], tuple[Layer, np.ndarray]]
"""A layer, that of another product and draws → the layer with a defect, and bool (SIDE, SIDE) where it is."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """What its images are made of."""

    name: str
    object: Image.Image
    """RGBA, cut to what is opaque."""
    ground: Image.Image
    """A square larger than an image by its margin."""

    def normal(self, rng: np.random.Generator) -> tuple[np.ndarray, Layer]:
        """A photograph's crop, float32 (SIDE, SIDE, 3), and the object in a pose of its own."""
        margin = self.ground.width - SIDE
        left, top = (int(v) for v in rng.integers(0, margin + 1, 2))
        ground = self.ground.crop((left, top, left + SIDE, top + SIDE))
        return np.asarray(ground, np.float32), self._posed(rng)

    def _posed(self, rng: np.random.Generator) -> Layer:
        side = _SHARE * SIDE * rng.uniform(0.96, 1.04) / max(self.object.size)
        size = (round(self.object.width * side), round(self.object.height * side))
        layer = Image.new("RGBA", (SIDE, SIDE))
        x, y = (round((SIDE - s) / 2 + rng.uniform(-8, 8)) for s in size)
        layer.paste(self.object.resize(size, Image.Resampling.LANCZOS), (x, y))
        posed = np.array(layer.rotate(rng.uniform(-4, 4), Image.Resampling.BICUBIC), np.float32)
        posed[..., 3] /= 255
        return posed


def products(debs: Path) -> list[Product]:
    """The products of PRODUCTS.  Raises `InputError`: see
    `benchmarks.quality.natural.natural_data.sources`."""
    from benchmarks.quality.natural.natural_data import sources

    of = sources(debs)
    made = []
    for title, photograph in PRODUCTS.items():
        picture = next(p for p in of.objects["test"] if p.title.startswith(title))
        cut = picture.cutout()
        held = next(p for p in of.photographs["test"] if p.title.startswith(photograph))
        whole = Image.open(held.path).convert("RGB")
        side = min(whole.size)
        box = ((whole.width - side) // 2, (whole.height - side) // 2)
        square = whole.crop((*box, box[0] + side, box[1] + side))
        made.append(
            Product(
                name=title,
                object=cut.crop(cut.getchannel("A").getbbox()),
                ground=square.resize((SIDE + 12, SIDE + 12), Image.Resampling.LANCZOS),
            )
        )
    return made


def composed(ground: np.ndarray, layer: Layer) -> np.ndarray:
    """float32 (SIDE, SIDE, 3): the object in front of the photograph."""
    opacity = layer[..., 3:]
    return opacity * layer[..., :3] + (1 - opacity) * ground


def taken(scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 (SIDE, SIDE, 3): what a camera makes of it: brightness by up to 8 %, noise of 3 levels."""
    noisy = scene * rng.uniform(0.92, 1.08) + rng.normal(0, 3, scene.shape)
    return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)


def scratch(layer: Layer, other: Layer, rng: np.random.Generator) -> tuple[Layer, np.ndarray]:
    """A bent line of 2 or 3 pixels, light on dark and dark on light."""
    y, x = _pixel_of(layer[..., 3] > 0.5, rng)
    angle, bend, length = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.5), rng.uniform(8, 18)
    points = [(float(x), float(y))]
    for _ in range(3):
        x, y, angle = x + length * np.cos(angle), y + length * np.sin(angle), angle + bend
        points.append((float(x), float(y)))
    drawing = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(drawing).line(points, fill=255, width=int(rng.integers(2, 4)))
    where = (np.asarray(drawing) > 0) & (layer[..., 3] > 0.5)
    return _painted(layer, where, _contrast(layer, where, rng), 0.85), where


def blob(layer: Layer, other: Layer, rng: np.random.Generator) -> tuple[Layer, np.ndarray]:
    """A stain of one colour with a soft, uneven outline."""
    where = _patch(layer, rng, rng.uniform(6, 13))
    return _painted(layer, where, rng.uniform(0, 255, 3), 0.75), where


def missing(layer: Layer, other: Layer, rng: np.random.Generator) -> tuple[Layer, np.ndarray]:
    """A piece broken off at the object's edge: the photograph is seen there."""
    opaque = layer[..., 3] > 0.5
    eroded = np.asarray(Image.fromarray(opaque).convert("L").filter(ImageFilter.MinFilter(5))) > 0
    where = _disc(_pixel_of(opaque & ~eroded, rng), rng.uniform(12, 22), rng) & opaque
    broken = layer.copy()
    broken[..., 3] *= ~where
    return broken, where


def swapped(layer: Layer, other: Layer, rng: np.random.Generator) -> tuple[Layer, np.ndarray]:
    """A piece of another product in the place of its own."""
    where = _patch(layer, rng, rng.uniform(12, 20))
    row, column = _pixel_of(other[..., 3] > 0.5, rng)
    y, x = (int(v.mean()) for v in np.nonzero(where)) if where.any() else (0, 0)
    moved = np.roll(other, (y - row, x - column), axis=(0, 1))
    where &= moved[..., 3] > 0.5
    return _painted(layer, where, moved[where][:, :3], 1.0), where


KINDS: dict[str, Change] = {"scratch": scratch, "blob": blob, "missing": missing, "swapped": swapped}


def defective(
    product: Product, kind: str, other: Product, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """An image uint8 (SIDE, SIDE, 3) with a defect that can be seen, and bool (SIDE, SIDE) where it is."""
    while True:
        ground, layer = product.normal(rng)
        changed, where = KINDS[kind](layer, other._posed(rng), rng)
        scene = composed(ground, changed)
        apart = np.abs(scene - composed(ground, layer)).mean(2)
        if where.sum() >= LEAST_PIXELS and apart[where].mean() >= LEAST_CHANGE:
            return taken(scene, rng), where


def make(product: Product, other: Product, folder: Path, *, seed: int) -> None:
    """All images of one product."""
    rng = np.random.default_rng([seed, *product.name.encode()])
    for name, count in (("bank", BANK), ("test/good", GOOD)):
        for i in range(count):
            save_png(folder / name / f"{i:03d}.png", taken(composed(*product.normal(rng)), rng))
    for kind in KINDS:
        for i in range(EACH):
            image, where = defective(product, kind, other, rng)
            save_png(folder / "test" / kind / f"{i:03d}.png", image)
            save_png(folder / "truth" / kind / f"{i:03d}.png", where.astype(np.uint8) * 255)


def _pixel_of(region: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """Row and column of a random pixel of a bool region."""
    rows, columns = np.nonzero(region)
    at = int(rng.integers(len(rows)))
    return int(rows[at]), int(columns[at])


def _patch(layer: Layer, rng: np.random.Generator, radius: float) -> np.ndarray:
    return _disc(_pixel_of(layer[..., 3] > 0.5, rng), radius, rng) & (layer[..., 3] > 0.5)


def _disc(centre: tuple[int, int], radius: float, rng: np.random.Generator) -> np.ndarray:
    """bool (SIDE, SIDE): around a pixel, its radius uneven."""
    y, x = np.mgrid[:SIDE, :SIDE]
    angle = np.arctan2(y - centre[0], x - centre[1])
    waves = sum(rng.uniform(0, 0.2) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3))
    return np.hypot(y - centre[0], x - centre[1]) < radius * (1 + waves)


def _contrast(layer: Layer, where: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(3,): dark where the object is light, light where it is dark."""
    light = layer[where][:, :3].mean() if where.any() else 0.0
    return rng.uniform(0, 60, 3) if light > 110 else rng.uniform(190, 255, 3)


def _painted(layer: Layer, where: np.ndarray, colour: np.ndarray, opacity: float) -> Layer:
    painted = layer.copy()
    painted[where, :3] = opacity * colour + (1 - opacity) * layer[where, :3]
    return painted


@exits
def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 1 with a message."""
    p = command("defects", __doc__, json=False)
    p.add_argument(
        "debs", type=Path, help="the unpacked packages, see benchmarks.quality.natural.natural_data"
    )
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--seed", type=int, default=0)
    o = p.parse_args(argv)
    made = products(o.debs)
    with atomic_folder(o.out) as folder:
        for i, product in enumerate(tqdm(made, desc="products")):
            make(product, made[(i + 1) % len(made)], folder / product.name, seed=o.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
