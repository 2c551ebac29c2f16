"""The model card of a package: README.md, made from the manifest."""

from __future__ import annotations

from export.package.level import LEVEL_PLOT
from runtime.assess import LEAST_FOLLOWED, low_end
from runtime.explanation import NEARLY_NOTHING
from runtime.package.manifest import Manifest
from runtime.package.reasons import fill, images_used, sentence
from runtime.package.records import LevelRecord

FEW = 30
"""With fewer images, the card says that they are few."""

_SEEN = {
    "crop": "the photograph is scaled, its proportions are kept, and the middle is cut out",
    "squash": "the photograph is scaled, its proportions are not kept",
    "letterbox": "the photograph is scaled, its proportions are kept, and bordered with black",
}
_CUT = "; what is cut off never reaches the encoder, and the mask is 0 there"


def model_card(manifest: Manifest, *, name: str) -> str:
    """Markdown for a reader who has only the package."""
    sections = (_intro, _inside, _data, _metrics, _level, _target, _parity, _use, _limits, _citation)
    return "\n".join(section(manifest, name) for section in sections)


def _intro(m: Manifest, name: str) -> str:
    return f"""# {name}

One pass over a photograph gives its **embedding** and a **mask**: which pixels that embedding needs.
Made by nemu {m.nemu} on {m.created}; embedding id `{m.embedding_id}`.

```python
from runtime import Explainer

with Explainer("{name}") as explainer:
    explanation = explainer("photo.jpg")
explanation.embedding  # float32 ({m.encoder.dimension},)
explanation.mask       # float32, the photograph's own height and width, 0 to 1, higher = more important
```
"""


def _inside(m: Manifest, name: str) -> str:
    e, i, config = m.encoder, m.input, m.masker.config
    length = f"{e.dimension} numbers{', unit length' if e.l2_normalized else ''}"
    unknown = "not known to nemu: ask whoever gave you the weights before you pass the package on"
    price = config["area_weight"] or (m.training and m.training.area_weight)
    weight = f", area weight {price:.3g}" if price else ""
    return f"""## Encoder and masker
| | |
|---|---|
| encoder | `{e.id}`, frozen; {e.embedding} embedding, {length} |
| encoder weights | sha256 `{e.fingerprint}` |
| encoder licence | {unknown if e.license == "unknown" else e.license} |
| masker | {m.masker.architecture}, sha256 `{m.masker.sha256}` |
| objective | {m.masker.objective}{", centred" if config["centred"] else ""}{weight}, fill {config["fill"]} |
| input | uint8 RGB, {i.height} x {i.width}, {i.resize}, {i.interpolation} |

The licence of the encoder's weights governs the whole package.
"""


def _data(m: Manifest, name: str) -> str:
    config, run = m.masker.config, m.training
    shown = f"{config['steps']} steps of {config['batch_size']} images; augmentation {config['augment']}"
    rows = {"folder": f"`{config['data']}`, searched recursively; no labels were used", "shown": shown}
    said = ""
    if run is None:
        said = """How many images that folder held, and how the run ended, is not known: the package was built
from a masker without the summary of its run.  """
    else:
        passes = run.steps * config["batch_size"] / run.images
        since = f" since step {run.resumed_at}, where it was resumed" if run.resumed_at else ""
        versions = ", ".join(f"{package} {version}" for package, version in run.versions.items())
        rows |= {
            "images": f"{run.images}; files that could not be read: {run.skipped}; {passes:.3g} passes",
            "run": f"{run.seconds:.0f} s{since}; processes: {run.processes}; seed {config['seed']}",
            "versions": versions or "not noted by that run",
            "at its end": f"embedding distance of the masked images {run.distance:.3f}, "
            f"mask area {run.area:.3f}",
        }
        if run.fault:
            rows["verdict"] = f"**{run.fault}**"
    table = "\n".join(f"| {what} | {value} |" for what, value in rows.items())
    return f"""## Data the masker was trained on
| | |
|---|---|
{table}

{said}nemu does not know where these images come from or what they show.
Ask the encoder's owner what the encoder was trained on.
"""


def _metrics(m: Manifest, name: str) -> str:
    k = m.metrics
    if k is None:
        return "## Metrics\nNone were measured.\n"
    few = "  They are few: a check, and no result to quote." if k.n < FEW else ""
    return f"""## Metrics
Measured at the build on {images_used(k.images)}.{few}

| measure | mean ± standard deviation | n |
|---|---|---|
| **fidelity**: cosine of the embedding and that of what the mask keeps | {k.fidelity} | {k.n} |
| the same, each mask moved to a random place | {k.fidelity_moved} | {k.n} |
| the same, nothing kept | {k.fidelity_empty} | {k.n} |
| mask area: share of the image that is kept | {k.area} | {k.n} |

{k.degenerate} of {k.n} masks show nothing (area below {NEARLY_NOTHING:g} or above {1 - NEARLY_NOTHING:g}).

Read fidelity against the two rows below it.  A mask explains as far as it keeps more than one of the
same size elsewhere does; and where the embeddings of all images are alike, even keeping nothing scores
high.  What is not kept is replaced by the encoder's mean colour.  ± is the spread from image to image.
In float32, by onnxruntime on a CPU.
"""


def _level(m: Manifest, name: str) -> str:
    k = m.level
    if k is None:
        return """## What a level of the mask means
Not measured: the build had too few images that training did not see (`--evaluate FOLDER` names some).
`Explanation.region` and `Explanation.kept_at` refuse.
"""
    return f"""## What a level of the mask means
`explanation.region(keep=0.8)` is the region that keeps 0.8 of the embedding on average (centred cosine:
1 the same, 0 as another image).  Measured on {k.n} images: {images_used(k.images)}.

![What was asked against what was kept; the table below has the numbers]({LEVEL_PLOT})

{_checks(k)}

Each half of the images was asked by the curve of the other half.  Hidden pixels showed in turn
{" and ".join(map(fill, k.fills))}; what is kept is the mean.  Against a fill that adds something, such
as noise or another photograph, a region keeps less.
"""


def _checks(k: LevelRecord) -> str:
    """The table of what was asked and what was kept."""
    rows = "\n".join(
        f"| {c.asked:g} | {c.kept:.3f} | {c.low:.2f} to {c.high:.2f} | {c.moved:.3f} | {c.area:.0%} |"
        for c in k.checks
    )
    return f"""| asked | kept | 10 to 90 % of the images | the same regions, moved | share of the pixels |
|---|---|---|---|---|
{rows}"""


def _target(m: Manifest, name: str) -> str:
    if not m.masker.config.get("toward"):
        return """## Masks toward a target
None: this masker takes no target.  `nemu compare` shows each of two images by itself.
"""
    said = """## Masks toward a target
`explainer(image, toward=other)` shows the smallest region of an image whose embedding is like the target:
another image's embedding, or any embedding of this encoder.  If an image shows nothing of the target, its
mask is empty and `Explanation.absent` says so.
"""
    if m.target is None:
        return f"""{said}
What such masks are worth was not measured: the build had too few images that training did not see.
`Explanation.region` refuses for them; `nemu assess {name} --images FOLDER` measures them on yours.
"""
    t, n = m.target.measured, m.target.n
    ignored = low_end(t.difference, n) <= LEAST_FOLLOWED
    empty = f"{t.nothing:.0%} are empty (area below {NEARLY_NOTHING:g})"
    verdict = "**These masks do not follow a target: do not ask for one.**\n\n" * ignored
    return f"""{said}
Measured on {n} mixtures, in each of which a region shows one image and the rest another:
{images_used(m.target.images)}.

| measure | mean ± standard deviation |
|---|---|
| share of the mask in the region, toward the image that it shows | {t.shown} |
| the same, toward the image around it | {t.around} |
| **the difference**: 1 if masks follow the target entirely, 0 if they ignore it | {t.difference} |
| mask area, toward the image that the region shows | {t.present} |
| the same, toward an image that is not there | {t.absent} |

{verdict}Of the masks toward an image that is not there, {empty}.

A target is rarely all in an image.  So `region(keep=0.8)` of such a mask is the region that keeps 0.8 of the
most that any of its regions keeps on average; an image may keep more than that, or nothing:

{_checks(m.target.level)}
"""


def _parity(m: Manifest, name: str) -> str:
    rows = "\n".join(
        f"| {key} | {p.embedding_error:.1e} | {p.centred_cosine:.4f} | {p.neighbours:.0%} "
        f"| {p.mask_error:.1e} | {p.mask_iou:.4f} | {p.n} |"
        for key, p in m.parity.items()
    )
    missing = [f"- {_no_graph(key)}: {sentence(why)}" for key, why in m.refused.items()]
    missing += [f"- no engine of {name}: {sentence(why)}" for name, why in m.left_out.items()]
    listed = "\n".join(["", "What was left out, and why:", "", *missing, ""]) if missing else ""
    return f"""## Parity with the torch module in float32
| compared | embedding error | centred cosine | neighbours kept | mask error | mask IoU at 0.5 | n |
|---|---|---|---|---|---|---|
{rows}
{listed}
Embedding error: worst of n images, relative to the median distance between embeddings of different
images.  Centred cosine: of the worst image, around the mean embedding.  Neighbours kept: share of the n
images whose nearest other image stays the nearest; near ties change at any precision.  An engine's own
figures are in `engines/NAME.engine.json`; `nemu verify {name}` measures on the device at hand.
"""


def _no_graph(key: str) -> str:
    """The graph that a key of `Manifest.refused` stands for, in words."""
    if key == "cells":
        return "no graph of local features, so that `nemu bank` refuses"
    precision, _, form = key.partition(" ")
    return f"no {precision} graph {form}".rstrip()


def _use(m: Manifest, name: str) -> str:
    return """## Intended use
To see which pixels an embedding of this encoder depends on: why two images matched, what a retrieval or
anomaly score looked at, whether the encoder goes by a watermark or a background.  It is for people who
judge the encoder or its answers.  It is no detector and no segmentation, and must not be the sole ground
of a decision about a person.
"""


def _limits(m: Manifest, name: str) -> str:
    i = m.input
    seen = _SEEN[i.resize] + (_CUT if i.resize == "crop" or i.crop_pct < 1 else "")
    return f"""## Limits
- **One size.**  The encoder sees {i.height} x {i.width} pixels: {seen}.
  The mask is computed on that grid or a coarser one, and enlarged; finer detail is interpolation.
- **What a mask does not say.**  Not that the embedding is right, fair or fit for a purpose; nothing about
  another encoder, other weights or another embedding; nothing about a class or a decision that is made
  from the embedding.
- **No proof.**  It is a trained network's answer.  On images unlike those it was trained on, ask for the
  fidelity of each (`nemu explain --fidelity`) before you rely on it.
- **Masks that show nothing** happen: `Explanation.degenerate` then says `empty` or `full`.  A full one has
  a fidelity of 1.
- **Precision.**  The metrics are those of float32.  Each precision has an embedding id of its own; whether
  embeddings of two ids may share an index, `nemu diff` measures.
"""


def _citation(m: Manifest, name: str) -> str:
    return """## Method
Neural Explanation Masks.  B. L. Møller, C. Igel, K. K. Wickstrøm, J. Sporring, R. Jenssen, B. Ibragimov:
*Finding NEM-U: Explaining unsupervised representation learning through neural network generated
explanation masks*, ICML 2024, PMLR 235:36048–36071.  nemu follows the authors' released code; its default
decoder and objective are its own.
"""
