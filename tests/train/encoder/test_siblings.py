"""Weights that several timm models take: the others are named, and a photograph tells them apart."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from train.__main__ import WORTHLESS, main
from train.config import EncoderConfig
from train.encoder.siblings import siblings
from train.encoder.zoo import load_encoder


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    """Random weights of tf_efficientnet_lite0."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("lite") / "lite0.safetensors"
    save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("efficientnet_lite0", ["timm/tf_efficientnet_lite0"]),
        ("tf_efficientnet_lite0", ["timm/efficientnet_lite0"]),
        ("resnet18", ["timm/resnetblur18"]),
        ("efficientnet_blur_b0", ["timm/efficientnet_b0", "timm/tf_efficientnet_b0"]),
        ("test_resnet", []),
    ],
)
def test_those_that_take_the_same_weights_are_named(tmp_path, name, expected):
    save_file(timm.create_model(name, num_classes=3).state_dict(), tmp_path / "x.safetensors")
    config = EncoderConfig(
        encoder=f"timm/{name}", weights=str(tmp_path / "x.safetensors"), image_size=(64, 64)
    )
    assert siblings(load_encoder(config)) == expected


def test_training_says_so(lite, photographs, tmp_path, caplog):
    arguments = ["--encoder", "timm/efficientnet_lite0", "--weights", lite, "--image-size", "64", "--quiet"]
    arguments += ["--data", str(photographs), "--batch-size", "2", "--steps", "1", "--no-centred"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == WORTHLESS
    assert "also fits timm/tf_efficientnet_lite0" in caplog.text


def test_check_prints_classes_for_both_and_trains_nothing(lite, photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    check = [
        "--encoder",
        "timm/efficientnet_lite0",
        "--weights",
        lite,
        "--check",
        str(photographs / "00.png"),
    ]
    assert main([*check, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["timm/efficientnet_lite0", "timm/tf_efficientnet_lite0"]
    own, other = found.values()
    assert own != other
    for classes in (own, other):
        probabilities = [p for _, p in classes]
        assert len(classes) == 5
        assert 0 < sum(probabilities) <= 1
        assert probabilities == sorted(probabilities, reverse=True)
    assert main(check) == 0
    assert own[0][0] in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_check_refuses_what_only_training_uses(photographs, tmp_path, capsys):
    check = ["--encoder", "timm/test_resnet", "--check", str(photographs / "00.png")]
    with pytest.raises(SystemExit, match="2"):
        main([*check, "--out", str(tmp_path / "run"), "--area-weight", "3"])
    assert "leave out --area-weight, --out" in capsys.readouterr().err


def test_check_says_where_there_are_no_classes(photographs, weights, tmp_path, capsys):
    headless = tmp_path / "headless.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), headless)
    for file, said in ((weights, "head of 7 outputs"), (headless, "has no head")):
        check = ["--encoder", "timm/test_resnet", "--weights", str(file)]
        assert main([*check, "--check", str(photographs / "00.png")]) == 1
        assert said in capsys.readouterr().err


def test_training_needs_data_and_a_place(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--encoder", "timm/test_resnet"])
    assert caught.value.code == 2
    assert "--data and --out are needed" in capsys.readouterr().err
