"""Indexes that store an explanation beside each vector: build, search, check."""

from runtime.index.code import decode_mask, encode_mask
from runtime.index.opened import Hit, Index
from runtime.index.row import LEVELS, Row

__all__ = ["LEVELS", "Hit", "Index", "Row", "decode_mask", "encode_mask"]
