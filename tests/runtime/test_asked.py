"""Explanations toward a target: an embedding, an image or an explanation."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from runtime import Explainer
from runtime.__main__ import main
from runtime.cli.checks import describe
from runtime.errors import InputError
from runtime.media.occlusion import cosine, occlude
from runtime.package.folder import Package
from runtime.package.records import LevelRecord, Spread, TargetMeasures, TargetRecord
from tests.toward_graph import add_targets, strength

CURVE = LevelRecord(images="toys", n=2, fills=("black",), share=(0.0, 0.5), kept=(0.0, 1.0), checks=())
RED, BLUE = np.float32([1, 0, 0]), np.float32([0, 0, 1])
TARGET = np.float32([-3, -2, 0.5])


def picture(seed, size=(24, 32)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture
def asked(tiny):
    """The tiny package with targets, which scale its mask by `strength`."""
    return add_targets(tiny.path)


@pytest.fixture
def explainer(asked):
    with Explainer(asked) as explainer:
        yield explainer


def test_target_from_vector_image_or_explanation(explainer):
    other, image = picture(1), picture(0)
    plain, theirs = explainer(image), explainer(other)
    masks = [explainer(image, toward=t).graph_mask for t in (other, theirs, theirs.embedding)]
    for mask in masks:
        np.testing.assert_allclose(mask, plain.graph_mask * strength(theirs.embedding[None])[0], atol=1e-6)
    assert explainer.takes_target
    assert not np.allclose(masks[0], plain.graph_mask)


def test_zero_target_means_the_image_itself(explainer):
    image = picture(0)
    plain, asked = explainer(image), explainer(image, toward=np.zeros(3, np.float32))
    assert np.array_equal(plain.graph_mask, asked.graph_mask)
    assert asked.target is None
    assert asked.similarity is None


def test_list_takes_one_or_many_targets(explainer):
    images = [picture(i) for i in range(11)]  # more than one run takes
    rows = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    one = explainer(images, toward=TARGET)
    assert all(np.array_equal(e.target, TARGET) for e in one)
    for toward in (rows, list(rows)):
        each = explainer(images, toward=toward)
        for explanation, image, row in zip(each, images, rows, strict=True):
            assert np.array_equal(explanation.graph_mask, explainer(image, toward=row).graph_mask)


@pytest.mark.parametrize(
    ("toward", "said"),
    [
        (np.zeros(4, np.float32), r"float32 \(4,\)"),
        (np.float32([1, np.nan, 0]), "not finite"),
        ([RED, BLUE], "2 targets for 1 image"),
        (np.zeros((24, 32), np.int64), "int64"),
    ],
)
def test_invalid_target_is_refused(explainer, toward, said):
    with pytest.raises(InputError, match=said):
        explainer(picture(0), toward=toward)


def test_wrong_number_or_id_of_targets_is_refused(explainer):
    with pytest.raises(InputError, match="3 targets for 2 images"):
        explainer([picture(0), picture(1)], toward=np.ones((3, 3), np.float32))
    with pytest.raises(InputError, match="another-id"):
        explainer(picture(0), toward=dataclasses.replace(explainer(picture(0)), embedding_id="another-id"))


def test_package_without_targets_names_the_cure(tiny):
    with Explainer(tiny) as explainer:
        assert not explainer.takes_target
        with pytest.raises(InputError, match="--toward"):
            explainer(picture(0), toward=RED)


def test_empty_mask_toward_target_means_absent(explainer):
    black, never = np.zeros((24, 32, 3), np.uint8), np.float32([-30, -30, -30])
    assert explainer(black).degenerate == "empty"
    found = explainer(picture(0), toward=never)
    found = dataclasses.replace(found, curve=CURVE)
    assert (found.absent, found.degenerate) == (True, "")
    assert not found.region(0.9).any()
    assert found.facts()["toward"]["absent"] is True
    there = explainer(picture(0), toward=TARGET)
    assert not there.absent


def test_fidelity_is_measured_toward_the_target(explainer):
    image = picture(0)
    found = explainer(image, toward=TARGET, fidelity=True)
    kept = explainer(occlude(image, found.graph_mask, explainer.manifest.input.mean))
    assert found.fidelity == pytest.approx(cosine(TARGET, kept.embedding), abs=1e-6)
    assert found.similarity == pytest.approx(cosine(TARGET, found.embedding), abs=1e-6)


def test_stream_uses_the_target_for_each_frame(explainer):
    frames = [picture(i) for i in range(4)]
    for frame, found in zip(frames, explainer.stream(frames, toward=TARGET), strict=True):
        assert np.array_equal(found.graph_mask, explainer(frame, toward=TARGET).graph_mask)


def test_compare_explains_toward_each_other(explainer):
    a, b = picture(0), picture(1)
    found = explainer.compare(a, b)
    assert np.array_equal(found.a.target, found.b.embedding)
    assert np.array_equal(found.b.target, found.a.embedding)
    mean = explainer.manifest.input.mean
    exchanged = [
        explainer(occlude(image, one.graph_mask, mean)).embedding
        for image, one in ((a, found.b), (b, found.a))
    ]
    assert found.exchanged_similarity == pytest.approx(cosine(*exchanged), abs=1e-6)
    assert found.to_json()["exchanged_similarity"] == found.exchanged_similarity


@pytest.fixture
def explain(asked, tmp_path):
    """`explain(*options, package=…)` runs the command on one image; its results are in `tmp_path / "out"`."""
    for i in range(2):
        Image.fromarray(picture(i)).save(tmp_path / f"{i}.png")

    def run(*options, package=asked) -> int:
        words = (package.path, tmp_path / "0.png", "--out", tmp_path / "out", "--quiet", *options)
        return main(["explain", *map(str, words)])

    return run


def test_explain_toward_does_not_mix_targets(explain, tmp_path, capsys):
    target, out = tmp_path / "target.npy", tmp_path / "out"
    np.save(target, TARGET)
    assert explain("--toward", target) == 0
    line = json.loads((out / "explanations.jsonl").read_text())
    similarity = cosine(TARGET, np.load(out / "embeddings.npy")[0])
    assert line["toward"]["similarity"] == pytest.approx(similarity, abs=1e-5)
    np.save(target, TARGET * np.float32(1 + 1e-6))  # equal up to rounding
    assert explain("--toward", target) == 0  # already explained
    assert explain("--toward", tmp_path / "1.png") == 1
    assert explain() == 1
    assert "another target" in capsys.readouterr().err


def test_zero_target_file_equals_no_target(explain, tmp_path):
    np.save(tmp_path / "zeros.npy", np.zeros(3, np.float32))
    assert explain("--toward", tmp_path / "zeros.npy") == 0
    assert explain() == 0


def test_impossible_target_is_refused_before_replacing(explain, make_package, tmp_path):
    without = Package.open(make_package(tmp_path / "without.nemu"))
    assert explain(package=without) == 0
    before = (tmp_path / "out/explanations.jsonl").read_bytes()
    assert explain("--force", "--toward", tmp_path / "0.png", package=without) == 1
    assert (tmp_path / "out/explanations.jsonl").read_bytes() == before


def test_compare_without_targets(explainer):
    a, b = picture(0), picture(1)
    found = explainer.compare(a, b, toward=False)
    assert found.a.target is None
    assert np.array_equal(found.a.graph_mask, explainer(a).graph_mask)


def test_warm_up_of_the_target_backend(explainer):
    explainer.warm_up()
    assert explainer._runs.for_targets is None
    explainer.warm_up(toward=True)
    assert explainer._runs.for_targets is not None


@pytest.mark.parametrize("content", [b"", b"no array", np.zeros(5, np.float32)])
def test_invalid_target_file_is_refused(explain, tmp_path, capsys, content):
    file = tmp_path / "target.npy"
    np.save(file, content) if isinstance(content, np.ndarray) else file.write_bytes(content)
    assert explain("--toward", file) == 1
    assert "target" in capsys.readouterr().err


def test_info_describes_targets(tiny):
    facts, text = describe(tiny)
    assert (facts["takes_target"], "target     takes none" in text) == (False, True)
    asked = add_targets(tiny.path)
    facts, text = describe(asked)
    assert (facts["takes_target"], "was not measured" in text) == (True, True)
    names = [field.name for field in dataclasses.fields(TargetMeasures) if field.name != "nothing"]
    spreads = {name: Spread(mean=i / 8, std=0.1) for i, name in enumerate(names)}
    record = TargetRecord(images="toys", n=9, measured=TargetMeasures(**spreads, nothing=0.5), level=CURVE)
    measured = dataclasses.replace(asked, manifest=dataclasses.replace(asked.manifest, target=record))
    said = "0.000 ± 0.100 lies where the target is, 0.125 ± 0.100 if another is asked for; n 9: toys"
    assert said in describe(measured)[1]
