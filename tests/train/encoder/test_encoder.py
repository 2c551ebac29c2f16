"""Φ is one pass, is what timm says it is, and stays frozen."""

from __future__ import annotations

import textwrap

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from runtime.errors import InputError
from train.config import EncoderConfig
from train.encoder.timm_encoder import _classes, _has_projection
from train.encoder.zoo import load_encoder


def saved(tmp_path, name, **kwargs):
    """A timm model with random weights, and the file that holds them."""
    torch.manual_seed(0)
    model = timm.create_model(name, **kwargs).eval()
    path = tmp_path / f"{name}.safetensors"
    save_file(model.state_dict(), path)
    return model, str(path)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_pooled_embedding_is_timms_own(tmp_path, name):
    model, weights = saved(tmp_path, name)
    encoder = load_encoder(EncoderConfig(encoder=f"timm/{name}", weights=weights))
    x = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        embedding, pyramid = encoder(x)
        expected = model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(embedding, expected)
    assert [tuple(p.shape[1:]) for p in pyramid] == [
        (c, *s) for c, s in zip(encoder.channels, encoder.sizes, strict=True)
    ]


def test_head_and_class_token(tmp_path):
    model, weights = saved(tmp_path, "test_vit", num_classes=5)
    x = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        features = model.forward_features(x)
        for kind, expected in (("head", model.forward_head(features)), ("cls", features[:, 0])):
            encoder = load_encoder(EncoderConfig(encoder="timm/test_vit", weights=weights, embedding=kind))
            torch.testing.assert_close(encoder(x)[0], expected)


def test_unit_length_only_when_asked_for(tmp_path):
    _, weights = saved(tmp_path, "test_resnet")
    x = torch.randn(2, 3, 160, 160)
    plain = load_encoder(EncoderConfig(encoder="timm/test_resnet", weights=weights))(x)[0]
    unit = load_encoder(EncoderConfig(encoder="timm/test_resnet", weights=weights, l2_normalize=True))(x)[0]
    torch.testing.assert_close(unit, nn.functional.normalize(plain))
    assert not torch.allclose(plain.norm(dim=1), torch.ones(2))


def test_the_encoder_runs_once(tmp_path):
    _, weights = saved(tmp_path, "test_resnet")
    encoder = load_encoder(EncoderConfig(encoder="timm/test_resnet", weights=weights))
    calls = []
    first = next(m for m in encoder.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_hook(lambda *_: calls.append(1))
    encoder(torch.zeros(1, 3, 160, 160))
    assert len(calls) == 1


def test_vit_taps_end_with_the_last_block(tmp_path):
    _, weights = saved(tmp_path, "test_vit2")
    encoder = load_encoder(EncoderConfig(encoder="timm/test_vit2", weights=weights, image_size=(64, 96)))
    assert encoder.model.taps == [1, 3, 5, 7]
    assert encoder.sizes == ((4, 6),) * 4


def test_the_encoder_stays_frozen_in_training_mode(tmp_path):
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))

        def forward(self, x):
            x = self.body(x)
            return x.mean((2, 3)), [x]

    import sys
    import types

    sys.modules["own"] = types.SimpleNamespace(make=Dropping)
    encoder = load_encoder(
        EncoderConfig(encoder="own:make", image_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1), resize="squash")
    )
    surrounding = nn.Sequential(encoder).train()
    x = torch.randn(4, 3, 8, 8)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    torch.testing.assert_close(surrounding(x)[0], surrounding(x)[0])  # dropout is off
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert not any(p.requires_grad for p in encoder.parameters())


def test_normalisation_is_timms(tmp_path):
    _, weights = saved(tmp_path, "resnet10t")
    encoder = load_encoder(EncoderConfig(encoder="timm/resnet10t", weights=weights))
    image = torch.full((1, 2, 2, 3), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(encoder.normalize(image)[0, :, 0, 0], expected)
    assert encoder.input.crop_pct == timm.get_pretrained_cfg("resnet10t").crop_pct


def test_fingerprint_follows_the_weights(tmp_path):
    model, weights = saved(tmp_path, "test_resnet")
    config = EncoderConfig(encoder="timm/test_resnet", weights=weights)
    first = load_encoder(config).record.fingerprint
    assert load_encoder(config).record.fingerprint == first
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    save_file(model.state_dict(), weights)
    assert load_encoder(config).record.fingerprint != first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "timm/resnet5O"}, "timm/resnet50"),
        ({"encoder": "timm/resnet10t.nonsense"}, "resnet10t.c3_in1k"),
        ({"encoder": "timm/test_vit4"}, "none are published"),
        ({"encoder": "timm/resnet10t", "weights": __file__}, "not a safetensors file"),
        ({"encoder": "resnet50"}, "--encoder timm/resnet50"),
        ({"encoder": "nowhere:make"}, "PYTHONPATH"),
        ({"encoder": "timm/test_vit", "image_size": (160, 150)}, "--image-size 160 144, the nearest"),
        ({"encoder": "timm/test_resnet", "embedding": "cls"}, "--embedding pooled"),
        ({"encoder": "timm/test_resnet", "taps": (3, 9)}, "0..4"),
    ],
)
def test_refusals_name_the_cure(tmp_path, options, message):
    name = options["encoder"].removeprefix("timm/")
    if options["encoder"].startswith("timm/test") and name != "test_vit4":
        options["weights"] = saved(tmp_path, name)[1]
    with pytest.raises(InputError) as caught:
        load_encoder(EncoderConfig(**options))
    assert message in str(caught.value)


def test_weights_of_another_model_are_refused(tmp_path):
    _, weights = saved(tmp_path, "resnet18")
    with pytest.raises(InputError, match="does not fit") as caught:
        load_encoder(EncoderConfig(encoder="timm/resnet50", weights=weights))
    assert "of 320 tensors 198 missing (layer1.0.conv3.weight, " in str(caught.value)
    assert "of another shape (layer1.0.conv1.weight (64, 64, 3, 3) for (64, 64, 1, 1), " in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_convolutional_head_gives_its_class_count(tmp_path):
    model = timm.create_model("test_resnet", num_classes=3)
    assert _classes(model, {"fc.weight": torch.zeros(7, 4, 1, 1), "fc.bias": torch.zeros(7)}) == 7


def test_what_torch_wrote_is_known_by_its_content(tmp_path):
    for name, zipped in (("zip.safetensors", True), ("pickle.PTH", False)):
        torch.save({"a": torch.zeros(1)}, tmp_path / name, _use_new_zipfile_serialization=zipped)
        with pytest.raises(InputError, match=r"torch\.load"):
            load_encoder(EncoderConfig(encoder="timm/test_resnet", weights=str(tmp_path / name)))


def test_a_pth_is_refused_with_conversion_code(tmp_path, monkeypatch):
    model, _ = saved(tmp_path, "test_resnet")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "x.pth")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        load_encoder(EncoderConfig(encoder="timm/test_resnet", weights="x.pth"))
    _, _, code = caught.value.cure.partition("\n")
    exec(textwrap.dedent(code), {})
    load_encoder(EncoderConfig(encoder="timm/test_resnet", weights="encoder.safetensors"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vit_base_patch16_clip_224.openai", "head"),
        ("vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", "pooled"),  # its head names ImageNet's classes
        ("resnet50.a1_in1k", "pooled"),
    ],
)
def test_the_default_embedding_is_an_existing_projection(name, kind):
    from types import SimpleNamespace

    cfg = timm.get_pretrained_cfg(name)
    model = SimpleNamespace(num_classes=cfg.num_classes, pretrained_cfg={"tag": cfg.tag})
    assert ("head" if _has_projection(model, name) else "pooled") == kind


def test_squash_keeps_timms_own_crop(tmp_path):
    """dm_nfnet is preprocessed by squashing to size / crop_pct and cutting out the centre."""
    cfg = timm.get_pretrained_cfg("dm_nfnet_f0")
    assert (cfg.crop_mode, cfg.crop_pct < 1) == ("squash", True)
    _, weights = saved(tmp_path, "test_resnet")
    config = EncoderConfig(encoder="timm/test_resnet", weights=weights, resize="squash")
    assert load_encoder(config).input.crop_pct == 1  # asked for by the user, not timm's for this model


def test_a_head_that_is_several_layers_is_recognised(tmp_path):
    _, weights = saved(tmp_path, "deit_tiny_distilled_patch16_224", num_classes=7)
    name = "timm/deit_tiny_distilled_patch16_224"
    assert load_encoder(EncoderConfig(encoder=name, weights=weights)).record.dimension == 192


def test_a_pyramid_from_deep_to_shallow_is_refused(monkeypatch):
    """Earlier code began its decoder at the shallowest tap, because two files disagreed on the order."""
    import sys
    import types

    class UpsideDown(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)), [x[..., ::4, ::4], x]

    monkeypatch.setitem(sys.modules, "own", types.SimpleNamespace(make=UpsideDown))
    with pytest.raises(InputError, match="shallow to deep"):
        load_encoder(
            EncoderConfig(encoder="own:make", image_size=(8, 8), mean=(0,) * 3, std=(1,) * 3, resize="squash")
        )


def test_own_encoder_must_state_its_preprocessing():
    with pytest.raises(InputError, match="--mean, --std, --resize"):
        load_encoder(EncoderConfig(encoder="own:make", image_size=(8, 8)))
