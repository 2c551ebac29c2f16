"""What the masks keep of one image, and of two that match."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from runtime import Comparison, Explainer
from runtime.errors import InputError, OutputExists
from runtime.media.geometry import load_image
from runtime.media.occlusion import cosine, occlude

PIXELS = arrays.arrays(np.uint8, (3, 4, 3))
MASKS = arrays.arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32))


@pytest.fixture
def explainer(tiny):
    with Explainer(tiny) as explainer:
        yield explainer


def scene(colour, left, *, background=0):
    """A square of one colour on grey: the tiny graph's embedding is the mean colour, its mask brightness."""
    image = np.full((24, 32, 3), background, np.uint8)
    image[8:16, left : left + 8] = colour
    return image


@given(PIXELS, MASKS)
def test_a_pixel_lies_between_itself_and_the_fill(image, mask):
    fill = (10.0, 128.0, 250.0)
    kept = occlude(image, mask, [f / 255 for f in fill])
    low, high = np.minimum(image, fill), np.maximum(image, fill)
    assert np.all((kept >= low - 0.51) & (kept <= high + 0.51))


@given(PIXELS)
def test_masks_of_ones_and_of_zeros(image):
    one, mean = np.ones((3, 4), np.float32), (0.2, 0.4, 0.6)
    assert np.array_equal(occlude(image, one, mean), image)
    assert np.array_equal(occlude(image, 0 * one, mean), np.tile(np.uint8([51, 102, 153]), (3, 4, 1)))


@pytest.mark.parametrize(("b", "expected"), [((2, 0), 1), ((0, 3), 0), ((-1, 0), -1), ((0, 0), 0)])
def test_cosine(b, expected):
    assert cosine(np.float32([1, 0]), np.float32(b)) == expected


def test_fidelity_is_the_cosine_after_masking(with_input):
    """By hand: the mask is a third in a pure red square and nothing around it."""
    mean = np.array((0.2, 0.4, 0.6))
    with Explainer(with_input(mean=tuple(mean))) as explainer:
        explanation = explainer(scene((255, 0, 0), 4), fidelity=True)
    square = 64 / (24 * 32)
    kept = square * (np.array([1, 0, 0]) / 3 + 2 / 3 * mean) + (1 - square) * mean
    assert explanation.masked_embedding == pytest.approx(kept, abs=0.003)
    assert explanation.fidelity == pytest.approx(cosine(np.array([1, 0, 0]), kept), abs=0.003)
    assert explanation.to_json()["fidelity"] == pytest.approx(explanation.fidelity, abs=1e-6)


def test_each_image_has_its_fidelity_if_asked(explainer):
    images = [scene((i, 255 - i, 40), 4) for i in range(0, 250, 50)]
    together = explainer(images, fidelity=True)
    alone = [explainer(image, fidelity=True).fidelity for image in images]
    assert [e.fidelity for e in together] == pytest.approx(alone, abs=1e-6)
    plain = explainer(images[0])
    assert plain.masked_embedding is plain.fidelity is plain.to_json()["fidelity"] is None


@pytest.mark.parametrize(("value", "flag"), [(0, "empty"), (255, "full"), (100, "")])
def test_degenerate_masks_are_flagged(explainer, value, flag):
    explanation = explainer(np.full((24, 32, 3), value, np.uint8))
    assert explanation.degenerate == flag
    assert explanation.to_json()["mask"]["degenerate"] == flag


def test_compare_shows_what_matched(explainer):
    """Both pairs match because of their grey backgrounds; only in one do the masks keep something alike."""
    grey = 120
    same = explainer.compare(
        scene((255, 255, 255), 4, background=grey), scene((255, 255, 255), 20, background=grey)
    )
    other = explainer.compare(scene((255, 0, 0), 4), scene((0, 0, 255), 20))
    assert same.similarity == pytest.approx(1, abs=1e-4)
    assert same.kept_similarity > 0.99
    assert other.similarity == pytest.approx(0, abs=1e-6)
    assert other.similarity == cosine(other.a.embedding, other.b.embedding)
    assert other.kept_similarity == cosine(other.a.masked_embedding, other.b.masked_embedding)


def test_what_a_comparison_writes(explainer, tmp_path):
    comparison = explainer.compare(scene((255, 0, 0), 4), np.zeros((40, 10, 3), np.uint8))
    paths = comparison.save(tmp_path, "a-b")
    assert load_image(paths.image).shape == (40, 32 + 4 + 10, 3)
    record = json.loads(paths.record.read_text())
    assert record["similarity"] == comparison.similarity
    assert record["b"]["mask"]["degenerate"] == "empty"
    with pytest.raises(OutputExists):
        comparison.save(tmp_path, "a-b")
    with pytest.raises(InputError, match="plain file name"):
        comparison.save(tmp_path, "a/b")


def test_what_cannot_be_compared_is_refused(explainer, tiny):
    plain, whole = explainer(scene(9, 4)), explainer(scene(9, 4), fidelity=True)
    with pytest.raises(InputError, match="explanation b has no masked_embedding"):
        Comparison(a=whole, b=plain)
    object.__setattr__(whole, "embedding_id", "another")
    with pytest.raises(InputError, match="another"):
        Comparison(a=whole, b=explainer(scene(9, 4), fidelity=True))
