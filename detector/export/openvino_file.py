"""A graph as OpenVINO's pair of files: what ONNX says, with weights as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detector.export.agreement import Run
from detector.export.description import KEY, description_text, input_names


def write_openvino(onnx: bytes, path: Path, description: dict) -> None:
    """Writes `path` (.xml) and the weights beside it (.bin).

    Args:
        onnx: the same graph as an ONNX model.
    """
    import openvino

    model = openvino.Core().read_model(onnx)
    model.set_rt_info(description_text(description), [KEY])
    # In half precision, which is its default, distances would be off by more than a part in 1,000.
    openvino.save_model(model, path, compress_to_fp16=False)


def open_openvino(path: Path, description: dict) -> Run:
    """What scores batches, by OpenVINO on the CPU in float32."""
    import openvino

    # Where a processor has bfloat16, OpenVINO would compute in it by itself.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = input_names(description)

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        found = compiled(dict(zip(names, inputs, strict=True)))
        return [np.array(found[index]) for index in range(2)]

    return run
