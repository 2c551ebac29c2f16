"""One training step: what it runs, in which layout, and that it learns what a plain step would."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

import train.fit
from train.__main__ import WORTHLESS, main, parser
from train.config import OBJECTIVES, TOWARD, EncoderConfig, TrainConfig
from train.encoder.zoo import load_encoder
from train.lightning_module import MaskerTraining
from train.nem import NEM
from train.objective import OBJECTIVES as EQUATIONS
from train.objective import Batch
from train.occlusion import make_fill

IMAGES = torch.randint(256, (4, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make(train_arguments, *, toward=False, **settings):
    options = parser().parse_args([*train_arguments, "--out", "x"])
    embedding = "head" if settings.get("objective") == "class" else None
    encoder = EncoderConfig(
        encoder=options.encoder, weights=options.weights, image_size=(64, 64), embedding=embedding
    )
    settings |= {"steps": 20, "batch_size": 4, "toward": toward}
    config = TrainConfig(encoder=encoder, data=options.data, **settings)
    torch.manual_seed(0)
    nem = NEM.of(config, load_encoder(encoder))
    return MaskerTraining(nem, config, files="").train()


READS = {
    op.default for op in (torch.ops.aten._local_scalar_dense, torch.ops.aten.equal, torch.ops.aten.nonzero)
}


class Reads(TorchDispatchMode):
    """Counts the times that a tensor's value is read by Python, for which the host has to wait."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in READS
        return func(*args, **(kwargs or {}))


def test_a_read_is_counted():
    with Reads() as reads:
        torch.ones(2).sum().item()
        assert torch.ones(1) == 1
        assert torch.equal(torch.ones(2), torch.ones(2))
    assert reads.count == 3


@pytest.mark.parametrize(
    ("objective", "toward"), [*((name, False) for name in OBJECTIVES), *((name, True) for name in TOWARD)]
)
def test_a_step_reads_no_value(train_arguments, objective, toward):
    module = make(train_arguments, objective=objective, toward=toward)
    optimizer = module.configure_optimizers()["optimizer"]
    with Reads() as reads:
        for step in range(2):
            loss = module.terms(IMAGES, step=step).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert reads.count == 0


def test_the_loop_reads_values_only_when_logging(train_arguments, tmp_path, monkeypatch):
    """Lightning, our callbacks and the loader included: once in ten steps, for the metrics' file."""
    reads, counts = Reads(), []
    tolist = torch.Tensor.tolist

    def counted(self):  # it is no operation of its own
        reads.count += 1
        return tolist(self)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)

    class Counting(Callback):
        def on_train_batch_start(self, *_):
            counts.append(reads.count)

    original = train.fit.make_trainer

    def watched(*args, **kwargs):
        trainer = original(*args, **kwargs)
        trainer.callbacks.append(Counting())
        return trainer

    monkeypatch.setattr(train.fit, "make_trainer", watched)
    run = [*train_arguments, "--steps", "22", "--out", str(tmp_path / "run"), "--workers", "0"]
    with reads:
        assert main(run) in (0, WORTHLESS)
    between = [b - a for a, b in pairwise(counts)]
    assert between == [step in (9, 19) for step in range(21)]


@pytest.mark.parametrize(
    ("objective", "toward", "images"),
    [
        ("sparse", False, [(4, False), (4, True)]),
        ("contrastive", False, [(4, False), (8, True)]),
        ("sparse", True, [(4, False), (2, False), (4, True)]),  # the second: what half of them are asked for
    ],
)
def test_step_runs_one_clean_and_one_masked_pass(train_arguments, objective, toward, images):
    module = make(train_arguments, objective=objective, toward=toward)
    seen = []
    module.frozen.register_forward_hook(lambda _m, i, o: seen.append((len(i[0]), o[0].requires_grad)))
    module.nem.encoder.register_forward_hook(lambda *_: pytest.fail("the owner's encoder is not run"))
    module.terms(IMAGES, step=0).loss.backward()
    assert seen == images
    assert all(p.grad is None for p in module.frozen.parameters())


@pytest.mark.parametrize(
    ("fill", "toward"),
    [("zero", False), ("noise", False), ("blur", False), ("mixed", False), ("mixed", True)],
)
def test_every_pass_of_the_encoder_is_channels_last(train_arguments, fill, toward):
    module = make(train_arguments, fill=fill, toward=toward)
    layouts = []
    for layer in module.frozen.modules():
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)
            layer.register_forward_hook(
                lambda _m, i, _o: layouts.append(i[0].is_contiguous(memory_format=torch.channels_last))
            )
    module.terms(IMAGES, step=0)
    assert layouts
    assert all(layouts)


def plain_steps(module, steps):
    """Plain steps to compare with: the owner's encoder, NCHW, an optimiser that is not fused."""
    encoder, masker = module.nem.encoder, module.nem.masker.to(memory_format=torch.contiguous_format)
    settings = {"lr": module.config.learning_rate, "weight_decay": module.config.weight_decay}
    optimizer = torch.optim.AdamW(masker.parameters(), **settings, foreach=False)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (encoder.input.mean, encoder.input.std))
    x = (IMAGES.permute(0, 3, 1, 2).contiguous().float() / 255 - mean) / std
    for step in range(steps):
        with torch.no_grad():
            embedding, pyramid = encoder(x)
        generator = module.generator(step)
        batch = Batch(
            x=x, embedding=embedding, logits=masker(pyramid, x).squeeze(1),
            fill=make_fill(module.config.fill, x, generator=generator),
            centre=module.centre, generator=generator,
        )  # fmt: skip
        loss = EQUATIONS[module.config.objective](
            lambda x: encoder(x)[0], batch, area_weight=module.area_weight
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("settings", [{}, {"masker": "unet", "image_skip": True, "objective": "contrastive"}])
def test_it_learns_what_a_plain_step_learns(train_arguments, settings):
    fast, plain = make(train_arguments, **settings), make(train_arguments, **settings)
    start = {k: v.clone() for k, v in fast.nem.masker.named_parameters()}
    made = fast.configure_optimizers()["optimizer"]
    made.param_groups[0].update(lr=fast.config.learning_rate, betas=(0.9, 0.999))
    for step in range(4):
        loss = fast.terms(IMAGES, step=step).loss
        made.zero_grad()
        loss.backward()
        made.step()
    plain_steps(plain, 4)
    trained = dict(plain.nem.masker.named_parameters())
    moved = sum((trained[k] - v).square().sum() for k, v in start.items()).sqrt()
    apart = sum((trained[k] - v).square().sum() for k, v in fast.nem.masker.named_parameters()).sqrt()
    assert moved > 0.01
    assert apart < 0.1 * moved  # AdamW makes a whole step of a gradient that is rounding


def test_an_encoder_that_does_not_fold_stays_unfolded(train_arguments, monkeypatch, caplog):
    monkeypatch.setattr("train.lightning_module.folded", lambda _: None)
    with caplog.at_level(logging.WARNING):
        module = make(train_arguments)
    assert "timm/test_resnet" in caplog.text
    assert module.frozen is module.nem.encoder
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    kept = set(checkpoint["state_dict"])
    assert kept == {"centre", *(f"nem.masker.{k}" for k in module.nem.masker.state_dict())}
    module.on_load_checkpoint(checkpoint)
    assert checkpoint["state_dict"].keys() == module.state_dict().keys()
