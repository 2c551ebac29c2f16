"""Two processes under torchrun train one masker."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from runtime.errors import InputError
from train.__main__ import WORTHLESS, main
from train.checkpoint import load_nem
from train.config import EncoderConfig, TrainConfig
from train.distributed import MaskerBatchNorm, check_batch_size
from train.run_folder import MASKER, SUMMARY, read_summary

ROOT = Path(__file__).parents[2]
STEPS = 20

KEEPING_EACH_RANK = """
import os, sys, torch
from train.__main__ import main
from train.lightning_module import MaskerTraining

def keep(self):
    learned = {k: v.detach() for k, v in self.nem.masker.named_parameters()}
    first = self.first_draw
    torch.save({"learned": learned, "first": first}, os.environ["KEPT"] + f"/{self.global_rank}.pt")

def draw(self, images, *, step):
    if step == 0:
        self.first_draw = torch.rand(4, generator=self.generator(0, rank=self.global_rank)), images
    return terms(self, images, step=step)

terms, MaskerTraining.terms = MaskerTraining.terms, draw
MaskerTraining.on_fit_end = keep
sys.exit(main())
"""


def started(*command, **variables):
    """Run a command in two processes on this machine."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
    )


def torchrun(*command, **variables):
    """Run a command that must succeed in two processes; returns its standard output."""
    done = started(*command, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def arguments(train_arguments):
    """A run of 20 steps in batches of 4, with random crops and fills."""
    more = ["--steps", str(STEPS), "--augment", "crop", "--checkpoint-every", "15", "--learning-rate", "2e-2"]
    return [*train_arguments, *more]


@pytest.fixture(scope="module")
def two(arguments, tmp_path_factory):
    """The folder of a run of two processes, with what each of them kept."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "script.py").write_text(KEEPING_EACH_RANK)
    said = torchrun(
        str(folder / "script.py"), *arguments, "--json", "--out", str(folder / "run"), KEPT=str(folder)
    )
    assert json.loads(said)["steps"] == STEPS, "the first process alone prints the summary"
    return folder


def test_both_ranks_end_with_the_written_weights(two):
    written = load_file(two / "run" / MASKER)
    for rank in range(2):
        learned = torch.load(two / f"{rank}.pt", weights_only=True)["learned"]
        assert learned
        assert all(torch.equal(value, written[name]) for name, value in learned.items())


def test_each_rank_has_own_images_and_random_numbers(two):
    (one, seen), (other, also_seen) = (
        torch.load(two / f"{rank}.pt", weights_only=True)["first"] for rank in range(2)
    )
    assert not torch.equal(one, other)
    assert seen.shape == also_seen.shape == (2, 64, 64, 3)
    assert not torch.equal(seen, also_seen)


def test_the_loss_is_finite_and_falls(two):
    summary = read_summary(two / "run")
    with (two / "run/metrics/from-step-0/metrics.csv").open() as file:
        rows = [float(row["loss"]) for row in csv.DictReader(file)]
    assert summary.processes == 2
    assert torch.tensor([*rows, summary.loss]).isfinite().all()
    assert rows[-1] < summary.loss, "the last step's loss is below the mean of all"


def test_two_processes_write_one_masker(two):
    assert [path.relative_to(two) for path in two.rglob("*.safetensors")] == [Path("run") / MASKER]
    assert load_nem(two / "run" / MASKER)


def test_two_processes_train_a_masker_with_targets(train_arguments, tmp_path):
    run = [*train_arguments, "--toward", "--steps", "3", "--batch-size", "8", "--out", str(tmp_path / "run")]
    torchrun("-m", "train", *run)
    summary = read_summary(tmp_path / "run")
    assert (summary.processes, summary.follows is None) == (2, False)
    assert load_nem(tmp_path / "run" / MASKER).takes_target


@pytest.mark.parametrize("processes", [1, 2])
def test_one_or_two_processes_resume_a_run(arguments, two, tmp_path, processes):
    out = tmp_path / "run"
    shutil.copytree(two / "run", out)
    for finished in (MASKER, SUMMARY):
        (out / finished).unlink()
    resume = [*arguments, "--out", str(out), "--resume", "auto"]
    if processes == 2:
        torchrun("-m", "train", *resume)
    else:
        assert main(resume) in (0, WORTHLESS)
    assert read_summary(out).resumed_at == 15
    assert read_summary(out).processes == processes
    assert load_nem(out / MASKER)


@pytest.mark.parametrize(
    ("settings", "processes", "cure"),
    [
        ({"batch_size": 4}, 3, "--batch-size 6"),
        ({"batch_size": 4}, 2, "--batch-size 6, or --no-toward"),
        ({"batch_size": 2, "toward": False}, 2, "--batch-size 4"),
    ],
)
def test_a_batch_too_small_to_share_is_refused(settings, processes, cure):
    config = TrainConfig(encoder=EncoderConfig(encoder="timm/test_resnet"), data="x", **settings)
    with pytest.raises(InputError) as caught:
        check_batch_size(config, processes)
    assert caught.value.cure == cure


def test_a_run_checks_its_batch_size(arguments, tmp_path, capsys, monkeypatch):
    from lightning import Trainer

    monkeypatch.setattr(Trainer, "world_size", 3)
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 1
    assert "--batch-size 6" in capsys.readouterr().err


def test_only_the_maskers_batchnorm_is_synchronised():
    masker = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model = SimpleNamespace(nem=SimpleNamespace(masker=masker, encoder=timm.create_model("test_resnet")))
    names, encoder = list(masker.state_dict()), str(model.nem.encoder)
    plugin = MaskerBatchNorm()
    plugin.apply(model)
    assert isinstance(masker[1], nn.SyncBatchNorm)
    assert str(model.nem.encoder) == encoder
    assert list(masker.state_dict()) == names
    plugin.revert(model)
    assert not isinstance(masker[1], nn.SyncBatchNorm)
    assert list(masker.state_dict()) == names
