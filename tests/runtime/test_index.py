"""Indexes: rows in each store, search, the canary, and the three commands."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime import Explainer
from runtime.__main__ import main
from runtime.backends.fake import FakeBackend
from runtime.errors import BackendUnavailable, EngineMismatch, InputError, OutputExists
from runtime.explanation import Explanation
from runtime.image import load_image
from runtime.index import Index, Row, encode_mask
from runtime.index.build import index_images
from runtime.index.canary import check, read_sample, write_sample
from runtime.index.search import search
from runtime.index.stores import STORES
from runtime.journal import LINES
from runtime.manifest import LevelRecord, Manifest
from runtime.sources import find_pictures

LIBRARIES = {"parquet": "pyarrow", "lancedb": "lancedb", "qdrant": "qdrant_client"}


@pytest.fixture(params=STORES)
def store(request) -> str:
    pytest.importorskip(LIBRARIES[request.param])
    return request.param


@pytest.fixture
def photos(tmp_path):
    """Sixteen wide images, each with one colour on the left and another on the right."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(16):
        colours = np.random.default_rng(i).integers(0, 256, (1, 2, 3), dtype=np.uint8)
        Image.fromarray(np.repeat(np.tile(colours, (30, 1, 1)), [20, 60], axis=1)).save(
            folder / f"{i:02d}.png"
        )
    return folder


@pytest.fixture
def made(package_path, photos, tmp_path):
    """A Parquet index of the photos."""
    assert run("index", package_path, photos, "--out", tmp_path / "index", "--quiet") == 0
    return tmp_path / "index"


def run(*words: object) -> int:
    return main([str(word) for word in words])


def row(i: int, embedding: np.ndarray, **fields) -> Row:
    known = {"image": f"/photos/{i}.png", "embedding_id": "here-fp32", "kept": 0.5, "curve": (0.75,) * 9}
    mask = np.full((8, 8), i / 16, np.float32)
    return Row(**{"name": f"{i}", "embedding": embedding, "mask_code": encode_mask(mask), **known, **fields})


def vectors(n: int, dimension: int = 5) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, dimension)).astype(np.float32)


def test_store_returns_rows_nearest_first(store, tmp_path):
    rows = [row(i, 3 * vector) for i, vector in enumerate(vectors(12))]
    rows[4] = row(4, rows[4].embedding, kept=None, curve=None, name="ü/4")
    STORES[store].write(tmp_path, rows)
    query = vectors(1)[0]
    exact = [np.dot(query, r.embedding) / np.linalg.norm(query) / np.linalg.norm(r.embedding) for r in rows]
    with STORES[store](tmp_path) as opened:
        found = opened.nearest(query, 4)
        every = opened.nearest(query, 99)
    assert [r.name for r, _ in found] == [rows[i].name for i in np.argsort(exact)[::-1][:4]]
    assert [similarity for _, similarity in found] == pytest.approx(sorted(exact)[::-1][:4], abs=1e-5)
    assert len(every) == 12
    for got, _ in every:
        wanted = next(r for r in rows if r.name == got.name)
        assert np.allclose(got.embedding, wanted.embedding, rtol=1e-5)
        assert (got.image, got.embedding_id, got.kept) == (wanted.image, wanted.embedding_id, wanted.kept)
        assert got.mask_code == wanted.mask_code
        assert got.curve == wanted.curve


@given(st.integers(1, 20), st.integers(1, 25))
@settings(max_examples=15, deadline=None)
def test_parquet_returns_k_rows_for_any_k(tmp_path_factory, n, k):
    folder = tmp_path_factory.mktemp("rows")
    STORES["parquet"].write(folder, [row(i, vector) for i, vector in enumerate(vectors(n))])
    found = STORES["parquet"](folder).nearest(vectors(n)[0], k)
    similarities = [similarity for _, similarity in found]
    assert len(found) == min(n, k)
    assert similarities == sorted(similarities, reverse=True)
    assert found[0][0].name == "0"
    assert similarities[0] == pytest.approx(1)


def test_broken_or_missing_store_is_an_error(store, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be read"):
        STORES[store](tmp_path / "nothing")

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(BackendUnavailable, match=rf'(?s)is not installed.*pip install "\.\[{store}\]"'):
        STORES[store](tmp_path)


def test_index_and_search_with_each_store(store, package_path, photos, tmp_path, capsys):
    (photos / "broken.png").write_bytes(b"no picture")
    assert run("index", package_path, photos, "--out", tmp_path / "index", "--store", store) == 0
    said = capsys.readouterr()
    assert "16 indexed, 0 known already, 1 skipped" in said.out
    assert "broken.png is not an image" in said.err
    assert run("search", tmp_path / "index", photos / "03.png", "--out", tmp_path / "found", "--k", "3") == 0
    found = json.loads((tmp_path / "found/search.json").read_text())
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3]
    assert found["hits"][0]["name"] == "03"
    assert found["hits"][0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert found["hits"][0]["kept"] == pytest.approx(found["kept"], abs=1e-5)
    assert {hit["picture"] for hit in found["hits"]} == {"there"}
    assert load_image(tmp_path / "found/01.png").shape == (30, 164, 3)


def test_row_equals_the_explanation(made, package_path, photos):
    with Explainer(package_path) as explainer, Index.open(made) as index:
        explanation = explainer(photos / "05.png", fidelity=True)
        (hit,) = index.nearest(explanation, 1)
    assert (hit.row.name, hit.row.embedding_id) == ("05", explanation.embedding_id)
    assert np.array_equal(hit.row.embedding, explanation.embedding)
    assert hit.row.kept == pytest.approx(explanation.fidelity, abs=1e-6)
    assert np.abs(hit.row.mask - explanation.graph_mask).mean() < 0.02
    assert hit.row.curve is None  # the tiny package has none


def test_rows_hold_the_level_curve(tiny, photos, tmp_path):
    curve = LevelRecord(images="few", n=2, fills=("mean",), share=(0.0, 1.0), kept=(0.0, 1.0), checks=())
    known = dataclasses.replace(tiny, manifest=dataclasses.replace(tiny.manifest, level=curve))
    with Explainer(known) as explainer:
        index_images(
            explainer, known, find_pictures([photos]), tmp_path / "index", fidelity=False, quiet=True
        )
        explanation = explainer(photos / "00.png")
        with Index.open(tmp_path / "index") as index:
            (hit,) = index.nearest(explanation, 1)
    assert hit.row.kept is None
    assert hit.row.curve == pytest.approx([explanation.kept_at(i / 10) for i in range(1, 10)], abs=1e-6)


def test_second_run_adds_new_images(made, package_path, photos, tmp_path, capsys):
    shutil.copy(photos / "00.png", photos / "new.png")
    assert run("index", package_path, photos, "--out", made, "--no-fidelity", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["written"], facts["known"], facts["rows"]) == (["new"], 16, 17)
    with Index.open(made) as index:
        assert {hit.row.name for hit in index.nearest(np.ones(3, np.float32), 99)} >= {"new", "00"}


def test_index_refuses_a_folder_of_explain(package_path, photos, tmp_path, capsys):
    assert run("explain", package_path, photos, "--out", tmp_path / "index", "--quiet") == 0
    assert run("index", package_path, photos, "--out", tmp_path / "index", "--quiet") == 1
    assert "images without a mask code" in capsys.readouterr().err
    assert run("index", package_path, photos, "--out", tmp_path / "index", "--quiet", "--force") == 0


def test_no_index_without_a_readable_image(package_path, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert run("index", package_path, tmp_path / "a.png", "--out", tmp_path / "index", "--quiet") == 1
    assert "none of 1 images could be read" in capsys.readouterr().err
    with pytest.raises(InputError, match="holds no index.json"):
        Index.open(tmp_path / "index")


@pytest.mark.parametrize("change", [{"schema": 2}, {"store": "shoebox"}, {"rows": "many"}, {"odd": 1}])
def test_unknown_index_record_is_refused(made, change):
    record = json.loads((made / "index.json").read_text())
    (made / "index.json").write_text(json.dumps({**record, **change}))
    with pytest.raises(InputError, match=r"index\.json"):
        Index.open(made)


def test_invalid_queries_are_refused(made, tiny):
    other = dataclasses.replace(tiny, manifest=dataclasses.replace(tiny.manifest, embedding_id="other"))
    with Index.open(made) as index, Explainer(other) as explainer:
        with pytest.raises(InputError, match="embeddings other-fp32, and an index of tiny-mean-fp32"):
            index.nearest(explainer(np.zeros((4, 4, 3), np.uint8)))
        for query, k in ((np.ones(4), 1), (np.full(3, np.nan), 1), (np.ones(3), 0)):
            with pytest.raises(InputError, match="a query"):
                index.nearest(query, k)


def test_search_reports_missing_and_changed_images(made, photos, tmp_path, capsys):
    (photos / "01.png").unlink()
    (photos / "02.png").write_bytes(b"no picture")
    Image.fromarray(np.tile(np.uint8([255, 0, 0]), (20, 30, 1))).save(photos / "03.png")
    assert run("search", made, photos / "00.png", "--out", tmp_path / "found", "--k", "16") == 0
    hits = json.loads((tmp_path / "found/search.json").read_text())["hits"]
    states = {hit["name"]: hit["picture"] for hit in hits}
    assert [states[f"{i:02d}"] for i in range(5)] == ["there", "gone", "unreadable", "changed", "there"]
    said = capsys.readouterr().out
    assert "01  (gone)" in said
    assert "masks: each image's own" in said
    gone = next(hit for hit in hits if hit["name"] == "01")
    drawn = load_image(tmp_path / "found" / gone["file"])
    assert drawn.shape == (40, 80 + 4 + 32, 3)  # the query, a gap, the stored mask below its text
    assert run("search", made, photos / "00.png", "--out", tmp_path / "found") == 1
    assert "already exists" in capsys.readouterr().err


def test_moved_package_must_be_named(made, package_path, photos, tmp_path, capsys):
    moved = package_path.rename(tmp_path / "moved.nemu")
    command = ("search", made, photos / "00.png", "--out", tmp_path / "found")
    assert run(*command) == 1
    assert "which does not exist" in capsys.readouterr().err
    manifest = json.loads((moved / "manifest.json").read_text())
    assert run(*command, "--package", moved, "--json") == 0
    assert json.loads(capsys.readouterr().out)["same_package"] is True
    assert manifest["embedding_id"] in (made / "index.json").read_text()


class Asked(Explainer):
    """An explainer that takes targets and records them."""

    takes_target = True

    def __call__(self, image, *, toward=None, fidelity=False):
        if toward is not None:
            self.targets.append(toward)
        return super().__call__(image, fidelity=fidelity)


def test_search_explains_toward_each_other(made, tiny, photos, tmp_path):
    (photos / "01.png").unlink()
    with Index.open(made) as index, Asked(tiny) as explainer:
        explainer.targets = []
        found = search(index, explainer, tiny, photos / "00.png", tmp_path / "found", k=16)
    assert found["masks"] == "toward each other"
    vectors = [target for target in explainer.targets if isinstance(target, np.ndarray)]
    explained = [target for target in explainer.targets if isinstance(target, Explanation)]
    assert len(vectors) == 1  # the missing image has only its vector
    assert len(explained) == 2 * 15


# The canary


def checked(made, package, *, backend="auto"):
    with Index.open(made) as index, Explainer(package, backend=backend) as explainer:
        return check(index, explainer, quiet=True)


def test_canary_holds_without_the_original_images(store, package_path, photos, tmp_path):
    assert run("index", package_path, photos, "--out", tmp_path / "index", "--quiet", "--store", store) == 0
    shutil.rmtree(photos)
    assert run("canary", tmp_path / "index", "--quiet") == 0


def test_canary_of_unchanged_index_is_exact(made, tiny, capsys):
    found = checked(made, tiny).difference
    assert found.least_cosine == pytest.approx(1, abs=1e-12)
    assert (found.recall, found.mask_iou, found.mask_difference) == (1, 1, 0)
    assert (found.n, found.k) == (16, 10)
    assert run("canary", made) == 0
    assert capsys.readouterr().out.splitlines()[-2] == "16 images: the index holds"


@pytest.mark.parametrize("change", [{"resize": "crop"}, {"resize": "squash"}])
def test_canary_detects_a_changed_resize(made, with_input, change):
    found = checked(made, with_input(**change))
    assert found.difference.old_id == found.difference.new_id
    assert not found.holds
    assert "the id is the same but the embeddings differ" in "; ".join(found.objections())


def test_canary_detects_a_changed_precision(made, tiny):
    with Explainer(tiny) as exact:
        backend = FakeBackend(
            lambda images: tuple(np.float32(x.astype(np.float16)) for x in exact.backend.run(images))
        )
        backend.precision, backend.max_batch = "fp16", 1
        found = checked(made, tiny, backend=backend)
    assert found.objections() == ["the index holds tiny-mean-fp32, and this package gives tiny-mean-fp16"]
    assert 0.999 < found.difference.least_cosine < 1
    assert found.to_json()["holds"] is False


def test_canary_detects_a_changed_encoder(made, tiny):
    def other(images):
        return images.mean((1, 2), dtype=np.float32)[:, :2], np.zeros(images.shape[:3], np.float32)

    renamed = dataclasses.replace(tiny, manifest=dataclasses.replace(tiny.manifest, embedding_id="other"))
    said = "; ".join(checked(made, renamed, backend=FakeBackend(other)).objections())
    assert "this package gives other-fp32" in said
    assert "the embeddings have different dimensions" in said
    assert "the masks have an IoU" in said


def test_canary_detects_a_changed_masker(made, tiny):
    with Explainer(tiny) as exact:
        backend = FakeBackend(lambda images: (exact.backend.run(images)[0], 1 - exact.backend.run(images)[1]))
        found = checked(made, tiny, backend=backend)
    assert len(found.objections()) == 1
    assert "the masks have an IoU" in found.objections()[0]


def test_canary_exits_3_if_the_index_fails(made, package_path, tmp_path, capsys):
    other = shutil.copytree(package_path, tmp_path / "other.nemu")
    text = (other / "manifest.json").read_text()
    manifest = dataclasses.replace(Manifest.from_json(text, source="here"), embedding_id="tiny-other")
    (other / "manifest.json").write_text(manifest.to_json())
    assert run("canary", made, "--package", other, "--json") == 3
    facts = json.loads(capsys.readouterr().out)
    assert facts["objections"] == ["the index holds tiny-mean-fp32, and this package gives tiny-other-fp32"]
    assert run("canary", made, "--package", other) == 3
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


def test_killed_run_leaves_no_incomplete_index(made, package_path, photos, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("runtime.index.build.write_sample", killed)
    shutil.copy(photos / "00.png", photos / "new.png")
    assert run("index", package_path, photos, "--out", made, "--quiet") == 130
    with pytest.raises(InputError, match="holds no index.json"):
        Index.open(made)
    monkeypatch.undo()
    assert run("index", package_path, photos, "--out", made, "--quiet") == 0
    assert len((made / LINES).read_text().splitlines()) == 17


def test_failing_store_keeps_the_earlier_index(made, package_path, photos, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(STORES["parquet"], "write", staticmethod(full))
    shutil.copy(photos / "00.png", photos / "new.png")
    assert run("index", package_path, photos, "--out", made, "--quiet") == 1
    with Index.open(made) as index:
        assert len(index.nearest(np.ones(3, np.float32), 99)) == 16


# Foreign folders


@pytest.fixture
def shoebox(monkeypatch):
    """A second store that is always installed."""
    monkeypatch.setitem(STORES, "shoebox", STORES["parquet"])
    monkeypatch.setitem(importlib.import_module("runtime.index.stores")._LIBRARIES, "shoebox", "json")
    return "shoebox"


def test_foreign_folder_is_kept_without_force(shoebox, tiny, photos, tmp_path):
    def again(store, *, force=False):
        with Explainer(tiny) as explainer:
            images = find_pictures([photos])
            index_images(explainer, tiny, images, tmp_path, store=store, force=force, quiet=True)

    foreign = tmp_path / shoebox / "mine"
    foreign.parent.mkdir()
    foreign.write_text("dear")
    with pytest.raises(OutputExists, match="shoebox already exists"):
        again(shoebox)
    assert not (tmp_path / LINES).exists()  # before any work
    again("parquet")
    again("parquet")
    again("parquet", force=True)
    with pytest.raises(OutputExists):
        again(shoebox)  # the index is that of parquet/
    assert foreign.read_text() == "dear"
    again(shoebox, force=True)
    assert not foreign.exists()


def test_another_store_replaces_the_earlier_one(shoebox, made, package_path, photos):
    with Explainer(package_path) as explainer:
        index_images(explainer, explainer._package, find_pictures([photos]), made, store=shoebox, quiet=True)
    assert not (made / "parquet").exists()
    with Index.open(made) as index:
        assert index.record.store == shoebox
    (made / "index.json").unlink()  # as after a kill
    assert run("index", package_path, photos, "--out", made, "--quiet", "--store", "parquet") == 0


def test_any_line_without_mask_code_is_refused(made, package_path, photos, capsys):
    lines = [json.loads(line) for line in (made / LINES).read_text().splitlines()]
    del lines[5]["mask_code"]
    (made / LINES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("index", package_path, photos, "--out", made, "--quiet") == 1
    assert "images without a mask code" in capsys.readouterr().err


# Search again, and without a target engine


class Mismatched(Asked):
    """Takes targets, but no engine for them fits."""

    def __call__(self, image, *, toward=None, fidelity=False):
        if toward is not None:
            self.targets.append(toward)
            raise EngineMismatch("no engine for targets", expected="one", cure="build one")
        return super().__call__(image, fidelity=fidelity)


def test_search_without_target_engine_uses_own_masks(made, tiny, photos, tmp_path):
    with Index.open(made) as index:
        with Mismatched(tiny) as explainer:
            explainer.targets = []
            found = search(index, explainer, tiny, photos / "00.png", tmp_path / "found", k=3)
        with Explainer(tiny) as plain:
            search(index, plain, tiny, photos / "00.png", tmp_path / "plain", k=3)
    assert found["masks"] == "each image's own: no engine for targets; build one"
    assert len(explainer.targets) == 1  # asked once
    for name in ("01.png", "02.png", "03.png"):
        assert (tmp_path / "found" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_new_search_removes_only_earlier_results(made, photos, tmp_path):
    out, beside = tmp_path / "out", tmp_path / "beside.png"
    command = ("search", made, photos / "00.png", "--out", out, "--quiet", "--force")
    assert run(*command, "--k", "4") == 0
    beside.write_text("mine")
    (out / "99.png").write_text("mine")
    record = json.loads((out / "search.json").read_text())
    record["hits"].append({"file": "../beside.png"})
    (out / "search.json").write_text(json.dumps(record))
    assert run(*command, "--k", "2") == 0
    assert sorted(file.name for file in out.iterdir()) == ["01.png", "02.png", "99.png", "search.json"]
    assert beside.read_text() == "mine"
    (out / "search.json").write_text("broken")
    assert run(*command, "--k", "1") == 0


def test_impossible_keep_is_refused_before_any_work(made, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("runtime.index.commands.search_index", lambda *_, **__: pytest.fail("it began"))
    assert run("search", made, photos / "00.png", "--out", tmp_path / "found", "--keep", "0.9") == 1
    assert "does not say what a level of its masks means" in capsys.readouterr().err


# The canary with changed images or values


def test_canary_objects_to_unreadable_stored_images(made, tiny, monkeypatch):
    read = Explainer.__call__
    sample = read_sample(made)

    def older(explainer, image, **options):
        return read(explainer, b"no picture" if image == sample.images[3] else image, **options)

    monkeypatch.setattr(Explainer, "__call__", older)
    found = checked(made, tiny)
    assert found.objections() == ["1 of 16 stored images can no longer be read"]
    assert (found.difference.n, found.difference.least_cosine) == (15, pytest.approx(1))
    monkeypatch.setattr(Explainer, "__call__", lambda explainer, *_: read(explainer, b"no picture"))
    assert run("canary", made, "--quiet") == 3
    assert checked(made, tiny).objections() == ["16 of 16 stored images can no longer be read"]


def test_canary_objects_to_values_not_finite(made, tiny):
    calls = []

    def broken(images):
        calls.append(len(images))
        embedding, mask = exact.backend.run(images)
        return (np.full_like(embedding, np.nan), mask) if len(calls) == 2 else (embedding, mask)

    with Explainer(tiny) as exact:
        found = checked(made, tiny, backend=FakeBackend(broken))
    assert found.objections() == ["1 of 16 stored images give values that are not usable"]
    assert json.loads(json.dumps(found.to_json()))["unusable"] == 1


def test_indexing_again_keeps_the_sample(made, package_path, photos, monkeypatch):
    before = read_sample(made)
    (photos / "03.png").unlink()
    shutil.copy(photos / "01.png", photos / "02.png")  # another image by now
    shutil.copy(photos / "00.png", photos / "new.png")
    assert run("index", package_path, photos, "--out", made, "--quiet") == 0
    after = read_sample(made)
    assert after.names == [*before.names, "new"]
    assert after.images[:-1] == before.images
    assert after.images[-1] == (photos / "new.png").read_bytes()
    assert run("canary", made, "--quiet") == 0
    monkeypatch.setattr("runtime.index.canary.MOST", 8)
    for i in range(15):
        shutil.copy(photos / "05.png", photos / f"z{i:02d}.png")
    assert run("index", package_path, photos, "--out", made, "--quiet") == 0
    names = read_sample(made).names
    assert (len(names), sum(name.startswith("z") for name in names)) == (8, 4)  # old and new, evenly
    assert run("index", package_path, photos, "--out", made, "--quiet") == 0
    assert read_sample(made).names == names


def test_unreadable_files_are_not_in_the_sample(made, tmp_path):
    with Index.open(made) as index:
        rows = [hit.row for hit in index.nearest(np.ones(3, np.float32), 99)]
    folder = tmp_path / "other"
    (tmp_path / "folder.png").mkdir()
    rows[2] = dataclasses.replace(rows[2], image=str(tmp_path / "folder.png"))
    assert write_sample(folder, rows, new=set())[0] == 15
    assert rows[2].name not in read_sample(folder).names


class FakeQdrant:
    """A Qdrant client that opens and fails."""

    open = 0

    def __init__(self, path):
        type(self).open += 1

    def create_collection(self, *_, **__):
        raise RuntimeError("already accessed by another instance")

    def collection_exists(self, _):
        return False

    def close(self):
        type(self).open -= 1


def test_failing_qdrant_client_is_closed(tmp_path, monkeypatch):
    kinds = types.SimpleNamespace(
        VectorParams=dict, PointStruct=dict, Distance=types.SimpleNamespace(DOT="dot")
    )
    fake = types.SimpleNamespace(QdrantClient=FakeQdrant, models=kinds)
    monkeypatch.setattr("runtime.index.stores.library", lambda _: fake)
    with pytest.raises(RuntimeError, match="another instance"):
        STORES["qdrant"].write(tmp_path, [row(0, np.ones(3, np.float32))])
    with pytest.raises(InputError, match="close other programs that have the index open"):
        STORES["qdrant"](tmp_path)
    assert FakeQdrant.open == 0
