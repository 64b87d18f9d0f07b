"""Trained extractors of a study, each trained once and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detector.activation_cache import ActivationCache
from detector.checkpoint import remove_checkpoint
from detector.pipeline import train_network
from detector.study.cells import Cell
from manifests.atomic import write_atomic
from manifests.errors import CutswapError
from manifests.negative_set import NegativeSet
from manifests.weights import Network, load_network

WEIGHTS = "extractor.safetensors"
RECORD = "extractor.json"


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network and what its training took.

    Attributes:
        untuned: the network before training.
        accuracy: of the last update's batch; None without training.
    """

    network: Network
    untuned: Network
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

        Raises:
            ModelError: the set lacks what training needs, or training diverged.
        """
        untuned = self.untuned(cell.config.network, cell.weights)
        if cell.config.train.updates == 0:
            return Extractor(untuned, untuned, None, 0.0)
        folder = self._folder / cell.extractor_key[:24]
        kept = self._read(cell, folder)
        if kept is not None:
            return Extractor(kept[0], untuned, kept[1]["accuracy"], kept[1]["seconds"])
        folder.mkdir(parents=True, exist_ok=True)
        label = f"{cell.arm.name} seed {cell.seed}"
        started = time.monotonic()
        trained = train_network(
            untuned,
            negative_set,
            cell.config,
            folder,
            device=self._device,
            make_progress=lambda _label, unit: self._make_progress(label, unit),
            cache=self._cache_for(cell),
        )
        record = {
            "arm": cell.arm.name,
            "seed": cell.seed,
            "accuracy": trained.last_accuracy,
            # An interrupted training counts from where it went on.
            "seconds": round(time.monotonic() - started, 1),
            "train": cell.config.train.to_json(),
            "set_digest": negative_set.digest,
            "warnings": list(trained.warnings),
        }
        self._write(folder, trained.network, record)
        remove_checkpoint(folder)
        return Extractor(trained.network, untuned, record["accuracy"], record["seconds"])

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

    def _read(self, cell: Cell, folder: Path) -> tuple[Network, dict] | None:
        try:
            record = json.loads((folder / RECORD).read_bytes())
            network = load_network(
                cell.config.network, weights=folder / WEIGHTS, device=self._device
            )
            return network, {key: record[key] for key in ("accuracy", "seconds")}
        except (OSError, ValueError, KeyError, TypeError, CutswapError):
            # Nothing there, or not whole: it is trained again, from its checkpoint if there is one.
            return None

    def _write(self, folder: Path, network: Network, record: dict) -> None:
        from safetensors.torch import save

        state = {name: value.contiguous() for name, value in network.module.state_dict().items()}
        write_atomic(folder / WEIGHTS, save(state))
        write_atomic(
            folder / RECORD, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()
        )
