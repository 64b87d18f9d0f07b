"""What an exported file says of itself: inputs, outputs, geometry, thresholds, origin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from detector.export.canvas_graph import CANVAS_BOX, IMAGE, takes_box
from detector.model import Model
from manifests.errors import SetError
from manifests.strict_json import dump_json
from manifests.versions import library_versions

EXPORT_VERSION = 1
SCORE, MAP = "score", "map"
KEY = "cutswap"
"""Under which ONNX's metadata_props and OpenVINO's rt_info hold it."""


def graph_description(
    model: Model, *, model_digest: str, batch: int, packages: dict[str, str]
) -> dict:
    """What is to be known of a graph, as plain JSON types.

    Args:
        model_digest: of the folder that the model was read from.
        packages: name -> version of what wrote the file.
    """
    geometry = model.geometry
    canvas = [geometry.height, geometry.width]
    inputs = [
        {
            "name": IMAGE,
            "dtype": "uint8",
            "shape": [batch, *canvas, 3],
            "layout": "NHWC",
            "holds": "RGB canvas as geometry.fit makes it; normalised inside the graph",
        }
    ]
    if takes_box(geometry):
        inputs.append(
            {
                "name": CANVAS_BOX,
                "dtype": "int64",
                "shape": [batch, 4],
                "layout": "y, x, height, width",
                "holds": "the part of the canvas that shows the photo; the rest is padding",
            }
        )
    return {
        **_origin(model, model_digest, packages),
        "inputs": inputs,
        "outputs": [
            {
                "name": SCORE,
                "dtype": "float32",
                "shape": [batch],
                "holds": "score of the image; above thresholds.image.value it is a defect",
            },
            {
                "name": MAP,
                "dtype": "float32",
                "shape": [batch, *canvas],
                "holds": "score of each canvas pixel; above thresholds.pixel.value it is marked",
            },
        ],
        "is_bounded": model.detector.is_bounded,
        "precision": "fp32",
        "thresholds": {
            "image": model.image_threshold.to_json(),
            "pixel": model.pixel_threshold.to_json(),
        },
    }


def weights_description(model: Model, *, model_digest: str, packages: dict[str, str]) -> dict:
    """What is to be known of an extractor's weights, as plain JSON types."""
    import timm

    network = model.detector.network
    known = cast(dict[str, Any], network.module.pretrained_cfg)
    config = model.config
    stages = config.stages if config.detector == "patchcore" else tuple(network.stages)
    return {
        **_origin(model, model_digest, packages),
        "timm": {
            "architecture": known["architecture"],
            "classes": network.module.num_classes,
            "version": timm.__version__,
        },
        # Of values from 0 to 1, as torchvision and anomalib have them.
        "normalisation": {
            "mean": [value / 255.0 for value in network.mean],
            "std": [value / 255.0 for value in network.std],
        },
        "layers": [network.stages[stage] for stage in stages],
    }


def description_text(description: dict) -> str:
    """The description as one line, for formats that hold text. ASCII."""
    try:
        return dump_json(description).decode("ascii")
    except SetError as error:  # a threshold that is no number is refused with the model
        raise ValueError(str(error)) from error


def input_names(description: dict) -> Sequence[str]:
    """The inputs in order."""
    return [one["name"] for one in description["inputs"]]


def _origin(model: Model, model_digest: str, packages: dict[str, str]) -> dict:
    geometry = model.geometry
    detector = model.detector
    return {
        "export_version": EXPORT_VERSION,
        "category": model.category,
        "detector": model.config.detector,
        "learned": detector.summary(),
        "network": {"name": detector.network.name, "digest": detector.network.digest},
        # A region of interest is part of the graph: who makes the canvas need not know it.
        "geometry": {"height": geometry.height, "width": geometry.width, "fit": geometry.fit},
        "inspected_frac": 1.0 if geometry.roi is None else geometry.roi.area_frac,
        "model_digest": model_digest,
        "set_digest": model.set_digest,
        "holds_pixels": detector.holds_pixels,
        "licence": model.licence,
        "attribution": model.attribution,
        "versions": library_versions() | packages,
    }
