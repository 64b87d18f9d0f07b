"""Trained extractors of a study, each trained once and kept."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detector.activation_cache import ActivationCache
from detector.checkpoint import CHECKPOINT_NAME, remove_checkpoint
from detector.config import TRAINED_WITH
from detector.detectors.base import Tensors
from detector.diverged import Diverged
from detector.fit_steps import train_network
from detector.study.cells import Cell
from detector.study.locks import waiting_lock
from detector.trainings import TrainedNetwork
from manifests.atomic import write_atomic
from manifests.errors import CutswapError, ModelError
from manifests.negative_set import NegativeSet
from manifests.versions import library_versions
from manifests.weights import Network, load_network

WEIGHTS = "extractor.safetensors"
LEARNED = "learned.safetensors"
RECORD = "extractor.json"

_Found = tuple[Network, Tensors, dict]  # the network, what else was trained, and the record


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network and what its training took.

    Attributes:
        untuned: the network before training.
        learned: what training left beside the network.
        accuracy: of the last update's batch; None without training.
    """

    network: Network
    untuned: Network
    learned: Tensors
    accuracy: float | None
    seconds: float


class Extractors:
    """Extractors by key, in `folder/<key>/`.

    Activations of frozen stages stay in memory from one training to the next on the same set.

    Args:
        folder: made where it is missing.
        device: "cpu" or "cuda".
        make_progress: gives a progress line for a label and a unit.
    """

    def __init__(
        self, folder: Path, *, device: str, make_progress: Callable[[str, str], Callable]
    ) -> None:
        self._folder = folder
        self._device = device
        self._make_progress = make_progress
        self._untuned: dict[tuple[str, Path | None], Network] = {}
        self._cache = ActivationCache()
        self._cache_key: object = None

    def untuned(self, name: str, weights: Path | None) -> Network:
        """A network before training, loaded once. Raises WeightsError."""
        key = (name, weights)
        if key not in self._untuned:
            self._untuned[key] = load_network(name, weights=weights, device=self._device)
        return self._untuned[key]

    def get(self, cell: Cell, negative_set: NegativeSet) -> Extractor:
        """The cell's extractor, trained now unless it is there; an interrupted training goes on.

        While another run trains it, this waits.

        Raises:
            ModelError: the set lacks what training needs, or training diverged.
            OutputError: the folder cannot be written.
        """
        untuned = self.untuned(cell.config.network, cell.weights)
        if cell.config.train.updates == 0:
            return Extractor(untuned, untuned, {}, None, 0.0)
        folder = self._folder / cell.extractor_key[:24]
        found = self._read(cell, negative_set, folder)
        if found is None:
            label = f"{cell.arm.name} seed {cell.seed}"
            with waiting_lock(folder, what=f"the extractor of {label}"):
                found = self._read(cell, negative_set, folder)
                if found is None:
                    found = self._train(cell, negative_set, folder, label)
        network, learned, record = found
        return Extractor(network, untuned, learned, record["accuracy"], record["seconds"])

    def _train(self, cell: Cell, negative_set: NegativeSet, folder: Path, label: str) -> _Found:
        started = time.monotonic()

        def train() -> TrainedNetwork:
            return train_network(
                self.untuned(cell.config.network, cell.weights),
                negative_set,
                cell.config,
                folder,
                device=self._device,
                make_progress=lambda _label, unit: self._make_progress(label, unit),
                cache=self._cache_for(cell),
            )

        try:
            trained = train()
        except ModelError as error:
            # In a study nobody could pass the options that would be another way out.
            is_checkpoint = error.path in (str(folder), str(folder / CHECKPOINT_NAME))
            if isinstance(error, Diverged) or not is_checkpoint:
                raise
            warnings.warn(f"{error.path}: {error.what}; {label} is trained afresh", stacklevel=2)
            remove_checkpoint(folder)
            trained = train()
        record = {
            "arm": cell.arm.name,
            "seed": cell.seed,
            "accuracy": trained.last.get("accuracy"),
            # An interrupted training counts from where it went on.
            "seconds": round(time.monotonic() - started, 1),
            "train": cell.config.train.to_json(),
            "set_digest": negative_set.digest,
            "versions": library_versions(),
            "warnings": list(trained.warnings),
        }
        self._write(folder, trained, record)
        remove_checkpoint(folder)
        return trained.network, trained.learned, record

    def _cache_for(self, cell: Cell) -> ActivationCache | None:
        train = cell.config.train
        if not train.cache_activations:
            return None
        key = (
            cell.set_request.key,
            cell.data.digest,
            cell.config.network,
            cell.weights,
            train.freeze_stages,
            train.jitter,
            train.precision,
        )
        if key != self._cache_key:
            self._cache, self._cache_key = ActivationCache(), key
        return self._cache

    def _read(self, cell: Cell, negative_set: NegativeSet, folder: Path) -> _Found | None:
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            record = json.loads((folder / RECORD).read_bytes())
            kept = {key: record[key] for key in ("accuracy", "seconds", "set_digest")}
            if kept["set_digest"] != negative_set.digest:
                warnings.warn(
                    f"{folder}: trained on another set than {cell.set_request.folder} holds now; "
                    "it is trained again",
                    stacklevel=3,
                )
                return None
            network = load_network(
                cell.config.network, weights=folder / WEIGHTS, device=self._device
            )
            learned: Tensors = {}
            if cell.config.detector in TRAINED_WITH:
                learned = load((folder / LEARNED).read_bytes())
            return network, learned, kept
        except (OSError, ValueError, KeyError, TypeError, CutswapError, SafetensorError):
            # Nothing there, or not whole: it is trained again, from its checkpoint if there is one.
            return None

    def _write(self, folder: Path, trained: TrainedNetwork, record: dict) -> None:
        from safetensors.torch import save

        state = trained.network.module.state_dict()
        plain = {name: value.contiguous() for name, value in state.items()}
        write_atomic(folder / WEIGHTS, save(plain))
        if trained.learned:
            write_atomic(folder / LEARNED, save(dict(trained.learned)))
        write_atomic(
            folder / RECORD, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()
        )
