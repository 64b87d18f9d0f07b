"""Negative sets of a study, made by the sister command where they are missing.

A stage never imports the other. The study therefore asks `cutswap-gen build` for a set the way a
user would, in a process of its own, which also gives the memory of the saliency pass back.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.anomalous_images import files_digest
from detector.study.locks import waiting_lock
from detector.study.plan_types import DataSpec
from manifests.digest import file_digest
from manifests.errors import ConfigError, CutswapError, ImageError, WeightsError
from manifests.schema import read_manifest
from manifests.set_folders import find_sets

TrainingFiles = Mapping[str, Mapping[str, str]]
"""Per category: SHA-256 of each training file by its source."""

# What shapes a saliency map, or which images have one; sets that agree in these share one pass.
_SALIENCY_OPTIONS = (
    "network",
    "weights",
    "preset",
    "image_size",
    "fit",
    "roi",
    "precision",
    "threads",
    "batch",
    "shard_images",
    "skip_bad",
    "max_megapixels",
)
_OWN = {"out", "reuse_saliency", "jobs", "device", "overwrite", "quiet", "json", "category"}
_OF_DATA = ("train_list", "format")
# Reading a set from its edits costs microseconds per negative and saves gigabytes per ablation.
_DEFAULTS = {"store": "anchors"}
_GUIDED = ("swap", "scar", "saliency-perlin")


class BuildFailed(CutswapError):
    """`cutswap-gen build` ended with an error, which it has printed itself."""


@dataclass(frozen=True)
class SetRequest:
    """A set that arms of the study train from.

    Attributes:
        options: of `cutswap-gen build`, long names with underscores.
        digests: SHA-256 of what its options name by a path (`weights`, `roi`, `textures`), by
            option.
        training_files: what it is made of.
        folder: where its categories' sets lie, or will lie: another one when the files change.
        key: digest of data and options; of the files, a study knows more than this.
    """

    data: DataSpec
    name: str
    options: Mapping[str, Any]
    digests: Mapping[str, str]
    training_files: TrainingFiles
    folder: Path
    key: str

    @property
    def saliency_key(self) -> str:
        """Equal for sets whose saliency maps are equal."""
        identity = _identity(self.options, self.digests)
        shaping = {name: identity.get(name) for name in _SALIENCY_OPTIONS}
        return digest_of({"data": self.data.name, **shaping})

    @property
    def is_guided(self) -> bool:
        """Whether any of its policies looks at saliency maps."""
        return any(name in _GUIDED for name in _listed(self.options.get("policies", _GUIDED)))

    @property
    def has_all_levels(self) -> bool:
        """Whether it holds the maps that any other set of the same saliency could ask for."""
        return self.is_guided and "levels" not in self.options


class Sets:
    """A study's sets, each built once and kept.

    Args:
        jobs: workers of a build.
        device: "cpu" or "cuda".
        quiet: no progress of builds.
    """

    def __init__(self, *, jobs: int | None, device: str, quiet: bool) -> None:
        self._jobs = jobs
        self._device = device
        self._quiet = quiet
        self._requests: dict[Path, SetRequest] = {}
        self._failed: dict[Path, BuildFailed] = {}

    def add(self, request: SetRequest) -> None:
        """Makes a request known, so that it can lend its saliency maps to others."""
        self._requests.setdefault(request.folder, request)

    def get(self, request: SetRequest) -> dict[str, Path]:
        """The set's folders by category, built where they are missing or unfinished.

        A set with the same saliency that is built already, or holds more levels and is then built
        first, lends its maps. While another run builds this one, this waits.

        Raises:
            BuildFailed: the build ended with an error, now or when it was asked for before.
            OutputError: the folder cannot be written.
        """
        found = _whole(request)
        if found is not None:
            return found
        if request.folder in self._failed:
            raise self._failed[request.folder]
        try:
            lent = self._lent(request)
            with waiting_lock(request.folder, what=f"the set {request.name}"):
                return _whole(request) or self._build(request, lent)
        except BuildFailed as error:
            self._failed[request.folder] = error
            raise

    def _lent(self, request: SetRequest) -> dict[str, Path]:
        """Folders by category of the set whose maps this one takes; none where it makes its own."""
        if not request.is_guided:
            return {}
        fitting = [
            other
            for other in self._requests.values()
            if other.folder != request.folder
            and other.folder not in self._failed
            and other.saliency_key == request.saliency_key
            and other.has_all_levels
        ]
        for other in fitting:
            if (found := _whole(other)) is not None:
                return found
        # Nothing to borrow yet. A set that holds all levels itself needs no other to go first.
        if request.has_all_levels or not fitting:
            return {}
        try:
            return self.get(fitting[0])
        except BuildFailed:
            return {}  # which is for the arms of that set to report

    def _build(self, request: SetRequest, lent: Mapping[str, Path]) -> dict[str, Path]:
        sources: list[Path | None] = [lent[name] for name in sorted(lent)]
        for saliency in sources or [None]:
            command = build_command(
                request, jobs=self._jobs, device=self._device, quiet=self._quiet, saliency=saliency
            )
            done = subprocess.run(
                command, stdout=subprocess.DEVNULL, env=_environment(), check=False
            )
            if done.returncode == 130:
                raise KeyboardInterrupt
            if done.returncode:
                raise BuildFailed(
                    f"building the set {request.name} failed",
                    path=request.folder,
                    hint="the reason is printed above; change the set's options in the plan, or "
                    "remove its folder if it is what stands in the way",
                )
        found = _whole(request)
        if found is None:
            raise BuildFailed(
                f"the training images changed while the set {request.name} was built from them",
                path=request.folder,
                hint="run the same command again",
            )
        return found


def request_set(
    data: DataSpec,
    name: str,
    options: Mapping[str, Any],
    out: Path,
    *,
    training_files: TrainingFiles | None = None,
) -> SetRequest:
    """Where a set of these options lies.

    Args:
        out: folder of the study.
        training_files: of the data; without them the request is good for checking its options.

    Raises:
        ConfigError: an option that the study sets itself, that belongs to the data, or that is no
            switch and yet false.
        WeightsError: the file that `weights` names cannot be read.
        ImageError: nor can the mask that `roi` names.
        DataError: nor can the folder that `textures` names, or there is no image in it.
    """
    taken = sorted(_OWN & set(options))
    if taken:
        raise ConfigError(
            f"set {name}: {_flag(taken[0])} is chosen by compare itself",
            hint="leave it out of the plan",
        )
    for option in _OF_DATA:
        if option in options:
            raise ConfigError(
                f"set {name}: {_flag(option)} decides which images are trained on and which are "
                "tested on, so that it belongs to the data",
                hint=f"move {option} to [data.{data.name}]",
            )
    for option, value in options.items():
        if value is False:
            raise ConfigError(f"set {name}: {_flag(option)} cannot be false", hint="leave it out")
    digests = {}
    for option, kind in (("weights", WeightsError), ("roi", ImageError)):
        if option in options:
            path = Path(str(options[option]))
            try:
                digests[option] = file_digest(path)
            except OSError as error:
                raise kind(
                    f"the {option} of set {name} cannot be read: {error.strerror or error}",
                    path=path,
                ) from error
    if "textures" in options:
        digests["textures"] = files_digest(Path(str(options["textures"])))
    options = {**_DEFAULTS, **options}
    files = training_files or {}
    key = digest_of({"data": data.name, "options": _identity(options, digests)})
    content = {category: sorted(set(found.values())) for category, found in files.items()}
    place = digest_of({"key": key, "training_files": content})
    folder = out / "sets" / f"{data.name}-{name}-{place[:8]}"
    return SetRequest(data, name, options, digests, files, folder, key)


def build_command(
    request: SetRequest,
    *,
    jobs: int | None,
    device: str,
    quiet: bool,
    saliency: Path | None = None,
) -> list[str]:
    """The command line of `cutswap-gen build` for a set.

    Args:
        saliency: one category's set that lends its maps to this category; None for all categories
            and maps of their own.
    """
    data, categories = request.data, request.data.categories
    command = [sys.executable, "-m", "generator.cli", "build", os.fspath(data.path)]
    command += ["--out", os.fspath(request.folder)]
    if saliency is None:
        command += ["--device", device]
    else:
        # Without a pass through the network there is nothing for a device to do.
        command += ["--reuse-saliency", os.fspath(saliency)]
        categories = (saliency.name,)
    if data.format is not None:
        command += ["--format", data.format]
    if data.train_list is not None:
        command += ["--train-list", os.fspath(data.train_list)]
    for category in categories:
        command += ["--category", category]
    if jobs is not None:
        command += ["--jobs", str(jobs)]
    if quiet:
        command += ["--quiet"]
    for name, value in sorted(request.options.items()):
        if value is True:
            command += [_flag(name)]
        else:
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            command += [_flag(name), text]
    return command


def digest_of(plain: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, hex."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def _identity(options: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    """Options as a digest should see them: files by what is in them, not by where they lie."""
    return {**options, **digests}


def _environment() -> dict[str, str]:
    """This process's, so that the sister command is found wherever this one was."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _whole(request: SetRequest) -> dict[str, Path] | None:
    """The finished sets of a request, if they are there for every category and its images."""
    if not request.folder.is_dir():
        return None
    try:
        sets = {path.name: path for path in find_sets(request.folder)}
        if set(sets) != set(request.training_files):
            return None
        for name, path in sets.items():
            manifest, _ = read_manifest(path)
            skipped = {row["source"] for row in manifest.skipped}
            files = request.training_files[name].items()
            if set(manifest.training_files) != {
                digest for source, digest in files if source not in skipped
            }:
                return None
            if any(not (path / entry.name).is_file() for entry in manifest.shards):
                return None
    except CutswapError:
        return None
    return sets


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _listed(value: object) -> list[str]:
    if isinstance(value, list | tuple):
        return [str(part) for part in value]
    return [part.strip() for part in str(value).strip("[]").split(",")]
