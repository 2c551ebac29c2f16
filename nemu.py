"""The command `nemu`, and the names of `runtime`: `from nemu import Explainer`."""

from __future__ import annotations

import importlib
import sys
from typing import Any

_COMMANDS = {
    "train": "train a masker for an encoder",
    "build": "masker → package with engines",
    "convert": "package → ONNX, DeepStream, Triton",
    "explain": "explain images",
    "compare": "show why two images match",
    "report": "write one HTML file of a folder",
    "assess": "measure whether masks can be trusted",
    "bank": "learn what normal images are like",
    "anomalies": "find images that are not normal",
    "diff": "check if two packages share an index",
    "index": "images → vectors with explanations",
    "search": "find similar images, and show why",
    "canary": "check an index after an upgrade",
    "bench": "measure the speed on this device",
    "info": "describe a package",
    "doctor": "say what is installed and missing",
    "verify": "check a package's files and outputs",
}
_TRAINING = {
    "train": ("train.__main__", "train"),
    "build": ("export.build_engine", "export"),
    "convert": ("export.convert", "export"),
}
"""Command → its module and the extra that it needs; all others are commands of `runtime.__main__`."""
_TRAIN = ("torch", "torchvision", "timm", "lightning", "safetensors", "onnxscript")
_MISSING = """error: nemu {command} needs {name}, which is not installed
  expected: the packages of the extra `{extra}`
  cure: in the folder of this project: pip install ".[{extra}]\""""
_USAGE = "usage: nemu COMMAND ...   (nemu COMMAND --help)\n\n" + "\n".join(
    f"  {name:10}{text}" for name, text in _COMMANDS.items()
)


def __getattr__(name: str) -> Any:
    """A public name of `runtime`, which is imported only then: the commands start without it."""
    import runtime

    if name == "__all__" or name in runtime.__all__:
        return getattr(runtime, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    import runtime

    return sorted({*globals(), *runtime.__all__})


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit code: 0 done, 1 error, 2 wrong usage, 3 a gate failed."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from runtime import __version__

        print(__version__)
        return 0
    if arguments[0] not in _COMMANDS:
        print(f"nemu: there is no command {arguments[0]!r}\n{_USAGE}", file=sys.stderr)
        return 2
    module, extra = _TRAINING.get(arguments[0], (None, None))
    try:
        if module:
            return importlib.import_module(module).main(arguments[1:])
        return importlib.import_module("runtime.__main__").main(arguments)
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        extra = "train" if error.name in _TRAIN else extra
        if extra is None or (error.name or "").partition(".")[0] in ("runtime", "train", "export"):
            raise
        print(_MISSING.format(command=arguments[0], name=error.name, extra=extra), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
