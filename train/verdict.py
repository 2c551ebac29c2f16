"""Whether masks are usable: their loss against that of an empty and of a full mask, their area and grey."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

GREY = (0.2, 0.8)
"""Mask values between these are grey: neither shown nor hidden."""
MOST_GREY, EMPTY, FULL = 0.5, 0.02, 0.9
"""Largest share of grey pixels, and smallest and largest mean, of a usable mask."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Means over the judged images."""

    loss: float
    """Loss of the masks, in evaluation mode."""
    empty_cost: float
    """Loss of the mask that is 0 everywhere."""
    full_cost: float
    """Loss of the mask that is 1 everywhere."""
    area: float
    """Mean of the mask, 0 to 1."""
    grey: float
    """Share of the pixels between the two values of GREY."""
    area_weight: float
    """Weight that the masks were trained with."""
    measured_weight: float | None
    """The measured weight if another was given; None if the measured one was used."""

    @classmethod
    def of(
        cls,
        masks: Tensor,
        *,
        loss: float,
        empty_cost: float,
        full_cost: float,
        area_weight: float,
        measured_weight: float | None,
    ) -> Verdict:
        """The verdict on masks (N, H, W) in [0, 1] and their costs."""
        low, high = GREY
        return cls(
            loss=loss,
            empty_cost=empty_cost,
            full_cost=full_cost,
            area=masks.mean().item(),
            grey=((masks > low) & (masks < high)).float().mean().item(),
            area_weight=area_weight,
            measured_weight=measured_weight,
        )

    def fault(self) -> str | None:
        """What is wrong with the masks, with numbers and cure; None if they are usable."""
        if self.area <= EMPTY:
            return self._said("empty", f"their mean is {self.area:.3f}", self._weight("below"))
        if self.area >= FULL:
            return self._said("full", f"their mean is {self.area:.3f}", self._weight("above"))
        trivial = min(self.empty_cost, self.full_cost)
        if not self.loss < trivial:  # also if it is NaN
            nothing = "an empty" if self.empty_cost < self.full_cost else "a full"
            why = f"they cost {self.loss:.3f}, {nothing} mask {trivial:.3f}"
            cure = "train for more --steps, or on more photographs"
            if self.measured_weight is not None:
                cure += f", or {self._weight()}"
            return self._said("worth nothing", why, cure)
        if self.grey > MOST_GREY:
            low, high = GREY
            why = f"{self.grey:.0%} of the pixels lie between {low} and {high}"
            return self._said("grey", why, f"train for more --steps, or {self._weight('above')}")
        return None

    def _weight(self, how: str = "") -> str:
        """The cure by the weight: use the measured one or, if it was used, one `how` (below, above) it."""
        if self.measured_weight is None:
            return f"give an --area-weight {how} {self.area_weight:.3g}, which was measured"
        return f"leave out --area-weight: measured on this encoder it is {self.measured_weight:.3g}"

    @staticmethod
    def _said(what: str, why: str, cure: str) -> str:
        return f"the masks are {what}: {why} (cure: {cure})"
