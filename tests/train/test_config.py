"""A configuration is whole, says what was trained, and holds no option that does nothing."""

from __future__ import annotations

import dataclasses
import json

import pytest

from runtime.errors import InputError, SchemaError
from train.__main__ import config_of, parser
from train.config import MASKERS, OBJECTIVES, REMOVED_MASKERS, EncoderConfig, TrainConfig

HEAD = EncoderConfig(encoder="timm/test_resnet", embedding="head")


def config(**options):
    return TrainConfig(**{"encoder": HEAD, "data": "photographs", **options})


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_defaults_follow_the_objective_and_are_saved(objective):
    made = config(objective=objective)
    assert made.area_weight is None
    assert made.centred is (objective != "class")
    assert TrainConfig.from_json(made.to_json(), source="test") == made


def test_what_is_asked_for_is_kept():
    assert config(area_weight=2.0).area_weight == 2
    assert config(centred=False).centred is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "ranking", "area_weight": 0.5}, "--objective ranking with --area-weight 0.5"),
        ({"objective": "class", "centred": True}, "--centred"),
        ({"objective": "class", "encoder": EncoderConfig(encoder="timm/resnet50")}, "timm classifier"),
        ({"objective": "class", "encoder": dataclasses.replace(HEAD, l2_normalize=True)}, "--l2-normalize"),
        ({"objective": "class", "encoder": EncoderConfig(encoder="own:make")}, "encoder own:make"),
        ({"image_skip": True}, "--image-skip with --masker lateral"),
        ({"masker": "lateral-wide"}, "lateral, lateral-early, unet"),
        ({"objective": "best"}, "sparse, plain, contrastive, ranking, class"),
        ({"fill": "grey"}, "zero, noise, blur, mixed"),
        ({"area_weight": 0.0}, "a positive number"),
        ({"area_weight": float("nan")}, "a positive number"),
    ],
)
def test_settings_without_effect_are_refused(options, message):
    with pytest.raises(InputError) as caught:
        config(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["masker", "centred", "fill", "encoder"])
def test_a_configuration_without_a_setting_is_refused(name):
    fields = json.loads(config().to_json())
    del fields[name]
    with pytest.raises(SchemaError, match=name):
        TrainConfig.from_json(json.dumps(fields), source="test")


@pytest.mark.parametrize("name", REMOVED_MASKERS)
def test_a_removed_masker_is_refused_with_a_cure(name):
    text = config().to_json().replace('"lateral"', f'"{name}"')
    with pytest.raises(SchemaError, match=f"x is of a masker `{name}`") as caught:
        TrainConfig.from_json(text, source="x")
    assert (caught.value.expected, "nemu 0.1.0" in caught.value.cure) == (
        f"one of {', '.join(MASKERS)}",
        True,
    )


def test_the_command_line_has_the_dataclass_defaults():
    options = parser().parse_args(["--encoder", "timm/test_resnet", "--data", "photographs", "--out", "x"])
    assert config_of(options) == config(encoder=EncoderConfig(encoder="timm/test_resnet"))


def test_settings_have_names_not_places():
    """Earlier code passed learning rate and batch size in each other's place."""
    with pytest.raises(TypeError):
        TrainConfig(HEAD, "photographs")
