"""The stores of an index: rows written are found, nearest first; errors name the cure."""

from __future__ import annotations

import importlib
from contextlib import closing
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import BackendUnavailable, InputError
from runtime.index import Row, encode_mask
from runtime.index.stores import STORES


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
    with closing(STORES[store](tmp_path)) as opened:
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
    monkeypatch.setattr(importlib, "import_module", Mock(side_effect=ImportError("not here")))
    with pytest.raises(BackendUnavailable, match=rf'(?s)cannot be imported.*pip install "\.\[{store}\]"'):
        STORES[store](tmp_path)


def test_failing_qdrant_client_is_closed(tmp_path, monkeypatch):
    qdrant = MagicMock()
    client = qdrant.QdrantClient.return_value
    client.create_collection.side_effect = RuntimeError("already accessed by another instance")
    client.collection_exists.return_value = False
    monkeypatch.setattr("runtime.index.stores.library_of", lambda _: qdrant)
    with pytest.raises(RuntimeError, match="another instance"):
        STORES["qdrant"].write(tmp_path, [row(0, np.ones(3, np.float32))])
    with pytest.raises(InputError, match="close other programs that have the index open"):
        STORES["qdrant"](tmp_path)
    assert qdrant.QdrantClient.call_count == client.close.call_count == 2
