"""Several processes train as one: which rows of a batch are whose, and what is drawn for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Process `rank` of `world` has the rank-th of `world` equal slices of every batch."""

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls) -> Share:
        """Of this process: one of torchrun's that trains, or the only one."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return cls()
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    def draw(
        self, source: Callable[..., Tensor], size: Sequence[int], *, generator: torch.Generator
    ) -> Tensor:
        """Random numbers (N, …) for this process's N rows, on the generator's device.

        Drawn for the whole batch, so that a row gets the same numbers however many processes there are.

        Args:
            source: torch.rand, torch.randn, or torch.randint with its bounds.
        """
        rows, *rest = size
        whole = source(size=(self.world * rows, *rest), generator=generator, device=generator.device)
        return whole[self.rank * rows : (self.rank + 1) * rows]


WHOLE = Share()
"""Of a batch that is not shared."""
