"""A model's folder: where models lie, and its two small files as untrusted bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from manifests.bounded_file import read_bounded
from manifests.digest import bytes_digest
from manifests.errors import ConfigError, ModelError

MODEL = "model.json"
MODEL_DIGEST = "model.sha256"
MAX_JSON_BYTES = 64 << 20


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


def find_model(path: str | PathLike[str]) -> Path:
    """The one model that a path means.

    Raises:
        ModelError: none, see `find_models`.
        ConfigError: several.
    """
    found = find_models(path)
    if len(found) > 1:
        raise ConfigError(
            "several models here",
            path=path,
            expected=f"one of {', '.join(folder.name for folder in found)}",
            hint="give its folder",
        )
    return found[0]


def models_root(out: str | PathLike[str]) -> Path:
    """A folder below which models are to be made. Raises ConfigError where it is a model itself."""
    out = Path(out)
    if (out / MODEL).is_file():
        raise ConfigError(
            "--out is a model itself, and a model is made in a folder below --out",
            path=out,
            hint=f"pass --out {out.parent}, or another folder",
        )
    return out


def read_record_bytes(folder: Path) -> bytes:
    """The bytes of `model.json`. Raises ModelError: missing, not a plain file, too large."""
    try:
        return read_bounded(folder / MODEL, MAX_JSON_BYTES, error=ModelError)
    except FileNotFoundError:
        raise ModelError(
            f"no model here: {MODEL} is missing",
            path=folder,
            hint="run cutswap-det fit, or let it finish",
        ) from None


def digest_problems(folder: Path, data: bytes) -> Iterator[ModelError]:
    """Where `model.sha256` is missing, malformed, or names another `model.json` than `data`."""
    path = folder / MODEL_DIGEST
    try:
        line = read_bounded(path, 1024, error=ModelError)
    except FileNotFoundError:
        yield ModelError("is missing", path=path, hint="fit again, or copy the whole folder")
        return
    except ModelError as error:
        yield error
        return
    found = re.fullmatch(rb"([0-9a-f]{64}) [ *]model\.json\r?\n", line)
    if found is None:
        yield ModelError("is malformed", path=path, expected=f"'<sha256>  {MODEL}'")
    elif (recorded := found[1].decode("ascii")) != (got := bytes_digest(data)):
        yield ModelError(
            f"is damaged: it is not the one {MODEL_DIGEST} names",
            path=folder / MODEL,
            expected=recorded,
            got=got,
            hint="fit again, or copy it again",
        )
