"""The command of `cutswap-det` that hands a model on to other runtimes."""

from __future__ import annotations

from pathlib import Path

import click

from manifests import command_line as common

_FORMATS = ("onnx", "torch-export", "openvino", "timm")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--to",
    required=True,
    type=click.Choice(_FORMATS),
    help="A graph for ONNX Runtime, torch or OpenVINO; or the extractor's weights for timm.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="The file: .onnx, .pt2, .xml (with a .bin) or .safetensors. A .json goes beside it.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Images of one run of a graph.",
)
@click.option(
    "--check",
    "photos",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Photo, or folder of them, to compare graph and model on (repeatable).  "
    "[default: a made-up picture]",
)
@click.option("--overwrite", is_flag=True, help="Replace files of these names.")
@common.json_option
@common.domain_errors
def export(
    model: Path,
    to: str,
    out: Path,
    batch: int,
    photos: tuple[Path, ...],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write a model as one graph for other runtimes, or its extractor for timm.

    MODEL is a model folder. The graph takes the canvas as bytes and gives score and score map;
    network, search and map are in it. It is compared with the model before it is kept
    (docs/export.md).

    \b
    cutswap-det export models/part --to onnx --out part.onnx
    cutswap-det export models/part --to openvino --out part.xml --check photos/
    cutswap-det export models/part --to timm --out extractor.safetensors
    """
    from detector.export.exporting import Exported, export_model
    from detector.model_folder import find_model
    from manifests.images import list_images

    done = export_model(
        find_model(model),
        out,
        to=to,
        batch=batch,
        photos=list_images(photos) if photos else (),
        overwrite=overwrite,
    )
    common.report([done], as_json=as_json, words=Exported.in_words, plain=Exported.to_json)
