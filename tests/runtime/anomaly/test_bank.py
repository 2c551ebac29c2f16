"""Banks of normal images: distances, thresholds, the file."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.anomaly.bank import FEWEST, Bank, Coreset
from runtime.errors import InputError, IntegrityError, OutputExists, SchemaError


def made(images: int = 12, *, seed: int = 0) -> tuple[Bank, np.ndarray]:
    """A bank of images of 2 x 3 cells whose features differ in scale, one of them constant; those cells."""
    rng = np.random.default_rng(seed)
    scale = np.array([3, 1, 0.5, 0], np.float32)[:, None, None]
    cells = rng.normal(size=(images, 4, 2, 3)).astype(np.float32) * scale
    embeddings = rng.normal(size=(images, 5)).astype(np.float32)
    names = tuple(f"n{i}" for i in range(images))
    return Bank.fit(embeddings, cells, names, embedding_id="toy-fp32"), cells


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_distances_are_those_to_the_nearest_row(channels, count, seed):
    rng = np.random.default_rng(seed)
    coreset = Coreset.of(rng.normal(3, 2, (50, channels)).astype(np.float32))
    features = rng.normal(3, 4, (channels, count)).astype(np.float32)
    placed = (features.T - coreset.mean) @ coreset.projection
    slow = np.linalg.norm(placed[:, None] - coreset.rows[None], axis=2).min(1)
    np.testing.assert_allclose(coreset.distances(features), slow, rtol=1e-3, atol=2e-3)


def test_copies_are_kept_once():
    coreset = Coreset.of(np.repeat(np.eye(3, dtype=np.float32), 20, axis=0))
    assert len(coreset.rows) == 3
    assert coreset.distances(np.eye(3, dtype=np.float32)).max() < 1e-3


def test_a_strange_cell_is_found():
    bank, cells = made()
    assert bank.distances(cells[3]).max() < 0.05
    for channel, size in ((0, 60.0), (1, 30.0), (3, 30.0)):
        strange = cells[3].copy()
        strange[channel, 1, 2] += size
        distances = bank.distances(strange)
        assert np.unravel_index(distances.argmax(), distances.shape) == (1, 2)
        assert distances[1, 2] > 5 * np.delete(distances.ravel(), 5).max() + 1


@settings(deadline=None, max_examples=20)
@given(st.floats(0, 0.99), st.integers(FEWEST, 30))
def test_false_alarms_stay_within_their_share(share, images):
    bank, _ = made(images)
    assert np.mean(bank.normal_scores > bank.threshold(share)) <= share
    assert bank.threshold(0) == bank.normal_scores.max()
    low, high = (bank.p_value(score) for score in (bank.normal_scores.max() + 1, 0.0))
    assert (low, high) == (1 / (images + 1), 1)


def test_left_out_images_score_higher():
    bank, cells = made()
    kept = np.array([bank.distances(one).max() for one in cells])
    assert (bank.normal_scores > kept).all()


def test_near_duplicates_are_left_out_together():
    """Four bursts, each of four images that are nearly the same, one burst after the other."""
    rng = np.random.default_rng(0)
    bursts = np.repeat(rng.normal(size=(4, 3, 2, 2)), 4, axis=0)
    cells = (bursts + rng.normal(scale=1e-3, size=bursts.shape)).astype(np.float32)
    names = tuple(f"n{i}" for i in range(16))
    bank = Bank.fit(np.eye(16, 5, dtype=np.float32), cells, names, embedding_id="toy-fp32")
    assert bank.normal_scores.min() > 0.1


def test_a_saved_bank_loads_and_is_not_overwritten(tmp_path):
    bank, cells = made()
    path = bank.save(tmp_path / "line.bank")
    again = Bank.load(path)
    assert (again.names, again.grid, again.embedding_id) == (bank.names, bank.grid, bank.embedding_id)
    np.testing.assert_array_equal(again.distances(cells[0] + 1), bank.distances(cells[0] + 1))
    assert again.nearest(-bank.embeddings[4]) == bank.nearest(-bank.embeddings[4])
    assert bank.nearest(7 * bank.embeddings[4]) == ("n4", pytest.approx(1, abs=1e-6))
    with pytest.raises(OutputExists):
        bank.save(path)
    bank.save(path, force=True)


def test_other_or_changed_files_are_refused(tmp_path):
    path = made()[0].save(tmp_path / "line.bank")
    with pytest.raises(InputError, match=r"no such file[\s\S]*nemu bank"):
        Bank.load(tmp_path / "none.bank")
    (tmp_path / "text.bank").write_text("normal")
    with pytest.raises(SchemaError, match="is no bank"):
        Bank.load(tmp_path / "text.bank")
    np.save(tmp_path / "array.npy", np.ones(3))
    with pytest.raises(SchemaError, match="is no bank"):
        Bank.load(tmp_path / "array.npy")
    with np.load(path) as file:
        arrays = dict(file)
    for change, error in (
        ({"normal_scores": 2 * arrays["normal_scores"]}, IntegrityError),
        ({"schema": np.int64(99)}, SchemaError),
    ):
        with (tmp_path / "changed.bank").open("wb") as file:
            np.savez(file, **(arrays | change))
        with pytest.raises(error):
            Bank.load(tmp_path / "changed.bank")


def test_wrong_cells_counts_and_shares_are_refused():
    bank, cells = made()
    with pytest.raises(InputError, match="nemu bank"):
        bank.distances(cells[0][:, :1])
    with pytest.raises(InputError, match="at least 8"):
        made(FEWEST - 1)
    for share in (-0.1, 1.0):
        with pytest.raises(InputError, match="false_alarms"):
            bank.threshold(share)


def test_an_array_is_refused_in_python_3_10(tmp_path, monkeypatch):
    """There, `with` over what has no __enter__ is an AttributeError, not a TypeError."""
    path = made()[0].save(tmp_path / "line.bank")

    class OfPython310:
        @property
        def __enter__(self):
            raise AttributeError("__enter__")

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(np, "load", lambda *_, **__: OfPython310())
    with pytest.raises(SchemaError, match="is no bank"):
        Bank.load(path)
