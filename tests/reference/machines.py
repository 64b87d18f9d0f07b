"""Network namespaces on one bridge, which is as near to machines of their own as one host gets."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest


def need_namespaces() -> None:
    """Skips where namespaces cannot be made."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    probe = f"cw{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("network namespaces cannot be made here")
    _ip("netns", "del", probe)


class Machines:
    """Namespaces with an address each; this process is on the same bridge. All go with the block.

    Args:
        names: of the machines.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._tag = f"{os.getpid() % 100_000}"
        self._bridge = f"cwb{self._tag}"
        self._net = f"10.231.{os.getpid() % 250}"
        self.own_address = f"{self._net}.1"

    def __enter__(self) -> Machines:
        try:
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("addr", "add", f"{self.own_address}/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            for number, name in enumerate(self.names):
                space, outer, inner = self._space(name), *self._ends(number)
                _ip("netns", "add", space)
                _ip("link", "add", outer, "type", "veth", "peer", "name", inner)
                _ip("link", "set", inner, "netns", space)
                _ip("link", "set", outer, "master", self._bridge)
                _ip("link", "set", outer, "up")
                _ip("-n", space, "addr", "add", f"{self.address(name)}/24", "dev", inner)
                _ip("-n", space, "link", "set", inner, "up")
                _ip("-n", space, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number, name in enumerate(self.names):
            _ip("netns", "del", self._space(name), check=False)
            _ip("link", "del", self._ends(number)[0], check=False)
        _ip("link", "del", self._bridge, check=False)

    def address(self, name: str) -> str:
        return f"{self._net}.{10 + self.names.index(name)}"

    def interface(self, name: str) -> str:
        """The network interface with the machine's address."""
        return self._ends(self.names.index(name))[1]

    def enter(self, name: str, *, hidden: Sequence[Path] = ()) -> list[str]:
        """Words before a command that is to run there, where some folders are empty."""
        words = ["ip", "netns", "exec", self._space(name)]
        if not hidden:
            return words
        # `ip netns exec` gives a view of the file system of its own.
        hide = [f"mount -t tmpfs none {shlex.quote(str(folder))}" for folder in hidden]
        return [*words, "sh", "-c", " && ".join([*hide, 'exec "$@"']), "sh"]

    def _space(self, name: str) -> str:
        return f"cw{self._tag}-{name}"

    def _ends(self, number: int) -> tuple[str, str]:
        return f"cwo{self._tag}n{number}", f"cwi{self._tag}n{number}"


def _ip(*words: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        pytest.fail(f"ip {' '.join(words)}: {done.stderr}")
