"""One image at a time: our scorer beside the graphs that `cutswap-det export` writes of the model.

Canvas in, score and map out; decoding and resizing are left out, which is the same for all. The
candidates take turns image by image, in an order that moves on by one with each image, all with as
many threads. On a machine with other work waiting is most of what a clock sees, so there are the
processor's own milliseconds too; figures of different runs cannot be compared, those of one run
can, and the ratios are each image's own. OpenVINO runs in float32 as
docs/export.md says, and as it runs by itself, where that is something else.

    python benchmarks/export.py MODEL PHOTOS [--images N] [--rounds N] [--threads T] [--bank N]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import machine

from detector.detectors import PatchCore
from detector.export.canvas_graph import takes_box
from detector.export.description import MAP, SCORE, graph_description
from detector.export.graphs import trace_graph
from detector.export.onnx_file import onnx_bytes
from detector.export.openvino_file import write_openvino
from detector.export.torch_file import archive_bytes
from detector.memory_bank import MemoryBank
from detector.model import Model, load_model
from manifests.images import fit_image, list_images, read_image

Score = Callable[[list[np.ndarray]], float]
WARM_UP = 3


def larger_bank(model: Model, entries: int) -> None:
    """Entries beside entries, for the speed of a larger bank alone."""
    detector = model.detector
    if not isinstance(detector, PatchCore):
        raise SystemExit("--bank is for models of patchcore")
    bank, source = detector.bank.features, np.random.default_rng(0)
    rows = torch.from_numpy(source.integers(len(bank), size=entries))
    noise = torch.from_numpy(source.normal(size=(entries, bank.shape[1])).astype(np.float32))
    features = bank[rows] + 0.3 * bank.std(0) * noise
    detector.adopt_bank(MemoryBank(features, torch.zeros(entries, dtype=torch.int32)))


def candidates(model: Model, folder: Path, threads: int) -> dict[str, Score]:
    """Name -> what scores one image."""
    import onnxruntime
    import openvino

    description = graph_description(model, model_digest="0" * 64, batch=1, packages={})
    program = trace_graph(model.config.detector, model.detector, batch=1)
    onnx = onnx_bytes(program, description)
    names = [one["name"] for one in description["inputs"]]

    def ours(inputs: list[np.ndarray]) -> float:
        return float(model.detector.score(*inputs).image[0])

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])

    def by_onnx(inputs: list[np.ndarray]) -> float:
        return float(session.run([SCORE, MAP], dict(zip(names, inputs, strict=True)))[0][0])

    write_openvino(onnx, folder / "a.xml", description)

    def openvino_with(**hints: str) -> tuple[str, Score]:
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **hints}
        compiled = openvino.Core().compile_model(folder / "a.xml", "CPU", settings)
        request = compiled.create_infer_request()

        def run(inputs: list[np.ndarray]) -> float:
            found = request.infer(dict(zip(names, inputs, strict=True)))
            return float(found[SCORE][0])

        return compiled.get_property("INFERENCE_PRECISION_HINT").to_string(), run

    (folder / "a.pt2").write_bytes(archive_bytes(program, description))
    module = torch.export.load(folder / "a.pt2").module()

    @torch.inference_mode()
    def by_torch(inputs: list[np.ndarray]) -> float:
        return float(module(*map(torch.from_numpy, inputs))[0][0])

    found: dict[str, Score] = {"cutswap": ours, "ONNX Runtime": by_onnx}
    for name, score in (openvino_with(INFERENCE_PRECISION_HINT="f32"), openvino_with()):
        found[f"OpenVINO, {name}"] = score
    return found | {"torch.export": by_torch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bank", type=int, help="entries of a made-up bank")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(options.model)
    if options.bank:
        larger_bank(model, options.bank)
    files = list_images(options.photos)
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, options.images).astype(int)]
    inputs = []
    for file in chosen:
        canvas, placement = fit_image(read_image(file), model.geometry)
        box = np.array([placement.canvas_box], dtype=np.int64)
        inputs.append([canvas[None], box] if takes_box(model.geometry) else [canvas[None]])
    with tempfile.TemporaryDirectory() as folder:
        sides = candidates(model, Path(folder), options.threads)
        names = list(sides)
        for one in inputs[:WARM_UP]:
            for score in sides.values():
                score(one)
        seconds = np.empty((options.rounds * len(inputs), len(names)))
        worked, scores = np.empty_like(seconds), np.empty_like(seconds)
        for turn in range(len(seconds)):
            for i in range(len(names)):
                side = (turn + i) % len(names)
                began, started = time.process_time(), time.perf_counter()
                scores[turn, side] = sides[names[side]](inputs[turn % len(inputs)])
                seconds[turn, side] = time.perf_counter() - started
                worked[turn, side] = time.process_time() - began
    print(machine())
    print(f"{model.detector.summary()}, {model.geometry.height}×{model.geometry.width} px, "
          f"{len(seconds)} images, {options.threads} thread(s)\n")  # fmt: skip
    print("| | median ms | p99 ms | beside ours | processor ms | beside ours | score off by |")
    print("|---|---|---|---|---|---|---|")
    for side, name in enumerate(names):
        median, high = np.quantile(seconds[:, side], [0.5, 0.99]) * 1e3
        work = np.median(worked[:, side]) * 1e3
        ratios = [np.median(one[:, side] / one[:, 0]) for one in (seconds, worked)]
        away = np.abs(scores[:, side] / scores[:, 0] - 1.0).max()
        print(
            f"| {name} | {median:.1f} | {high:.1f} | {ratios[0]:.2f} | {work:.1f} | "
            f"{ratios[1]:.2f} | {away:.1g} |"
        )


if __name__ == "__main__":
    main()
