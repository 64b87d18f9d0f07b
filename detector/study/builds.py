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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.study.plan import DataSpec
from manifests.errors import ConfigError, CutswapError
from manifests.negative_set import find_sets
from manifests.schema import read_manifest

# What shapes a saliency map; sets that agree in these share one saliency pass.
_SALIENCY_OPTIONS = (
    "network",
    "weights",
    "preset",
    "image_size",
    "fit",
    "precision",
    "threads",
    "batch",
    "shard_images",
)
_OWN = {"out", "reuse_saliency", "jobs", "device", "overwrite", "quiet", "json", "category"}
# Reading a set from its edits costs microseconds per negative and saves gigabytes per ablation.
_DEFAULTS = {"store": "anchors"}


class BuildFailed(CutswapError):
    """`cutswap-gen build` ended with an error, which it has printed itself."""


@dataclass(frozen=True)
class SetRequest:
    """A set that arms of the study train from.

    Attributes:
        options: of `cutswap-gen build`, long names with underscores.
        folder: where its categories' sets lie, or will lie.
        key: digest of data and options.
    """

    data: DataSpec
    name: str
    options: Mapping[str, Any]
    folder: Path
    key: str

    @property
    def saliency_key(self) -> str:
        """Equal for sets whose saliency maps are equal."""
        shaping = {name: self.options.get(name) for name in _SALIENCY_OPTIONS}
        return _digest({"data": self.data.name, **shaping})

    @property
    def has_all_levels(self) -> bool:
        """Whether it holds the maps that any other set of the same saliency could ask for."""
        policies = str(self.options.get("policies", "swap,scar"))
        is_guided = any(name in ("swap", "scar") for name in _listed(policies))
        return is_guided and "levels" not in self.options


def request_set(data: DataSpec, name: str, options: Mapping[str, Any], out: Path) -> SetRequest:
    """Where a set of these options lies.

    Raises ConfigError for an option that the study sets itself.
    """
    taken = sorted(_OWN & set(options))
    if taken:
        raise ConfigError(
            f"set {name}: --{taken[0].replace('_', '-')} is chosen by compare itself",
            hint="leave it out of the plan",
        )
    options = {**_DEFAULTS, **options}
    key = _digest({"data": data.name, "options": options})
    return SetRequest(data, name, options, out / "sets" / f"{data.name}-{name}-{key[:8]}", key)


def ensure_set(
    request: SetRequest,
    others: Sequence[SetRequest],
    *,
    training_files: Mapping[str, frozenset[str]],
    jobs: int | None,
    device: str,
    quiet: bool,
) -> dict[str, Path]:
    """The set's folders by category, built where they are missing or unfinished.

    Args:
        others: requests of the same study: one with the same saliency that is built already, or
            holds more levels and is then built first, lends its maps.
        training_files: SHA-256 of the training files by category, to see whether a set that is
            there is of these images.

    Raises:
        BuildFailed: the build ended with an error.
    """
    found = _whole(request.folder, training_files)
    if found is not None:
        return found
    donor = _donor(request, others, training_files)
    if donor is not None and _whole(donor.folder, training_files) is None:
        ensure_set(donor, (), training_files=training_files, jobs=jobs, device=device, quiet=quiet)
    # Without a pass through the network there is nothing for a device to do.
    command = build_command(
        request, jobs=jobs, device=device if donor is None else None, quiet=quiet
    )
    folders = [None]
    if donor is not None:
        folders = sorted(_whole(donor.folder, training_files).values())
    for folder in folders:
        extra = []
        if folder is not None:
            extra = ["--reuse-saliency", str(folder)]
            extra += ["--category", folder.name] if len(folders) > 1 else []
        done = subprocess.run(
            [*command, *extra], stdout=subprocess.DEVNULL, env=_environment(), check=False
        )
        if done.returncode == 130:
            raise KeyboardInterrupt
        if done.returncode:
            raise BuildFailed(
                f"building the set {request.name} failed",
                path=request.folder,
                hint=f"the reason is printed above; see [sets.{request.name}] of the plan",
            )
    found = _whole(request.folder, training_files)
    if found is None:
        raise BuildFailed(
            f"the set {request.name} is not of the images of the data",
            path=request.folder,
            hint="remove its folder and run again",
        )
    return found


def build_command(
    request: SetRequest, *, jobs: int | None, device: str | None, quiet: bool
) -> list[str]:
    """The command line of `cutswap-gen build` for a set."""
    command = [sys.executable, "-m", "generator.cli", "build", os.fspath(request.data.path)]
    command += ["--out", os.fspath(request.folder)]
    if device is not None:
        command += ["--device", device]
    if request.data.format is not None:
        command += ["--format", request.data.format]
    if request.data.train_list is not None:
        command += ["--train-list", os.fspath(request.data.train_list)]
    for category in request.data.categories:
        command += ["--category", category]
    if jobs is not None:
        command += ["--jobs", str(jobs)]
    if quiet:
        command += ["--quiet"]
    for name, value in sorted(request.options.items()):
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            command += [flag]
        elif value is False:
            raise ConfigError(f"set {request.name}: {flag} cannot be false", hint="leave it out")
        else:
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            command += [flag, text]
    return command


def _environment() -> dict[str, str]:
    """This process's, so that the sister command is found wherever this one was."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _donor(
    request: SetRequest,
    others: Sequence[SetRequest],
    training_files: Mapping[str, frozenset[str]],
) -> SetRequest | None:
    policies = _listed(str(request.options.get("policies", "swap,scar")))
    if not any(name in ("swap", "scar") for name in policies):
        return None
    fitting = [
        other
        for other in others
        if other.key != request.key
        and other.saliency_key == request.saliency_key
        and other.has_all_levels
    ]
    built = [other for other in fitting if _whole(other.folder, training_files) is not None]
    if built:
        return built[0]
    # Nothing to borrow yet. A set that holds all levels itself needs no other to go first.
    return None if request.has_all_levels or not fitting else fitting[0]


def _whole(folder: Path, training_files: Mapping[str, frozenset[str]]) -> dict[str, Path] | None:
    """The finished sets below a folder, if they are there for every category and its images."""
    if not folder.is_dir():
        return None
    try:
        sets = {path.name: path for path in find_sets(folder)}
        if set(sets) != set(training_files):
            return None
        for name, path in sets.items():
            manifest, _ = read_manifest(path)
            # Training images with the same pixels enter a set once, so fewer may be recorded.
            if not set(manifest.training_files) <= training_files[name]:
                return None
            if any(not (path / entry.name).is_file() for entry in manifest.shards):
                return None
    except CutswapError:
        return None
    return sets


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.strip("[]").split(",")]


def _digest(plain: object) -> str:
    text = json.dumps(plain, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
