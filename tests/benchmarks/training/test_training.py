"""The training benchmark: the authors' loop is theirs, the clock is right, a run reports all variants."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks.training import __main__ as training
from benchmarks.training import stopwatch
from benchmarks.training.authors_loop import AuthorsLoop
from train.config import EncoderConfig
from train.encoder.zoo import load_encoder
from train.objective import Batch, contrastive


@pytest.fixture
def loop(weights):
    config = EncoderConfig(encoder="timm/test_resnet", weights=str(weights), image_size=(64, 64))
    torch.manual_seed(0)
    return AuthorsLoop(load_encoder(config), device=torch.device("cpu"))


def test_authors_loop_runs_the_encoder_four_times(loop):
    passes = []
    loop.encoder.register_forward_hook(lambda _m, i, o: passes.append((len(i[0]), o[0].requires_grad)))
    loop.loss(torch.randn(2, 3, 64, 64)).backward()
    assert passes == [(2, False), (2, False), (2, True), (2, True)]
    assert loop.masker.blocks[-1][0].in_channels == 16 * 2 + 3  # the image is a skip


def test_authors_loss_is_our_contrastive_objective(loop):
    x = torch.randn(1, 3, 64, 64)
    embedding, pyramid = loop.encoder(x)
    batch = Batch(
        x=x, embedding=embedding, logits=loop.masker(pyramid, x).squeeze(1), fill=torch.zeros_like(x),
        centre=torch.zeros(embedding.shape[1]), generator=torch.Generator(),
    )  # fmt: skip
    ours = contrastive(lambda x: loop.encoder(x)[0], batch, area_weight=0.5).loss
    torch.testing.assert_close(loop.loss(x), ours, rtol=1e-4, atol=2e-6)


def test_a_ratio_and_its_interval():
    ratio, interval = training.ratio_and_interval([2.0, 4.0, 8.0], [1.0, 1.0, 1.0])
    assert ratio == pytest.approx(4)
    half = 4.302653 * math.log(2) / math.sqrt(3)  # Student's t of two degrees of freedom
    assert interval == pytest.approx([4 * math.exp(-half), 4 * math.exp(half)], rel=1e-5)
    assert training.ratio_and_interval([3.0], [2.0]) == (pytest.approx(1.5), None)


def test_the_stopwatch_counts_after_the_warm_up(monkeypatch):
    now = iter(float(t) for t in (0, 5, 7, 7, 8, 10, 10, 13, 14))
    monkeypatch.setattr(stopwatch, "_now", lambda: next(now))
    watch = stopwatch.Stopwatch(stages=True, warm_up=1, steps=2)
    watch.start()
    for _ in range(3):
        watch.mark("loading")
        watch.end_step()
    assert watch.seconds == {"loading": 1 + 0, "optimiser and loop": 2 + 3}
    assert watch.seconds_per_step == (14 - 7) / 2
    assert watch.shares == {"loading": 1 / 6, "optimiser and loop": 5 / 6}


def test_run_reports_each_variant_and_its_time(tmp_path, capsys):
    options = ["--model", "test_resnet", "--image-size", "32", "--batch-size", "2", "--steps", "1"]
    assert training.main(["--json", str(tmp_path / "t.json"), *options, "--rounds", "2"]) == 0
    report = json.loads((tmp_path / "t.json").read_text())
    names = [training.AUTHORS, *training.VARIANTS]
    assert [row["variant"] for row in report["rows"]] == names
    assert [row["variant"] for row in report["profile"]] == names
    assert report["rows"][0]["ratio_to_authors_loop"] == 1
    for row, profile in zip(report["rows"], report["profile"], strict=True):
        assert 0 < row["least"] <= row["images_per_second"] <= row["most"]
        shares = {k: v for k, v in profile.items() if k != "variant"}
        assert sum(shares.values()) == pytest.approx(1)
        assert shares.keys() == {
            "loading", "forward: clean image", "forward: masker", "forward: masked images",
            "mask, fill and loss", "backward: encoder", "backward: masker", "optimiser and loop",
        }  # fmt: skip
        assert shares["forward: clean image"] > 0
    assert "our_loop" in capsys.readouterr().out


def test_a_run_that_is_cut_leaves_its_turns(tmp_path, monkeypatch):
    def turn(watch):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(watch)
        watch.start()
        for _ in range(2):
            watch.end_step()

    done = []
    monkeypatch.setattr(training, "make_turns", lambda *_: {training.AUTHORS: turn, "our_loop": turn})
    with pytest.raises(KeyboardInterrupt):
        training.main(["--json", str(tmp_path / "t.json"), "--steps", "1", "--rounds", "9"])
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert [(row["variant"], row["rounds"]) for row in rows] == [(training.AUTHORS, 2), ("our_loop", 1)]


def test_first_two_variants_always_have_a_turn():
    work = training.Workload(model="none", image_size=1, batch_size=1, steps=1)

    def turn(watch):
        watch.start()
        for _ in range(2):
            watch.end_step()

    turns = dict.fromkeys([training.AUTHORS, "our_loop", "another"], turn)
    *_, speeds = training.measure(turns, work, rounds=5, until=0)
    assert [len(own) for own in speeds.values()] == [1, 1, 0]
