"""The model folder: extractor, detector, thresholds and what they were made from."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from detector.calibration import Calibration
from detector.config import FitConfig
from detector.detectors import DETECTORS, Detector
from detector.detectors.patchcore import PatchCore
from detector.model_folder import MODEL, MODEL_DIGEST
from detector.model_record import (
    CALIBRATION,
    EXTRACTOR,
    MODEL_VERSION,
    NORMALS,
    STATE_FILES,
    TENSOR_FILES,
    UNNAMED_VERSION,
    UNTUNED,
    ModelRecord,
    read_record,
    write_record,
)
from detector.normal_list import FittedNormal, normals_from_state, normals_state
from detector.threshold import Threshold
from detector.verify_model import AGAIN, file_problems
from manifests.atomic import sync_folder, write_atomic
from manifests.digest import file_digest
from manifests.errors import CutswapError, ModelError, OutputError, WeightsError
from manifests.images import Geometry
from manifests.weights import Network, load_network

_STAGING = ".model.tmp-"


@dataclass(frozen=True)
class Model:
    """A fitted detector and its provenance.

    Attributes:
        calibration: scores of good images, from which thresholds and p-values come.
        image_threshold, pixel_threshold: on raw scores; a score above it means "defect".
        training_files: SHA-256 of every training file, which `eval` leaves out.
        set_digest: of the negative set it was fitted on.
        initial_digest: of the extractor's weights before training.
        processes: how many fitted it together.
        normals: what it was fitted to, in the order in which a bank counts images; None in models
            of version 5, which do not say.
        added_normals, score_bounds: see `ModelRecord`.
    """

    category: str
    detector: Detector
    config: FitConfig
    geometry: Geometry
    calibration: Calibration
    image_threshold: Threshold
    pixel_threshold: Threshold
    training_files: frozenset[str]
    set_digest: str
    initial_digest: str
    attribution: str
    licence: str
    versions: dict[str, str]
    processes: int = 1
    normals: tuple[FittedNormal, ...] | None = None
    added_normals: int = 0
    score_bounds: int = 0

    @property
    def training_pixels(self) -> frozenset[str]:
        """Digests of the canvases it was fitted to; none in models of version 5."""
        return frozenset(one.pixel_digest for one in self.normals or ())


def save_model(folder: Path, model: Model) -> str:
    """Writes a model folder; `model.json` comes last, so that no half-written model loads.

    A model that lies there stays until the new one is written to a folder beside it.

    Returns:
        The model digest, SHA-256 of `model.json`.

    Raises:
        OutputError: the folder cannot be written.
        ModelError: the model cannot be recorded.
    """
    from safetensors.torch import save

    detector = model.detector
    tensors = {EXTRACTOR: _weights(detector.network)}
    if detector.untuned is not None:
        tensors[UNTUNED] = _weights(detector.untuned)
    tensors[STATE_FILES[model.config.detector]] = detector.state()
    tensors[CALIBRATION] = model.calibration.state()
    if model.normals is not None:
        tensors[NORMALS] = normals_state(model.normals)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _staging(folder) as staging:
            for name, state in tensors.items():
                write_atomic(staging / name, save(state))
            digest = write_record(staging, _record_of(model, staging, tensors))
            _put_in_place(staging, folder, [*tensors, MODEL_DIGEST, MODEL])
        return digest
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", path=folder) from error


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder inside for files that are not yet to be seen; it is gone afterwards, and so are
    those of killed runs."""
    for left in folder.glob(f"{_STAGING}*"):
        shutil.rmtree(left)
    staging = folder / f"{_STAGING}{os.getpid()}"
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put_in_place(staging: Path, folder: Path, names: Sequence[str]) -> None:
    """Moves a whole model to where another one may lie; from here on nothing needs space."""
    for name in (MODEL, MODEL_DIGEST, *sorted(set(TENSOR_FILES) - set(names))):
        (folder / name).unlink(missing_ok=True)
    for name in names:
        os.replace(staging / name, folder / name)
    sync_folder(folder)


def _record_of(model: Model, folder: Path, names: Iterable[str]) -> ModelRecord:
    """The record of a model whose tensors lie in a folder."""
    return ModelRecord(
        category=model.category,
        config=model.config,
        geometry=model.geometry,
        network_digest=model.detector.network.digest,
        initial_digest=model.initial_digest,
        set_digest=model.set_digest,
        calibrated_on=model.calibration.source,
        image_threshold=model.image_threshold,
        pixel_threshold=model.pixel_threshold,
        training_files=model.training_files,
        licence=model.licence,
        attribution=model.attribution,
        versions=model.versions,
        processes=model.processes,
        holds_pixels=model.detector.holds_pixels,
        files={name: file_digest(folder / name) for name in names},
        version=UNNAMED_VERSION if model.normals is None else MODEL_VERSION,
        added_normals=model.added_normals,
        score_bounds=model.score_bounds,
    )


def load_model(folder: str | PathLike[str], *, device: str = "cpu") -> Model:
    """Reads a model folder and checks every file against its digest.

    A stranger may have made it: nothing is built whose size is not that of the files.

    Raises:
        ModelError: missing, damaged, of another version, or malformed.
        WeightsError: an unknown network, or tensors that do not fit it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = Path(folder)
    record, _ = read_record(folder)
    for problem in file_problems(folder, record):
        raise problem
    config = record.config
    kind = DETECTORS[config.detector]
    state_file = folder / STATE_FILES[config.detector]
    try:
        network = _network(config.network, folder / EXTRACTOR, device=device)
        _check_network(network, record.network_digest, folder / EXTRACTOR)
        untuned = None
        if config.needs_untuned:
            untuned = _network(config.network, folder / UNTUNED, device=device)
            _check_network(untuned, record.initial_digest, folder / UNTUNED)
        calibration = Calibration.from_state(
            load((folder / CALIBRATION).read_bytes()), record.calibrated_on
        )
        _check_thresholds(record, calibration, folder / CALIBRATION)
        normals = None
        if NORMALS in record.files:
            canvas = (record.geometry.height, record.geometry.width)
            normals = normals_from_state(load((folder / NORMALS).read_bytes()), canvas=canvas)
        detector = kind.from_state(
            network,
            record.geometry,
            config.detector_config(),
            load(state_file.read_bytes()),
            untuned=untuned,
            device=device,
        )
        _check_normals(record, detector, normals, state_file)
    except CutswapError:
        raise
    except (
        KeyError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError,
    ) as error:  # fmt: skip
        raise ModelError(f"malformed: {error}", path=state_file, hint="fit again") from error
    return Model(
        category=record.category,
        detector=detector,
        config=config,
        geometry=record.geometry,
        calibration=calibration,
        image_threshold=record.image_threshold,
        pixel_threshold=record.pixel_threshold,
        training_files=record.training_files,
        set_digest=record.set_digest,
        initial_digest=record.initial_digest,
        attribution=record.attribution,
        licence=record.licence,
        versions=record.versions,
        processes=record.processes,
        normals=normals,
        added_normals=record.added_normals,
        score_bounds=record.score_bounds,
    )


def _check_normals(
    record: ModelRecord,
    detector: Detector,
    normals: tuple[FittedNormal, ...] | None,
    path: Path,
) -> None:
    """Raises ModelError where a bank speaks of images that there are none of."""
    if normals is None:
        return
    if record.added_normals >= len(normals):
        raise ModelError("counts more images than it has", path=path, hint=AGAIN)
    if not isinstance(detector, PatchCore):
        return
    image = detector.bank.image_index
    if int(image.min()) < 0 or int(image.max()) >= len(normals):
        raise ModelError(
            "has entries of images that it does not name",
            path=path,
            expected=f"0 to {len(normals) - 1}",
            got=f"{int(image.min())} to {int(image.max())}",
            hint=AGAIN,
        )


def _network(name: str, path: Path, *, device: str) -> Network:
    """A model's own network. Raises WeightsError, which speaks of no option: there is none."""
    try:
        return load_network(name, weights=path, device=device)
    except WeightsError as error:
        raise WeightsError(
            f"{error.what[:200]} (network {name[:80]!a} of {MODEL})",
            path=error.path or path,
            expected=error.expected,
            got=error.got,
            hint=AGAIN,
        ) from error


def _check_thresholds(record: ModelRecord, calibration: Calibration, path: Path) -> None:
    wanted = calibration.thresholds(record.config.false_alarm_rate)
    if (record.image_threshold, record.pixel_threshold) != wanted:
        raise ModelError(
            "does not give the recorded thresholds",
            path=path,
            expected=f"{record.image_threshold.value:g}, {record.pixel_threshold.value:g}",
            got=f"{wanted[0].value:g}, {wanted[1].value:g}",
            hint=AGAIN,
        )


def _check_network(network: Network, digest: str, path: Path) -> None:
    if network.digest != digest:
        raise ModelError(
            "holds other weights than the recorded ones",
            path=path,
            expected=digest,
            got=network.digest,
            hint=AGAIN,
        )


def _weights(network: Network) -> dict:
    """A network's tensors as safetensors takes them."""
    return {name: value.contiguous() for name, value in network.module.state_dict().items()}
