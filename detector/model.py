"""The model folder: extractor, detector, thresholds and what they were made from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from detector.config import FitConfig
from detector.detectors import DETECTORS, Detector
from detector.threshold import Threshold
from manifests.atomic import write_atomic
from manifests.digest import file_digest
from manifests.errors import CutswapError, ModelError, OutputError
from manifests.images import Geometry
from manifests.weights import Network, load_network

MODEL_VERSION = 2
MODEL = "model.json"
EXTRACTOR = "extractor.safetensors"
UNTUNED = "untuned.safetensors"
STATES = tuple(kind.state_file for kind in DETECTORS.values())
MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True)
class Model:
    """A fitted detector and its provenance.

    Attributes:
        image_threshold, pixel_threshold: on raw scores; a score above it means "defect".
        training_files: SHA-256 of every training file, which `eval` leaves out.
        set_digest: of the negative set it was fitted on.
        initial_digest: of the extractor's weights before training.
    """

    category: str
    detector: Detector
    config: FitConfig
    geometry: Geometry
    image_threshold: Threshold
    pixel_threshold: Threshold
    training_files: frozenset[str]
    set_digest: str
    initial_digest: str
    attribution: str
    licence: str
    versions: dict[str, str]


def save_model(folder: Path, model: Model) -> None:
    """Writes a model folder; `model.json` comes last, so that no half-written model loads.

    Raises OutputError where the folder cannot be written.
    """
    from safetensors.torch import save

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL).unlink(missing_ok=True)
        detector = model.detector
        tensors = {EXTRACTOR: _weights(detector.network)}
        if detector.untuned is not None:
            tensors[UNTUNED] = _weights(detector.untuned)
        tensors[detector.state_file] = detector.state()
        for name in {EXTRACTOR, UNTUNED, *STATES} - set(tensors):
            (folder / name).unlink(missing_ok=True)
        for name, state in tensors.items():
            write_atomic(folder / name, save(state))
        record = {
            "model_version": MODEL_VERSION,
            "category": model.category,
            "config": model.config.to_json(),
            "geometry": model.geometry.to_json(),
            "network_digest": detector.network.digest,
            "set_digest": model.set_digest,
            "initial_digest": model.initial_digest,
            "image_threshold": model.image_threshold.to_json(),
            "pixel_threshold": model.pixel_threshold.to_json(),
            "training_files": sorted(model.training_files),
            "licence": model.licence,
            "attribution": model.attribution,
            "versions": model.versions,
            "files": {name: file_digest(folder / name) for name in tensors},
        }
        write_atomic(folder / MODEL, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", path=folder) from error


def load_model(folder: str | PathLike[str], *, device: str = "cpu") -> Model:
    """Reads a model folder and checks every file against its digest.

    Raises:
        ModelError: missing, damaged, newer, or malformed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = Path(folder)
    path = folder / MODEL
    if not path.is_file():
        raise ModelError(
            "no model here: model.json is missing",
            path=folder,
            hint="run cutswap-det fit, or let it finish",
        )
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelError("model.json is too large", path=path)
        record = json.loads(path.read_bytes())
        version = record["model_version"]
        if version != MODEL_VERSION:
            raise ModelError(
                "written by another version of cutswap",
                path=path,
                expected=f"model version {MODEL_VERSION}",
                got=version,
                hint="fit again, or install the version that wrote it",
            )
        name = record["config"]["detector"]
        if name not in DETECTORS:
            raise ModelError(
                "of an unknown detector",
                path=path,
                expected=", ".join(DETECTORS),
                got=repr(name)[:40],
                hint="install the version that wrote it",
            )
        config = FitConfig.from_json(record["config"])
        kind = DETECTORS[config.detector]
        _check_files(
            folder,
            [EXTRACTOR, kind.state_file, *([UNTUNED] if config.with_untuned else [])],
            record["files"],
        )
        geometry = Geometry.from_json(record["geometry"])
        network = load_network(config.network, weights=folder / EXTRACTOR, device=device)
        untuned = None
        if config.with_untuned:
            untuned = load_network(config.network, weights=folder / UNTUNED, device=device)
        detector = kind.from_state(
            network,
            geometry,
            config.detector_config(),
            load((folder / kind.state_file).read_bytes()),
            untuned=untuned,
            device=device,
        )
        return Model(
            category=str(record["category"]),
            detector=detector,
            config=config,
            geometry=geometry,
            image_threshold=Threshold(**record["image_threshold"]),
            pixel_threshold=Threshold(**record["pixel_threshold"]),
            training_files=frozenset(record["training_files"]),
            set_digest=str(record["set_digest"]),
            initial_digest=str(record["initial_digest"]),
            attribution=str(record["attribution"]),
            licence=str(record["licence"]),
            versions=dict(record["versions"]),
        )
    except CutswapError:
        raise
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
        SafetensorError,
    ) as error:
        raise ModelError(f"malformed: {error}", path=path, hint="fit again") from error


def find_models(path: str | PathLike[str]) -> list[Path]:
    """A model folder itself, or the model folders right below a root. Raises ModelError."""
    path = Path(path)
    if (path / MODEL).is_file():
        return [path]
    if not path.is_dir():
        raise ModelError(
            "no such folder", path=path, hint="give the folder that cutswap-det fit wrote"
        )
    found = sorted(child.parent for child in path.glob(f"*/{MODEL}"))
    if not found:
        raise ModelError(
            "no model here",
            path=path,
            expected=f"{MODEL} in it or in its subfolders",
            hint="run cutswap-det fit",
        )
    return found


def _weights(network: Network) -> dict:
    """A network's tensors as safetensors takes them."""
    return {name: value.contiguous() for name, value in network.module.state_dict().items()}


def _check_files(folder: Path, names: list[str], digests: dict[str, str]) -> None:
    """Raises ModelError where a file is missing or not the recorded one."""
    for name in names:
        if not (folder / name).is_file():
            raise ModelError("is missing", path=folder / name, hint="fit again")
        if file_digest(folder / name) != digests[name]:
            raise ModelError(
                "is damaged: its digest is not the recorded one",
                path=folder / name,
                hint="fit again, or copy it again",
            )
