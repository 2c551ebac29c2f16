"""A backend for Triton's real server: the graph of a model, run by the onnxruntime package.

Triton takes a folder backends/NAME with a model.py for a backend (a "Python-based backend").  This one stands
in for the onnxruntime backend of NVIDIA's containers, which no wheel carries: the server, its scheduler and
its reading of config.pbtxt are real, the execution is not.  As that backend does when the configuration is
strict, it refuses one whose inputs or outputs are not the graph's.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton  # only inside the server

_TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}


def _of_graph(values):
    return {v.name: (_TYPES[v.type], v.shape[1:]) for v in values}


def _of_config(values):
    return {v["name"]: (v["data_type"], v["dims"]) for v in values}


class TritonPythonModel:
    """What the server calls."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        file = Path(args["model_repository"]) / args["model_version"] / config["default_model_filename"]
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        graph = _of_graph(self.session.get_inputs()), _of_graph(self.session.get_outputs())
        written = _of_config(config["input"]), _of_config(config["output"])
        if graph != written:
            raise triton.TritonModelException(f"the graph has {graph}, config.pbtxt {written}")
        self.names = list(graph[1])

    def execute(self, requests):
        """All requests of a batch in one run.  By DLPack: `as_numpy` of this server is for numpy 1."""
        images = [np.from_dlpack(triton.get_input_tensor_by_name(r, "image")) for r in requests]
        outputs = self.session.run(self.names, {"image": np.concatenate(images)})
        ends = np.cumsum([len(i) for i in images])[:-1]
        shares = zip(*(np.split(output, ends) for output in outputs), strict=True)
        return [
            triton.InferenceResponse(list(map(triton.Tensor.from_dlpack, self.names, share)))
            for share in shares
        ]
