"""Write a model repository for Triton Inference Server: the graph or the plans, and config.pbtxt.

    MODELS/NAME/config.pbtxt
    MODELS/NAME/1/model.onnx, model.onnx.data     served by onnxruntime, on any machine
    MODELS/NAME/1/sm87.plan, …                    served by TensorRT, a plan for each compute capability

Source: Triton's model configuration, docs/user_guide/model_configuration.md of its repository.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from runtime.atomic import atomic_folder
from runtime.errors import InputError
from runtime.package.folder import Engine, Package
from runtime.package.records import InputRecord, OutputRecord

BACKENDS = ("onnxruntime", "tensorrt")
_GRAPH = ("model.onnx", "model.onnx.data")
_MAX_BATCH = 32  # for the graph, which takes any batch
_DELAY_US = 500
"""How long a request may wait for others to share its batch."""


def write_repository(package: Package, models: Path, *, backend: str, force: bool = False) -> Path:
    """Write NAME into the repository `models`; returns its folder.

    Args:
        backend: `onnxruntime` serves the float32 graph; `tensorrt` serves the package's plans of classic
            TensorRT, which only a server with that exact TensorRT loads.

    Raises:
        InputError: another backend; `tensorrt`, and no plan of classic TensorRT.
        OutputExists: the model is there and `force` is not given.
    """
    if backend not in BACKENDS:
        raise InputError(
            f"backend {backend!r}", expected=" or ".join(BACKENDS), cure=f"backend={BACKENDS[0]!r}"
        )
    plans = _plans(package) if backend == "tensorrt" else []
    target = models / package.path.stem
    with atomic_folder(target, force=force) as folder:
        version = folder / "1"
        version.mkdir()
        if backend == "tensorrt":
            for plan in plans:
                (version / _plan_name(plan)).write_bytes(plan.read())
        else:
            for name in _GRAPH:
                shutil.copyfile(package.file(name), version / name)
        (folder / "config.pbtxt").write_text(config(package, backend=backend, plans=plans))
    return target


def config(package: Package, *, backend: str, plans: list[Engine]) -> str:
    """The text of config.pbtxt."""
    manifest = package.manifest
    largest = min((plan.record.batch[2] for plan in plans), default=_MAX_BATCH)
    kind = "KIND_GPU" if backend == "tensorrt" else "KIND_AUTO"
    height, width = manifest.input.height, manifest.input.width
    return f"""# {manifest.embedding_id}, package {package.hash}
{_needs(plans)}name: "{package.path.stem}"
backend: "{backend}"
max_batch_size: {largest}
input [ {_input(manifest.input)} ]
output [ {", ".join(map(_output, manifest.outputs))} ]
dynamic_batching {{ max_queue_delay_microseconds: {_DELAY_US} }}
instance_group [ {{ kind: {kind} count: 1 }} ]
model_warmup [ {{
  name: "zeros"
  batch_size: 1
  inputs {{ key: "{manifest.input.name}"
    value {{ data_type: TYPE_UINT8 dims: [ {height}, {width}, 3 ] zero_data: true }} }}
}} ]
{_by_capability(plans)}"""


def _plans(package: Package) -> list[Engine]:
    """One plan for each compute capability, of fp16 if there is one."""
    found: dict[str, Engine] = {}
    for engine in sorted(package.engines(), key=lambda e: e.record.precision != "fp16"):
        record = engine.record
        if record.flavour == "tensorrt" and not (record.embedding_only or record.takes_target):
            found.setdefault(record.compute_capability, engine)
    versions = {engine.record.version for engine in found.values()}
    if len(versions) == 1:
        return list(found.values())
    what = f"plans of TensorRT {', '.join(sorted(versions))}" if versions else "no plan of classic TensorRT"
    raise InputError(
        f"{package.path} holds {what}",
        expected="plans of one TensorRT, that of the server",
        cure="build them in the server's own container: nemu build --package "
        f"{package.path} --target tensorrt; or serve the graph with onnxruntime",
    )


def _plan_name(plan: Engine) -> str:
    return f"sm{plan.record.compute_capability.replace('.', '')}.plan"


def _needs(plans: list[Engine]) -> str:
    versions = {plan.record.version for plan in plans}
    return "".join(
        f"# needs a server with TensorRT {v}: see the release notes of its container\n" for v in versions
    )


def _by_capability(plans: list[Engine]) -> str:
    if not plans:
        return ""
    rows = ",\n".join(
        f'  {{ key: "{plan.record.compute_capability}" value: "{_plan_name(plan)}" }}' for plan in plans
    )
    return f'default_model_filename: "{_plan_name(plans[0])}"\ncc_model_filenames [\n{rows}\n]\n'


def _input(record: InputRecord) -> str:
    return f'{{ name: "{record.name}" data_type: TYPE_UINT8 dims: [ {record.height}, {record.width}, 3 ] }}'


def _output(record: OutputRecord) -> str:
    sides = ", ".join(str(side) for side in record.shape[1:])
    if not re.fullmatch(r"\d+(, \d+)*", sides):
        raise InputError(
            f"output {record.name} {record.shape}",
            expected="fixed sides after the batch",
            cure="build it again",
        )
    return f'{{ name: "{record.name}" data_type: TYPE_FP32 dims: [ {sides} ] }}'
