"""The manifest: records that are read back, older schemas, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest

from runtime.__main__ import main
from runtime.errors import IntegrityError, SchemaError
from runtime.package.folder import MANIFEST, Package
from runtime.package.records import MetricsRecord, ParityRecord, Spread, TrainingRecord, parity_record

TRAINING = TrainingRecord(
    steps=300,
    resumed_at=0,
    loss=0.5,
    distance=0.02,
    area=0.25,
    processes=2,
    images=2000,
    skipped=3,
    seconds=12,
    versions={"torch": "2.9.0"},
)
HALF = Spread(mean=0.5, std=0.25)
METRICS = MetricsRecord(
    images="16 of the 40 in the folder `held`",
    n=16,
    fidelity=Spread(mean=0.9, std=0.03),
    fidelity_moved=HALF,
    fidelity_empty=HALF,
    area=HALF,
    degenerate=1,
)


def seal(path, fields) -> None:
    """Write fields with the digest over them, as the version that made schema 1 did."""
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(canonical).hexdigest()
    (path / MANIFEST).write_text(json.dumps({**fields, "digest": digest}, indent=2) + "\n")


def fields_of(path) -> dict:
    fields = json.loads((path / MANIFEST).read_text())
    del fields["digest"]
    return fields


def test_a_package_of_schema_1_opens(package_path):
    fields = fields_of(package_path)
    for name in ("training", "metrics"):
        assert fields.pop(name) is None
    seal(package_path, {**fields, "schema": 1})
    manifest = Package.open(package_path).manifest
    assert (manifest.schema, manifest.training, manifest.metrics) == (1, None, None)
    assert manifest.embedding_id == "tiny-mean"


@pytest.fixture
def recorded(package_path, rewrite):
    """The tiny package with the records of a training and of metrics."""
    rewrite(package_path, training=TRAINING, metrics=METRICS)
    return package_path


def test_training_and_metrics_are_read_back(recorded):
    manifest = Package.open(recorded).manifest
    assert (manifest.training, manifest.metrics) == (TRAINING, METRICS)


@pytest.mark.parametrize(
    "figures",
    [
        {"embedding_error": 1e-6, "n": 8, "control_failed": True},
        {"mask_error": 1e-7, "mask_rank_correlation": None, "n": 8},
        {"n": 8, "calibration": {"images": None, "n": 8}, "layers": 2, "layers_back_to_float": ["a"]},
        {"ranges": {"largest": {"a": 1.5, "b": "inf"}, "limit": 65504.0, "tensors": 2, "images": 8}},
        {"not_run": "mismatch"},
        {"not_run": "a sentence of an older version"},
    ],
)
def test_parity_is_written_as_it_was_read(package_path, rewrite, figures):
    rewrite(package_path, parity={"onnx fp32": parity_record(figures)})
    text = (package_path / MANIFEST).read_text()
    assert json.dumps(json.loads(text)["parity"]["onnx fp32"]) == json.dumps(figures)
    manifest = Package.open(package_path).manifest
    assert manifest.parity == {"onnx fp32": parity_record(figures)}
    assert manifest.to_json() == text


def test_unknown_figures_are_refused_except_in_older_packages(package_path):
    fields = fields_of(package_path)
    fields["parity"] = {"onnx int8 cpu": {"n": 8, "gone": 1, "calibration": {"n": 8, "method": "mse"}}}
    seal(package_path, fields)
    with pytest.raises(SchemaError, match="parity: onnx int8 cpu has missing or unknown fields: gone"):
        Package.open(package_path)
    seal(package_path, {**fields, "schema": 5})
    assert Package.open(package_path).manifest.parity == {"onnx int8 cpu": ParityRecord(n=8)}


def test_changed_metrics_are_refused(recorded):
    fields = json.loads((recorded / MANIFEST).read_text())
    fields["metrics"]["fidelity"]["mean"] = 0.99
    (recorded / MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(IntegrityError, match="changed after it was written"):
        Package.open(recorded)


@pytest.mark.parametrize(
    ("record", "change", "message"),
    [
        ("metrics", {"fidelity": 0.5}, "metrics: fidelity is a float"),
        ("metrics", {"recall": 0.5}, "recall"),
        ("metrics", {"n": "many"}, "metrics: n is 'many'"),
        ("metrics", {"n": ...}, r"metrics has missing or unknown fields: n"),
        ("training", {"images": None}, "training: images is None"),
        ("training", {"versions": {"torch": 2}}, "training: versions: torch is 2"),
    ],
)
def test_a_record_of_another_form_is_refused(recorded, record, change, message):
    fields = fields_of(recorded)
    changed = {**fields[record], **change}
    fields[record] = {name: value for name, value in changed.items() if value is not ...}
    seal(recorded, fields)
    with pytest.raises(SchemaError, match=message):
        Package.open(recorded)


def test_info_without_training_and_metrics(package_path, capsys):
    assert main(["info", str(package_path)]) == 0
    printed = capsys.readouterr().out
    assert "how many images is not known" in printed
    assert "metrics    none were measured" in printed


def test_info_shows_data_and_metrics(recorded, rewrite, capsys):
    masker = dataclasses.replace(Package.open(recorded).manifest.masker, config={"data": "orchard"})
    rewrite(recorded, masker=masker)
    assert main(["info", str(recorded)]) == 0
    printed = capsys.readouterr().out
    assert "orchard: 2000 images, 3 skipped; 300 steps" in printed
    (line,) = (line for line in printed.splitlines() if line.startswith("metrics"))
    for words in ("fidelity 0.900 ± 0.030 (", "area 0.500 ± 0.250", "1 degenerate; n 16: 16 of the 40"):
        assert words in line
    assert main(["info", str(recorded), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["manifest"]
    assert facts["metrics"]["fidelity"] == {"mean": 0.9, "std": 0.03}
    assert facts["training"]["images"] == 2000
