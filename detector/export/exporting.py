"""A model as a file for other runtimes: traced, written, compared, and only then kept."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import cast

from detector.export.agreement import TOLERANCE, Agreement, Run, check_agreement
from detector.export.description import graph_description, weights_description
from detector.export.packages import need_packages
from detector.model import Model, load_model
from detector.model_folder import MODEL
from manifests.atomic import output_error, sync_folder
from manifests.digest import file_digest
from manifests.errors import ConfigError, CutswapError, OutputError
from manifests.strict_json import dump_json
from manifests.terminal import counted

# Format -> suffixes of its files, the one to be named first.
SUFFIXES: dict[str, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "torch-export": (".pt2",),
    "openvino": (".xml", ".bin"),
    "timm": (".safetensors",),
}
# What has to be installed. ONNX Runtime reads what was written; OpenVINO converts an ONNX model.
PACKAGES: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torch-export": (),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "timm": (),
}
DESCRIPTION = ".json"


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        path: the file.
        files: all of them, the description last.
        agreement: with the model; None for weights, which are the model's own.
    """

    path: Path
    to: str
    files: tuple[Path, ...]
    model_digest: str
    agreement: Agreement | None

    def to_json(self) -> dict:
        """Plain JSON types."""
        return {
            "path": str(self.path),
            "to": self.to,
            "files": [str(path) for path in self.files],
            "bytes": sum(path.stat().st_size for path in self.files),
            "model_digest": self.model_digest,
            "agreement": None if self.agreement is None else self.agreement.to_json(),
        }

    def in_words(self) -> list[str]:
        """What was written, and how well it agrees with the model."""
        held = sum(path.stat().st_size for path in self.files) / 1e6
        lines = [f"{self.path}: {self.to}, {held:.1f} MB, described in {self.files[-1].name}"]
        if self.agreement is not None:
            one = self.agreement
            lines.append(
                f"  compared on {counted(one.images, 'image')}: scores differ by at most "
                f"{one.score:.1g} of the score, maps by {one.map:.1g} of their largest value"
            )
        return [*lines, f"  model digest {self.model_digest}"]


def export_model(
    model_folder: str | PathLike[str],
    out: str | PathLike[str],
    *,
    to: str,
    batch: int = 1,
    photos: Sequence[Path] = (),
    overwrite: bool = False,
) -> Exported:
    """Writes a model as one file (OpenVINO: a pair) with a description beside it.

    The file is written to a folder of its own first, read back, and compared with the model on an
    image. What agrees is moved to its place; the description comes last and carries the digests of
    the files, so that a file without one is not a whole export.

    Args:
        out: the file, with the suffix of the format.
        to: a name in `SUFFIXES`.
        batch: images of one run of a graph.
        photos: images to compare on; none, a made-up picture.
        overwrite: replace files of these names.

    Raises:
        ConfigError: an unknown format, another suffix, a missing package, or a model that cannot
            be had in this format.
        ModelError: the model is missing or damaged.
        OutputError: files in the way, files that cannot be written, or a graph that does not
            agree with the model.

    Source: ours.
    """
    out = Path(out)
    _check_name(out, to)
    own = tuple(out.with_suffix(suffix) for suffix in SUFFIXES[to])
    files = (*own, out.with_name(out.name + DESCRIPTION))
    _need_room(files, overwrite=overwrite)
    packages = need_packages(PACKAGES[to], to=to)
    model = load_model(model_folder)
    digest = file_digest(Path(model_folder) / MODEL)
    with _own_folder(out) as folder:
        written = folder / out.name
        agreement = None
        if to == "timm":
            description = _write_weights(model, written, digest, packages)
        else:
            description = graph_description(
                model, model_digest=digest, batch=batch, packages=packages
            )
            with _other_errors(model, out, to):
                run = _write_graph(model, written, to, description, batch)
                agreement = check_agreement(model, run, path=out, batch=batch, photos=photos)
            description["agreement"] = agreement.to_json() | {"tolerance": TOLERANCE}
        description["files"] = {path.name: file_digest(folder / path.name) for path in files[:-1]}
        (folder / files[-1].name).write_bytes(dump_json(description, indent=1))
        _need_room(files, overwrite=overwrite)
        _put_in_place(folder, files)
    return Exported(out, to, files, digest, agreement)


def _write_weights(model: Model, path: Path, digest: str, packages: dict[str, str]) -> dict:
    from detector.export.timm_file import check_state, state_bytes

    description = weights_description(model, model_digest=digest, packages=packages)
    path.write_bytes(state_bytes(model))
    difference = check_state(path, model, description["timm"]["architecture"])
    if not difference <= TOLERANCE:
        raise OutputError(
            "timm's network does not say what the model's says, and the file was not kept",
            path=path.name,
            expected=f"a difference of at most {TOLERANCE:g}",
            got=f"{difference:.3g}",
        )
    return description


def _write_graph(model: Model, path: Path, to: str, description: dict, batch: int) -> Run:
    """Writes the file; returns what runs it."""
    from detector.export.graphs import Fitted, trace_graph

    program = trace_graph(model.config.detector, cast(Fitted, model.detector), batch=batch)
    if to == "torch-export":
        from detector.export import torch_file

        path.write_bytes(torch_file.archive_bytes(program, description))
        return torch_file.open_archive(path)
    from detector.export import onnx_file

    onnx = onnx_file.onnx_bytes(program, description)
    if to == "onnx":
        path.write_bytes(onnx)
        return onnx_file.open_onnx(path, description)
    from detector.export import openvino_file

    openvino_file.write_openvino(onnx, path, description)
    return openvino_file.open_openvino(path, description)


@contextmanager
def _other_errors(model: Model, out: Path, to: str) -> Iterator[None]:
    """What a tracer or a runtime raises is its own, of any type, and pages long: told in a line."""
    try:
        yield
    except (CutswapError, OSError, MemoryError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise OutputError(
            f"--to {to} failed on network {model.config.network}",
            path=out,
            got=f"{type(error).__name__}: {lines[0][:200]}",
            hint="try another format, or fit with another --network",
        ) from error


def _check_name(out: Path, to: str) -> None:
    if to not in SUFFIXES:
        raise ConfigError(f"unknown format {to!r}", expected=", ".join(SUFFIXES))
    if out.suffix != SUFFIXES[to][0]:
        raise ConfigError(
            f"--out of --to {to} is a file",
            path=out,
            expected=f"a name that ends with {SUFFIXES[to][0]}",
            got=out.suffix or "no suffix",
        )


def _need_room(files: Sequence[Path], *, overwrite: bool) -> None:
    for path in files:
        if path.is_dir():
            raise OutputError("is a folder", path=path, hint="pass another --out")
        if path.exists() and not overwrite:
            raise OutputError(
                "is there already", path=path, hint="pass --overwrite, or another --out"
            )


@contextmanager
def _own_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` for files that are not yet to be seen; it is gone afterwards."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.tmp-", dir=out.parent))
    except OSError as error:
        raise output_error(out, error) from error
    try:
        yield folder
    except OSError as error:
        raise output_error(out, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(folder: Path, files: Sequence[Path]) -> None:
    """Moves the files where they belong, the description last.

    Of what they replace, the description goes first: at no moment does one lie beside files that
    are not its own, nor an .xml beside another's .bin.
    """
    for path in files:
        with open(folder / path.name, "rb+") as file:
            os.fsync(file.fileno())
    *own, description = files
    description.unlink(missing_ok=True)
    if len(own) > 1:
        own[0].unlink(missing_ok=True)
    for path in (*reversed(own), description):
        os.replace(folder / path.name, path)
    sync_folder(description.parent)
