"""Two processes with half a batch each normalise it as nn.BatchNorm2d does the whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from train.batchnorm import BatchNorm

CHANNELS = 6


def batch(seed):
    """(6, C, 5, 7) and a weight of every output; the halves differ, and one channel lies far from zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, CHANNELS, 5, 7, generator=generator) + torch.arange(6.0).view(6, 1, 1, 1)
    x[:, 0] = 30 + x[:, 0] / 20
    return x, torch.randn(x.shape, generator=generator)


def two_steps(layer, rows, dtype):
    """Outputs, gradients and statistics after two batches of which this process has some rows."""
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, CHANNELS))
        layer.bias.copy_(torch.linspace(-1, 1, CHANNELS))
    for seed in range(2):
        layer.zero_grad()
        x, weights = (t[rows].to(dtype) for t in batch(seed))
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        y = layer(x)
        (weights * y.square()).sum().backward()
    gradients = {"x": x.grad, "weight": layer.weight.grad, "bias": layer.bias.grad}
    return y.detach(), gradients, dict(layer.named_buffers())


def process(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    rows = slice(3 * rank, 3 * rank + 3)
    found = {
        "whole": two_steps(BatchNorm(CHANNELS), rows, torch.float32),
        "half": two_steps(BatchNorm(CHANNELS), rows, torch.bfloat16),
        "plain": two_steps(nn.BatchNorm2d(CHANNELS), rows, torch.float32),
    }
    layer = BatchNorm(CHANNELS).eval()
    found["eval"] = layer(batch(0)[0][rows]).detach()
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batchnorm")
    torch.multiprocessing.spawn(process, args=(folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def expected():
    """nn.BatchNorm2d's, of the whole batch, in double precision."""
    return two_steps(nn.BatchNorm2d(CHANNELS).double(), slice(6), torch.float64)


def assert_close(a, b, **tolerances):
    """In double precision."""
    torch.testing.assert_close(a.double(), b.double(), **tolerances)


def test_outputs_and_gradients_are_those_of_the_whole_batch(found, expected):
    outputs, gradients, _ = zip(*(f["whole"] for f in found), strict=True)
    assert_close(torch.cat(outputs), expected[0], rtol=1e-5, atol=1e-4)
    assert_close(torch.cat([g["x"] for g in gradients]), expected[1]["x"], rtol=1e-4, atol=1e-3)
    for name in ("weight", "bias"):  # DDP adds up those of the processes
        assert_close(gradients[0][name] + gradients[1][name], expected[1][name], rtol=1e-4, atol=1e-3)


def test_running_statistics_are_those_of_the_whole_batch_in_every_process(found, expected):
    first, second = (f["whole"][2] for f in found)
    assert first.keys() == expected[2].keys()
    for name, value in expected[2].items():
        assert torch.equal(first[name], second[name])
        assert_close(first[name], value, rtol=1e-5, atol=1e-6)


def test_plain_batch_statistics_would_be_others(found, expected):
    """So that the two tests above can fail."""
    outputs, gradients, buffers = zip(*(f["plain"] for f in found), strict=True)
    assert (torch.cat(outputs) - expected[0]).abs().mean() > 0.1
    assert (torch.cat([g["x"] for g in gradients]) - expected[1]["x"]).abs().mean() > 0.1
    assert (buffers[0]["running_mean"] - expected[2]["running_mean"]).abs().max() > 0.1


def test_half_precision_stays_half_and_counts_in_single(found, expected):
    outputs, _, buffers = zip(*(f["half"] for f in found), strict=True)
    assert outputs[0].dtype == torch.bfloat16
    ours, theirs = (y[:, 1:] for y in (torch.cat(outputs), expected[0]))  # bfloat16 has no room for the first
    assert_close(ours, theirs, rtol=0.02, atol=0.05)
    assert buffers[0]["running_var"].dtype == torch.float32


def test_in_eval_mode_it_is_the_running_statistics_alone(found):
    x, _ = batch(0)
    assert torch.equal(torch.cat([f["eval"] for f in found]), nn.BatchNorm2d(CHANNELS).eval()(x))


def test_alone_it_is_batchnorm2d_bit_for_bit():
    ours = two_steps(BatchNorm(CHANNELS), slice(6), torch.float32)
    plain = two_steps(nn.BatchNorm2d(CHANNELS), slice(6), torch.float32)
    assert torch.equal(ours[0], plain[0])
    assert all(torch.equal(ours[i][k], plain[i][k]) for i in (1, 2) for k in plain[i])
