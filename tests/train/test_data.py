"""Order, crops and skips are functions of (seed, position)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.errors import InputError
from runtime.media.geometry import Geometry
from runtime.media.sources import find_images
from train.data import Photographs, Steps, collate, load, set_apart

GEOMETRY = Geometry(height=32, width=32, resize="crop")


def stream(folder, *, seed=0, augment="none"):
    return Photographs(find_images(folder), geometry=GEOMETRY, seed=seed, augment=augment)


def test_every_pass_shuffles_all_files_anew(photographs):
    images = stream(photographs)
    passes = [torch.stack([images[12 * n + i][0] for i in range(12)]) for n in (0, 1)]
    for one in passes:
        assert len({image.numpy().tobytes() for image in one}) == 12
    assert not torch.equal(*passes)


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_a_position_is_the_same_whatever_came_before(photographs, augment):
    warm, cold = stream(photographs, augment=augment), stream(photographs, augment=augment)
    for position in (3, 40, 7):
        _ = warm[position + 1]
        assert torch.equal(warm[position][0], cold[position][0])


def test_seed_and_augmentation_change_what_is_seen(photographs):
    def first(**kwargs):
        return torch.stack([stream(photographs, **kwargs)[i][0] for i in range(12)])

    assert not torch.equal(first(), first(seed=1))
    assert not torch.equal(first(), first(augment="crop"))


def test_unreadable_files_are_replaced_and_named(photographs, tmp_path):
    for file in find_images(photographs):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "03.png").write_bytes(b"not a picture")
    images = stream(tmp_path)
    batch, skipped = collate([images[p] for p in range(12)])
    assert batch.shape == (12, 32, 32, 3)
    assert batch.dtype == torch.uint8
    assert [images.files[i].name for i in skipped] == ["03.png"]


def test_the_next_readable_file_replaces_an_unreadable_one(photographs, tmp_path):
    """With two unreadable neighbours in the pass: the next one that can be read stands in for both."""
    for file in find_images(photographs):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    files = find_images(tmp_path)
    order = [np.random.default_rng([0, 0, number]).permutation(12) for number in (0, 1)]
    bad = {int(order[0][11]), int(order[0][0])}  # the last of the first pass, and the first
    for index in bad:
        files[index].write_bytes(b"not a picture")
    images, good = stream(tmp_path), stream(photographs)
    names = [file.name for file in good.files]
    pixels = {}
    for position in range(24):  # what each file looks like
        pixels[int(order[position // 12][position % 12])] = good[position][0]
    assert [file.name for file in files] == [names[i] for i in sorted(range(12), key=names.__getitem__)]
    by_name = {names[i]: image for i, image in pixels.items()}
    for position in range(24):
        rolled = np.roll(order[position // 12], -(position % 12)).tolist()
        expected = next(i for i in rolled if i not in bad)
        image, skipped = images[position]
        assert torch.equal(image, by_name[files[expected].name])
        assert skipped == rolled[: rolled.index(expected)]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_batch_and_no_order(photographs, tmp_path, workers):
    for file in find_images(photographs):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "03.png").write_bytes(b"not a picture")
    images = stream(tmp_path, augment="crop")
    here, elsewhere = (list(load(images, Steps(1, 8, 4), workers=n)) for n in (0, workers))
    assert len(here) == len(elsewhere) == 7
    for (a, skipped), (b, also_skipped) in zip(here, elsewhere, strict=True):
        assert torch.equal(a, b)
        assert skipped == also_skipped
    assert any(skipped for _, skipped in here)


def test_a_folder_without_readable_images_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(InputError, match="could be decoded"):
        stream(tmp_path)[0]


def test_ranks_share_each_batch_without_overlap():
    whole = list(Steps(2, 5, 8))
    shares = [list(Steps(2, 5, 8, rank=r, world=2)) for r in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == whole
    assert whole[0] == list(range(16, 24))
    assert len(Steps(2, 5, 8)) == 5


def test_batches_are_the_geometrys_own_pixels(photographs):
    images = Photographs(
        find_images(photographs),
        geometry=Geometry(height=96, width=96, resize="squash"),
        seed=0,
        augment="none",
    )
    from demo.world import scene

    seen = {images[p][0].numpy().tobytes() for p in range(12)}
    assert seen == {np.ascontiguousarray(scene(i, split="train").image).tobytes() for i in range(12)}


@pytest.mark.parametrize(("count", "apart"), [(12, 0), (191, 0), (192, 24), (600, 64), (2800, 64)])
def test_at_most_an_eighth_is_set_apart(count, apart):
    files = [Path(f"{i:04d}.png") for i in range(count)]
    seen, unseen = set_apart(files)
    assert len(unseen) == apart
    assert sorted([*seen, *unseen]) == files
    assert set_apart(files) == (seen, unseen)
