"""`model.json`: what a model folder holds and what it was made from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from os import PathLike
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

from detector.calibration import IMAGE, MAP_MAXIMUM, SOURCES
from detector.config import FitConfig, with_later_fields
from detector.model_folder import (
    MAX_JSON_BYTES,
    MODEL,
    MODEL_DIGEST,
    digest_problems,
    read_record_bytes,
)
from detector.threshold import Threshold
from detector.tiles import check_tiled_canvas
from detector.train_config import LATER_FIELDS
from manifests.atomic import write_atomic
from manifests.digest import bytes_digest
from manifests.errors import CutswapError, ModelError, SetError
from manifests.geometry import Geometry
from manifests.shard_entry import is_count, is_digest, is_text_table
from manifests.strict_json import dump_json, load_json

MODEL_VERSION = 6
UNNAMED_VERSION = 5
"""Models that do not say which normals they were fitted to; read, and written as they are."""

EXTRACTOR = "extractor.safetensors"
UNTUNED = "untuned.safetensors"
CALIBRATION = "calibration.safetensors"
NORMALS = "normals.safetensors"

# Where a model folder keeps what the detector learned.
STATE_FILES: dict[str, str] = {
    "patchcore": "bank.safetensors",
    "gaussian": "gaussian.safetensors",
    "guided-seg": "guided.safetensors",
    "cavga": "cavga.safetensors",
}
_OF_GUIDANCE = ("guidance/", "references/")
_OF_ANOMALIES = ("classifier/",)
_OF_NAMED = ("cell",)
# What such a file holds: the dtype of every tensor and its sides. A letter is the same number, of
# at least 1, wherever it stands; a number is itself. A name that ends with /* stands for all
# tensors of a module, at least one, of any sides; whether they are the module's is found where it
# is loaded.
STATE_TENSORS: dict[str, dict[str, tuple[str, tuple[str, ...] | None]]] = {
    "patchcore": {
        "features": ("F32", ("M", "D")),
        "image_index": ("I32", ("M",)),
        "cell": ("I32", ("M",)),
    },
    "gaussian": {
        "mean": ("F64", ("D",)),
        "precision": ("F64", ("D", "D")),
        "shrinkage": ("F64", ()),
    },
    "guided-seg": {
        "segmenter/*": ("F32", None),
        "guidance/*": ("F32", None),
        "references/image": ("U8", ("R", "H", "W", "3")),
        "references/canvas_box": ("I32", ("R", "4")),
        "references/embedding": ("F32", ("R", "D")),
    },
    "cavga": {
        "head/*": ("F32", None),
        "decoder/*": ("F32", None),
        "classifier/*": ("F32", None),
    },
}
# Scores of good images, ascending; n is that of the thresholds.
CALIBRATION_TENSORS = {IMAGE: ("F32", ("n",)), MAP_MAXIMUM: ("F32", ("n",))}
TENSOR_FILES = (EXTRACTOR, UNTUNED, CALIBRATION, NORMALS, *STATE_FILES.values())

_FIELDS = {
    "attribution", "calibrated_on", "category", "config", "files", "geometry", "holds_pixels",
    "image_threshold", "initial_digest", "licence", "model_version", "network_digest",
    "pixel_threshold", "processes", "set_digest", "training_files", "versions",
}  # fmt: skip
_NAMED_FIELDS = {"added_normals", "score_bounds"}


@dataclass(frozen=True)
class ModelRecord:
    """Everything a model says about itself; `model.json` is exactly this and its version.

    Attributes:
        network_digest, initial_digest: of the extractor's weights, after and before training.
        set_digest: of the negative set it was fitted on.
        calibrated_on: which good images the thresholds come from, a name in `calibration.SOURCES`.
        image_threshold, pixel_threshold: on raw scores; a score above it means "defect".
        training_files: SHA-256 of every training file, which `eval` leaves out.
        processes: how many fitted it together; more than one choose another bank than one.
        holds_pixels: whether the tensors hold pixels of training images, so that passing the model
            on is bound by their licence.
        files: SHA-256 of every file of tensors, by name.
        version: `MODEL_VERSION`, or `UNNAMED_VERSION`.
        added_normals: how many of its normals `bank update` added to those of the set.
        score_bounds: how many of the scores behind the thresholds are no exact ones but at least as
            high, from before an update.
    """

    category: str
    config: FitConfig
    geometry: Geometry
    network_digest: str
    initial_digest: str
    set_digest: str
    calibrated_on: str
    image_threshold: Threshold
    pixel_threshold: Threshold
    training_files: frozenset[str]
    licence: str
    attribution: str
    versions: dict[str, str]
    processes: int
    holds_pixels: bool
    files: dict[str, str]
    version: int = MODEL_VERSION
    added_normals: int = 0
    score_bounds: int = 0

    def to_bytes(self) -> bytes:
        """`model.json`: ASCII JSON, sorted keys, indent 1, trailing newline."""
        names = _fields(self.version) - {"model_version"}
        plain = {name: getattr(self, name) for name in names} | {
            "model_version": self.version,
            "config": self.config.to_json(),
            "geometry": self.geometry.to_json(),
            "image_threshold": self.image_threshold.to_json(),
            "pixel_threshold": self.pixel_threshold.to_json(),
            "training_files": sorted(self.training_files),
        }
        return dump_json(plain, indent=1)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> ModelRecord:
        """A record from untrusted JSON of a version that is read.

        Raises:
            ModelError: a field missing, unknown, of the wrong type or out of range.
        """
        version = plain["model_version"]
        odd = sorted(_fields(version) ^ plain.keys())
        _require(not odd, f"missing or unknown fields {', '.join(odd)[:120]}")
        _require_detector(plain["config"])
        try:
            config = FitConfig.from_json(plain["config"])
            geometry = Geometry.from_json(plain["geometry"])
            check_tiled_canvas(config.tile, geometry)
        except CutswapError as error:
            # What it quotes is a stranger's: as long as he likes, and with any character.
            text = str(error)[:300]
            shown = text if text.isprintable() else ascii(text)
            raise ModelError(f"malformed: {shown}") from None
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ModelError(f"malformed: config cannot be read ({str(error)[:120]})") from None
        _require(
            _is_a(with_later_fields(plain["config"]), FitConfig),
            "config has a value of another type",
        )
        for name in ("category", "licence", "attribution"):
            _require(isinstance(plain[name], str), f"{name} is not text")
        for name in ("network_digest", "initial_digest", "set_digest"):
            _require(is_digest(plain[name]), f"{name} is not a digest")
        training = plain["training_files"]
        _require(
            isinstance(training, list) and all(map(is_digest, training)),
            "training_files are not digests",
        )
        _require(is_text_table(plain["versions"]), "versions is not a table of text")
        _require(
            is_count(plain["processes"]) and plain["processes"] > 0, "processes is not 1 or more"
        )
        _require(isinstance(plain["holds_pixels"], bool), "holds_pixels is not true or false")
        kept = any(dtype == "U8" for dtype, _ in state_tensors(config, version).values())
        _require(plain["holds_pixels"] == kept, "holds_pixels is not what the detector does")
        source = plain["calibrated_on"]
        _require(source in SOURCES, f"calibrated_on is not {', '.join(SOURCES)}")
        counts = {name: plain[name] for name in _fields(version) & _NAMED_FIELDS}
        for name, count in counts.items():
            _require(is_count(count), f"{name} is not 0 or more")
        files = plain["files"]
        _require(is_text_table(files), "files is not a table of digests")
        _require(all(map(is_digest, files.values())), "files is not a table of digests")
        wanted = file_names(config, version)
        _require(
            files.keys() == wanted,
            f"files are not {', '.join(sorted(wanted))} but {', '.join(sorted(files))[:120]}",
        )
        image_threshold = _threshold(plain["image_threshold"], "image_threshold")
        _require(
            counts.get("score_bounds", 0) <= image_threshold.n,
            "score_bounds is more than the scores that there are",
        )
        return cls(
            category=plain["category"],
            config=config,
            geometry=geometry,
            network_digest=plain["network_digest"],
            initial_digest=plain["initial_digest"],
            set_digest=plain["set_digest"],
            calibrated_on=source,
            image_threshold=image_threshold,
            pixel_threshold=_threshold(plain["pixel_threshold"], "pixel_threshold"),
            training_files=frozenset(training),
            licence=plain["licence"],
            attribution=plain["attribution"],
            versions=plain["versions"],
            processes=plain["processes"],
            holds_pixels=plain["holds_pixels"],
            files=files,
            version=version,
            **counts,
        )


def _fields(version: int) -> set[str]:
    """The fields of `model.json`."""
    return _FIELDS | _NAMED_FIELDS if version == MODEL_VERSION else _FIELDS


def state_tensors(
    config: FitConfig, version: int = MODEL_VERSION
) -> dict[str, tuple[str, tuple[str, ...] | None]]:
    """What the detector's file of a model of this config holds; see `STATE_TENSORS`."""
    left_out: tuple[str, ...] = () if config.guidance else _OF_GUIDANCE
    left_out += () if config.is_weak else _OF_ANOMALIES
    left_out += () if version == MODEL_VERSION else _OF_NAMED
    wanted = STATE_TENSORS[config.detector]
    return {name: one for name, one in wanted.items() if not name.startswith(left_out)}


def file_names(config: FitConfig, version: int = MODEL_VERSION) -> set[str]:
    """The files of tensors that a model of this config consists of."""
    names = {EXTRACTOR, CALIBRATION, STATE_FILES[config.detector]}
    names |= {NORMALS} if version == MODEL_VERSION else set()
    return names | {UNTUNED} if config.needs_untuned else names


def write_record(folder: Path, record: ModelRecord) -> str:
    """Writes `model.sha256` and then, last of all, `model.json`; both atomically.

    Returns:
        The model digest: SHA-256 of `model.json`, which covers every other file.

    Raises:
        OutputError: the folder cannot be written.
        ModelError: the record would not be read back.
    """
    try:
        data = record.to_bytes()
    except SetError as error:
        raise ModelError(f"cannot be recorded: {error.what}", path=folder / MODEL) from None
    parse_record(data, folder / MODEL)
    digest = bytes_digest(data)
    write_atomic(folder / MODEL_DIGEST, f"{digest}  {MODEL}\n".encode("ascii"))
    write_atomic(folder / MODEL, data)
    return digest


def read_record(folder: str | PathLike[str]) -> tuple[ModelRecord, str]:
    """The record of a model folder, checked against `model.sha256`, and the model digest.

    Raises:
        ModelError: missing, damaged, of another version, or malformed.
    """
    folder = Path(folder)
    data = read_record_bytes(folder)
    plain = _load(data, folder / MODEL)
    # First, because models of other versions have other files.
    _check_version(plain, folder / MODEL)
    for problem in digest_problems(folder, data):
        raise problem
    return parse_record(data, folder / MODEL), bytes_digest(data)


def parse_record(data: bytes, path: Path) -> ModelRecord:
    """A record from untrusted bytes.

    Raises:
        ModelError: not canonical JSON, of another version, or malformed.
    """
    plain = _load(data, path)
    _check_version(plain, path)
    try:
        record = ModelRecord.from_json(plain)
        _require(record.to_bytes() == data, "not in the canonical form")
    except (ModelError, SetError) as error:
        raise ModelError(
            error.what,
            path=path,
            expected=error.expected,
            got=error.got,
            hint=error.hint or "fit again",
        ) from None
    return record


def _load(data: bytes, path: Path) -> dict[str, Any]:
    try:
        plain = load_json(data, max_bytes=MAX_JSON_BYTES, path=path)
    except SetError as error:
        raise ModelError(error.what, path=path, expected=error.expected, got=error.got) from None
    if not isinstance(plain, dict):
        raise ModelError("malformed: not a JSON object", path=path, hint="fit again")
    return plain


def _check_version(plain: Mapping[str, Any], path: Path) -> None:
    version = plain.get("model_version")
    if version not in (UNNAMED_VERSION, MODEL_VERSION) or not isinstance(version, int):
        raise ModelError(
            "written by another version of cutswap",
            path=path,
            expected=f"model version {UNNAMED_VERSION} or {MODEL_VERSION}",
            got=repr(version)[:40],
            hint="fit again with --overwrite, or install the version that wrote it",
        )


def _require_detector(config: object) -> None:
    name = config.get("detector") if isinstance(config, dict) else None
    if not isinstance(name, str) or name not in STATE_FILES:
        raise ModelError(
            "of an unknown detector",
            expected=", ".join(STATE_FILES),
            got=repr(name)[:40],
            hint="install the version that wrote it",
        )


def _is_a(value: object, kind: Any) -> bool:
    """Whether a JSON value can stand for a config's annotated type; whole numbers are floats too.

    A config checks ranges, not types: a batch of 8.0 would only be noticed while scoring.
    """
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return isinstance(value, dict) and all(
            _is_a(value[name], hint) if name in value else name in LATER_FIELDS
            for name, hint in hints.items()
        )
    inside = get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(_is_a(item, inside[0]) for item in value)
    if inside:  # X | None
        return any(_is_a(value, one) for one in inside)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, kind)


def _threshold(plain: object, name: str) -> Threshold:
    try:
        threshold = Threshold(**cast(dict[str, Any], plain))
    except TypeError:
        raise ModelError(f"malformed: {name} lacks a field or has another") from None
    values = asdict(threshold)
    n = values.pop("n")
    _require(is_count(n) and n > 0, f"{name} has no number of images")
    numbers = all(isinstance(value, float) and math.isfinite(value) for value in values.values())
    _require(numbers, f"{name} is not made of numbers")
    for rate in (threshold.target_rate, threshold.achievable_rate):
        _require(0 < rate < 1, f"{name} has a rate outside 0 to 1")
    return threshold


def _require(is_met: bool, what: str) -> None:
    if not is_met:
        raise ModelError(f"malformed: {what}")
