"""The networks of guided segmentation together: made, put into tensors, and made again of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from detector.guided.guidance import Guidance
from detector.guided.segmenter import WIDTH, Segmenter
from detector.module_trainee import load_tensors, plain_tensors
from detector.random_stream import random_stream
from manifests.weights import Network

SEGMENTER, GUIDANCE = "segmenter", "guidance"


@dataclass(frozen=True, eq=False)
class GuidedNetworks:
    """A segmenter and what guides it.

    Attributes:
        network: the encoder's preprocessing; its module is not run.
        guidance: None for a segmenter that is not guided.
    """

    network: Network
    segmenter: Segmenter
    guidance: Guidance | None
    device: str

    @classmethod
    def make(
        cls,
        network: Network,
        *,
        is_guided: bool,
        width: int | None,
        seed: int,
        freeze_stages: int = 0,
        device: str,
    ) -> GuidedNetworks:
        """New ones around a copy of `network`, with weights that follow from the seed.

        Raises:
            ConfigError: not as many stages as are to be frozen.
        """
        generator = random_stream(f"guided|{seed}|weights")
        guidance = Guidance(width=width or WIDTH, generator=generator) if is_guided else None
        segmenter = Segmenter(
            network,
            guidance_channels=None if guidance is None else guidance.channels,
            width=width or WIDTH,
            freeze_stages=freeze_stages,
            generator=generator,
        )
        networks = cls(network, segmenter, guidance, device)
        for module in networks.modules().values():
            module.to(device).to(memory_format=torch.channels_last)
        return networks

    def modules(self) -> dict[str, nn.Module]:
        """Both by name, the encoder in the segmenter."""
        found: dict[str, nn.Module] = {SEGMENTER: self.segmenter}
        return found if self.guidance is None else found | {GUIDANCE: self.guidance}

    def learned(self) -> dict[str, torch.Tensor]:
        """Weights and statistics of all but the encoder, by name, on the CPU."""
        return {
            name: tensor
            for prefix, module in self._own().items()
            for name, tensor in plain_tensors(module, prefix).items()
        }

    def take(self, learned: Mapping[str, torch.Tensor]) -> None:
        """Takes over what `learned` gave. Raises ModelError where it does not fit."""
        for prefix, module in self._own().items():
            load_tensors(module, learned, prefix)
        for module in self.modules().values():
            module.to(self.device).to(memory_format=torch.channels_last)
            module.eval().requires_grad_(False)

    def inputs(self, images: torch.Tensor, boxes: np.ndarray) -> torch.Tensor:
        """The segmenter's input, in which padding is 0 whatever is there.

        Args:
            images: (N, H, W, 3) uint8 on the device.
            boxes: (N, 4) `y, x, h, w` of what is not padding.

        Returns:
            (N, 3, H, W) float32 on the device.
        """
        return _without_padding(self.network.preprocess(images), boxes)

    def references(self, images: torch.Tensor, boxes: np.ndarray) -> torch.Tensor:
        """The guidance's input, in which padding is 0: shapes as for `inputs`, values 0 to 1."""
        return _without_padding(Guidance.preprocess(images), boxes)

    def _own(self) -> dict[str, nn.Module]:
        """What is not the encoder's."""
        segmenter = self.segmenter
        parts = {
            "decoder": segmenter.decoder,
            "head": segmenter.head,
            "fusions": segmenter.encoder.fusions,
        }
        found: dict[str, nn.Module] = {SEGMENTER: nn.ModuleDict(parts)}
        return found if self.guidance is None else found | {GUIDANCE: self.guidance}


def shown_pixels(
    boxes: np.ndarray, height: int, width: int, *, roi: np.ndarray | None = None
) -> torch.Tensor | None:
    """(N, H, W) bool, which pixels are inspected and no padding; None where all are.

    Args:
        boxes: (N, 4) `y, x, h, w` in px.
        height, width: of the canvas.
        roi: (height, width) bool, the pixels that are inspected; None for all.
    """
    if roi is not None:
        inspected = torch.from_numpy(roi.copy()).expand(len(boxes), height, width)
        shown = shown_pixels(boxes, height, width)
        return inspected if shown is None else shown & inspected
    if all(tuple(box) == (0, 0, height, width) for box in boxes.tolist()):
        return None
    shown = torch.zeros((len(boxes), height, width), dtype=torch.bool)
    for one, (y, x, h, w) in zip(shown, boxes.tolist(), strict=True):
        one[y : y + h, x : x + w] = True
    return shown


def _without_padding(pixels: torch.Tensor, boxes: np.ndarray) -> torch.Tensor:
    shown = shown_pixels(boxes, *pixels.shape[2:])
    return pixels if shown is None else pixels * shown[:, None].to(pixels.device)
