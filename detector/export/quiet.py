"""Exporters without their remarks."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """The exporter's remarks about itself are no news to a user."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    others = [logging.getLogger(name) for name in names]
    before = [one.level for one in others]
    for one in others:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(others, before, strict=True):
            one.setLevel(level)
