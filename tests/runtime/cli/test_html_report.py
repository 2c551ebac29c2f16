"""The HTML report: its content, its flags, and that a browser opens it without a network."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from runtime import Explainer
from runtime.bulk.journal import LINES, RUN
from runtime.errors import EngineMismatch
from runtime.media.encode import save_png
from runtime.media.geometry import load_image
from tests.runtime.run import run
from tests.toward_graph import add_targets

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
    """Grey images of rising brightness and mask area; the first is black, one file is broken."""
    folder = tmp_path / "parts"
    for name, value in (("a.png", 0), ("b.png", 60), ("sub/c.png", 180), ("<i>&.png", 120)):
        save_png(folder / name, np.full((400, 500, 3), value, np.uint8))
    (folder / "broken.png").write_text("no picture")
    return folder


@pytest.fixture
def page(package_path, parts, tmp_path) -> Path:
    out = tmp_path / "report.html"
    assert run("report", package_path, parts, "--out", out, "--low-fidelity", "0.5") == 0
    return out


def shown(url: str) -> np.ndarray:
    return load_image(base64.b64decode(url.partition("base64,")[2]))


def data(page: Path) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def test_page_holds_every_image_with_its_numbers(page):
    held = data(page)
    images = {p["name"]: p for p in held["images"]}
    assert set(images) == {"a.png", "b.png", "sub/c.png", "<i>&.png"}
    assert images["sub/c.png"]["area"] == pytest.approx(180 / 255 * 30 / 32, abs=1e-3)  # letterboxed
    assert images["a.png"]["flags"][0].startswith("empty mask")
    assert not images["b.png"]["flags"]
    assert images["b.png"]["nearest"] == pytest.approx(1, abs=1e-5)  # all grey: one direction
    assert "broken.png" in held["facts"]["skipped"]
    assert held["facts"]["embedding"] == "tiny-mean-fp32"
    unit = np.frombuffer(base64.b64decode(held["embeddings"]), "<f4").reshape(4, held["dimension"])
    assert np.linalg.norm(unit, axis=1) == pytest.approx([1, 0, 1, 1], abs=1e-6)  # sorted: `<` before `a`
    for picture in held["images"]:
        for kind in ("image", "overlay"):
            assert shown(picture[kind]).shape == (256, 320, 3)
    text = page.read_text()
    assert not re.findall(r"https?://|src=[\"']?(?!data:|\$)[a-z/.]", text)
    assert text.count("</script>") == 2  # no name ended one early


def test_command_lists_flagged_images(package_path, parts, tmp_path, capsys):
    command = ("report", package_path, parts, "--out", tmp_path / "r.html")
    assert run(*command, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["written"] == 4
    assert "a.png" in answer["flagged"]
    assert run(*command) == 1
    assert "--force" in capsys.readouterr().err
    assert run("report", package_path, parts / "broken.png", "--out", tmp_path / "none.html") == 1
    assert "none of 1 images" in capsys.readouterr().err
    assert not (tmp_path / "none.html").exists()


COLOURS = {"red": (250, 20, 0), "rose": (250, 40, 20), "green": (0, 250, 10), "grass": (0, 250, 60)}


@pytest.fixture
def coloured(tmp_path) -> Path:
    """Two reddish and two greenish images: the nearest of each is the other of its colour."""
    for name, colour in COLOURS.items():
        save_png(tmp_path / f"coloured/{name}.png", np.full((24, 32, 3), colour, np.uint8))
    return tmp_path / "coloured"


def pairs_of(package: Path, folder: Path, out: Path, *options: str) -> tuple[dict, list[tuple[str, str]]]:
    """The data of the page, and the names of its pairs."""
    assert run("report", package, folder, "--out", out, "--quiet", *options) == 0
    held = data(out)
    names = [Path(p["name"]).stem for p in held["images"]]
    assert {names[i]: names[p["neighbour"]] for i, p in enumerate(held["images"])} == {
        "red": "rose", "rose": "red", "green": "grass", "grass": "green"
    }  # fmt: skip
    return held, [tuple(names[i] for i in pair["of"]) for pair in held["pairs"]]


def test_pairs_are_explained_toward_each_other(package_path, coloured, tmp_path):
    package = add_targets(package_path)
    held, names = pairs_of(package.path, coloured, tmp_path / "pairs.html")
    assert names == [("red", "rose"), ("grass", "green")]  # once each, the most alike first
    assert "2; each overlay shows what in an image is like the other" in held["facts"]["pairs"]
    with Explainer(package) as explainer:
        for (a, b), pair in zip(names, held["pairs"], strict=True):
            found = explainer.compare(coloured / f"{a}.png", coloured / f"{b}.png")
            said = [pair[name] for name in ("similarity", "kept", "exchanged")]
            expected = [found.similarity, found.kept_similarity, found.exchanged_similarity]
            assert said == pytest.approx(expected, abs=1e-5)
            for side, content in zip((found.a, found.b), pair["overlays"], strict=True):
                drawn = shown(content).astype(int)
                assert np.abs(drawn - side.overlay()).mean() < 4
                assert np.abs(drawn - explainer(side.image).overlay()).mean() > 8  # without a target


def test_page_explains_pairs_without_targets(package_path, coloured, tmp_path, monkeypatch, capsys):
    held, names = pairs_of(package_path, coloured, tmp_path / "plain.html", "--pairs", "1")
    assert names == [("red", "rose")]
    assert held["facts"]["pairs"].startswith("1 of 2, the most similar; ")
    assert "takes no target" in held["facts"]["pairs"]
    add_targets(package_path)

    refused = EngineMismatch("no engine for targets", expected="one", cure="build one")
    monkeypatch.setattr("runtime.runs.toward_backend", Mock(side_effect=refused))
    held, names = pairs_of(package_path, coloured, tmp_path / "none.html")
    assert (names, len(held["images"])) == ([], 4)
    assert held["facts"]["pairs"] == "none are compared: no engine for targets; build one"
    assert "build one" in capsys.readouterr().err


def test_removed_file_fails_only_its_pair(package_path, coloured, tmp_path, monkeypatch, capsys):
    compare = Explainer.compare

    def vanish(explainer, a, b):
        (coloured / "red.png").unlink(missing_ok=True)
        return compare(explainer, a, b)

    monkeypatch.setattr(Explainer, "compare", vanish)
    out = tmp_path / "gone.html"
    assert run("report", package_path, coloured, "--out", out, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["written"], answer["pairs"], answer["skipped"]) == (4, 1, [])
    (failed,) = answer["failed_pairs"]
    assert (Path(failed["a"]).name, Path(failed["b"]).name) == ("red.png", "rose.png")
    facts = data(out)["facts"]
    assert "red.png beside" in facts["pairs that failed"]
    assert "skipped" not in facts


def test_pairs_0_or_one_image_compares_none(package_path, coloured, tmp_path, monkeypatch):
    monkeypatch.setattr(Explainer, "compare", lambda *_: pytest.fail("it compares"))
    held, names = pairs_of(package_path, coloured, tmp_path / "none.html", "--pairs", "0")
    assert (names, held["facts"]["pairs"]) == ([], "none of 2")
    with pytest.raises(SystemExit):
        run("report", package_path, coloured, "--out", tmp_path / "x.html", "--pairs", "-1")
    assert run("report", package_path, coloured / "red.png", "--out", tmp_path / "one.html") == 0
    held = data(tmp_path / "one.html")
    assert (held["pairs"], held["images"][0]["neighbour"]) == ([], None)
    assert held["facts"]["pairs"] == "none: there is one image"


@pytest.fixture
def explained(package_path, coloured, tmp_path) -> Path:
    """What `nemu explain --fidelity` writes for the coloured images."""
    out = tmp_path / "explained"
    options = ("--overlays", "png", "--fidelity", "--quiet")
    assert run("explain", package_path, coloured, "--out", out, *options) == 0
    return out


def test_report_of_a_folder_equals_one_of_images(explained, package_path, coloured, tmp_path, monkeypatch):
    ours, theirs, none = (tmp_path / f"{name}.html" for name in ("ours", "theirs", "none"))
    assert run("report", explained, "--out", ours, "--quiet") == 0
    assert run("report", package_path, coloured, "--out", theirs, "--quiet") == 0
    one, other = data(ours), data(theirs)
    for held in (one, other):
        del held["facts"]["explained"]  # the time
    assert one == other
    assert len(one["pairs"]) == 2
    monkeypatch.setattr("runtime.cli.console.Explainer", lambda *_, **__: pytest.fail("it runs"))
    assert run("report", explained, "--out", none, "--pairs", "0", "--quiet") == 0
    assert len(data(none)["images"]) == 4


def test_missing_package_leaves_only_the_pairs_out(explained, package_path, tmp_path, capsys):
    moved = package_path.rename(tmp_path / "moved.nemu")
    command = ("report", explained, "--out", tmp_path / "report.html", "--quiet", "--force")
    assert run(*command) == 0
    assert "--package" in capsys.readouterr().err
    held = data(tmp_path / "report.html")
    assert (len(held["images"]), held["pairs"]) == (4, [])
    assert run(*command, "--package", moved) == 0
    assert len(data(tmp_path / "report.html")["pairs"]) == 2


def test_removed_image_is_skipped_by_the_report(explained, coloured, tmp_path, capsys):
    (coloured / "red.png").unlink()
    out = tmp_path / "report.html"
    assert run("report", explained, "--out", out, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["written"], [Path(one["image"]).name for one in answer["skipped"]]) == (3, ["red.png"])
    assert [image["name"] for image in data(out)["images"]] == ["grass.png", "green.png", "rose.png"]


@pytest.mark.parametrize(
    ("broken", "options", "said"),
    [
        (RUN, [], "holds no run.json"),
        (LINES, [], "holds 0 explained images"),
        ("id", [], "gives embeddings tiny-mean-fp32"),
        (None, ["--style", "heat"], "--style with a folder of overlays"),
    ],
)
def test_report_refuses_a_folder_it_cannot_show(explained, tmp_path, capsys, broken, options, said):
    if broken == "id":
        record = json.loads((explained / RUN).read_text())
        (explained / RUN).write_text(json.dumps({**record, "embedding_id": "other-fp32"}))
    elif broken:
        (explained / broken).unlink()
    assert run("report", explained, "--out", tmp_path / "report.html", *options) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_page_works_in_a_browser(page, tmp_path):
    """The page's script sorts, orders by similarity and filters, without request or error."""
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
        "count": "1 of 4 images",
        "broken": 0,
        "requests": 0,
        "pairs": 2,
    }
