"""A graph as torch.export's archive (.pt2)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from detector.export.agreement import Run
from detector.export.description import KEY, description_text
from detector.export.graphs import pruned
from detector.export.quiet import quiet

DESCRIPTION = f"{KEY}.json"


def archive_bytes(program: torch.export.ExportedProgram, description: dict) -> bytes:
    """The archive: the graph as JSON, weights as plain bytes, nothing pickled."""
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(
            pruned(program), buffer, extra_files={DESCRIPTION: description_text(description)}
        )
    return buffer.getvalue()


def open_archive(path: Path) -> Run:
    """What scores batches, by torch on the CPU.

    For an archive of our own: `torch.export.load` unpickles where a file asks for it.
    """
    module = torch.export.load(path).module()

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            return [one.numpy() for one in module(*map(torch.from_numpy, inputs))]

    return run
