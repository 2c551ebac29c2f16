"""The lateral decoders by name: each a specification that is trained, exported, timed and scored as one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Lateral:
    """A `train.masker.LateralMasker` in five settings; their cost and quality: README's table."""

    width: int = 32
    """Channels at stride 8 and coarser.  Multiples of 8 fill tensor cores and vector registers."""
    narrowest: int = 8
    """The width is halved with every finer level, down to this."""
    stride: int = 2
    """Of the finest level: finer taps are not read, and a pyramid that ends coarser is doubled up to it."""
    subpixel: int = 1
    """Logits per cell and side: the last 1×1 convolution gives the square of it, laid out as pixels."""
    early: bool = False
    """Do not read the deepest tap, so that the mask can be computed beside the encoder's last stage."""


LATERALS: dict[str, Lateral] = {
    "lateral": Lateral(),
    "lateral-narrow": Lateral(width=16),
    "lateral-coarse": Lateral(stride=4, subpixel=2),
    "lateral-early": Lateral(early=True),
    "lateral-wide": Lateral(narrowest=32),
}
"""The default, then its neighbours on the frontier; `lateral-wide` was the default before."""

MASKERS = (*LATERALS, "unet")
"""Values of `--masker`; `unet` is the authors' decoder."""
