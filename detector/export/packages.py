"""The packages that only an export needs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable

from manifests.errors import ConfigError


def need_packages(names: Iterable[str], *, to: str) -> dict[str, str]:
    """Versions of installed packages.

    Args:
        names: of packages, which import under the same name.
        to: the format that needs them.

    Raises:
        ConfigError: some are not installed.
    """
    names = tuple(names)
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--to {to} needs {', '.join(missing)}",
            hint="pip install 'cutswap[export]'",
        )
    return {name: importlib.metadata.version(name) for name in names}
