"""Whether two packages may share an index: known embeddings, and the command."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from runtime import Explainer
from runtime.backends.fake import FakeBackend
from runtime.errors import InputError
from runtime.index.diff import LEAST_COSINE, LEAST_RECALL, compare_packages, recall_at
from runtime.media.encode import save_png
from tests.runtime.run import run


@pytest.fixture
def images(tmp_path):
    colours = [np.random.default_rng(i).integers(0, 256, (1, 1, 3), dtype=np.uint8) for i in range(8)]
    tiles = [np.tile(colour, (24, 32, 1)) for colour in colours]
    return [save_png(tmp_path / f"golden/{i}.png", tile) for i, tile in enumerate(tiles)]


def compared(images, old, new, embed, *, masks=(0, 0)):
    """Compare two packages: one that embeds by the mean colour, and one by `embed` of that."""

    def explainer(package, embed, mask):
        def run(images):
            colour = images.astype(np.float32).mean((1, 2)) / 255
            return embed(colour).astype(np.float32), np.full(images.shape[:3], mask, np.float32)

        return Explainer(package, backend=FakeBackend(run))

    with explainer(old, lambda x: x, masks[0]) as a, explainer(new, embed, masks[1]) as b:
        return compare_packages(a, b, images)


def test_recall_of_known_neighbours():
    """Two pairs of near vectors; `new` exchanges two vectors of different pairs."""
    old = np.float32([[1, 0], [1, 0.1], [0, 1], [0.1, 1]])
    assert recall_at(1, old, old) == [1, 1, 1, 1]
    assert recall_at(1, old, old[[2, 1, 0, 3]]) == [0, 1, 0, 1]
    assert recall_at(3, old, old[[2, 1, 0, 3]]) == [1, 1, 1, 1]  # all others are always found


def test_scaled_embeddings_share_an_index(tiny, images):
    found = compared(images, tiny, tiny, lambda x: 3 * x)
    assert found.least_cosine == pytest.approx(1)
    assert (found.recall, found.k, found.n) == (1, 7, 8)
    assert found.may_share_index


def test_other_embeddings_do_not_share_an_index(tiny, images):
    other = dataclasses.replace(tiny, manifest=dataclasses.replace(tiny.manifest, embedding_id="other"))
    found = compared(images, tiny, other, lambda x: x[:, ::-1])
    assert not found.may_share_index
    assert "cosine" in found.objections()[0]
    found = compared(images, tiny, other, lambda x: x[:, :2])
    assert found.recall is None
    assert found.objections() == ["the embeddings have different dimensions"]


@pytest.mark.parametrize(("masks", "iou", "apart"), [((1, 1), 1, 0), ((1, 0), 0, 1), ((0.2, 0.4), 1, 0.2)])
def test_agreement_of_masks(tiny, images, masks, iou, apart):
    found = compared(images, tiny, tiny, lambda x: x, masks=masks)
    assert found.mask_iou == iou
    assert found.mask_difference == pytest.approx(apart)


def test_one_image_is_refused(tiny, images):
    with pytest.raises(InputError, match="1 image"):
        compared(images[:1], tiny, tiny, lambda x: x)


def test_diff_exits_3_if_the_rule_fails(package_path, images, rewrite, capsys, monkeypatch, tmp_path):
    other = shutil.copytree(package_path, tmp_path / "other.nemu")
    rewrite(other, embedding_id="tiny-other")
    command = ("diff", package_path, other, "--images", *images)
    assert run(*command) == 0  # another id, and the same vectors
    assert capsys.readouterr().out.splitlines()[-2] == "8 images: the two may share an index"
    assert run(*command, "--json") == 0
    assert json.loads(capsys.readouterr().out)["may_share_index"] is True
    monkeypatch.setattr("runtime.index.diff.LEAST_RECALL", 1.01)
    assert run(*command) == 3
    said = capsys.readouterr().out
    assert "recall@7 is 1.000 < 1.01" in said
    assert said.splitlines()[-1].startswith("next: index the images again")


@pytest.mark.parametrize("command", ["diff", "canary"])
def test_help_names_the_limits(command, capsys):
    with pytest.raises(SystemExit):
        run(command, "--help")
    assert {str(LEAST_COSINE), str(LEAST_RECALL)} <= set(re.findall(r"0\.\d+", capsys.readouterr().out))
