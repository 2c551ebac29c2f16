"""NEM: a frozen encoder and its masking network, one pass, two outputs."""

from __future__ import annotations

from torch import Tensor, nn

from train.config import TrainConfig
from train.encoder.frozen import FrozenEncoder
from train.masker import LateralMasker, UNetMasker


class NEM(nn.Module):
    """Neural Explanation Mask: x → (Φ(x), σ(Ψ(x))), Ψ on Φ's own features.

    Møller et al., ICML 2024; the decoder is ours, or that of the authors' released code.  A masker that takes
    a target q gives the smallest region of x that looks like q; the paper's is that of q = Φ(x).
    """

    def __init__(self, encoder: FrozenEncoder, masker: LateralMasker | UNetMasker) -> None:
        super().__init__()
        self.encoder = encoder
        self.masker = masker

    @classmethod
    def untrained(
        cls,
        encoder: FrozenEncoder,
        *,
        masker: str = "lateral",
        image_skip: bool = False,
        toward: bool = False,
    ) -> NEM:
        """A fresh masker that fits the encoder's pyramid: one of `train.config.MASKERS`.

        Args:
            image_skip: give the authors' decoder the image as a skip; the others ignore it.
            toward: the masker takes a target; not for the authors' decoder.
        """
        image_size = (encoder.input.height, encoder.input.width)
        channels, sizes = encoder.channels, encoder.sizes
        if masker != "unet":
            early, dimension = masker == "lateral-early", encoder.record.dimension if toward else None
            lateral = LateralMasker(
                channels=channels, sizes=sizes, image_size=image_size, early=early, dimension=dimension
            )
            return cls(encoder, lateral)
        unet = UNetMasker(channels=channels, sizes=sizes, image_size=image_size, image_skip=image_skip)
        return cls(encoder, unet)

    @classmethod
    def of(cls, config: TrainConfig, encoder: FrozenEncoder) -> NEM:
        """A fresh masker of the kind that a training run asks for."""
        return cls.untrained(
            encoder, masker=config.masker, image_skip=config.image_skip, toward=bool(config.toward)
        )

    @property
    def takes_target(self) -> bool:
        """Whether the masker takes a target."""
        return getattr(self.masker, "target", None) is not None

    def forward(self, x: Tensor, toward: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalised images (N, 3, H, W) → embedding (N, D), mask float32 (N, H, W) in [0, 1].

        Args:
            toward: (N, D), if the masker takes a target; a row of zeros is the image's own embedding.
        """
        embedding, pyramid = self.encoder(x)
        logits = self.masker(pyramid, x) if toward is None else self.masker(pyramid, x, toward)
        return embedding, logits.squeeze(1).float().sigmoid()
