"""An engine with nothing of ours around it: built for one shape, on PyTorch's memory, stream and graph.

Run so far: the building.  On a GPU: see benchmarks/gpu_check.sh.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks.interleave import Call
from runtime.backends.tensorrt_library import library, logger
from runtime.errors import BackendError


def build(flavour: str, onnx: Path, shape: tuple[int, ...]) -> bytes:
    """A plan for images of exactly `shape`; unlike `export.engine`, whatever the outputs are.

    Raises:
        BackendError: the parser or the builder refuses it, with the log.
    """
    trt = library(flavour)
    log = logger(trt)
    log.lines.clear()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    plan = None
    if parser.parse_from_file(str(onnx)):
        config = builder.create_builder_config()
        profile = builder.create_optimization_profile()
        profile.set_shape("image", shape, shape, shape)
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(
            f"no engine of {onnx.name}: {log.text()}", expected="a plan", cure="the log above says why"
        )
    return bytes(plan)


class RawEngine:
    """A plan on PyTorch's memory and a stream of its own: nothing but the enqueue.

    Args:
        shape: of the images, within the plan's profile.
        stream: not the default one.

    Raises:
        BackendError: it does not load, or its first run fails.
    """

    def __init__(self, flavour: str, plan: bytes, shape: tuple[int, ...], stream: torch.cuda.Stream) -> None:
        trt = library(flavour)
        self._log = logger(trt)
        self._log.lines.clear()
        self.stream = stream
        self._runtime = trt.Runtime(self._log)
        self._engine = self._must(self._runtime.deserialize_cuda_engine(plan), "deserialize_cuda_engine")
        self._context = self._must(self._made(trt), "create_execution_context")
        self._must(self._context.set_input_shape("image", shape), "set_input_shape")
        self._tensors: dict[str, torch.Tensor] = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            size = tuple(int(side) for side in self._context.get_tensor_shape(name))
            dtype = torch.uint8 if name == "image" else torch.float32
            self._tensors[name] = torch.zeros(size, dtype=dtype, device="cuda")
            self._must(self._context.set_tensor_address(name, self._tensors[name].data_ptr()), name)
        self._tensors["image"].random_(0, 256)
        torch.cuda.synchronize()
        self.enqueue()
        self.stream.synchronize()

    def _made(self, trt: ModuleType) -> Any:
        """A context.  TensorRT-RTX is to compile for the shape now, not to change kernels under the clock."""
        if not hasattr(getattr(trt, "IRuntimeConfig", None), "dynamic_shapes_kernel_specialization_strategy"):
            return self._engine.create_execution_context()
        config = self._must(self._engine.create_runtime_config(), "create_runtime_config")
        eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
        return self._engine.create_execution_context(runtime_config=config)

    def enqueue(self) -> None:
        """One run, on the stream."""
        self._must(self._context.execute_async_v3(self.stream.cuda_stream), "execute_async_v3")

    def graph(self) -> Call:
        """A call that replays the run as a CUDA graph, checked against a plain run with poisoned outputs.

        Raises:
            RuntimeError: of the capture, or the replay gives something else.
        """
        self.enqueue()
        self.stream.synchronize()
        outputs = {name: tensor for name, tensor in self._tensors.items() if name != "image"}
        expected = {name: tensor.clone() for name, tensor in outputs.items()}
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured, stream=self.stream):
            self.enqueue()
        for tensor in outputs.values():
            tensor.fill_(torch.nan)
        torch.cuda.synchronize()
        with torch.cuda.stream(self.stream):
            captured.replay()
        torch.cuda.synchronize()
        for name, tensor in outputs.items():
            if not torch.allclose(tensor, expected[name], rtol=1e-2, atol=1e-3):
                raise RuntimeError(f"the replayed CUDA graph gives another {name} than a plain run")
        return captured.replay

    def _must(self, result: Any, what: str) -> Any:
        if result is None or result is False:
            raise BackendError(f"{what} failed: {self._log.text()}", expected="success", cure="see the log")
        return result
