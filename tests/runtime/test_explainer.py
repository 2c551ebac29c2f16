"""Explainer: images of all kinds through a backend, in order, one by one and in batches."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from runtime import Explainer, Explanation
from runtime.backends.fake import FakeBackend
from runtime.errors import BackendError, InputError

IMAGES = [
    np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8)
    for i, shape in enumerate([(24, 32, 3), (50, 20, 3), (7, 90, 3), (24, 32, 3), (300, 200, 3), (1, 1, 3)])
]


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def explainer(tiny, backend):
    with Explainer(tiny, backend=backend) as explainer:
        yield explainer


def same(one: Explanation, other: Explanation) -> bool:
    return np.array_equal(one.embedding, other.embedding) and np.array_equal(one.mask, other.mask)


def test_a_photograph_through_the_real_backend(package_path, tmp_path):
    bright = np.zeros((300, 200), bool)
    bright[200:275, 25:100] = True
    Image.fromarray(bright.astype(np.uint8) * 255).save(tmp_path / "photo.png")
    with Explainer(package_path) as explainer:
        explanation = explainer(tmp_path / "photo.png")
        assert explainer.backend.name == "onnxruntime"
        assert explainer.embedding_id == "tiny-mean-fp32" == explanation.embedding_id
        assert explainer.manifest.encoder.id == "tiny"
    assert explanation.embedding.shape == (3,)
    assert explanation.mask.shape == (300, 200)
    assert np.array_equal(explanation.image[..., 0] > 0, bright)
    found = explanation.mask > 0.5  # the tiny graph's mask is brightness
    assert (found & bright).sum() > 0.8 * (found | bright).sum()
    assert set(explanation.timing) == {"preprocess", "run", "batch"}
    assert all(value > 0 for value in explanation.timing.values())


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_runs_in_batches_in_order(explainer, backend, kind):
    together = explainer(kind(IMAGES))
    assert backend.batches == [4, 2]
    alone = [explainer(image) for image in IMAGES]
    assert all(map(same, together, alone))
    assert [e.mask.shape for e in together] == [p.shape[:2] for p in IMAGES]
    assert [e.timing["batch"] for e in together] == [4, 4, 4, 4, 2, 2]


def test_an_array_with_four_axes_is_a_batch(explainer):
    batch = np.stack([IMAGES[0], IMAGES[3]])
    assert all(map(same, explainer(batch), [explainer(batch[0]), explainer(batch[1])]))


@pytest.mark.parametrize("nothing", [[], (), np.zeros((0, 4, 4, 3), np.uint8)])
def test_an_empty_list_is_refused(explainer, nothing):
    with pytest.raises(InputError, match="no images"):
        explainer(nothing)


def test_the_bad_image_of_a_list_is_named(explainer):
    with pytest.raises(InputError, match=r"images\[1\]: an array float32"):
        explainer([IMAGES[0], IMAGES[0].astype(np.float32)])


def test_channel_order(tiny, backend):
    with Explainer(tiny, backend=backend, channel_order="bgr") as explainer:
        explanation = explainer(IMAGES[0])
    assert np.array_equal(explanation.image, IMAGES[0][..., ::-1])
    assert np.allclose(explanation.embedding, IMAGES[0][..., ::-1].mean((0, 1)) / 255, atol=1e-6)
    with pytest.raises(InputError, match="'rgb' or 'bgr'"):
        Explainer(tiny, backend=backend, channel_order="rbg")


def test_a_crop_leaves_the_rest_at_zero(with_input, backend):
    with Explainer(with_input(resize="crop", crop_pct=0.875), backend=backend) as explainer:
        explanation = explainer(np.full((40, 200, 3), 255, np.uint8))
    left, top, right, bottom = explanation.valid
    assert 0 < left < right < 200
    inside = explanation.mask[top:bottom, left:right]
    assert np.allclose(inside, 1)
    assert explanation.mask.sum() == pytest.approx(inside.sum())


def test_what_is_degraded_is_in_the_timing(tiny, backend):
    backend.degraded = "no CUDA graph"
    assert Explainer(tiny, backend=backend)(IMAGES[0]).timing["degraded"] == "no CUDA graph"


def test_a_closed_explainer_refuses_and_closes_again(tiny, backend):
    explainer = Explainer(tiny, backend=backend)
    explainer.close()
    explainer.close()
    assert backend.closed
    uses = (lambda: explainer(IMAGES[0]), lambda: explainer(IMAGES), lambda: explainer.stream([]))
    for use in (*uses, explainer.warm_up):
        with pytest.raises(BackendError, match="closed"):
            use()


def test_too_few_outputs_are_an_error(tiny):
    short = FakeBackend(lambda images: (np.zeros((1, 3), np.float32), np.zeros((1, 24, 32), np.float32)))
    with pytest.raises(BackendError, match="1 embeddings and 1 masks"):
        Explainer(tiny, backend=short)([IMAGES[0], IMAGES[1]])


def test_warm_up_of_a_plain_backend_runs_once(explainer, backend):
    explainer.warm_up()
    assert backend.batches == [1]
