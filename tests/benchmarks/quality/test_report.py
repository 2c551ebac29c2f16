"""The report: what is best, what is within noise of it, what was not run."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from benchmarks.common.estimate import best_and_near, figure
from benchmarks.pages import quality_picture, report
from benchmarks.quality import quality_tables
from benchmarks.quality.planted.world import SIZE

META = {
    "versions": {"python": "3.11", "tensorrt": None},
    "device": "a processor, 2 logical CPUs; no GPU: there is no driver",
    "commit": "abc",
    "command": "quality.py --json quality.json",
}


def row(method, value, error=0.01, *, seed=0, encoder="digits", kind="standard", **more):
    return {
        "encoder": encoder,
        "method": method,
        "seed": seed,
        "kind": kind,
        "n_images": 200,
        "n_faithfulness": 40,
        "n_sensitivity": 20,
        "n_mprt": 0,
        "relevance_rank": value,
        "relevance_rank_error": error,
        "rank_corrected": value - 0.1,
        "rank_corrected_error": error,
        "complexity": 9 - value,
        "complexity_error": error,
        "mprt_abs_rho": None,
        "mprt_abs_rho_error": None,
        "region_area": 0.1,
        "mask_area": None,
        "seconds_per_image": 0.02,
        "train_seconds": None,
        **more,
    }


@pytest.fixture
def result():
    trained = {"mask_inside": 0.9, "mask_area": 0.12, "train_seconds": 90.0, "seconds_per_image": 0.01}
    return {
        "meta": META,
        "encoders": {"digits": {"truth": ["red", "blue"]}, "selfsup": {"truth": []}},
        "settings": {"nemu": [], "zero fill": ["--fill", "zero"], "random": {}},
        "rows": [
            row("random", 0.99),
            row("relax", 0.85, seconds_per_image=10.01),
            row("occlusion", 0.6, mprt_abs_rho=0.2, mprt_floor=0.15),
            *(row("nemu", v, seed=i, **trained) for i, v in enumerate((0.86, 0.87, 0.88))),
            *(row(m, v, kind=k) for m, v in (("nemu", 0.5), ("random", 0.1)) for k in ("small", "unseen")),
            row("lafam", 0.4, encoder="selfsup"),
        ],
    }


def lines_of(text):
    """Cells of the lines of a Markdown table, by their first cell."""
    cells = [[c.strip() for c in line.strip("|\n").split(" | ")] for line in text.splitlines()]
    return {line[0]: line[1:] for line in cells}


def compared(result, *keys):
    """Lines of the comparison of encoder `digits`."""
    methods = quality_tables.scored(result, "digits")
    return lines_of(quality_tables.comparison(methods, quality_tables.columns(*keys)))


def test_best_is_bold_and_near_values_are_marked(result):
    lines = compared(result, "relevance_rank", "complexity")
    assert list(lines)[2:] == ["nemu (our objective)", "RELAX", "occlusion", "random (control)"]
    assert lines["nemu (our objective)"][:2] == ["**0.870 ± 0.010**", "**8.13 ± 0.01**"]
    assert lines["RELAX"][:2] == ["≈ 0.850 ± 0.010", "≈ 8.15 ± 0.01"]
    assert lines["occlusion"][0] == "0.600 ± 0.010"
    assert lines["random (control)"][0] == "0.990 ± 0.010", "a control does not compete"
    assert lines["nemu (our objective)"][2:] == ["3", "200 / 40 / 20 / –"]


def test_what_was_not_run_stays_a_dash(result):
    lines = compared(result, "roc_auc", "mprt_abs_rho", "ms")
    assert lines["RELAX"][:3] == ["–", "–", "10010"]
    assert lines["occlusion"][:3] == ["–", "0.200 (0.150)", "20.0"]
    assert lines["nemu (our objective)"][2] == "**10.0**", "timed once: no spread over seeds"


def test_values_at_the_floor_are_best():
    rows = [
        row("relax", 0.5, mprt_abs_rho=0.05, mprt_floor=0.06),
        row("saliency", 0.5, mprt_abs_rho=0.2, mprt_abs_rho_error=0.03, mprt_floor=0.15),
        row("lafam", 0.5, mprt_abs_rho=0.14, mprt_floor=0.15),
        row("occlusion", 0.5, mprt_abs_rho=0.2, mprt_abs_rho_error=0.01, mprt_floor=0.15),
    ]
    lines = compared({"rows": rows}, "mprt_abs_rho")
    assert [cells[0][:2] for cells in list(lines.values())[2:]] == ["**", "≈ ", "**", "0."]


def test_seeds_are_aggregated():
    f = figure([row("nemu", v, e) for v, e in ((0.8, 0.03), (0.9, 0.04), (1.0, None))], "relevance_rank")
    assert (f.mean, f.spread) == (pytest.approx(0.9), pytest.approx(0.1))
    assert f.error == pytest.approx(np.sqrt((0.03**2 + 0.04**2) / 2))
    assert f.noise == pytest.approx(np.hypot(f.error, f.spread))
    assert f"{f:.2f}" == "0.90 ± 0.10"
    one = figure([row("relax", 0.8, 0.03)], "relevance_rank")
    assert (one.spread, f"{one:.2f}") == (None, "0.80 ± 0.03")
    assert figure([row("relax", 0.8)], "mprt_abs_rho") is None


@pytest.mark.parametrize(("error", "near"), [(0.0355, {"b"}), (0.0353, set()), (None, set())])
def test_noise_is_twice_the_error_of_the_difference(error, near):
    figures = {name: figure([row(name, v, error)], "relevance_rank") for name, v in (("a", 0.9), ("b", 0.8))}
    assert best_and_near({**figures, "c": None}, lower=False) == ({"a"}, near)
    assert best_and_near(figures, lower=True)[0] == {"b"}
    assert best_and_near({"c": None}, lower=True) == (set(), set())
    assert best_and_near({"a": figures["a"], "b": figures["a"]}, lower=False) == ({"a", "b"}, set())


def test_break_even_is_training_time_in_relax_images(result):
    lines = lines_of(quality_tables.masks(result))
    masker, inside, _, area, *_, training, even = lines["digits"]
    assert (masker, inside, area) == ("nemu (our objective)", "0.900 ± 0.000", "1.20 ± 0.00")
    assert (training, even) == ("90 ± 0", "9")
    alone = {**result, "rows": [one for one in result["rows"] if one["method"] == "nemu"]}
    assert lines_of(quality_tables.masks(alone))["digits"][-1] == "–"


def test_encoder_without_evidence_has_dashes():
    bare = quality_tables.evidence({"encoders": {"red": {"truth": ["red"]}}})
    assert lines_of(bare)["red"] == ["red", *["–"] * 6]


def test_the_ablation_names_the_options_of_each_training(result):
    zero = [row("zero fill", 0.5 + i / 10, seed=i) for i in range(2)]
    lines = lines_of(quality_tables.ablation({**result, "rows": [*zero, row("nemu", 0.8)]}))
    assert list(lines)[2:] == ["nemu (our objective)", "zero fill"]
    assert lines["zero fill"][:2] == ["`--fill zero`", "0.550 ± 0.071"]
    assert lines["nemu (our objective)"][0] == "(defaults)"


def test_pages_of_a_run_without_its_encoders(result, tmp_path, monkeypatch, capsys):
    given = tmp_path / "quality.json"
    given.write_text(json.dumps(result))
    arguments = ["report", "--json", given, "--out", tmp_path / "docs", "--work", tmp_path]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    assert report.main() == 0
    assert "no picture" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {"quality.md", "ablation.md"}
    page = (tmp_path / "docs/quality.md").read_text()
    assert "### Encoder `selfsup`\n" in page
    assert "selfsup`, small" not in page
    assert "### Encoder `patch`" not in page
    assert "python -m benchmarks.quality --json quality.json" in page
    assert "no GPU\n" in page
    assert "](quality.png)" not in page


def test_scenes_are_drawn_for_each_encoder(tmp_path, monkeypatch):
    made_up = {method: np.full((4, SIZE, SIZE), 0.5) for method in quality_picture.COLUMNS}
    monkeypatch.setattr(quality_picture, "_maps", lambda *_, **__: made_up)
    rows = quality_picture.sheet(["digits", "red"], ["nemu", "lafam"], work=tmp_path)
    assert [label for label, _ in rows] == ["digits", "red"] * 4
    (image, truth, mask, other), (again, only_red, *_) = (cells for _, cells in rows[:2])
    assert np.array_equal(image, again), "the image stays"
    assert not np.array_equal(truth, only_red), "the truth changes"
    assert mask.max() > 100, "a mask is on the fixed scale"
    assert other.max() < 10, "another method is stretched to its own range"
    out = tmp_path / "quality.png"
    quality_picture.draw(out, {"selfsup", "red"}, {"lafam", "random"}, work=tmp_path)
    assert out.stat().st_size > 10_000


def test_stretching_leaves_a_constant_map_dark():
    assert not quality_picture.unit_range(np.full((2, 2), 3.0)).any()
    assert quality_picture.unit_range(np.array([[-1.0, 3.0]])).tolist() == [[0, 1]]


def test_pages_of_a_run_without_rows():
    nothing = {"meta": {}, "encoders": {}, "settings": {}, "rows": []}
    bare = report.quality_parts(nothing, picture=False)
    assert bare["picture"] == bare["methods"] == bare["kinds"] == ""
    assert report.ablation_parts(nothing, nothing)["ablation"].startswith("| setting |")
