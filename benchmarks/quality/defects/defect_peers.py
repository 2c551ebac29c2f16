"""anomalib's PatchCore and PaDiM on the encoders and images of `python -m benchmarks.defects`.

    python -m venv --system-site-packages peers && peers/bin/pip install anomalib
    peers/bin/python -m benchmarks.defect_peers DEFECTS … --weights mobilenetv2_100=FILE --json OUT

It runs in an environment of its own; `benchmarks.quality.defects.defect_methods` takes over what it writes.
Both peers are as anomalib sets them, but for the encoder: its weights and its normalisation are ours, the
stages are those of the strides that anomalib takes of a ResNet (8 and 16 for PatchCore, 4, 8 and 16 for
PaDiM), and PaDiM keeps 100 channels, as of ResNet-18.  Where glibc keeps what PatchCore's loop lets go
(19 GB after 4000 turns), set MALLOC_MMAP_THRESHOLD_=1000000.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.common.record import command, meta, write_compact
from benchmarks.quality.defects.scores import ProductImages, products, row

STAGES = {4: "blocks.1", 8: "blocks.2", 16: "blocks.4"}
"""Layers of timm's EfficientNets and MobileNetV2, by stride."""
PADIM_CHANNELS = 100
CORESET = 0.1
"""Share of the cells that PatchCore keeps; anomalib's own."""
BATCH = 8


def patchcore(name: str, weights: Path) -> Any:
    """anomalib's model with these weights."""
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    model = PatchcoreModel(layers=[STAGES[8], STAGES[16]], backbone=name, pre_trained=False)
    return _with_weights(model, weights)


def padim(name: str, weights: Path) -> Any:
    """anomalib's model with these weights."""
    from anomalib.models.image.padim.torch_model import PadimModel

    layers = [STAGES[4], STAGES[8], STAGES[16]]
    model = PadimModel(backbone=name, layers=layers, pre_trained=False, n_features=PADIM_CHANNELS)
    return _with_weights(model, weights)


def run(
    model: Any, tests: ProductImages, normalize: Callable[[np.ndarray], Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    """Fit on the bank; scores (N,) and maps (N, H, W) of the test images."""
    model.train()
    model.feature_extractor.eval()
    with torch.no_grad():
        for start in range(0, len(tests.bank), BATCH):
            model(normalize(tests.bank[start : start + BATCH]))
        if hasattr(model, "subsample_embedding"):
            model.subsample_embedding(CORESET)
        else:
            model.fit()
        model.eval()
        found = [model(normalize(tests.images[i : i + BATCH])) for i in range(0, len(tests.images), BATCH)]
    scores = torch.cat([f.pred_score.flatten() for f in found]).numpy()
    return scores, torch.cat([f.anomaly_map for f in found]).squeeze(1).numpy()


def normalizer(name: str) -> Callable[[np.ndarray], Tensor]:
    """uint8 (N, H, W, 3) → what the encoder takes."""
    import timm

    cfg: Any = timm.get_pretrained_cfg(name)
    mean, std = (255 * torch.tensor(v).view(1, 3, 1, 1) for v in (cfg.mean, cfg.std))
    return lambda images: (torch.from_numpy(images).permute(0, 3, 1, 2).float() - mean) / std


def _with_weights(model: Any, weights: Path) -> Any:
    extractor: nn.Module = model.feature_extractor.feature_extractor
    missing, _ = extractor.load_state_dict(load_file(weights), strict=False)
    if missing:
        raise SystemExit(f"error: {weights} lacks {missing[0]}")
    return model


def main(argv: list[str] | None = None) -> int:
    """Always 0; the file is written after every product."""
    p = command("defect_peers", __doc__)
    p.add_argument("defects", type=Path, nargs="+", help="folders of python -m benchmarks.defects")
    p.add_argument("--weights", nargs="+", required=True, metavar="NAME=FILE")
    o = p.parse_args(argv)
    about = {**meta(), "anomalib": version("anomalib"), "stages": STAGES, "coreset": CORESET}
    rows: list[dict[str, Any]] = []
    for folder in o.defects:
        for tests in tqdm(list(products(folder)), desc=folder.name):
            for name, file in (text.split("=") for text in o.weights):
                for method, make in (("patchcore", patchcore), ("padim", padim)):
                    torch.manual_seed(0)
                    began = time.perf_counter()
                    figures = row(tests, *run(make(name, Path(file)), tests, normalizer(name)))
                    seconds = round(time.perf_counter() - began, 1)
                    who = {"method": method, "encoder": name, "data": folder.name}
                    rows.append({**who, **figures, "seconds": seconds})
            write_compact(o.json, {"meta": about, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
