"""How well scores and maps find planted defects: AUROC of images and of pixels, and PRO."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score, roc_curve

from runtime.media.geometry import load_image
from runtime.media.sources import find_images

GOOD = "good"
MOST_FALSE = 0.3
"""PRO is the area up to this share of false positives, as MVTec AD defines it."""


@dataclass(frozen=True, kw_only=True)
class ProductImages:
    """The images of one product."""

    name: str
    bank: np.ndarray
    """uint8 (B, H, W, 3): normal."""
    images: np.ndarray
    """uint8 (N, H, W, 3): normal ones and defective ones."""
    kinds: np.ndarray
    """(N,): GOOD, or the kind of defect."""
    regions: np.ndarray
    """bool (N, H, W): the defects' pixels."""

    @classmethod
    def load(cls, folder: Path) -> ProductImages:
        """What `python -m benchmarks.defects` wrote of one product; `images` in the order of their paths."""
        files = find_images(folder / "test")
        images = _stack(files)
        regions = np.zeros(images.shape[:3], bool)
        for region, file in zip(regions, files, strict=True):
            truth = folder / "truth" / file.parent.name / file.name
            if file.parent.name != GOOD:
                region[:] = np.asarray(Image.open(truth)) > 127
        return cls(
            name=folder.name,
            bank=_stack(find_images(folder / "bank")),
            images=images,
            kinds=np.array([file.parent.name for file in files]),
            regions=regions,
        )

    def few(self, count: int) -> ProductImages:
        """The first so many of each kind."""
        which = np.sort(np.concatenate([np.flatnonzero(self.kinds == k)[:count] for k in set(self.kinds)]))
        of = {name: getattr(self, name)[which] for name in ("images", "kinds", "regions")}
        return replace(self, **of)


def products(folder: Path) -> Iterator[ProductImages]:
    """Every product of a folder of `python -m benchmarks.defects`, by name."""
    for inside in sorted(p for p in folder.iterdir() if p.is_dir()):
        yield ProductImages.load(inside)


def row(tests: ProductImages, scores: np.ndarray, maps: np.ndarray) -> dict[str, Any]:
    """The figures of one method on one product.

    Args:
        scores: (N,), higher is stranger.
        maps: float (N, H, W), on one scale for all images.
    """
    wrong = tests.kinds != GOOD
    by_kind = {
        str(kind): float(roc_auc_score(wrong[of], scores[of]))
        for kind in np.unique(tests.kinds[wrong])
        for of in [(tests.kinds == kind) | ~wrong]
    }
    return {
        "product": tests.name,
        "pictures": len(tests.images),
        "image_auroc": float(roc_auc_score(wrong, scores)),
        "pixel_auroc": float(roc_auc_score(tests.regions.ravel(), maps.ravel())),
        "pro": pro(tests.regions, maps),
        "image_auroc_by_kind": by_kind,
    }


def pro(regions: np.ndarray, maps: np.ndarray) -> float:
    """Per-region overlap: the mean share of a defect that is found, averaged over the thresholds at which at
    most MOST_FALSE of all normal pixels are found with it.

    It is a ROC curve in which every connected region weighs the same, however large it is.

    Args:
        regions: bool (N, H, W).
        maps: float (N, H, W).
    """
    weights = np.ones(regions.shape)
    for region, weight in zip(regions, weights, strict=True):
        labels, count = ndimage.label(region, structure=np.ones((3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        weight[region] = 1 / sizes[labels[region]]
    false, found, _ = roc_curve(regions.ravel(), maps.ravel(), sample_weight=weights.ravel())
    edge = np.interp(MOST_FALSE, false, found)
    inside = false < MOST_FALSE
    x, y = np.append(false[inside], MOST_FALSE), np.append(found[inside], edge)
    return float(np.trapezoid(y, x) / MOST_FALSE)


def _stack(files: list[Path]) -> np.ndarray:
    return np.stack([load_image(file) for file in files])
