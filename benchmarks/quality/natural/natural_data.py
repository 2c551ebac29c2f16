"""Photographs for training, and a test set whose objects are known: cut-outs pasted on photographs.

    apt-get download tuxpaint-stamps-default lomiri-wallpapers-16.04
    apt-get download mate-backgrounds plasma-workspace-wallpapers
    for f in *.deb; do dpkg -x $f debs; done
    python -m benchmarks.natural_data debs --out DATA

    train/        2100 composites (c….jpg) and 700 plain crops (p….jpg), 256 pixels, no labels
    test/         120 composites of objects and photographs that are not in train/
    test_masks/   their objects
    test_swaps/   three changes of each: NAME__bg (the same object in the same place, another photograph),
                  NAME__obj (the same photograph, another object), NAME__none (the bare photograph)
    licences.tsv  every image that was used: split, package, licence, file

Part of the sources is under the GPL.  The data are for measurements and are not part of this repository,
and neither is a masker that was trained on them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.common.record import command, exits
from benchmarks.quality.natural.licences import IN_PYTHON_PACKAGES, licence
from benchmarks.quality.natural.subject import CHANGES, MASKS, PLAIN, SWAPS, TEST, TRAIN
from demo.photographs import paste
from runtime.atomic import atomic_folder
from runtime.errors import InputError

SIZE = 256
COMPOSITES, CROPS, TESTS = 2100, 700, 120
CUTOUTS = Path(__file__).with_name("natural_cutouts.tsv")
"""Split and path of every cut-out: photographs of one thing, chosen by eye."""
AREA = (0.04, 0.5)
"""Smallest and largest share of a test composite that its object has."""
LARGEST = 1600
"""Pixels: larger photographs are made smaller first."""
STAMPS, LOMIRI, MATE = "tuxpaint-stamps-default", "lomiri-wallpapers-16.04", "mate-backgrounds"
PLASMA = "plasma-workspace-wallpapers"
WALLPAPERS = (
    *("Autumn", "BytheWater", "ColdRipple", "EveningGlow", "FallenLeaf", "Grey", "Kite", "OneStandsOut"),
    *("Path", "summer_1am", "ColorfulCups", "DarkestHour"),
)
"""Wallpapers of Plasma that are photographs."""
HELD = frozenset(
    (
        *("Bridge_by_Sander_Klootwijk", "picosdeeuropa_by_Aitzol_Berasategi", "greentock_by_Peter_Nerlich"),
        *("Garden", "Dune", "Storm", "Wood", "Path", "EveningGlow", "Kite", "china", "gravel", "BytheWater"),
    )
)
"""Photographs that only the test set uses."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One source file."""

    path: Path
    title: str
    split: str
    package: str
    licence: str

    def cutout(self) -> Image.Image:
        """The cut-out with its transparency, RGBA."""
        return Image.open(self.path).convert("RGBA")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What composites are made of; photographs are decoded once."""

    objects: dict[str, list[Picture]]
    """Cut-outs of each split."""
    photographs: dict[str, list[Picture]]
    decoded: dict[Path, Image.Image] = field(default_factory=dict)

    def crop(self, picture: Picture, rng: np.random.Generator) -> Image.Image:
        """A random square of a photograph, mirrored half of the time."""
        if picture.path not in self.decoded:
            whole = Image.open(picture.path).convert("RGB")
            whole.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
            self.decoded[picture.path] = whole
        image = self.decoded[picture.path]
        side = int(rng.uniform(min(SIZE, *image.size), min(image.size)))
        left, top = rng.integers(image.width - side + 1), rng.integers(image.height - side + 1)
        box = (int(left), int(top), int(left + side), int(top + side))
        square = image.crop(box).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else square


def sources(debs: Path) -> Sources:
    """Every cut-out and photograph, in a fixed order.

    Raises:
        InputError: a package is not unpacked there.
    """
    grounds = [
        _photograph(path, package, licence(path, package=package, debs=debs)[0])
        for path, package in _photographs(debs)
    ]
    grounds += [_photograph(*of, IN_PYTHON_PACKAGES[of[0].name]) for of in _python_photographs()]
    stamps = debs / "usr/share/tuxpaint/stamps"
    cutouts = [
        Picture(
            path=stamps / name,
            title=Path(name).stem,
            split=split,
            package=STAMPS,
            licence=licence(stamps / name, package=STAMPS, debs=debs)[0],
        )
        for split, name in (line.split("\t") for line in CUTOUTS.read_text().splitlines())
    ]
    if lost := [p.path for p in (*cutouts, *grounds) if not p.path.is_file()]:
        raise InputError(
            f"{len(lost)} images are not there, {lost[0]} the first",
            expected="the packages of Debian 12",
            cure="unpack them again; other versions hold other images",
        )
    return Sources(
        objects={s: [p for p in cutouts if p.split == s] for s in ("train", "test")},
        photographs={s: [p for p in grounds if p.split == s] for s in ("train", "test")},
    )


def _photographs(debs: Path) -> list[tuple[Path, str]]:
    """Path and package of every photograph of the Debian packages."""
    share = debs / "usr/share"
    found = [
        *((p, LOMIRI) for p in sorted((share / "backgrounds").glob("*.jpg"))),
        *((p, MATE) for p in sorted((share / "backgrounds/mate/nature").glob("*.jpg"))),
        *((share / "wallpapers" / n / "contents/images/2560x1600.jpg", PLASMA) for n in WALLPAPERS),
    ]
    if absent := {LOMIRI, MATE} - {package for _, package in found}:
        raise InputError(
            f"no photographs of {', '.join(sorted(absent))} in {debs}",
            expected="the Debian packages of this script's first lines, unpacked into one folder",
            cure="dpkg -x PACKAGE.deb " + str(debs),
        )
    return found


def _python_photographs() -> list[tuple[Path, str]]:
    """Path and package of every photograph of the installed Python packages."""
    import skimage
    import sklearn

    folders = {
        "scikit-image": Path(skimage.__file__).parent / "data",
        "scikit-learn": Path(sklearn.__file__).parent / "datasets/images",
    }
    paths = [(folder / name, package) for name in IN_PYTHON_PACKAGES for package, folder in folders.items()]
    return [(path, package) for path, package in paths if path.is_file()]


def make_train(of: Sources, folder: Path) -> None:
    """Composites, then plain crops."""
    rng = np.random.default_rng(0)
    grounds, objects = of.photographs["train"], of.objects["train"]
    for i in tqdm(range(COMPOSITES), desc="training composites"):
        ground = of.crop(_pick(grounds, rng), rng)
        image, _ = paste(ground, _pick(objects, rng).cutout(), rng, low=0.4, high=0.95)
        image.save(folder / f"c{i:04d}.jpg", quality=93)
    for i in tqdm(range(CROPS), desc="training crops"):
        of.crop(_pick(grounds, rng), rng).save(folder / f"{PLAIN}{i:04d}.jpg", quality=93)


def make_tests(of: Sources, out: Path) -> None:
    """Composites, the objects' pixels, and three changes of each."""
    rng, count = np.random.default_rng(1), 0
    held, objects = of.photographs["test"], of.objects["test"]
    order = [objects[i] for _ in range(3) for i in rng.permutation(len(objects))]
    for k, cutout in enumerate(tqdm(order, desc="test composites")):
        if count == TESTS:
            break
        picture = held[k % len(held)]
        ground = of.crop(picture, rng)
        image, alpha = paste(ground, cutout.cutout(), rng)
        if not AREA[0] < (np.asarray(alpha) > 127).mean() < AREA[1]:
            continue
        other = of.crop(held[(k + 1 + rng.integers(len(held) - 1)) % len(held)], rng)
        share = np.asarray(alpha, np.float32)[..., None] / 255
        moved = (share * np.asarray(image) + (1 - share) * np.asarray(other) + 0.5).astype(np.uint8)
        changed = {
            "photograph_swapped": Image.fromarray(moved),
            "object_swapped": paste(ground, order[(k + 7) % len(order)].cutout(), rng)[0],
            "object_removed": ground,
        }
        name = f"{count:04d}_{cutout.title}_{picture.title}"
        image.save(out / TEST / f"{name}.png")
        alpha.save(out / MASKS / f"{name}.png")
        for change, result in changed.items():
            result.save(out / SWAPS / f"{name}__{CHANGES[change]}.png")
        count += 1


def make(debs: Path, out: Path) -> None:
    """Write all folders and licences.tsv; nothing is left behind if it fails.

    Raises:
        InputError: see `sources`.
        OutputExists: `out` is there.
    """
    of = sources(debs)
    with atomic_folder(out) as folder:
        for name in (TRAIN, TEST, MASKS, SWAPS):
            (folder / name).mkdir()
        make_train(of, folder / TRAIN)
        make_tests(of, folder)
        used = [p for by in (of.photographs, of.objects) for pictures in by.values() for p in pictures]
        lines = [f"{p.split}\t{p.package}\t{p.licence}\t{p.path.name}\t{p.title}\n" for p in used]
        (folder / "licences.tsv").write_text("split\tpackage\tlicence\tfile\ttitle\n" + "".join(lines))


def _photograph(path: Path, package: str, terms: str) -> Picture:
    title = path.parents[2].name if package == PLASMA else path.stem
    split = "test" if title in HELD else "train"
    return Picture(path=path, title=title, split=split, package=package, licence=terms)


def _pick(pictures: Sequence[Picture], rng: np.random.Generator) -> Picture:
    return pictures[int(rng.integers(len(pictures)))]


@exits
def main() -> int:
    """Returns 0, or 1 with a message."""
    p = command("natural_data", __doc__, json=False)
    p.add_argument("debs", type=Path, help="folder into which the Debian packages are unpacked")
    p.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    o = p.parse_args()
    make(o.debs, o.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
