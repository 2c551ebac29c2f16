"""Indexes: building them, and searching them."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from runtime import Explainer
from runtime.bulk.journal import LINES
from runtime.errors import EngineMismatch, InputError, OutputExists
from runtime.explanation import Explanation
from runtime.index import Index
from runtime.index.build import index_images
from runtime.index.search import search
from runtime.index.stores import STORES
from runtime.media.geometry import load_image
from runtime.media.sources import find_named_images
from runtime.package.records import LevelRecord
from tests.runtime.run import lines, run


def test_index_and_search_with_each_store(store, package_path, photos, tmp_path, capsys):
    (photos / "broken.png").write_bytes(b"no picture")
    assert run("index", package_path, photos, "--out", tmp_path / "index", "--store", store) == 0
    said = capsys.readouterr()
    assert "16 indexed, 0 known already, 1 skipped" in said.out
    assert "broken.png is not an image" in said.err
    assert run("index", package_path, photos / "broken.png", "--out", tmp_path / "none") == 1
    assert "none of 1 images could be read" in capsys.readouterr().err
    with pytest.raises(InputError, match="holds no index.json"):
        Index.open(tmp_path / "none")
    assert run("search", tmp_path / "index", photos / "03.png", "--out", tmp_path / "found", "--k", "3") == 0
    found = json.loads((tmp_path / "found/search.json").read_text())
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3]
    assert found["hits"][0]["name"] == "03"
    assert found["hits"][0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert found["hits"][0]["kept"] == pytest.approx(found["kept"], abs=1e-5)
    assert {hit["picture"] for hit in found["hits"]} == {"there"}
    assert load_image(tmp_path / "found/01.png").shape == (30, 164, 3)


def test_row_equals_the_explanation(made_index, package_path, photos):
    with Explainer(package_path) as explainer, Index.open(made_index) as index:
        explanation = explainer(photos / "05.png", fidelity=True)
        (hit,) = index.nearest(explanation, 1)
    assert (hit.row.name, hit.row.embedding_id) == ("05", explanation.embedding_id)
    assert np.array_equal(hit.row.embedding, explanation.embedding)
    assert hit.row.kept == pytest.approx(explanation.fidelity, abs=1e-6)
    assert np.abs(hit.row.mask - explanation.graph_mask).mean() < 0.02
    assert hit.row.curve is None  # the tiny package has none


def test_rows_hold_the_level_curve(package_path, rewrite, photos, tmp_path):
    curve = LevelRecord(images="few", n=2, fills=("mean",), share=(0.0, 1.0), kept=(0.0, 1.0), checks=())
    rewrite(package_path, level=curve)
    assert run("index", package_path, photos, "--out", tmp_path / "index", "--no-fidelity", "--quiet") == 0
    with Explainer(package_path) as explainer, Index.open(tmp_path / "index") as index:
        explanation = explainer(photos / "00.png")
        (hit,) = index.nearest(explanation, 1)
    assert hit.row.kept is None
    assert hit.row.curve == pytest.approx([explanation.kept_at(i / 10) for i in range(1, 10)], abs=1e-6)


def test_second_run_adds_new_images(made_index, package_path, photos, tmp_path, capsys):
    shutil.copy(photos / "00.png", photos / "new.png")
    assert run("index", package_path, photos, "--out", made_index, "--no-fidelity", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["written"], facts["known"], facts["rows"]) == (["new"], 16, 17)
    with Index.open(made_index) as index:
        assert {hit.row.name for hit in index.nearest(np.ones(3, np.float32), 99)} >= {"new", "00"}


def test_index_refuses_a_folder_of_explain(package_path, photos, tmp_path, capsys):
    assert run("explain", package_path, photos, "--out", tmp_path / "index", "--quiet") == 0
    assert run("index", package_path, photos, "--out", tmp_path / "index", "--quiet") == 1
    assert "images without a mask code" in capsys.readouterr().err
    assert run("index", package_path, photos, "--out", tmp_path / "index", "--quiet", "--force") == 0


@pytest.mark.parametrize("change", [{"schema": 2}, {"store": "shoebox"}, {"rows": "many"}, {"odd": 1}])
def test_unknown_index_record_is_refused(made_index, change):
    record = json.loads((made_index / "index.json").read_text())
    (made_index / "index.json").write_text(json.dumps({**record, **change}))
    with pytest.raises(InputError, match=r"index\.json"):
        Index.open(made_index)


def test_invalid_queries_are_refused(made_index, tiny):
    other = dataclasses.replace(tiny, manifest=dataclasses.replace(tiny.manifest, embedding_id="other"))
    with Index.open(made_index) as index, Explainer(other) as explainer:
        with pytest.raises(InputError, match="embeddings other-fp32, and an index of tiny-mean-fp32"):
            index.nearest(explainer(np.zeros((4, 4, 3), np.uint8)))
        for query, k in ((np.ones(4), 1), (np.full(3, np.nan), 1), (np.ones(3), 0)):
            with pytest.raises(InputError, match="a query"):
                index.nearest(query, k)


def test_search_reports_missing_and_changed_images(made_index, photos, tmp_path, capsys):
    (photos / "01.png").unlink()
    (photos / "02.png").write_bytes(b"no picture")
    Image.fromarray(np.tile(np.uint8([255, 0, 0]), (20, 30, 1))).save(photos / "03.png")
    assert run("search", made_index, photos / "00.png", "--out", tmp_path / "found", "--k", "16") == 0
    hits = json.loads((tmp_path / "found/search.json").read_text())["hits"]
    states = {hit["name"]: hit["picture"] for hit in hits}
    assert [states[f"{i:02d}"] for i in range(5)] == ["there", "gone", "unreadable", "changed", "there"]
    said = capsys.readouterr().out
    assert "01  (gone)" in said
    assert "masks: each image's own" in said
    gone = next(hit for hit in hits if hit["name"] == "01")
    drawn = load_image(tmp_path / "found" / gone["file"])
    assert drawn.shape == (40, 80 + 4 + 32, 3)  # the query, a gap, the stored mask below its text
    assert run("search", made_index, photos / "00.png", "--out", tmp_path / "found") == 1
    assert "already exists" in capsys.readouterr().err


def test_moved_package_must_be_named(made_index, package_path, photos, tmp_path, capsys):
    moved = package_path.rename(tmp_path / "moved.nemu")
    command = ("search", made_index, photos / "00.png", "--out", tmp_path / "found")
    assert run(*command) == 1
    assert "which does not exist" in capsys.readouterr().err
    assert run(*command, "--package", moved, "--json") == 0
    assert json.loads(capsys.readouterr().out)["same_package"] is True


class Asked(Explainer):
    """An explainer that takes targets and records them; with `refuse`, no engine for them fits."""

    takes_target = True

    def __init__(self, package, *, refuse=False):
        super().__init__(package)
        self.targets, self.refuse = [], refuse

    def __call__(self, image, *, toward=None, fidelity=False):
        if toward is not None:
            self.targets.append(toward)
            if self.refuse:
                raise EngineMismatch("no engine for targets", expected="one", cure="build one")
        return super().__call__(image, fidelity=fidelity)


def test_search_explains_toward_each_other(made_index, tiny, photos, tmp_path):
    (photos / "01.png").unlink()
    with Index.open(made_index) as index, Asked(tiny) as explainer:
        found = search(index, explainer, tiny, photos / "00.png", tmp_path / "found", k=16)
    assert found["masks"] == "toward each other"
    vectors = [target for target in explainer.targets if isinstance(target, np.ndarray)]
    explained = [target for target in explainer.targets if isinstance(target, Explanation)]
    assert len(vectors) == 1  # the missing image has only its vector
    assert len(explained) == 2 * 15


def test_failed_or_killed_run_leaves_whole_indexes(made_index, package_path, photos, monkeypatch):
    full, killed = Mock(side_effect=OSError("no space left")), Mock(side_effect=KeyboardInterrupt)
    shutil.copy(photos / "00.png", photos / "new.png")
    monkeypatch.setattr(STORES["parquet"], "write", full)
    assert run("index", package_path, photos, "--out", made_index, "--quiet") == 1
    with Index.open(made_index) as index:
        assert len(index.nearest(np.ones(3, np.float32), 99)) == 16
    monkeypatch.undo()
    monkeypatch.setattr("runtime.index.build.write_sample", killed)
    assert run("index", package_path, photos, "--out", made_index, "--quiet") == 130
    with pytest.raises(InputError, match="holds no index.json"):
        Index.open(made_index)
    monkeypatch.undo()
    assert run("index", package_path, photos, "--out", made_index, "--quiet") == 0
    assert len(lines(made_index)) == 17


@pytest.fixture
def shoebox(monkeypatch):
    """A second store that is always installed."""
    monkeypatch.setitem(STORES, "shoebox", STORES["parquet"])
    monkeypatch.setitem(importlib.import_module("runtime.index.stores")._LIBRARIES, "shoebox", "json")
    return "shoebox"


def test_foreign_folder_is_kept_without_force(shoebox, tiny, photos, tmp_path):
    def again(store, *, force=False):
        with Explainer(tiny) as explainer:
            images = find_named_images([photos])
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


def test_another_store_replaces_the_earlier_one(shoebox, made_index, package_path, tiny, photos):
    with Explainer(tiny) as explainer:
        index_images(explainer, tiny, find_named_images([photos]), made_index, store=shoebox, quiet=True)
    assert not (made_index / "parquet").exists()
    with Index.open(made_index) as index:
        assert index.record.store == shoebox
    (made_index / "index.json").unlink()  # as after a kill
    assert run("index", package_path, photos, "--out", made_index, "--quiet", "--store", "parquet") == 0


def test_any_line_without_mask_code_is_refused(made_index, package_path, photos, capsys):
    noted = lines(made_index)
    del noted[5]["mask_code"]
    (made_index / LINES).write_text("".join(json.dumps(line) + "\n" for line in noted))
    assert run("index", package_path, photos, "--out", made_index, "--quiet") == 1
    assert "images without a mask code" in capsys.readouterr().err


def test_search_without_target_engine_uses_own_masks(made_index, tiny, photos, tmp_path):
    with Index.open(made_index) as index:
        with Asked(tiny, refuse=True) as explainer:
            found = search(index, explainer, tiny, photos / "00.png", tmp_path / "found", k=3)
        with Explainer(tiny) as plain:
            search(index, plain, tiny, photos / "00.png", tmp_path / "plain", k=3)
    assert found["masks"] == "each image's own: no engine for targets; build one"
    assert len(explainer.targets) == 1  # asked once
    for name in ("01.png", "02.png", "03.png"):
        assert (tmp_path / "found" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_new_search_removes_only_earlier_results(made_index, photos, tmp_path):
    out, beside = tmp_path / "out", tmp_path / "beside.png"
    command = ("search", made_index, photos / "00.png", "--out", out, "--quiet", "--force")
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


def test_impossible_keep_is_refused_before_any_work(made_index, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("runtime.cli.index_commands.search_index", lambda *_, **__: pytest.fail("it began"))
    assert run("search", made_index, photos / "00.png", "--out", tmp_path / "found", "--keep", "0.9") == 1
    assert "does not say what a level of its masks means" in capsys.readouterr().err
