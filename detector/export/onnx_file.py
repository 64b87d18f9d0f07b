"""A graph as one ONNX file, and the ONNX Runtime that reads it."""

from __future__ import annotations

from pathlib import Path

import torch

from detector.export.agreement import Run
from detector.export.description import KEY, MAP, SCORE, description_text, input_names
from detector.export.quiet import quiet
from manifests.errors import ConfigError

# Read by everything that is maintained, and the oldest that torch writes by itself.
OPSET = 18
# Protocol buffers end at 2 GiB; larger weights would need files of their own.
MAX_BYTES = 2_000_000_000


def onnx_bytes(program: torch.export.ExportedProgram, description: dict) -> bytes:
    """An ONNX model with the description in its metadata_props.

    Raises:
        ConfigError: larger than an ONNX file can be.
    """
    held = sum(one.nbytes for one in program.state_dict.values())
    if held > MAX_BYTES:
        raise ConfigError(
            "too large for an ONNX file",
            expected=f"at most {MAX_BYTES} bytes of weights and bank",
            got=held,
            hint="fit again with a smaller --coreset, or export --to torch-export",
        )
    with quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            external_data=False,
            optimize=True,
            opset_version=OPSET,
            input_names=list(input_names(description)),
            output_names=[SCORE, MAP],
            verbose=False,
        )
    if made is None:
        raise RuntimeError("torch.onnx.export gave nothing")
    proto = made.model_proto
    # The exporter notes where in our code each node comes from, with this machine's paths.
    for node in (
        *proto.graph.node,
        *proto.graph.input,
        *proto.graph.output,
        *proto.graph.value_info,
    ):
        del node.metadata_props[:]
        node.doc_string = ""
    for function in proto.functions:
        for node in function.node:
            del node.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
    note = proto.metadata_props.add()
    note.key, note.value = KEY, description_text(description)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def open_onnx(path: Path, description: dict) -> Run:
    """What scores batches, by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = input_names(description)
    return lambda inputs: session.run([SCORE, MAP], dict(zip(names, inputs, strict=True)))
