"""Models as earlier versions of cutswap wrote them."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.numpy import load_file, save_file

from manifests.digest import bytes_digest, file_digest


def make_version_5(folder: Path) -> None:
    """Takes out of a model what version 6 brought: names of normals, cells of bank entries."""
    plain = json.loads((folder / "model.json").read_bytes())
    assert plain["model_version"] == 6
    (folder / "normals.safetensors").unlink()
    del plain["files"]["normals.safetensors"], plain["added_normals"], plain["score_bounds"]
    bank = folder / "bank.safetensors"
    if bank.exists():
        tensors = load_file(bank)
        del tensors["cell"]
        save_file(tensors, bank)
        plain["files"][bank.name] = file_digest(bank)
    write_json(folder, plain | {"model_version": 5})


def rewrite(folder: Path, **changes: object) -> None:
    """Changes `model.json` behind its own back, with a digest that fits."""
    write_json(folder, json.loads((folder / "model.json").read_bytes()) | changes)


def write_json(folder: Path, plain: dict) -> None:
    """Writes `model.json` and its digest."""
    data = (json.dumps(plain, sort_keys=True, indent=1) + "\n").encode()
    (folder / "model.json").write_bytes(data)
    (folder / "model.sha256").write_text(f"{bytes_digest(data)}  model.json\n")
