"""Which images are found, and how each is named."""

from __future__ import annotations

import pytest
from PIL import Image

from runtime.errors import InputError
from runtime.media.sources import find_named_images


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for name in ("a.png", "a.jpg", "b.png", "sub/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)
    (folder / "note.txt").write_text("hello")
    return folder


def names(*sources) -> list[str]:
    return sorted(image.name for image in find_named_images(sources))


def test_each_image_gets_its_own_name(photos):
    assert names(photos / "b.png") == ["b"]
    assert names(photos / "b.png", photos / "b.png", photos / "sub/../b.png") == ["b"]
    assert names(photos / "a.png", photos / "sub/a.png") == ["a.png", "sub/a.png"]
    assert names(photos, photos / "sub") == ["a.jpg", "a.png", "b", "sub/a"]


def test_patterns_must_match_unless_they_are_files(photos):
    with pytest.raises(InputError, match=r"no file matches .*\*\.bmp"):
        names(photos / "*.bmp")
    Image.new("RGB", (4, 4)).save(photos / "c[1].png")
    assert names(photos / "c[1].png") == ["c[1]"]


@pytest.mark.parametrize("kind", ["npy", "png"])
def test_overlays_of_an_earlier_run_are_skipped(photos, kind):
    (photos / "b.overlay.jpg").write_bytes((photos / "b.png").read_bytes())
    assert "b.overlay" in names(photos)
    (photos / f"b.mask.{kind}").write_text("")
    assert "b.overlay" not in names(photos)
