"""The demo world is deterministic, true, and split."""

from __future__ import annotations

import numpy as np
import pytest

from demo import world
from demo.world import scene


def test_a_scene_is_a_function_of_its_arguments():
    for split in ("train", "test"):
        one, again = scene(5, split=split), scene(5, split=split)
        assert np.array_equal(one.image, again.image)
        assert np.array_equal(one.mask, again.mask)
    assert not np.array_equal(scene(5, split="train").image, scene(6, split="train").image)
    assert not np.array_equal(scene(5, split="train").image, scene(5, split="train", seed=1).image)


def test_test_scenes_share_neither_photograph_nor_digit():
    assert not set(world.PHOTOGRAPHS["train"]) & set(world.PHOTOGRAPHS["test"])
    train, test = ({d.tobytes() for d in world.digits(s)[0]} for s in ("train", "test"))
    assert len(train & test) <= 2  # two digits of the collection are drawn alike


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_mask_is_where_the_digit_is(split):
    """Without clutter the background is black, so the digit is all there is to see."""
    for i in range(20):
        one = scene(i, split=split, clutter=0.0)
        lit = one.image.max(axis=2) > 40
        assert one.mask.dtype == bool
        assert 0.01 < one.mask.mean() < 0.3
        assert (lit & ~one.mask).sum() < 0.5 * one.mask.sum()  # soft edges only
        assert (lit & one.mask).sum() > 0.9 * one.mask.sum()


def test_every_digit_occurs():
    assert {scene(i, split="test").digit for i in range(100)} == set(range(10))
