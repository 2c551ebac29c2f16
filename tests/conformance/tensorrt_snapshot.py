"""The names in NVIDIA's TensorRT bindings, by version: read from the wheels, kept in tensorrt_names.json.

    python tests/conformance/tensorrt_snapshot.py            # fetch the wheels with pip, write the file
    python tests/conformance/tensorrt_snapshot.py --check    # the same, and compare instead of writing

The bindings are real; the library below them is a stub, because classic TensorRT needs a GPU's driver to be
of use and gigabytes to be installed.  It exports the few C functions that the bindings are linked to, and
returns null from each.  So the names are real, and nothing is said of values and behaviour.

Layers, plugins and dimensions are left out: this project has the parser make its networks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SNAPSHOT = Path(__file__).with_name("tensorrt_names.json")
WHEELS = {
    "10.3": "tensorrt-cu12-bindings==10.3.0",  # JetPack 6.1 to 6.2.2
    "10.13": "tensorrt-cu13-bindings==10.13.3.9",  # JetPack 7.0, 7.1
    "10.16": "tensorrt-cu13-bindings==10.16.1.11",  # JetPack 7.2 has 10.16.2.10
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",
    "rtx-1.7": "tensorrt-rtx-cu13-bindings==1.7.1.116",
}
EVERY = "every version"
LEFT_OUT = re.compile(r"^(I\w+Layer|\w*Plugin\w*|Dims\w*|Permutation|FallbackString)$")
LIBRARIES = (
    *(
        f"lib{name}.so.{major}"
        for name in ("nvinfer", "nvonnxparser", "nvinfer_plugin")
        for major in (10, 11)
    ),
    *("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"),
)
FUNCTIONS = (
    *(f"createInfer{name}_INTERNAL" for name in ("Builder", "Refitter", "Runtime")),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
    *("getBuilderPluginRegistry", "getPluginRegistry", "initLibNvInferPlugins"),
)
READ = """
import enum, importlib, json, re, sys
folder, module = sys.argv[1:]
sys.path.insert(0, folder)
trt = importlib.import_module(module)

def given(doc):
    found = set(re.findall(r"-> [\\w.:]*?(\\w+)$", doc or "", re.M))
    return found.pop() if len(found) == 1 else None

names, gives, classes = {}, {}, {}
def read(name, value):
    names[name] = [m for m in dir(value) if not m.startswith("_")]
    for member in names[name]:
        item = getattr(value, member)
        if isinstance(item, type) and item.__module__.startswith(module):
            read(f"{name}.{member}", item)
        elif isinstance(item, property):
            gives[f"{name}.{member}"] = given(item.fget.__doc__)
        elif callable(item):
            gives[f"{name}.{member}()"] = given(item.__doc__)
for name in dir(trt):
    if isinstance(getattr(trt, name), type) and getattr(trt, name).__module__.startswith(module):
        read(name, getattr(trt, name))
bound = {"IParserError": "ParserError"}  # its C++ name is in the signatures
gives = {key: bound.get(value, value) for key, value in gives.items()}
print(json.dumps({"version": trt.__version__, "names": names, "gives": gives}))
"""


def main() -> int:
    """Write the snapshot, or compare with it: 1 and the differences if it is out of date."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    options = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stub = make_stub(Path(folder))
        versions = {label: read_wheel(wheel, Path(folder) / label, stub) for label, wheel in WHEELS.items()}
    text = json.dumps(merge(versions), indent=1) + "\n"
    if not options.check:
        SNAPSHOT.write_text(text)
        return 0
    if text == SNAPSHOT.read_text():
        print(f"{SNAPSHOT.name} is what the wheels hold: {', '.join(WHEELS.values())}")
        return 0
    fresh = SNAPSHOT.with_suffix(".fresh.json")
    fresh.write_text(text)
    subprocess.run(["diff", "--unified=0", SNAPSHOT, fresh])
    fresh.unlink()
    return 1


def make_stub(folder: Path) -> Path:
    """A folder with a library of every name that some bindings are linked to."""
    source, stub = folder / "stub.c", folder / "stub"
    stub.mkdir()
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for name in LIBRARIES:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", stub / name, source], check=True)
    return stub


def read_wheel(wheel: str, folder: Path, stub: Path) -> dict:
    """Fetch a wheel for this Python and read its names, in a process without site-packages."""
    pip = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--dest", folder, wheel], check=True)
    (file,) = folder.glob("*.whl")
    zipfile.ZipFile(file).extractall(folder)
    (bindings,) = folder.glob("*_bindings")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", READ, str(folder), bindings.name],
        env={**os.environ, "LD_LIBRARY_PATH": str(stub)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def merge(versions: dict[str, dict]) -> dict:
    """One table: class → versions → members, and what a call or property gives where that is a class."""
    members: dict[str, dict[str, list[str]]] = {}
    gives: dict[str, str] = {}
    for found in versions.values():
        for name, own in found["names"].items():
            if not LEFT_OUT.match(name):
                for member in ("", *own):  # "" stands for the class itself
                    members.setdefault(name, {}).setdefault(member, [])
        for key, value in found["gives"].items():
            known = value in members and key.partition(".")[0] in members
            if known and gives.setdefault(key, value) != value:
                raise ValueError(f"{key} gives {gives[key]} in one version and {value} in another")
    for label, found in versions.items():
        for name, own in found["names"].items():
            for member in ("", *own) if name in members else ():
                members[name][member].append(label)
    return {
        "versions": {label: versions[label]["version"] for label in versions},
        "classes": {name: _by_versions(own, len(versions)) for name, own in sorted(members.items())},
        "gives": {key: gives[key] for key in sorted(gives)},
    }


def _by_versions(members: dict[str, list[str]], count: int) -> dict[str, str]:
    """Versions → the members they have and others lack, in words; `.` is the class itself."""
    groups: dict[str, list[str]] = {}
    for member, labels in sorted(members.items()):
        groups.setdefault(EVERY if len(labels) == count else " ".join(labels), []).append(member or ".")
    return {labels: " ".join(own) for labels, own in sorted(groups.items())}


if __name__ == "__main__":
    raise SystemExit(main())
