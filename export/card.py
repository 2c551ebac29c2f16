"""The model card of a package: README.md, made from the manifest."""

from __future__ import annotations

from runtime.manifest import Manifest


def model_card(manifest: Manifest, *, name: str) -> str:
    """Markdown for a reader who has nothing but the package."""
    m, e, i = manifest, manifest.encoder, manifest.input
    config = m.masker.config
    length = f"{e.dimension} numbers{', unit length' if e.l2_normalized else ''}"
    objective = (
        f"{m.masker.objective}{', centred' if config['centred'] else ''}, "
        + (f"area weight {config['area_weight']}, " if config["area_weight"] else "")
        + f"fill {config['fill']}, {config['steps']} steps of {config['batch_size']}"
    )
    parity = "\n".join(
        f"| {key} | {p['embedding_error']:.1e} | {p['mask_error']:.1e} | {p['mask_iou']:.4f} | {p['n']} |"
        for key, p in m.parity.items()
    )
    return f"""# {name}

One pass over a photograph gives its **embedding** and a **mask**: which pixels that embedding needs.
Made by nemu {m.nemu} on {m.created}; embedding id `{m.embedding_id}`.

```python
from runtime import Explainer

with Explainer("{name}") as explainer:
    explanation = explainer("photo.jpg")
explanation.embedding  # float32 ({e.dimension},)
explanation.mask       # float32, the photograph's own height and width, 0 to 1, higher = more important
```

## What is inside
| | |
|---|---|
| encoder | `{e.id}`, frozen; {e.embedding} embedding, {length} |
| encoder weights | sha256 `{e.fingerprint}` |
| encoder licence | {e.license} |
| masker | {m.masker.architecture}, sha256 `{m.masker.sha256}` |
| objective | {objective} |
| input | uint8 RGB {i.height} x {i.width}, {i.resize} (crop {i.crop_pct}), {i.interpolation} |

## Parity with the torch module in float32
| compared | embedding error | mask error | mask IoU at 0.5 | images |
|---|---|---|---|---|
{parity}

Embedding error: worst image, relative to the median distance between embeddings of different images.

## Intended use and limits
- The mask says which pixels keep this encoder's embedding where it is.  It does not say that the
  embedding is right, fair or fit for a purpose, and it is no evidence about another encoder.
- It was learned without labels from the photographs the masker was trained on; on very different
  images, check it before relying on it.
- The licence of the encoder's weights governs the whole package.
"""
