"""The graph of every detector, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from detector.detectors import Cavga, GaussianDetector, GuidedSegmentation, PatchCore
from detector.export.canvas_graph import takes_box
from detector.export.cavga_graph import CavgaGraph
from detector.export.gaussian_graph import GaussianGraph
from detector.export.guided_graph import GuidedGraph
from detector.export.patchcore_graph import PatchCoreGraph
from manifests.errors import ConfigError

Fitted = PatchCore | GaussianDetector | GuidedSegmentation | Cavga

GRAPHS: dict[str, Callable[..., nn.Module]] = {
    "patchcore": PatchCoreGraph,
    "gaussian": GaussianGraph,
    "guided-seg": GuidedGraph,
    "cavga": CavgaGraph,
}


def trace_graph(kind: str, detector: Fitted, *, batch: int) -> torch.export.ExportedProgram:
    """A detector's whole scoring as one graph of plain operations.

    Args:
        kind: its name in `DETECTORS`.
        detector: fitted, on the CPU.
        batch: images of one run, fixed.

    Returns:
        `image` (B, H, W, 3) uint8 RGB and, where the canvas has padding, `canvas_box` (B, 4) int64
        -> scores (B,) and maps (B, H, W), float32.

    Raises:
        ConfigError: a batch out of range, or a detector that computes in bf16, looks at
            tiles, or has both padding and a region of interest.

    Source: ours.
    """
    if batch < 1:
        raise ConfigError("batch out of range", expected="at least 1", got=batch)
    if detector.config.precision != "fp32":
        raise ConfigError(
            "only models that compute in fp32 can be exported as a graph",
            got=detector.config.precision,
            hint="fit again with --precision fp32",
        )
    geometry = detector.geometry
    if geometry.roi is not None and takes_box(geometry):
        raise ConfigError(
            "a model with a region of interest and padding cannot be exported as a graph",
            hint="export one of a set that was built with --fit stretch or crop",
        )
    if getattr(detector.config, "tile", None) is not None:
        raise ConfigError(
            "a model that looks at tiles cannot be exported as a graph",
            hint="export one that was fitted without --tile",
        )
    canvas = (geometry.height, geometry.width)
    inputs = [torch.zeros((batch, *canvas, 3), dtype=torch.uint8)]
    if takes_box(geometry):
        inputs.append(torch.tensor([[0, 0, *canvas]]).repeat(batch, 1))
    graph = GRAPHS[kind](detector).eval().requires_grad_(False)
    with torch.no_grad():
        return _without_notes(torch.export.export(graph, tuple(inputs), strict=False))


def pruned(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same without what leads to no output, and without its weights.

    A network is traced to its end, though only some of its stages are read.
    """
    inputs = tuple(
        torch.zeros(tuple(node.meta["val"].shape), dtype=node.meta["val"].dtype)
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
    )
    with torch.no_grad():
        whole = program.run_decompositions({}).module()
        whole.graph.eliminate_dead_code()
        whole.delete_all_unused_submodules()
        whole.recompile()
        return _without_notes(torch.export.export(whole, inputs, strict=False))


def _without_notes(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Without the paths and lines of code that a tracer notes, and without examples of inputs."""
    for node in program.graph.nodes:
        for note in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node"):
            node.meta.pop(note, None)
    program.example_inputs = None
    return program
