"""What a package was made without, and why: for which engines it counts, and the words of its card."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from export.package import attach
from export.package.card import _parity
from export.request import Request
from export.targets import Target
from runtime.errors import ExportError, ParityError
from runtime.package.folder import GRAPHS, TOWARD_GRAPHS, Package
from runtime.package.reasons import sentence

REFUSED = {
    "fp16 toward targets": "beyond fp16",
    "int8": "its range",
    "int8 for onnxruntime": "too far off",
    "cells": "no local features",
}


def made(**refused: str) -> Package:
    """The manifest of a package with fp32 graphs of both forms and a plain one in bf16; no files."""
    files = dict.fromkeys((GRAPHS["fp32"], GRAPHS["bf16"], TOWARD_GRAPHS["fp32"]), "")
    return Package(Path("x.nemu"), SimpleNamespace(files=files, refused=refused), "0")


def request(precision: str, *, toward: bool) -> Request:
    target = Target(name="rtx", what="", flavour="rtx", engines=("8.9",))
    return Request(targets=(target,), precision=precision, batch=(1, 1, 8), toward=toward)


@pytest.mark.parametrize(
    ("refused", "toward", "said"),
    [
        (REFUSED, True, "fp16 toward targets was refused when x.nemu was made: beyond fp16"),
        ({"fp16": "its range"}, True, "fp16 toward targets was refused when x.nemu was made: its range"),
        ({"fp16": "its range"}, False, "fp16 was refused when x.nemu was made: its range"),
    ],
)
def test_refused_precision_names_the_reason_of_its_form(refused, toward, said):
    with pytest.raises(ParityError) as error:
        attach.build(made(**refused), request("fp16", toward=toward))
    assert error.value.came == said


PLAIN, FOR_TARGETS = "int8: its range; bf16: no kernel; fp32: no kernel", "fp16: beyond fp16; fp32: no kernel"


@pytest.mark.parametrize(("toward", "left_out"), [(False, PLAIN), (True, FOR_TARGETS)])
def test_left_out_names_refusals_of_its_form_only(monkeypatch, toward, left_out):
    def refuse(*_):
        raise ExportError("no kernel", expected="one", cure="none")

    monkeypatch.setattr(attach, "_attempt", refuse)
    built = attach.build(made(**REFUSED), request("auto", toward=toward))
    assert [sentence(reasons) for reasons in built.left_out.values()] == [left_out]


def test_card_lists_every_refused_graph():
    manifest = SimpleNamespace(parity={}, refused={**REFUSED, "fp16": "its range"}, left_out={})
    listed = [line for line in _parity(manifest, "x.nemu").splitlines() if line.startswith("- ")]
    assert listed == [
        "- no fp16 graph toward targets: beyond fp16",
        "- no int8 graph: its range",
        "- no int8 graph for onnxruntime: too far off",
        "- no graph of local features, so that `nemu bank` refuses: no local features",
        "- no fp16 graph: its range",
    ]
