"""Weights that timm downloads, with an answer within seconds where there is no network."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING

from manifests.errors import WeightsError

if TYPE_CHECKING:
    import torch

TIMEOUT_S = 8.0
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def pretrained_module(architecture: str, config: Mapping[str, object]) -> torch.nn.Module:
    """Build one of timm's networks with its pretrained weights, from the cache or the network.

    Args:
        architecture: name as timm knows it, with or without a tag.
        config: timm's `pretrained_cfg` of it (hf_hub_id, hf_hub_filename, url).

    Raises:
        WeightsError: timm has no weights for it, or they can be had neither from the cache nor
            from the network; says which file to bring and how.

    Source: ours. timm's own download tries again for about a minute before it gives up, hence one
    short request first.
    """
    import timm

    hub_id, url = config.get("hf_hub_id"), config.get("url")
    if not hub_id and not url:
        raise WeightsError(
            f"timm has no pretrained weights for network {architecture!r}",
            hint="pass your own with --weights FILE (.pth or .safetensors)",
        )
    try:
        if hub_id:
            address = _ask_hub(str(hub_id), str(config.get("hf_hub_filename") or HUB_FILES[0]))
        else:
            address = str(url)
            _ask_server(address)
        return timm.create_model(architecture, pretrained=True)
    except _Unreachable as error:
        raise _no_download(architecture, error.address, error.reason) from error
    except Exception as error:
        # Whatever the many layers below may raise, the user's way out is the same file.
        raise _no_download(architecture, address, _reason(error)) from error


class _Unreachable(Exception):
    """The server that has the weights does not answer; never leaves this module."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address = address
        self.reason = reason


def _no_download(architecture: str, address: str, reason: str) -> WeightsError:
    file = address.rpartition("/")[2]
    return WeightsError(
        f"the weights of network {architecture!r} cannot be downloaded",
        got=reason,
        hint=f"fetch {address} on a machine that can, and pass it as --weights {file}",
    )


def _ask_hub(hub_id: str, filename: str) -> str:
    """Address of the weights on the Hugging Face hub; raises where it is neither cached nor there.

    The hub's own client asks, so that its proxy, mirror, token and offline settings hold.
    """
    import huggingface_hub as hub
    from huggingface_hub.utils import HfHubHTTPError

    repository, _, revision = hub_id.partition("@")
    address = hub.hf_hub_url(repository, filename, revision=revision or None)
    for cached in {filename, *HUB_FILES}:
        path = hub.try_to_load_from_cache(repository, cached, revision=revision or None)
        if isinstance(path, str):
            return address
    try:
        hub.get_hf_file_metadata(address, timeout=TIMEOUT_S)
    except HfHubHTTPError:
        pass  # It answers. Whether under another file name is for timm to find out.
    except Exception as error:  # of whichever HTTP library this version of the client uses
        raise _Unreachable(address, _reason(error)) from error
    return address


def _ask_server(address: str) -> None:
    """Raise where the server of `address` is out of reach and timm's cache has no copy."""
    from pathlib import Path

    import torch

    if (Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2]).is_file():
        return
    try:
        request = urllib.request.Request(address, method="HEAD")
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError:
        pass  # It answers.
    except OSError as error:
        raise _Unreachable(address, _reason(error)) from error


def _reason(error: BaseException) -> str:
    """First line of the innermost cause, e.g. "[Errno -2] Name or service not known"."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
