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
from toward_graph import add_targets

from runtime import Explainer
from runtime.__main__ import main
from runtime.errors import EngineMismatch
from runtime.image import load_image
from runtime.package import Package
from runtime.report import write_report

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
PROBE = """<script>
addEventListener("load", () => {
  const select = document.getElementById("order");
  select.value = "area";
  select.dispatchEvent(new Event("change"));
  const least = document.querySelector("figcaption b").textContent;
  document.querySelectorAll("figcaption button")[1].click();
  document.querySelectorAll("details").forEach(one => { one.open = true; });
  document.getElementById("flagged").click();
  setTimeout(() => document.body.dataset.probe = JSON.stringify({
    least, first: document.querySelector("figcaption b").textContent,
    count: document.getElementById("count").textContent,
    broken: [...document.images].filter(image => image.complete && !image.naturalWidth).length,
    requests: performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length,
    pairs: document.querySelectorAll(".two img").length,
  }), 200);
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


COLOURS = {"red": (250, 20, 0), "rose": (250, 40, 20), "green": (0, 250, 10), "grass": (0, 250, 60)}


@pytest.fixture
def coloured(tmp_path) -> Path:
    """Two reddish pictures and two greenish: each has its nearest in the other of its kind."""
    folder = tmp_path / "coloured"
    folder.mkdir()
    for name, colour in COLOURS.items():
        Image.fromarray(np.full((24, 32, 3), colour, np.uint8)).save(folder / f"{name}.png")
    return folder


def pairs_of(package: Path, folder: Path, out: Path, *options: str) -> tuple[dict, list[tuple[str, str]]]:
    """What the page holds, and the names of its pairs."""
    assert main(["report", str(package), str(folder), "--out", str(out), "--quiet", *options]) == 0
    held = data(out)
    names = [Path(p["name"]).stem for p in held["pictures"]]
    assert {names[i]: names[p["neighbour"]] for i, p in enumerate(held["pictures"])} == {
        "red": "rose", "rose": "red", "green": "grass", "grass": "green"
    }  # fmt: skip
    return held, [tuple(names[i] for i in pair["of"]) for pair in held["pairs"]]


def test_each_picture_is_shown_toward_the_one_most_like_it(package_path, coloured, tmp_path):
    package = add_targets(package_path)
    held, names = pairs_of(package.path, coloured, tmp_path / "pairs.html")
    assert names == [("red", "rose"), ("grass", "green")]  # once each, the most alike first
    assert "2; each overlay shows what in a picture is like the other" in held["facts"]["pairs"]
    with Explainer(package) as explainer:
        for (a, b), pair in zip(names, held["pairs"], strict=True):
            found = explainer.compare(coloured / f"{a}.png", coloured / f"{b}.png")
            said = [pair[name] for name in ("similarity", "kept", "exchanged")]
            expected = [found.similarity, found.kept_similarity, found.exchanged_similarity]
            assert said == pytest.approx(expected, abs=1e-5)
            for side, content in zip((found.a, found.b), pair["overlays"], strict=True):
                drawn = load_image(base64.b64decode(content.partition("base64,")[2])).astype(int)
                assert np.abs(drawn - side.overlay()).mean() < 4
                assert np.abs(drawn - explainer(side.image).overlay()).mean() > 8  # without a target


def test_without_targets_the_page_says_what_its_pairs_show(package_path, coloured, tmp_path):
    held, names = pairs_of(package_path, coloured, tmp_path / "plain.html", "--pairs", "1")
    assert names == [("red", "rose")]
    assert held["facts"]["pairs"].startswith("1 of 2, the most alike; ")
    assert "takes no target" in held["facts"]["pairs"]


def test_a_report_has_no_pairs_where_nothing_here_takes_targets(
    package_path, coloured, tmp_path, monkeypatch, capsys
):
    add_targets(package_path)

    def refuse(*_):
        raise EngineMismatch("no engine for targets", expected="one", cure="build one")

    monkeypatch.setattr("runtime.explainer.toward_backend", refuse)
    held, names = pairs_of(package_path, coloured, tmp_path / "none.html")
    assert (names, len(held["pictures"])) == ([], 4)
    assert held["facts"]["pairs"] == "none are compared: no engine for targets; build one"
    assert "build one" in capsys.readouterr().err


def test_a_file_that_goes_away_ends_nothing(package_path, coloured, tmp_path, monkeypatch):
    files = sorted(coloured.iterdir())
    compare = Explainer.compare

    def vanish(explainer, a, b):
        (coloured / "red.png").unlink(missing_ok=True)
        return compare(explainer, a, b)

    monkeypatch.setattr(Explainer, "compare", vanish)
    with Explainer(package_path) as explainer:
        report = write_report(
            explainer, Package.open(package_path), files, tmp_path / "gone.html", quiet=True
        )
    assert (report.written, report.pairs, report.skipped) == (4, 1, [])
    (failed,) = report.failed_pairs
    assert (Path(failed["a"]).name, Path(failed["b"]).name) == ("red.png", "rose.png")
    facts = data(report.path)["facts"]
    assert "red.png beside" in facts["pairs that failed"]
    assert "skipped" not in facts


def test_no_pairs_are_compared_where_none_are_asked_for(package_path, coloured, tmp_path, monkeypatch):
    monkeypatch.setattr(Explainer, "compare", lambda *_: pytest.fail("it compares"))
    held, names = pairs_of(package_path, coloured, tmp_path / "none.html", "--pairs", "0")
    assert (names, held["facts"]["pairs"]) == ([], "none of 2")
    with pytest.raises(SystemExit):
        main(["report", str(package_path), str(coloured), "--out", str(tmp_path / "x.html"), "--pairs", "-1"])


def test_a_single_picture_has_no_pair(package_path, coloured, tmp_path):
    out = tmp_path / "one.html"
    assert main(["report", str(package_path), str(coloured / "red.png"), "--out", str(out), "--quiet"]) == 0
    held = data(out)
    assert (held["pairs"], held["pictures"][0]["neighbour"]) == ([], None)
    assert held["facts"]["pairs"] == "none: there is one picture"


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
        "pairs": 2,
    }
