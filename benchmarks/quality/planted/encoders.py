"""Encoders whose explanation is known: each is trained to see one planted factor, and to ignore the rest.

    python -m benchmarks.encoders [digits patch red selfsup convnext] [--out benchmarks/out/encoders]

NAME.safetensors is a timm model (half precision) and NAME.json how it came about: its score on each
kind of test scene, and by how much its embedding moves when one factor of a scene is changed.

Naming a factor does not make an encoder blind to the others.  So each training scene has a twin in
which all but the named factors are changed, and the loss has a term that pulls the embeddings of twins
together, relative to how far apart different scenes are.  `selfsup` is SimCLR: no labels, no twins.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.common.record import command, exits, meta, write
from benchmarks.quality.planted.planting import CLASSES, SEED, fit_names, fit_selfsup
from benchmarks.quality.planted.world import FACTORS, KINDS, SIZE, scene
from demo.train_encoder import ARCHITECTURE
from runtime.atomic import atomic_file
from runtime.errors import InputError
from train.config import EncoderConfig
from train.encoder.frozen import FrozenEncoder
from train.encoder.zoo import load_encoder

OUT = Path("benchmarks/out/encoders")
TEST_SCENES = 1000
"""Scenes of each kind that the score is taken on."""
QUICK = {"steps": 2, "train_scenes": 70, "test_scenes": 10, "evidence_scenes": 4}
"""Options of `train_encoder` that only show that everything runs."""


@dataclass(frozen=True, kw_only=True)
class Planted:
    """One encoder and what its embedding is to depend on."""

    truth: tuple[str, ...]
    """The factors it names, each with a head of its own; none for an encoder without labels."""
    steps: int
    architecture: str = ARCHITECTURE
    """Name of a timm model."""


ENCODERS = {
    "digits": Planted(truth=("red", "blue"), steps=600),
    "red": Planted(truth=("red",), steps=500),
    "patch": Planted(truth=("patch",), steps=500),
    "selfsup": Planted(truth=(), steps=600),
    "convnext": Planted(truth=("patch",), steps=600, architecture="convnext_atto"),
}


def train_encoder(
    name: str,
    out: Path,
    *,
    steps: int | None = None,
    train_scenes: int = 12000,
    test_scenes: int = TEST_SCENES,
    evidence_scenes: int = 200,
) -> Path:
    """Train one of ENCODERS, score what was written, and return the path of its weights."""
    planted = _planted(name)
    steps = steps or planted.steps
    begun = time.perf_counter()
    fit = fit_names if planted.truth else fit_selfsup
    model = fit(planted.truth, architecture=planted.architecture, steps=steps, scenes=train_scenes)
    seconds = time.perf_counter() - begun

    weights = out / f"{name}.safetensors"
    with atomic_file(weights) as file:
        halves = {
            k: v.half().contiguous() if v.is_floating_point() else v for k, v in model.state_dict().items()
        }
        save_file(halves, file)
    encoder = load(name, out)
    record = {
        "meta": meta(),
        "encoder": name,
        "truth": planted.truth,
        "steps": steps,
        "seed": SEED,
        "train_scenes": train_scenes,
        "train_seconds": round(seconds, 1),
        "test_scenes": test_scenes,
        "test_accuracy": {kind: accuracy(encoder, planted.truth, kind, test_scenes) for kind in KINDS},
        "evidence_scenes": evidence_scenes,
        "evidence": {
            kind: dependence(encoder, truth=planted.truth, scenes=evidence_scenes, kind=kind)
            for kind in KINDS
        },
    }
    write(weights.with_suffix(".json"), record)
    print(f"{weights}: {record['test_accuracy']}\n  {record['evidence']}", flush=True)
    return weights


def load(name: str, folder: Path = OUT) -> FrozenEncoder:
    """A trained encoder, as `--encoder timm/resnet10t --weights FILE --image-size 96` would load it."""
    planted = _planted(name)
    weights = folder / f"{name}.safetensors"
    if not weights.is_file():
        raise InputError(
            f"{weights}: no such file",
            expected="an encoder that was trained here",
            cure=f"python -m benchmarks.encoders {name} --out {folder}",
        )
    return load_encoder(
        EncoderConfig(
            encoder=f"timm/{planted.architecture}",
            weights=str(weights),
            image_size=(SIZE, SIZE),
            resize="squash",
        )
    )


@torch.inference_mode()
def embed(encoder: FrozenEncoder, images: np.ndarray) -> Tensor:
    """uint8 (N, SIZE, SIZE, 3) → float32 (N, D)."""
    batches = torch.from_numpy(images).split(100)
    return torch.cat([encoder(encoder.normalize(batch))[0] for batch in batches])


def accuracy(encoder: FrozenEncoder, truth: Collection[str], kind: str, scenes: int) -> dict[str, float]:
    """Share of the test scenes in which each named factor is named right."""
    if not truth:
        return {}
    tests = [scene(i, split="test", kind=kind) for i in range(scenes)]
    timm_model: Any = encoder.model.model
    with torch.inference_mode():
        logits = timm_model.get_classifier()(embed(encoder, np.stack([s.image for s in tests])))
    heads = logits.split([CLASSES[name] for name in truth], dim=1)
    return {
        name: float((head.argmax(dim=1).numpy() == [s.labels[name] for s in tests]).mean())
        for name, head in zip(truth, heads, strict=True)
    }


def dependence(
    encoder: FrozenEncoder, *, truth: Collection[str] = (), scenes: int = 200, kind: str = "standard"
) -> dict[str, float]:
    """How far an embedding moves when factors of its test scene are changed.

    Mean ‖z(changed) − z‖, in units of the median distance between embeddings of different scenes: of each
    factor by itself, and, if a truth is given, of all of it (`truth_changed`) and of everything else
    (`rest_changed`).
    """
    changes: dict[str, tuple[str, ...]] = {name: (name,) for name in FACTORS}
    if truth:
        changes["truth_changed"] = tuple(truth)
        changes["rest_changed"] = tuple(name for name in FACTORS if name not in truth)

    def embeddings(changed: Collection[str]) -> Tensor:
        images = [scene(i, split="test", kind=kind, changed=changed).image for i in range(scenes)]
        return embed(encoder, np.stack(images))

    z = embeddings(())
    apart = nn.functional.pdist(z).median()
    return {
        name: float((embeddings(changed) - z).norm(dim=1).mean() / apart) for name, changed in changes.items()
    }


def _planted(name: str) -> Planted:
    if name not in ENCODERS:
        raise InputError(
            f"encoder {name}", expected=", ".join(ENCODERS), cure="python -m benchmarks.encoders digits"
        )
    return ENCODERS[name]


@exits
def main() -> int:
    """Returns 0 if every encoder was trained."""
    parser = command("encoders", __doc__, json=False)
    parser.add_argument("names", nargs="*", default=list(ENCODERS), metavar="NAME", help=", ".join(ENCODERS))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true", help="two steps, a few scenes: does everything run?")
    options = parser.parse_args()
    for name in options.names:
        _planted(name)
    for name in options.names:
        train_encoder(name, options.out, **QUICK if options.quick else {})
    return 0


if __name__ == "__main__":
    sys.exit(main())
