"""The HTML report: what it holds, what it flags, and that it opens in a browser without a network."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.__main__ import main
from runtime.image import load_image

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
PROBE = """<script>
addEventListener("load", () => {
  const select = document.getElementById("order");
  select.value = "area";
  select.dispatchEvent(new Event("change"));
  const least = document.querySelector("figcaption b").textContent;
  document.querySelectorAll("figcaption button")[1].click();
  document.getElementById("flagged").click();
  document.body.dataset.probe = JSON.stringify({
    least, first: document.querySelector("figcaption b").textContent,
    count: document.getElementById("count").textContent,
    broken: [...document.images].filter(image => image.complete && !image.naturalWidth).length,
    requests: performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length,
  });
});
</script>"""


@pytest.fixture
def parts(tmp_path) -> Path:
    """Grey pictures of rising brightness, hence rising mask area; the first is black, one is no picture."""
    folder = tmp_path / "parts"
    (folder / "sub").mkdir(parents=True)
    for name, value in (("a.png", 0), ("b.png", 60), ("sub/c.png", 180), ("<i>&.png", 120)):
        Image.fromarray(np.full((400, 500, 3), value, np.uint8)).save(folder / name)
    (folder / "broken.png").write_text("no picture")
    return folder


@pytest.fixture
def page(package_path, parts, tmp_path) -> Path:
    out = tmp_path / "report.html"
    assert main(["report", str(package_path), str(parts), "--out", str(out), "--low-fidelity", "0.5"]) == 0
    return out


def data(page: Path) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def test_it_holds_every_picture_with_its_numbers(page):
    held = data(page)
    pictures = {p["name"]: p for p in held["pictures"]}
    assert set(pictures) == {"a.png", "b.png", "sub/c.png", "<i>&.png"}
    assert pictures["sub/c.png"]["area"] == pytest.approx(180 / 255 * 30 / 32, abs=1e-3)  # letterboxed
    assert pictures["a.png"]["flags"][0].startswith("empty mask")
    assert not pictures["b.png"]["flags"]
    assert pictures["b.png"]["nearest"] == pytest.approx(1, abs=1e-5)  # all grey: one direction
    assert "broken.png" in held["facts"]["skipped"]
    assert held["facts"]["embedding"] == "tiny-mean-fp32"
    unit = np.frombuffer(base64.b64decode(held["embeddings"]), "<f4").reshape(4, held["dimension"])
    assert np.linalg.norm(unit, axis=1) == pytest.approx([1, 0, 1, 1], abs=1e-6)  # sorted: `<` before `a`


def test_thumbnails_are_small_and_keep_their_shape(page):
    for picture in data(page)["pictures"]:
        for kind in ("image", "overlay"):
            content = base64.b64decode(picture[kind].partition("base64,")[2])
            assert load_image(content).shape == (256, 320, 3)


def test_nothing_in_it_points_outside(page):
    text = page.read_text()
    assert not re.findall(r"https?://|src=[\"']?(?!data:|\$)[a-z/.]", text)
    assert text.count("</script>") == 2  # no name ended one early


def test_the_command_says_what_it_flagged(package_path, parts, tmp_path, capsys):
    command = ["report", str(package_path), str(parts), "--out", str(tmp_path / "r.html")]
    assert main([*command, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["written"] == 4
    assert "a.png" in answer["flagged"]
    assert main(command) == 1
    assert "--force" in capsys.readouterr().err


def test_a_folder_of_nothing_readable_leaves_no_page(package_path, tmp_path, capsys):
    (tmp_path / "broken.png").write_text("no picture")
    out = tmp_path / "r.html"
    assert main(["report", str(package_path), str(tmp_path / "broken.png"), "--out", str(out)]) == 1
    assert "none of 1 pictures" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_it_works_in_a_browser(page, tmp_path):
    """Sorting, ordering by similarity and the filter, by the page's own script; no request, no error."""
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", "--dump-dom", str(probed)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    probe = json.loads(
        re.search(r'data-probe="([^"]*)"', done.stdout)[1].replace("&quot;", '"').replace("&amp;", "&")
    )
    assert probe == {
        "least": "a.png",
        "first": "a.png",
        "count": "1 of 4 pictures",
        "broken": 0,
        "requests": 0,
    }
