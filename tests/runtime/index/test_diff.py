"""Whether two packages may share an index: known embeddings, and the command."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from runtime import Explainer
from runtime.__main__ import main
from runtime.errors import InputError
from runtime.index.diff import compare_packages, recall_at
from runtime.package.folder import MANIFEST, Package
from tests.runtime.fake_backend import FakeBackend


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "golden"
    folder.mkdir()
    for i in range(8):
        colour = np.random.default_rng(i).integers(0, 256, (1, 1, 3), dtype=np.uint8)
        Image.fromarray(np.tile(colour, (24, 32, 1))).save(folder / f"{i}.png")
    return folder


def explainer(package, embed, *, mask=0.0):
    def run(images):
        colour = images.astype(np.float32).mean((1, 2)) / 255
        return embed(colour).astype(np.float32), np.full(images.shape[:3], mask, np.float32)

    return Explainer(package, backend=FakeBackend(run))


def test_recall_of_known_neighbours():
    """Two pairs of near vectors; `new` exchanges two vectors of different pairs."""
    old = np.float32([[1, 0], [1, 0.1], [0, 1], [0.1, 1]])
    assert recall_at(1, old, old).tolist() == [1, 1, 1, 1]
    assert recall_at(1, old, old[[2, 1, 0, 3]]).tolist() == [0, 1, 0, 1]
    assert recall_at(3, old, old[[2, 1, 0, 3]]).tolist() == [1, 1, 1, 1]  # all others are always found


def test_scaled_embeddings_share_an_index(tiny, images):
    with explainer(tiny, lambda x: x) as old, explainer(tiny, lambda x: 3 * x) as new:
        found = compare_packages(old, new, sorted(images.iterdir()))
    assert found.least_cosine == pytest.approx(1)
    assert (found.recall, found.k, found.n) == (1, 7, 8)
    assert found.may_share_index


def test_other_embeddings_do_not_share_an_index(tiny, images):
    other = dataclasses.replace(tiny, manifest=dataclasses.replace(tiny.manifest, embedding_id="other"))
    with explainer(tiny, lambda x: x) as old, explainer(other, lambda x: x[:, ::-1]) as new:
        found = compare_packages(old, new, sorted(images.iterdir()))
    assert not found.may_share_index
    assert "cosine" in found.objections()[0]
    with explainer(tiny, lambda x: x) as old, explainer(other, lambda x: x[:, :2]) as new:
        found = compare_packages(old, new, sorted(images.iterdir()))
    assert found.recall is None
    assert found.objections() == ["the embeddings have different dimensions"]


@pytest.mark.parametrize(("masks", "iou", "apart"), [((1, 1), 1, 0), ((1, 0), 0, 1), ((0.2, 0.4), 1, 0.2)])
def test_agreement_of_masks(tiny, images, masks, iou, apart):
    with (
        explainer(tiny, lambda x: x, mask=masks[0]) as old,
        explainer(tiny, lambda x: x, mask=masks[1]) as new,
    ):
        found = compare_packages(old, new, sorted(images.iterdir()))
    assert found.mask_iou == iou
    assert found.mask_difference == pytest.approx(apart)


def test_one_image_is_refused(tiny, images):
    with explainer(tiny, lambda x: x) as old, pytest.raises(InputError, match="1 image"):
        compare_packages(old, old, [images / "0.png"])


def test_diff_command(package_path, images, capsys):
    command = ["diff", str(package_path), str(package_path), "--images", str(images)]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-2] == "8 images: the two may share an index"
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["may_share_index"] is True


def test_diff_exits_3_if_the_rule_fails(package_path, images, capsys, monkeypatch, tmp_path):
    other = shutil.copytree(package_path, tmp_path / "other.nemu")
    manifest = dataclasses.replace(Package.open(other).manifest, embedding_id="tiny-other")
    (other / MANIFEST).write_text(manifest.to_json())
    command = ["diff", str(package_path), str(other), "--images", str(images)]
    assert main(command) == 0  # another id, and the same vectors
    monkeypatch.setattr("runtime.index.diff.LEAST_RECALL", 1.01)
    assert main(command) == 3
    said = capsys.readouterr().out
    assert "recall@7 is 1.000 < 1.01" in said
    assert said.splitlines()[-1].startswith("next: index the images again")
