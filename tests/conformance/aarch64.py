"""What a Jetson's pip would install: the runtime's dependencies, as aarch64 wheels, by pip's own resolver.

    python tests/conformance/aarch64.py            # resolve, print, and write aarch64.json

Exit status 1, and pip's words, if something has no wheel.  Nothing is installed.  pip judges environment
markers by the Python that runs it, so those of pyproject.toml are judged here; needs Python 3.11 or newer.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib
from pip._vendor.packaging.requirements import Requirement

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
RESULT = Path(__file__).with_name("aarch64.json")
PYTHONS = {"3.10": "JetPack 6", "3.12": "JetPack 7"}
EXTRAS = ("", "jetson", "rtx", "jetson,export,video")
"""The last is what docs/robotics.md and the Jetson images install."""
GLIBC = (17, 24, 26, 27, 28, 31, 34, 35)
"""Minor versions of glibc 2 whose wheels run on JetPack 6 (Ubuntu 22.04: 2.35) and newer."""
SOURCE_ONLY = ("tensorrt-rtx>=1.7,<1.8", "tensorrt-rtx-cu13>=1.7,<1.8")
"""Published as sources that hold nothing but their dependencies; pip makes a wheel of them on any machine."""


def main() -> int:
    """Resolve every combination."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    result: dict[str, dict[str, dict[str, str]]] = {}
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        pip("wheel", "--no-deps", "--wheel-dir", folder, *SOURCE_ONLY)
        for python, system in PYTHONS.items():
            for extra in EXTRAS:
                wanted = requirements(project, extra, python)
                try:
                    found = resolve(wanted, python, Path(folder))
                except subprocess.CalledProcessError as error:
                    failed, found = True, {"does not resolve": error.stderr.strip()[-500:]}
                name = f"nemu[{extra}]" if extra else "nemu"
                result.setdefault(f"Python {python} ({system})", {})[name] = found
                print(python, name, *(f"{key} {value}" for key, value in found.items()), sep="\n    ")
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return int(failed)


def requirements(project: dict, extra: str, python: str) -> list[str]:
    """What `pip install nemu[extra]` asks for on aarch64 Linux under `python`, without markers."""
    given = list(project["dependencies"])
    for name in filter(None, extra.split(",")):
        given += project["optional-dependencies"][name]
    target = {"python_version": python, "platform_machine": "aarch64", "sys_platform": "linux"}
    wanted = []
    for requirement in map(Requirement, given):
        if requirement.marker is None or requirement.marker.evaluate(target):
            requirement.marker = None
            wanted.append(str(requirement))
    return wanted


def resolve(wanted: list[str], python: str, wheels: Path) -> dict[str, str]:
    """Package → version and the tags of the wheel that pip would install.

    Raises:
        subprocess.CalledProcessError: pip finds none; its reason is in `stderr`.
    """
    report = wheels / "report.json"
    platforms = [word for minor in GLIBC for word in ("--platform", f"manylinux_2_{minor}_aarch64")]
    pip(
        *("install", "--dry-run", "--ignore-installed", "--report", str(report)),
        *("--target", str(wheels / "nowhere")),
        *("--only-binary=:all:", "--find-links", str(wheels), "--implementation", "cp"),
        *("--python-version", python, *platforms, *wanted),
    )
    found = {}
    for item in json.loads(report.read_text())["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        file = item["download_info"]["url"].rpartition("/")[2]
        found[name] = f"{version}, {file.removesuffix('.whl').split('-', 2)[2]}"
    return dict(sorted(found.items()))


def pip(*arguments: str) -> None:
    """Run pip of this Python."""
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", *arguments], check=True, stderr=subprocess.PIPE, text=True
    )


if __name__ == "__main__":
    raise SystemExit(main())
