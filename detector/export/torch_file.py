"""A graph as torch.export's archive (.pt2)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from detector.export.description import KEY, description_text
from detector.export.graphs import pruned

DESCRIPTION = f"{KEY}.json"


def archive_bytes(program: torch.export.ExportedProgram, description: dict) -> bytes:
    """The archive: the graph as JSON, weights as plain bytes, nothing pickled."""
    buffer = io.BytesIO()
    torch.export.save(
        pruned(program), buffer, extra_files={DESCRIPTION: description_text(description)}
    )
    return buffer.getvalue()


def run_archive(path: Path, inputs: list[np.ndarray], _description: dict) -> list[np.ndarray]:
    """Scores and maps of one batch, by torch on the CPU.

    For an archive of our own: `torch.export.load` unpickles where a file asks for it.
    """
    program = torch.export.load(path)
    with torch.no_grad():
        found = program.module()(*map(torch.from_numpy, inputs))
    return [one.numpy() for one in found]
