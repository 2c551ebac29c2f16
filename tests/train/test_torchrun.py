"""Two processes under torchrun train the masker that one process trains on the same batches."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from train.__main__ import WORTHLESS, main
from train.checkpoint import load_nem, read_config
from train.folder import MASKER, SUMMARY, read_summary
from train.nem import NEM
from train.zoo import load_encoder

ROOT = Path(__file__).parents[2]
STEPS = 6
TOLERANCE = 5e-4
"""Of the distance between two maskers, relative to how far training moved them; measured: 4e-5.

Two runs of one process, with one thread and with two, are as far apart."""

WITH_PLAIN_BATCHNORM = """
import sys
from torch import nn
from train.__main__ import main
from train.batchnorm import BatchNorm

BatchNorm.forward = nn.BatchNorm2d.forward
sys.exit(main())
"""


def started(*command):
    """A command in two processes on this machine, which share nothing but what they say to each other."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def torchrun(*command):
    """The same, which has to end well; returns what it said."""
    done = started(*command)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def arguments(train_arguments):
    """Batches of 4; random crops, random fills of three kinds, a centred cosine; no pairs, whose partners are
    those of the same process."""
    return [*train_arguments, "--steps", str(STEPS), "--augment", "crop", "--checkpoint-every", "4"]


@pytest.fixture(scope="module")
def one(arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "run"
    assert main([*arguments, "--out", str(out)]) in (0, WORTHLESS)
    return out


@pytest.fixture(scope="module")
def two(arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("two") / "run"
    said = torchrun("-m", "train", *arguments, "--json", "--out", str(out))
    assert json.loads(said)["steps"] == STEPS  # the first process speaks for both
    return out


def apart(run, other):
    """Parameters, running statistics: ‖run − other‖ / ‖other − before training‖, of all tensors together."""
    config = read_config(other / MASKER)
    torch.manual_seed(config.seed)
    before = NEM.of(config, load_encoder(config.encoder)).masker.state_dict()
    a, b = load_file(run / MASKER), load_file(other / MASKER)
    assert a.keys() == b.keys() == before.keys()
    counts = {k for k in b if k.endswith("num_batches_tracked")}
    assert all(a[k] == b[k] == STEPS for k in counts)
    statistics = {k for k in b if ".running_" in k}
    return [
        distance(a, b, names) / distance(before, b, names)
        for names in (b.keys() - statistics - counts, statistics)
    ]


def distance(a, b, names):
    return sum((a[k] - b[k]).double().square().sum() for k in names).sqrt().item()


def test_two_processes_train_the_masker_of_one(one, two):
    assert max(apart(two, one)) < TOLERANCE
    assert read_summary(two).processes == 2
    assert load_nem(two / MASKER)


def test_two_processes_train_a_masker_that_takes_targets(train_arguments, tmp_path):
    run = [*train_arguments, "--toward", "--steps", "3", "--batch-size", "8", "--out", str(tmp_path / "run")]
    torchrun("-m", "train", *run)
    summary = read_summary(tmp_path / "run")
    assert (summary.processes, summary.follows is None) == (2, False)
    assert load_nem(tmp_path / "run" / MASKER).takes_target


def test_too_few_images_a_process_for_pairs_are_refused(train_arguments, tmp_path):
    done = started(
        "-m", "train", *train_arguments, "--toward", "--steps", "3", "--out", str(tmp_path / "run")
    )
    assert done.returncode != 0
    assert "--batch-size 6, or --no-toward" in done.stderr


def test_without_common_statistics_they_would_not(arguments, one, tmp_path):
    """So that the test above can fail."""
    script = tmp_path / "plain.py"
    script.write_text(WITH_PLAIN_BATCHNORM)
    torchrun(str(script), *arguments, "--out", str(tmp_path / "run"))
    assert min(apart(tmp_path / "run", one)) > 100 * TOLERANCE


@pytest.mark.parametrize("processes", [1, 2])
def test_what_two_began_one_or_two_can_end(arguments, one, two, tmp_path, processes):
    out = tmp_path / "run"
    shutil.copytree(two, out)
    for finished in (MASKER, SUMMARY):
        (out / finished).unlink()
    resume = [*arguments, "--out", str(out), "--resume", "auto"]
    if processes == 2:
        torchrun("-m", "train", *resume)
    else:
        assert main(resume) in (0, WORTHLESS)
    assert read_summary(out).resumed_at == 4
    assert read_summary(out).processes == processes
    assert max(apart(out, one)) < TOLERANCE


def test_a_batch_that_two_cannot_share_is_refused(arguments, tmp_path, capsys, monkeypatch):
    from lightning import Trainer

    monkeypatch.setattr(Trainer, "world_size", 3)
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 1
    assert "--batch-size 6" in capsys.readouterr().err
