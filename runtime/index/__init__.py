"""Indexes that store an explanation beside each vector: build, search, check."""

from runtime.index.code import decode_mask, encode_mask
from runtime.index.search import Index
from runtime.index.stores import LEVELS, Hit, Row

__all__ = ["LEVELS", "Hit", "Index", "Row", "decode_mask", "encode_mask"]
