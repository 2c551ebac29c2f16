"""The masking network Ψ: a decoder on the frozen encoder's features, pyramid → logits.

`LateralMasker` is ours and the default: a feature pyramid (Lin et al., CVPR 2017) of few channels.
`UNetMasker` is the decoder of the authors' released code (NEM_T, version A).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from runtime.errors import InputError
from train.target import Target

LATERAL_WIDTH, NARROWEST = 32, 8
"""Channels of a lateral level at stride 8 and coarser, halved for every finer octave down to the second
number.  Multiples of 8 fill tensor cores and vector registers."""
FINEST_STRIDE = 2
"""Stride of the finest lateral level: finer taps are not read, and a coarser pyramid is doubled up to it."""
WIDTHS = (256, 128, 64, 32, 16)
"""Output channels of the authors' blocks, deep to shallow; the last is at full resolution."""


class LateralMasker(nn.Module):
    """Pyramid → mask logits by lateral connections: project, add, smooth.

    Every tap is projected to a few channels by a 1×1 convolution; from the deepest level on, the level
    above is upsampled (nearest), added, and smoothed by one 3×3 convolution, which gives the width of the
    next level: fine levels are large, so they get few channels.  A 1×1 convolution of the finest level gives
    one logit a cell, and these are upsampled bilinearly.

    Args:
        channels: C_i of the encoder's pyramid, shallow to deep.
        sizes: (h_i, w_i) of it.
        image_size: (H, W) of the image, and of the mask.
        early: do not read the deepest tap, so that the mask can be computed beside the encoder's last stage;
            a pyramid of a single tap is read all the same.
        dimension: D of the embeddings, if the masker takes one as its target.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        sizes: Sequence[tuple[int, int]],
        image_size: tuple[int, int],
        early: bool = False,
        dimension: int | None = None,
    ) -> None:
        super().__init__()
        deepest = len(sizes) - 1
        taps = [i for i in range(deepest - early, -1, -1) if not _finer(sizes[i], image_size, FINEST_STRIDE)]
        self.taps = taps or [deepest]  # indices into the pyramid, deep to shallow
        levels = [sizes[i] for i in self.taps]
        while all(2 * s * FINEST_STRIDE <= whole for s, whole in zip(levels[-1], image_size, strict=True)):
            levels.append((levels[-1][0] * 2, levels[-1][1] * 2))
        self.sizes = levels  # deep to shallow
        self.image_size = image_size
        widths = [_width(level[0], image_size[0]) for level in levels]
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels[i], width, 1, bias=False), nn.BatchNorm2d(width))
            for i, width in zip(self.taps, widths, strict=False)  # the levels above have no tap
        )
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, following, 3, padding=1, bias=False), nn.BatchNorm2d(following), nn.ReLU()
            )
            for width, following in pairwise([*widths, widths[-1]])
        )
        self.logit = nn.Conv2d(widths[-1], 1, kernel_size=1)
        read = len(self.taps)
        self.target: Target | None = None
        if dimension is not None:
            self.target = Target(
                dimension=dimension, channels=[channels[i] for i in self.taps], widths=widths[:read]
            )

    def forward(self, pyramid: Sequence[Tensor], image: Tensor, toward: Tensor | None = None) -> Tensor:
        """Pyramid [(N, C_i, h_i, w_i)], image (not used), targets (N, D) → logits (N, 1, H, W).

        Without targets, or where one is all zero, the target is the image's own embedding.
        """
        return self.with_likeness(pyramid, toward)[0]

    def with_likeness(self, pyramid: Sequence[Tensor], toward: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """The logits (N, 1, H, W); and likeness logits of some levels, see `train.target.Target`.

        Raises:
            InputError: a target for a masker that takes none.
        """
        features = [pyramid[i] for i in self.taps]
        levels = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=False)]
        alike: list[Tensor] = []
        if toward is not None:
            if self.target is None:
                raise InputError(
                    "a target for a masker that takes none",
                    expected="a masker that was trained with targets",
                    cure="train one: nemu train --toward",
                )
            levels, alike = self.target(features, levels, toward)
        x = levels[0]  # (N, widths[0], *sizes[0])
        for i, (smooth, size) in enumerate(zip(self.smooth, self.sizes, strict=True)):
            if i:
                x = _resize(x, size)
                if i < len(levels):
                    x = x + levels[i]
            x = smooth(x)
        return _resize(self.logit(x), self.image_size, mode="bilinear"), alike


class UNetMasker(nn.Module):
    """Pyramid → mask logits by the authors' U-Net decoder.

    From the deepest feature map: nearest-neighbour upsampling by two, the skip of that level, twice
    [3×3 conv, BatchNorm, SiLU], down to one logit a pixel.  Their "patching layer" at P = 1 is a scale
    and shift of that logit, which the last convolution already has, so it is left out.

    Args:
        channels: C_i of the encoder's pyramid, shallow to deep.
        sizes: (h_i, w_i) of it.
        image_size: (H, W) of the image, and of the mask.
        image_skip: the normalised image is the skip of the last block (as for the authors' ResNet-50).

    The blocks' output sizes are the image's halvings, down to the first that the deepest map reaches.
    Each block takes the next shallower tap unless that tap is still finer than the block; a tap of
    another size is nearest-resized to the block (the tokens of a plain ViT, or a stride-4 stem).
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        sizes: Sequence[tuple[int, int]],
        image_size: tuple[int, int],
        image_skip: bool = False,
    ) -> None:
        super().__init__()
        self.image_skip = image_skip
        self.sizes = _levels(image_size, sizes[-1])
        self.taps = _assign(self.sizes, sizes, image_skip=image_skip)  # index into the pyramid, or None

        widths = (WIDTHS[0],) * (len(self.sizes) - len(WIDTHS)) + WIDTHS[-len(self.sizes) :]
        in_channels = (channels[-1], *widths[:-1])
        skip_channels = [0 if tap is None else channels[tap] for tap in self.taps]
        if image_skip:
            skip_channels[-1] += 3
        self.blocks = nn.ModuleList(
            _Block(i + s, o) for i, s, o in zip(in_channels, skip_channels, widths, strict=True)
        )
        self.logit = nn.Conv2d(widths[-1], 1, kernel_size=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, pyramid: Sequence[Tensor], image: Tensor) -> Tensor:
        """Pyramid [(N, C_i, h_i, w_i)], image (N, 3, H, W) → logits (N, 1, H, W)."""
        x = pyramid[-1]
        for block, size, tap in zip(self.blocks, self.sizes, self.taps, strict=True):
            parts = [_resize(x, size)]
            if tap is not None:
                parts.append(_resize(pyramid[tap], size))
            if self.image_skip and block is self.blocks[-1]:
                parts.append(image)
            x = block(torch.cat(parts, dim=1))  # (N, width, *size)
        return self.logit(x)


class _Block(nn.Sequential):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.SiLU(),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.SiLU(),
        )


def _resize(x: Tensor, size: tuple[int, int], *, mode: str = "nearest") -> Tensor:
    height, width = x.shape[-2:]
    if (height, width) == size:
        return x
    # Constant scales leave no shape arithmetic in the graph.
    if size[0] % height == 0 and size[1] % width == 0:
        scales = (float(size[0] // height), float(size[1] // width))
        return nn.functional.interpolate(x, scale_factor=scales, mode=mode)
    return nn.functional.interpolate(x, size=size, mode=mode)


def _width(rows: int, image_rows: int) -> int:
    """Channels of a lateral level: halved for every octave that it is finer than stride 8."""
    octaves = max(0, round(math.log2(8 * rows / image_rows)))
    return max(LATERAL_WIDTH >> octaves, NARROWEST)


def _finer(size: tuple[int, int], image_size: tuple[int, int], stride: int) -> bool:
    """Whether a map has more cells than one every `stride` pixels, rounded up."""
    return any(s > -(-whole // stride) for s, whole in zip(size, image_size, strict=True))


def _levels(image_size: tuple[int, int], deepest: tuple[int, int]) -> list[tuple[int, int]]:
    """Halvings of the image (rounded up, as strided convolutions do) above `deepest`, deep to shallow."""
    height, width = image_size
    levels = [(height, width)]
    while -(-height // 2) > deepest[0] or -(-width // 2) > deepest[1]:
        height, width = -(-height // 2), -(-width // 2)
        levels.insert(0, (height, width))
    return levels


def _assign(
    levels: Sequence[tuple[int, int]], sizes: Sequence[tuple[int, int]], *, image_skip: bool
) -> list[int | None]:
    """The tap of each block: the next shallower one, unless it is finer than the block."""
    taps: list[int | None] = []
    tap = len(sizes) - 2
    for level in levels:
        fits = tap >= 0 and sizes[tap][0] <= level[0] and sizes[tap][1] <= level[1]
        taps.append(tap if fits else None)
        tap -= fits
    return taps
