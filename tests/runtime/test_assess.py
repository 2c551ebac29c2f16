"""Assessment of toys whose masks are known to be right, wrong or blind."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import spearmanr

from runtime.__main__ import main
from runtime.assess import INSIDE, assess, draw, fisher, mix, partial_rank_correlation, regions, share_in
from runtime.errors import InputError
from tests.toward_graph import add_targets

COLOURS = np.random.default_rng(0).integers(30, 226, (24, 3)).astype(np.uint8)
IMAGES = np.broadcast_to(COLOURS[:, None, None], (24, 20, 30, 3)).copy()


def colours(images):
    """Embedding: the mean colour.  Mask: the pixels of the first image's kind, as if it knew."""
    return images.mean((1, 2), dtype=np.float32)


def blind(images):
    """A mask that does not look at the image."""
    return colours(images), np.full(images.shape[:3], 0.3, np.float32)


def largest(images):
    """A mask on what is most of the image: of two colours, the one the embedding is nearer to."""
    near = np.abs(images.astype(np.float32) - colours(images)[:, None, None]).sum(3)
    return colours(images), (near <= np.median(near, axis=(1, 2), keepdims=True)).astype(np.float32)


def right(images, toward):
    """A mask on the pixels whose colour is the target's."""
    return colours(images), (np.abs(images - toward[:, None, None]).max(3) < 1).astype(np.float32)


def test_only_masks_that_follow_targets_are_believed():
    found, mixed = assess(largest, right, IMAGES)
    assert found.n == 24
    assert (found.targets.shown.mean, found.targets.around.mean) == (1, 0)
    assert found.targets.nothing == 1
    assert found.targets.present.mean == pytest.approx(found.region.mean, abs=0.01)
    assert np.array_equal(mixed.masks[INSIDE] > 0.5, mixed.region)
    assert draw(mixed).shape == (6 * 20 + 5 * 4, 6 * 30 + 5 * 4, 3)  # a row for each of six mixtures
    assert found.follows_target
    asked, _ = assess(largest, lambda images, _: blind(images), IMAGES)
    assert asked.targets.difference.mean == 0
    assert not asked.follows_target
    assert not asked.believed
    assert "NOT" in asked.verdict()


def test_a_blind_mask_and_what_moved():
    found, mixed = assess(blind, None, IMAGES)
    assert found.plain.mean == pytest.approx(found.region.mean, abs=1e-6)
    assert found.targets is None
    assert not found.believed  # although its share is as large as the region, and so is the embedding's
    # Of one colour: the mean moves by the region's area times the distance of the colours.
    area = mixed.region.mean((1, 2))
    apart = np.linalg.norm(IMAGES[:, 0, 0].astype(float) - np.roll(IMAGES[:, 0, 0], -1, 0), axis=1)
    unit = np.median(
        [np.linalg.norm(a.astype(float) - b) for i, a in enumerate(COLOURS) for b in COLOURS[:i]]
    )
    assert found.moved.mean == pytest.approx(float((area * apart).mean() / unit), rel=1e-3)


def test_masks_on_the_embeddings_origin_are_believed():
    """Embedding: the mean colour of the bright pixels; mask: those."""
    rng = np.random.default_rng(1)
    images = np.where(rng.random((32, 20, 30, 1)) < 0.5, COLOURS[rng.integers(24, size=(32, 1, 1))], 0)
    images[:, :, :, 0] //= rng.integers(1, 9, (32, 1, 1)).astype(np.uint8)

    def bright(images):
        weight = images.astype(np.float32).sum(3)
        vector = (weight[..., None] * images).sum((1, 2)) / weight.sum((1, 2))[:, None]
        return vector.astype(np.float32), weight / weight.max((1, 2), keepdims=True)

    found, _ = assess(bright, None, images.astype(np.uint8))
    assert found.follows_embedding
    shuffled, _ = assess(lambda x: (bright(x)[0], bright(x)[1][::-1]), None, images.astype(np.uint8))
    assert not shuffled.follows_embedding


def test_partial_correlation_removes_the_common_cause():
    rng = np.random.default_rng(0)
    given, noise = rng.normal(size=(2, 400))
    a, b = given + 0.3 * rng.normal(size=400), given + 0.3 * rng.normal(size=400)
    assert abs(partial_rank_correlation(a, b, given)) < 0.12
    assert partial_rank_correlation(a + noise, b + noise, given) > 0.8
    assert partial_rank_correlation(given, b, given) == 0


@pytest.mark.parametrize(
    ("images", "said"), [(IMAGES[:7], "at least 8"), (IMAGES[[0] * 9], "does not tell apart")]
)
def test_few_or_identical_images_are_refused(images, said):
    with pytest.raises(InputError, match=said):
        assess(blind, None, images)


@given(st.integers(0, 10_000), st.integers(12, 60), st.integers(12, 60))
def test_regions_have_a_moderate_area(seed, height, width):
    found = regions(3, (height, width), np.random.default_rng(seed))
    assert found.shape == (3, height, width)
    assert (found.mean((1, 2)) > 0.05).all()
    assert (found.mean((1, 2)) < 0.62).all()


def test_a_mixture_shows_one_image_in_the_region():
    region = regions(2, (20, 30), np.random.default_rng(0))
    mixed = mix(IMAGES[:2], IMAGES[2:4], region)
    assert np.array_equal(mixed[region], IMAGES[:2][region])
    assert np.array_equal(mixed[~region], IMAGES[2:4][~region])
    assert share_in(region[0].astype(np.float32), region[0]) == 1
    assert share_in(np.zeros((20, 30), np.float32), region[0]) == pytest.approx(region[0].mean())


def test_the_interval_covers_the_true_correlation():
    """Against resampling: 95 % of the intervals of correlated normal pairs hold the true rank correlation."""
    rng, held = np.random.default_rng(0), 0
    true = 6 / np.pi * np.arcsin(0.6 / 2)
    for _ in range(400):
        x, e = rng.normal(size=(2, 40))
        low, high = fisher(spearmanr(x, 0.6 * x + 0.8 * e).statistic, 40)
        held += low < true < high
    assert 0.91 < held / 400 <= 0.99


def test_the_command_exits_3_if_not_believed(tiny, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, colour in enumerate(COLOURS[:10]):
        Image.new("RGB", (40, 30), tuple(int(c) for c in colour)).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "assessed.png"
    run = ["assess", str(add_targets(tiny.path).path), "--images", str(folder), "--out", str(out), "--json"]
    assert main(run) == 3  # the tiny mask is brightness, whatever is asked for
    said = capsys.readouterr()
    facts = json.loads(said.out)
    assert facts["n"] == 10
    assert facts["believed"] is False
    assert [file.endswith("broken.png") for file in facts["unreadable"]] == [True]
    assert "broken.png" in said.err
    with Image.open(out) as image:
        assert image.height > 24 * 5
    assert main(run) == 1  # the image is there
