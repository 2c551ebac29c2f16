"""Make a package of a masker and its encoder: load, export, measure, describe.  This part needs torch."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

import runtime
from export.graph.fuse import torch_reference
from export.int8.write import Step
from export.package.card import model_card
from export.package.level import LEVEL_PLOT, level_plot
from export.package.measure import Measured, measure_masks
from export.package.source import Source, Trained, load_images, load_trained
from export.package.write_graphs import Job, write_graphs
from runtime.package.folder import MANIFEST, REFERENCE, Package, files_in, sha256_file
from runtime.package.manifest import SCHEMA, Manifest
from runtime.package.records import MaskerRecord, OutputRecord, parity_record
from train.config import TrainConfig
from train.encoder.frozen import FrozenEncoder


def make_package(folder: Path, source: Source, *, name: str, step: Step) -> Package:
    """Fill an empty folder with a package, without engines.

    Args:
        name: what the package will be called, for its model card.
        step: wraps each long step, for progress.

    Raises:
        ParityError, ExportError: see `export.package.write_graphs.write_graphs`.
        InputError, MaskerMismatch, SchemaError: see `export.package.source`.
    """
    with step("loading encoder, masker and images"):
        trained = load_trained(source)
        nem, size = trained.nem, trained.nem.encoder.input
        images = load_images(source, trained.file, size)
    with step(f"torch reference on {len(images.reference)} images"):
        reference = torch_reference(nem, images.reference)
    job = Job(folder, nem, reference, images, source.simplify, step)
    write_graphs(job, source.precision)
    np.savez_compressed(folder / REFERENCE, **reference.arrays())
    measured = measure_masks(folder, images, size.mean, step)
    return seal(folder, _manifest(trained, job, measured), name)


def seal(folder: Path, manifest: Manifest, name: str) -> Package:
    """Write the card and its plot, then the manifest with every file's hash, and open the result."""
    (folder / MANIFEST).unlink(missing_ok=True)  # of an earlier seal
    if manifest.level is not None:
        (folder / LEVEL_PLOT).write_text(level_plot(manifest.level))
    (folder / "README.md").write_text(model_card(manifest, name=name))
    for _, file in files_in(folder):
        file.chmod(0o644)  # onnx leaves its weights readable by their owner only
    files = {path: sha256_file(file) for path, file in files_in(folder)}
    manifest = dataclasses.replace(manifest, files=files)
    (folder / MANIFEST).write_text(manifest.to_json())
    return Package.open(folder)


def embedding_id(encoder: FrozenEncoder) -> str:
    """Equal for two packages exactly if encoder weights, embedding and preprocessing are equal."""
    r = encoder.record
    what = json.dumps(
        [r.fingerprint, r.embedding, r.l2_normalized, dataclasses.asdict(encoder.input)], sort_keys=True
    )
    name = r.id.rpartition("/")[2].rpartition(":")[2]
    return f"{name}-{r.embedding}-{hashlib.sha256(what.encode()).hexdigest()[:12]}"


def _manifest(trained: Trained, job: Job, measured: Measured) -> Manifest:
    """The manifest without the files' hashes."""
    encoder = trained.nem.encoder
    size, config = encoder.input, trained.file.config
    return Manifest(
        schema=SCHEMA,
        nemu=runtime.__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        embedding_id=embedding_id(encoder),
        encoder=encoder.record,
        masker=MaskerRecord(
            architecture=config.masker,
            sha256=trained.file.sha256,
            objective=config.objective,
            config=_shippable(config),
        ),
        input=size,
        outputs=(
            OutputRecord(
                name="embedding",
                shape=("N", encoder.record.dimension),
                meaning=f"embedding:{encoder.record.embedding}",
            ),
            OutputRecord(name="mask", shape=("N", size.height, size.width), meaning="importance"),
        ),
        parity={name: parity_record(figures) for name, figures in job.parity.items()},
        files={},
        training=trained.run,
        metrics=measured.metrics,
        level=measured.level,
        target=measured.target,
        refused=job.refused,
    )


def _shippable(config: TrainConfig) -> dict[str, Any]:
    """The configuration without the maker's folders: of paths, only the last name."""
    fields = dataclasses.asdict(config)
    fields["data"] = Path(config.data).name or "."
    if config.encoder.weights is not None:
        fields["encoder"]["weights"] = Path(config.encoder.weights).name
    return fields
