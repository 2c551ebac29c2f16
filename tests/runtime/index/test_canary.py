"""The canary of an index: what it holds, and which changes it detects."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from runtime import Explainer
from runtime.__main__ import main
from runtime.index import Index
from runtime.index.canary import check, read_sample, write_sample
from runtime.package.manifest import Manifest
from tests.runtime.fake_backend import FakeBackend


def run(*words: object) -> int:
    return main([str(word) for word in words])


def checked(made_index, package, *, backend="auto"):
    with Index.open(made_index) as index, Explainer(package, backend=backend) as explainer:
        return check(index, explainer, quiet=True)


def test_canary_holds_without_the_original_images(store, package_path, photos, tmp_path):
    assert run("index", package_path, photos, "--out", tmp_path / "index", "--quiet", "--store", store) == 0
    shutil.rmtree(photos)
    assert run("canary", tmp_path / "index", "--quiet") == 0


def test_canary_of_unchanged_index_is_exact(made_index, tiny, capsys):
    found = checked(made_index, tiny).difference
    assert found.least_cosine == pytest.approx(1, abs=1e-12)
    assert (found.recall, found.mask_iou, found.mask_difference) == (1, 1, 0)
    assert (found.n, found.k) == (16, 10)
    assert run("canary", made_index) == 0
    assert capsys.readouterr().out.splitlines()[-2] == "16 images: the index holds"


@pytest.mark.parametrize("change", [{"resize": "crop"}, {"resize": "squash"}])
def test_canary_detects_a_changed_resize(made_index, with_input, change):
    found = checked(made_index, with_input(**change))
    assert found.difference.old_id == found.difference.new_id
    assert not found.holds
    assert "the id is the same but the embeddings differ" in "; ".join(found.objections())


def test_canary_detects_a_changed_precision(made_index, tiny):
    with Explainer(tiny) as exact:
        backend = FakeBackend(
            lambda images: tuple(np.float32(x.astype(np.float16)) for x in exact.backend.run(images))
        )
        backend.precision, backend.max_batch = "fp16", 1
        found = checked(made_index, tiny, backend=backend)
    assert found.objections() == ["the index holds tiny-mean-fp32, and this package gives tiny-mean-fp16"]
    assert 0.999 < found.difference.least_cosine < 1
    assert found.to_json()["holds"] is False


def test_canary_detects_a_changed_encoder(made_index, tiny):
    def other(images):
        return images.mean((1, 2), dtype=np.float32)[:, :2], np.zeros(images.shape[:3], np.float32)

    renamed = dataclasses.replace(tiny, manifest=dataclasses.replace(tiny.manifest, embedding_id="other"))
    said = "; ".join(checked(made_index, renamed, backend=FakeBackend(other)).objections())
    assert "this package gives other-fp32" in said
    assert "the embeddings have different dimensions" in said
    assert "the masks have an IoU" in said


def test_canary_detects_a_changed_masker(made_index, tiny):
    with Explainer(tiny) as exact:
        backend = FakeBackend(lambda images: (exact.backend.run(images)[0], 1 - exact.backend.run(images)[1]))
        found = checked(made_index, tiny, backend=backend)
    assert len(found.objections()) == 1
    assert "the masks have an IoU" in found.objections()[0]


def test_canary_exits_3_if_the_index_fails(made_index, package_path, tmp_path, capsys):
    other = shutil.copytree(package_path, tmp_path / "other.nemu")
    text = (other / "manifest.json").read_text()
    manifest = dataclasses.replace(Manifest.from_json(text, source="here"), embedding_id="tiny-other")
    (other / "manifest.json").write_text(manifest.to_json())
    assert run("canary", made_index, "--package", other, "--json") == 3
    facts = json.loads(capsys.readouterr().out)
    assert facts["objections"] == ["the index holds tiny-mean-fp32, and this package gives tiny-other-fp32"]
    assert run("canary", made_index, "--package", other) == 3
    assert "16 images: the index does not hold" in capsys.readouterr().out


def test_sample_is_bounded_and_spread(package_path, photos, tmp_path, monkeypatch, capsys):
    size = (photos / "00.png").stat().st_size
    monkeypatch.setattr("runtime.index.canary.MOST", 4)
    assert run("index", package_path, photos, "--out", tmp_path / "index", "--quiet") == 0
    assert read_sample(tmp_path / "index").names == ["00", "05", "10", "15"]
    assert read_sample(tmp_path / "index").images[0] == (photos / "00.png").read_bytes()
    monkeypatch.setattr("runtime.index.canary.MOST_BYTES", size)
    assert run("index", package_path, photos, "--out", tmp_path / "index") == 0
    assert "nemu canary needs two" in capsys.readouterr().err
    assert run("canary", tmp_path / "index") == 1
    assert "holds 1 images" in capsys.readouterr().err
    (tmp_path / "index/canary.npz").write_bytes(b"broken")
    assert run("canary", tmp_path / "index") == 1
    assert "canary.npz cannot be read" in capsys.readouterr().err


def test_canary_refuses_images_all_alike(package_path, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.new("RGB", (32, 24), (9, 9, 9)).save(tmp_path / f"photos/{i}.png")
    assert run("index", package_path, tmp_path / "photos", "--out", tmp_path / "index", "--quiet") == 0
    assert run("canary", tmp_path / "index", "--quiet") == 1
    assert "all alike" in capsys.readouterr().err


def test_canary_objects_to_unreadable_stored_images(made_index, tiny, monkeypatch):
    read = Explainer.__call__
    sample = read_sample(made_index)

    def older(explainer, image, **options):
        return read(explainer, b"no picture" if image == sample.images[3] else image, **options)

    monkeypatch.setattr(Explainer, "__call__", older)
    found = checked(made_index, tiny)
    assert found.objections() == ["1 of 16 stored images can no longer be read"]
    assert (found.difference.n, found.difference.least_cosine) == (15, pytest.approx(1))
    monkeypatch.setattr(Explainer, "__call__", lambda explainer, *_: read(explainer, b"no picture"))
    assert run("canary", made_index, "--quiet") == 3
    assert checked(made_index, tiny).objections() == ["16 of 16 stored images can no longer be read"]


def test_canary_objects_to_values_not_finite(made_index, tiny):
    calls = []

    def broken(images):
        calls.append(len(images))
        embedding, mask = exact.backend.run(images)
        return (np.full_like(embedding, np.nan), mask) if len(calls) == 2 else (embedding, mask)

    with Explainer(tiny) as exact:
        found = checked(made_index, tiny, backend=FakeBackend(broken))
    assert found.objections() == ["1 of 16 stored images give values that are not usable"]
    assert json.loads(json.dumps(found.to_json()))["unusable"] == 1


def test_indexing_again_keeps_the_sample(made_index, package_path, photos, monkeypatch):
    before = read_sample(made_index)
    (photos / "03.png").unlink()
    shutil.copy(photos / "01.png", photos / "02.png")  # another image by now
    shutil.copy(photos / "00.png", photos / "new.png")
    assert run("index", package_path, photos, "--out", made_index, "--quiet") == 0
    after = read_sample(made_index)
    assert after.names == [*before.names, "new"]
    assert after.images[:-1] == before.images
    assert after.images[-1] == (photos / "new.png").read_bytes()
    assert run("canary", made_index, "--quiet") == 0
    monkeypatch.setattr("runtime.index.canary.MOST", 8)
    for i in range(15):
        shutil.copy(photos / "05.png", photos / f"z{i:02d}.png")
    assert run("index", package_path, photos, "--out", made_index, "--quiet") == 0
    names = read_sample(made_index).names
    assert (len(names), sum(name.startswith("z") for name in names)) == (8, 4)  # old and new, evenly
    assert run("index", package_path, photos, "--out", made_index, "--quiet") == 0
    assert read_sample(made_index).names == names


def test_unreadable_files_are_not_in_the_sample(made_index, tmp_path):
    with Index.open(made_index) as index:
        rows = [hit.row for hit in index.nearest(np.ones(3, np.float32), 99)]
    folder = tmp_path / "other"
    (tmp_path / "folder.png").mkdir()
    rows[2] = dataclasses.replace(rows[2], image=str(tmp_path / "folder.png"))
    assert write_sample(folder, rows, new=set())[0] == 15
    assert rows[2].name not in read_sample(folder).names
