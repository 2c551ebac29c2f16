"""Shared by all commands: options that they read alike, what they print, and the exit codes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import InputError, NemuError, ParityError
from runtime.explainer import Explainer
from runtime.level import curve_of, share_for
from runtime.media.overlay import STYLES
from runtime.package.folder import Package


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """Add `--json` and `--quiet`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--quiet", action="store_true", help="print only warnings and errors")


def answer(arguments: argparse.Namespace, facts: Mapping[str, Any], text: str, *, passed: bool = True) -> int:
    """Print `facts` with --json, nothing with --quiet, otherwise `text`, which ends with the next step.

    Returns:
        The exit code: 0; 3 if a gate was not passed.
    """
    if arguments.json:
        print(json.dumps(facts, indent=2))
    elif not arguments.quiet:
        print(text)
    return 0 if passed else ParityError.exit_code


def exit_code(
    command: Callable[[], int], *, stopped: str, failures: tuple[type[Exception], ...] = (OSError,)
) -> int:
    """Run a command; print errors on stderr.

    Args:
        stopped: printed after Ctrl-C.
        failures: other errors that a user may meet, such as a full disk or a read-only folder.

    Returns:
        The exit code of `command`; 1 after an error, 3 after a failed gate, 130 after Ctrl-C.
    """
    try:
        return command()
    except NemuError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except failures as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nstopped; {stopped}", file=sys.stderr)
        return 130


def open_explainer(arguments: argparse.Namespace, package: Package | None = None) -> Explainer:
    """Open an Explainer with the backend options.

    Args:
        package: an opened package, whose hashes are not checked again; default: `arguments.package`.
    """
    return Explainer(
        package or arguments.package,
        backend=arguments.backend,
        device=arguments.device,
        precision=arguments.precision,
    )


def recorded_package(arguments: argparse.Namespace, recorded: Path, embedding_id: str) -> Package:
    """Open the package that --package names, or the one whose path was recorded.

    Args:
        recorded: path of the package that computed the embeddings.
        embedding_id: id of those embeddings, for the message.

    Raises:
        InputError: the recorded path does not exist and --package was not given.
    """
    if arguments.package is None and not recorded.is_dir():
        raise InputError(
            f"the embeddings were made with {recorded}, which does not exist",
            expected=f"the package of {embedding_id}",
            cure="give its path: --package NAME.nemu",
        )
    return Package.open(arguments.package or recorded)


def draw_options(arguments: argparse.Namespace, explainer: Explainer) -> dict[str, Any]:
    """`keep` and `style` of `Explanation.overlay`; raises `InputError` if `keep` is not possible."""
    if arguments.keep is not None:
        share_for(curve_of(explainer.manifest.level), arguments.keep)
    return {"keep": arguments.keep, "style": arguments.style or STYLES[0]}


def refuse_draw_options(arguments: argparse.Namespace, why: str, cure: str) -> None:
    """Raise `InputError` if --keep or --style is given where no overlay will be drawn."""
    given = " and ".join(f"--{name}" for name in ("keep", "style") if getattr(arguments, name) is not None)
    if given:
        raise InputError(f"{given} {why}", expected="overlays to draw", cure=f"{cure}, or leave out {given}")


def target(arguments: argparse.Namespace, explainer: Explainer) -> np.ndarray | None:
    """The embedding that --toward names, float32 (D,), of an image or a .npy file; None if not given.

    A vector of zeros also gives None: it asks for each image's own embedding.
    """
    if arguments.toward is None:
        return None
    if arguments.toward.suffix != ".npy":
        return explainer.target(arguments.toward)
    try:
        vector = np.load(arguments.toward, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"--toward {arguments.toward} cannot be read ({error})",
            expected="an image, or an embedding that numpy.save wrote",
            cure="check the file",
        ) from error
    if vector.dtype.kind != "f":
        raise InputError(
            f"--toward {arguments.toward}: {vector.dtype} {vector.shape}",
            expected="an embedding of this package, float32",
            cure="save one row: numpy.save(FILE, embedding)",
        )
    found = explainer.target(vector)
    return found if found.any() else None


def print_skipped(skipped: Sequence[Mapping[str, str]], total: int | None = None) -> None:
    """List the images that could not be read on stderr; raises `InputError` if those are all, `total`."""
    for one in skipped:
        place = "" if one["image"] in one["error"] else f"{one['image']}: "
        print(f"skipped {place}{one['error']}", file=sys.stderr)
    if len(skipped) == total:
        raise InputError(
            f"none of {total} images could be read",
            expected="at least one",
            cure="check the files listed above",
        )
