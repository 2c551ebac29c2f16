"""A whole run: what learns, what does not, and that a killed run ends as an undisturbed one."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from runtime.errors import InputError, MaskerMismatch, SchemaError
from runtime.media.sources import find_images
from train.__main__ import WORTHLESS, main, parser
from train.checkpoint import load_nem, read_config, save_masker
from train.config import MASKERS, OBJECTIVES, EncoderConfig, TrainConfig
from train.data import set_apart
from train.encoder.zoo import load_encoder
from train.lightning_module import MaskerTraining
from train.nem import NEM
from train.run_folder import read_summary

ROOT = Path(__file__).parents[2]


def without_area_weight(arguments):
    at = arguments.index("--area-weight")
    return [*arguments[:at], *arguments[at + 2 :]]


def run(arguments, out, *more):
    code = main([*arguments, "--out", str(out), *more])
    return 0 if code == WORTHLESS else code  # the runs here are too short for a mask worth anything


def untrained(arguments, **settings):
    """A configuration for the encoder and images of the arguments, and a NEM of it."""
    options = parser().parse_args([*arguments, "--out", "x"])
    encoder = EncoderConfig(encoder=options.encoder, weights=options.weights, image_size=(64, 64))
    config = TrainConfig(encoder=encoder, data=options.data, **settings)
    return config, NEM.of(config, load_encoder(encoder))


def before_each_step(monkeypatch, look):
    """Call `look(module)` before every training step."""
    original = MaskerTraining.training_step

    def step(self, batch, batch_idx):
        look(self)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(MaskerTraining, "training_step", step)


def interrupted(arguments, out, monkeypatch, *, at):
    """A run that dies at a step, with a checkpoint at every step before."""

    def fail(module):
        if module.global_step == at:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        before_each_step(patch, fail)
        with pytest.raises(RuntimeError, match="power cut"):
            run(arguments, out, "--checkpoint-every", "1")


@pytest.fixture(scope="module")
def undisturbed(train_arguments, tmp_path_factory):
    """12 steps over 12 images in batches of 4, noise fill and random crops: four passes."""
    arguments = [*train_arguments, "--steps", "12", "--fill", "noise", "--augment", "crop"]
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert run(arguments, out, "--checkpoint-every", "100") == 0
    return arguments, load_file(out / "masker.safetensors")


@pytest.mark.parametrize("kill_after", [2, 5, 9])
def test_killed_and_resumed_equals_undisturbed(undisturbed, tmp_path, kill_after):
    arguments, expected = undisturbed
    out = tmp_path / "run"
    command = [sys.executable, "-m", "train", *arguments, "--out", str(out), "--checkpoint-every", "1"]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    victim = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **threads})
    deadline = time.monotonic() + 120
    while newest(out) < kill_after:
        assert victim.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not (out / "masker.safetensors").exists()
    reached = newest(out)
    assert kill_after <= reached < 12

    assert run(arguments, out, "--resume", "auto", "--checkpoint-every", "1") == 0
    assert read_summary(out).resumed_at == reached
    resumed = load_file(out / "masker.safetensors")
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[k], expected[k]) for k in expected)


def newest(out):
    steps = [int(p.stem.removeprefix("step-")) for p in out.glob("checkpoints/step-*.ckpt")]
    return max(steps, default=0)


def test_ctrl_c_keeps_the_checkpoint_and_names_resume(undisturbed, tmp_path):
    arguments, _ = undisturbed
    out = tmp_path / "run"
    command = [sys.executable, "-m", "train", *arguments, "--steps", "500", "--out", str(out)]
    victim = subprocess.Popen(
        [*command, "--checkpoint-every", "1"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while newest(out) < 2:
        assert victim.poll() is None
        time.sleep(0.01)
    victim.send_signal(signal.SIGINT)
    _, error = victim.communicate(timeout=60)
    assert victim.returncode == 130
    assert "--resume auto" in error
    assert newest(out) >= 2
    assert not (out / "masker.safetensors").exists()
    assert not list(out.rglob("*.tmp*"))


def test_metrics_are_written_as_soon_as_logged(train_arguments, tmp_path, monkeypatch):
    lines = []
    file = tmp_path / "run/metrics/from-step-0/metrics.csv"
    before_each_step(
        monkeypatch, lambda _: lines.append(len(file.read_text().splitlines()) if file.exists() else 0)
    )
    assert run(train_arguments, tmp_path / "run", "--steps", "21") == 0
    assert lines == [0] * 10 + [2] * 10 + [3]  # a header, and a line each ten steps


def test_relative_paths_work_from_any_folder(train_arguments, weights, photographs, tmp_path, monkeypatch):
    relative = ("--weights", weights.name, "--data", os.path.relpath(photographs, weights.parent))
    monkeypatch.chdir(weights.parent)
    assert run(train_arguments, tmp_path / "run", "--steps", "1", *relative) == 0
    monkeypatch.chdir(tmp_path)
    config = read_config(tmp_path / "run/masker.safetensors")
    assert Path(config.data).samefile(photographs)
    load_nem(tmp_path / "run/masker.safetensors")


def test_weights_that_moved_are_asked_for(train_arguments, weights, tmp_path):
    moved = tmp_path / "moved.safetensors"
    shutil.copy(weights, moved)
    assert run(train_arguments, tmp_path / "run", "--steps", "1", "--weights", str(moved)) == 0
    moved.unlink()
    with pytest.raises(InputError, match="no file is there") as caught:
        load_nem(tmp_path / "run/masker.safetensors")
    assert caught.value.cure == "name the file: --weights FILE.safetensors"
    load_nem(tmp_path / "run/masker.safetensors", weights=str(weights))


def test_a_masker_of_other_tensors_is_refused(masker, tmp_path):
    with safe_open(masker, framework="pt") as file:
        metadata = file.metadata()
    save_file({"odd": torch.zeros(1)}, tmp_path / "masker.safetensors", metadata=metadata)
    with pytest.raises(SchemaError, match=r"1 not of this model \(odd\)") as caught:
        load_nem(tmp_path / "masker.safetensors")
    assert len(str(caught.value)) < 1000


def test_a_resumed_run_does_only_the_remaining_steps(undisturbed, tmp_path, monkeypatch):
    arguments, _ = undisturbed
    seen = []

    def recording(module):
        seen.append(module.global_step)
        if len(seen) == 6:
            raise RuntimeError("power cut")

    before_each_step(monkeypatch, recording)
    with pytest.raises(RuntimeError, match="power cut"):
        run(arguments, tmp_path / "run", "--checkpoint-every", "4")
    assert run(arguments, tmp_path / "run", "--resume", "auto") == 0
    assert seen == [0, 1, 2, 3, 4, 5, *range(4, 12)]


def test_the_masker_learns_and_the_encoder_does_not(train_arguments, masker):
    config = parser().parse_args([*train_arguments, "--out", "x"])
    untouched = load_encoder(
        EncoderConfig(encoder=config.encoder, weights=config.weights, image_size=(64, 64))
    )
    nem = load_nem(masker)
    assert nem.encoder.record.fingerprint == untouched.record.fingerprint
    torch.manual_seed(0)
    fresh = NEM.of(read_config(masker), untouched).masker.state_dict()
    trained = nem.masker.state_dict()
    assert all(not torch.equal(trained[k], fresh[k]) for k in trained if k.endswith("weight"))


def test_neither_weights_nor_statistics_of_the_encoder_move(train_arguments, tmp_path, monkeypatch):
    modules = []

    def recording(module):
        modules.append(module)
        assert not any(m.training for e in (module.nem.encoder, module.frozen) for m in e.modules())
        assert module.nem.masker.training

    before_each_step(monkeypatch, recording)
    assert run(train_arguments, tmp_path / "run", "--steps", "3") == 0
    module = modules[-1]
    weights = load_file(parser().parse_args([*train_arguments, "--out", "x"]).weights)
    state = module.nem.encoder.model.model.state_dict()
    assert all(torch.equal(state[k], weights[k]) for k in weights)
    optimised = {id(p) for group in module.optimizers().param_groups for p in group["params"]}
    assert optimised == {id(p) for p in module.nem.masker.parameters()}


def test_the_masker_file_holds_decoder_and_encoder_fingerprint(masker):
    with safe_open(masker, framework="pt") as file:
        names, metadata = list(file.keys()), file.metadata()
    assert names
    assert all(name.startswith(("lateral.", "smooth.", "logit.", "target.")) for name in names)
    assert len(metadata["encoder_fingerprint"]) == 64
    assert json.loads(metadata["config"])["encoder"]["encoder"] == "timm/test_resnet"


def test_a_masker_for_another_encoder_is_refused(masker, weights, tmp_path):
    tensors = load_file(weights)
    tensors["conv1.0.weight"] = tensors["conv1.0.weight"] + 1e-3
    other = tmp_path / "other.safetensors"
    save_file(tensors, other)
    with pytest.raises(MaskerMismatch) as caught:
        load_nem(masker, weights=str(other))
    trained_for = load_nem(masker).encoder.record.fingerprint
    this = load_encoder(EncoderConfig(encoder="timm/test_resnet", weights=str(other))).record.fingerprint
    assert trained_for in str(caught.value)
    assert this in str(caught.value)


OPTIONS = {
    "sparse": ["--toward"],
    "plain": ["--masker", "unet", "--image-skip", "--fill", "blur", "--no-centred"],
    "contrastive": ["--centred", "--fill", "mixed"],
    "ranking": ["--centred", "--fill", "mixed"],
    "class": ["--embedding", "head", "--fill", "zero"],
}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_every_objective_trains_in_every_precision(train_arguments, tmp_path, objective, precision):
    arguments = without_area_weight(train_arguments)
    options = ["--objective", objective, "--precision", precision, *OPTIONS[objective]]
    assert run(arguments, tmp_path / "run", "--steps", "2", *options) == 0
    assert 0 < read_summary(tmp_path / "run").loss < 5
    trained = load_nem(tmp_path / "run/masker.safetensors").masker.state_dict()
    torch.manual_seed(0)
    config = read_config(tmp_path / "run/masker.safetensors")
    fresh = NEM.of(config, load_encoder(config.encoder))
    moved = {k for k, v in fresh.masker.state_dict().items() if not torch.equal(v, trained[k])}
    assert moved >= {k for k in trained if k.endswith("weight")}


@pytest.mark.parametrize("masker", MASKERS)
def test_a_masker_comes_back_from_its_file(train_arguments, tmp_path, masker):
    torch.manual_seed(1)
    config, nem = untrained(train_arguments, masker=masker)
    x = torch.randn(2, 3, 64, 64)
    nem.train()(x)  # so that the statistics are not those of a fresh masker
    save_masker(tmp_path / "masker.safetensors", nem, config)
    loaded = load_nem(tmp_path / "masker.safetensors")
    assert read_config(tmp_path / "masker.safetensors") == config
    assert all(torch.equal(a, b) for a, b in zip(loaded(x), nem.eval()(x), strict=True))


def test_a_resumed_centred_run_equals_an_undisturbed_one(train_arguments, tmp_path, monkeypatch):
    arguments = [*train_arguments, "--steps", "6", "--centred", "--fill", "mixed"]
    assert run(arguments, tmp_path / "whole") == 0
    interrupted(arguments, tmp_path / "run", monkeypatch, at=4)
    (checkpoint,) = (tmp_path / "run").glob("checkpoints/step-*.ckpt")
    centre = torch.load(checkpoint, weights_only=True)["state_dict"]["centre"]
    assert centre.abs().max() > 0
    used = []
    before_each_step(monkeypatch, lambda module: used.append(module.centre.clone()))
    assert run(arguments, tmp_path / "run", "--resume", "auto") == 0
    assert len(used) == 2
    assert all(torch.equal(c, centre) for c in used)
    whole, resumed = (load_file(tmp_path / f"{name}/masker.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(resumed[k], whole[k]) for k in whole)
    monkeypatch.undo()
    assert run([*arguments, "--no-centred"], tmp_path / "other") == 0
    assert not torch.equal(
        load_file(tmp_path / "other/masker.safetensors")["logit.weight"], whole["logit.weight"]
    )


@pytest.fixture
def module(train_arguments):
    torch.manual_seed(0)
    config, nem = untrained(train_arguments, area_weight=100.0, centred=True, steps=20)
    return MaskerTraining(nem, config, files="")


def test_the_centre_is_the_mean_embedding(module):
    images = torch.randint(256, (40, 64, 64, 3), dtype=torch.uint8)
    module.set_centre(images)
    expected = module.nem.encoder(module.nem.encoder.normalize(images))[0].mean(0)
    torch.testing.assert_close(module.centre, expected)
    assert "centre" in module.state_dict()


def test_without_an_area_weight_it_is_measured(train_arguments):
    """1.25 times 4·D(f(x), f(0)), by hand."""
    config, nem = untrained(train_arguments, fill="zero", centred=False, batch_size=3)
    module = MaskerTraining(nem, config, files="")
    images = torch.randint(256, (5, 64, 64, 3), dtype=torch.uint8)
    statistics = {k: v.clone() for k, v in module.nem.masker.state_dict().items()}
    module.price_area(images)
    x = module.frozen.normalize(images)
    with torch.no_grad():
        cosine = torch.nn.functional.cosine_similarity(module.frozen(x)[0], module.frozen(0 * x)[0])
    assert module.area_weight == pytest.approx(1.25 * 2 * (1 - cosine).mean().item(), rel=1e-4)
    assert all(torch.equal(v, statistics[k]) for k, v in module.nem.masker.state_dict().items())


def test_a_weight_that_is_given_stays(module):
    module.price_area(torch.randint(256, (4, 64, 64, 3), dtype=torch.uint8))
    assert module.area_weight == 100


def test_a_fill_that_hides_nothing_is_refused(train_arguments):
    config, nem = untrained(train_arguments, fill="blur")
    module = MaskerTraining(nem, config, files="")
    with pytest.raises(InputError, match="hidden behind --fill blur") as caught:
        module.price_area(torch.full((4, 64, 64, 3), 90, dtype=torch.uint8))  # blurred, it is what it was
    assert "another --fill" in caught.value.cure


def test_a_run_with_worthless_masks_exits_with_3(train_arguments, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*without_area_weight(train_arguments), "--steps", "2", "--out", str(out)]) == WORTHLESS
    summary = read_summary(out)
    assert summary.area_weight > 0
    assert f"warning: {summary.fault}" in capsys.readouterr().err
    assert (out / "masker.safetensors").exists()


def test_the_learning_rate_rises_once_and_vanishes(module):
    made = module.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) > 0.9e-3
    assert rates[-1] < 0.02 * max(rates)


@pytest.mark.parametrize(("masker", "rate"), [("lateral", "2e-2"), ("unet", "1e-2")])
def test_it_learns(train_arguments, tmp_path, masker, rate):
    """On 12 images the objective must fall; a gradient that does not reach the masker leaves it flat."""
    arguments = [*train_arguments, "--masker", masker, "--learning-rate", rate]
    for steps in ("1", "25"):
        run(arguments, tmp_path / steps, "--steps", steps)
    first = read_summary(tmp_path / "1").loss
    rows = list(csv.DictReader((tmp_path / "25/metrics/from-step-0/metrics.csv").open()))
    assert float(rows[1]["loss"]) < 0.8 * first  # of step 19


def test_a_run_in_the_way_is_not_overwritten(train_arguments, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(train_arguments, out, "--steps", "2") == 0
    before = (out / "masker.safetensors").read_bytes()
    assert run(train_arguments, out, "--steps", "2") == 1
    assert "--force" in capsys.readouterr().err
    assert run(train_arguments, out, "--steps", "3", "--resume", "auto") == 1
    assert "steps 2 there, 3 here" in capsys.readouterr().err
    assert (out / "masker.safetensors").read_bytes() == before
    assert run(train_arguments, out, "--steps", "2", "--resume", "auto") == 0  # nothing left to do
    assert run(train_arguments, out, "--data", "/nowhere", "--force") == 1
    assert (out / "masker.safetensors").read_bytes() == before
    assert run(train_arguments, out, "--steps", "3", "--force") == 0


def test_fresh_run_is_not_resumed_from_the_old(train_arguments, tmp_path, monkeypatch):
    out = tmp_path / "run"
    arguments = [*train_arguments, "--steps", "3"]
    assert run(arguments, out) == 0
    interrupted([*arguments, "--force"], out, monkeypatch, at=0)
    assert not (out / "masker.safetensors").exists()
    assert run(arguments, out, "--resume", "auto") == 0
    assert read_summary(out).resumed_at == 0


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_folder_of_something_else_is_left_alone(train_arguments, tmp_path, force):
    for name in ("mine/letter.txt", "mine/metrics/precious.txt", "mine/checkpoints/best.ckpt", "file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("dear")
    (tmp_path / "other/config.json").parent.mkdir()
    (tmp_path / "other/config.json").write_text('{"not": "ours"}')
    before = sorted(tmp_path.rglob("*"))
    for out in ("mine", "file", "other", "file/below"):
        assert run(train_arguments, tmp_path / out, "--steps", "2", *force) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_that_cannot_be_read_is_named(train_arguments, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    arguments = [*train_arguments, "--steps", "5"]
    interrupted(arguments, out, monkeypatch, at=3)
    (checkpoint,) = out.glob("checkpoints/step-*.ckpt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    assert run(arguments, out, "--resume", "auto") == 1
    assert f"delete {checkpoint}" in capsys.readouterr().err
    checkpoint.unlink()
    assert run(arguments, out, "--resume", "auto") == 0


def test_a_run_is_not_resumed_on_other_images(train_arguments, photographs, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "data"
    shutil.copytree(photographs, folder)
    (folder / "text.jpg").write_text("no picture")
    arguments = [*train_arguments, "--steps", "6", "--data", str(folder)]
    interrupted(arguments, tmp_path / "run", monkeypatch, at=5)
    shutil.copy(folder / "00.png", folder / "99.png")
    assert run(arguments, tmp_path / "run", "--resume", "auto") == 1
    assert "the same files" in capsys.readouterr().err
    (folder / "99.png").unlink()
    assert run(arguments, tmp_path / "run", "--resume", "auto") == 0
    assert read_summary(tmp_path / "run").skipped == 1  # met before the interruption, still known


def test_a_masker_with_nan_is_not_written(train_arguments, tmp_path, monkeypatch, capsys):
    original = MaskerTraining.terms

    def diverging(self, images, *, step):
        with torch.no_grad():
            self.nem.masker.logit.bias.fill_(float("nan"))
        return original(self, images, step=step)

    monkeypatch.setattr(MaskerTraining, "terms", diverging)
    assert run(train_arguments, tmp_path / "run", "--steps", "2") == 1
    assert "diverged" in capsys.readouterr().err
    assert not (tmp_path / "run/masker.safetensors").exists()


def test_unreadable_files_are_listed(train_arguments, photographs, tmp_path, capsys):
    folder = tmp_path / "data"
    shutil.copytree(photographs, folder)
    (folder / "text.jpg").write_text("this is no picture")
    arguments = [*train_arguments, "--data", str(folder)]
    arguments.remove("--quiet")
    assert run(arguments, tmp_path / "run", "--steps", "4") == 0
    assert "1 files could not be decoded" in capsys.readouterr().out
    assert (tmp_path / "run/skipped.txt").read_text().strip().endswith("text.jpg")


def test_an_unreadable_file_set_apart_is_skipped(train_arguments, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("train.data.FEWEST_APART", 1)
    folder = tmp_path / "data"
    shutil.copytree(photographs, folder)
    (unseen,) = set_apart(find_images(folder))[1]
    unseen.write_text("this is no picture")
    assert run(train_arguments, tmp_path / "run", "--steps", "4", "--data", str(folder)) == 0
    assert (tmp_path / "run/skipped.txt").read_text() == f"{unseen}\n"
    assert (tmp_path / "run/apart.txt").read_text() == ""
    assert read_summary(tmp_path / "run").skipped == 1


def test_a_checkpoint_without_an_area_weight_is_resumed(train_arguments, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    interrupted([*train_arguments, "--steps", "6"], out, monkeypatch, at=5)
    (file,) = out.glob("checkpoints/step-*.ckpt")
    checkpoint = torch.load(file, weights_only=True)
    del checkpoint["area_weight"]
    torch.save(checkpoint, file)
    assert run([*train_arguments, "--steps", "6"], out, "--resume", "auto") == 0


def test_metrics_hold_the_last_step(train_arguments, tmp_path):
    assert run(train_arguments, tmp_path / "run", "--steps", "3") == 0
    (file,) = tmp_path.glob("run/metrics/*/metrics.csv")
    header, row = file.read_text().splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True))["step"] == "2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "/nowhere"], "does not exist"),
        (["--area-weight", "-1"], "a positive number"),
        (["--batch-size", "1"], "at least 2"),
        (["--weights", "/nowhere.safetensors"], "no such file"),
        (["--objective", "ranking"], "ranking with --area-weight 1.0"),
        (["--objective", "class"], "--embedding head with a timm classifier"),
        (["--image-skip"], "--masker unet"),
        *([] if torch.cuda.is_available() else [(["--precision", "16-mixed"], "32-true")]),
    ],
)
def test_bad_options_are_explained_and_leave_nothing(train_arguments, tmp_path, capsys, options, message):
    out = tmp_path / "run"
    assert run(train_arguments, out, *options) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()
