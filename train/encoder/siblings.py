"""timm models that take the same weights and compute something else with them.

`efficientnet_lite0` loads the weights of `tf_efficientnet_lite0` and pads differently: nothing fails, and
every embedding differs.  A file of weights does not say which model it belongs to.
"""

from __future__ import annotations

import re
from typing import Any

import timm
import torch

from train.encoder.frozen import FrozenEncoder

_WITHOUT_WEIGHTS = re.compile(
    r"\btf_|_tf(?=_)|_jx$|_quickgelu|_par(?=_gap)|_window\d+(to\d+)?_\d+(to\d+)?$"
    r"|(?<=resnet)(aa|blur)(?=\d)|(?<=resnext)aa(?=\d)|(?<=_conv)_(aa|blur)|_blur(?=_b\d)"
)
"""Parts of timm's names for features without tensors: padding, activation, windows, anti-aliasing, …"""


def siblings(encoder: FrozenEncoder) -> list[str]:
    """The `timm/NAME` of other models that have this encoder's tensors, of the same shapes.

    Only names that differ in a part for a feature without tensors are tried.  Each is built without memory
    for its weights, in about 0.05 s.
    """
    name = encoder.record.id.removeprefix("timm/").split(".")[0]
    if not timm.is_model(name):
        return []
    model: Any = encoder.model.model
    mine = {k: v.shape for k, v in model.state_dict().items()}
    same = [other for other in timm.list_models() if other != name and _stem(other) == _stem(name)]
    return [f"timm/{o}" for o in same if _shapes(o, num_classes=model.num_classes) == mine]


def _stem(name: str) -> str:
    return _WITHOUT_WEIGHTS.sub("", name)


def _shapes(name: str, *, num_classes: int) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, num_classes=num_classes)
    return {k: v.shape for k, v in model.state_dict().items()}
