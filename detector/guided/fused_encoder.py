"""A pretrained network whose stages take in the features of a guidance on their way."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Sequence

import torch
from torch import nn

from detector.guided.convolutions import conv_bn_relu, make_convolution, resized
from detector.stage_taps import AllTaken
from manifests.errors import ConfigError
from manifests.weights import Network

FUSED_STAGES = (0, 1, 2, 3)
"""Where guidance enters: strides 2, 4, 8 and 16."""

_PROBE_PX = 64


class Fusion(nn.Module):
    """Joins a stage's output with guidance of the same stride, at first without any effect.

    `stage + zero(conv_bn_relu(concat(stage, guidance)))`, with a 1×1 convolution `zero` whose
    weights and bias start at 0.

    Args:
        channels: C of the stage.
        guidance_channels: G.
        generator: of the 3×3 convolution's weights.

    Source: NIGSF (IEEE TCSVT 34(6), 2024): concatenation, 3×3 convolution, batch norm, ReLU.
    Differs: that replaces the stage's output there and is added to it here, starting from nothing,
    because the next stage was trained on the output as it is. The zeros stand behind the ReLU: in
    a batch norm before it they would have no gradient (Zhang et al. 2023, ControlNet, do the same).
    """

    def __init__(self, channels: int, guidance_channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.join = conv_bn_relu(channels + guidance_channels, channels, generator)
        self.zero = make_convolution(channels, channels, generator, kernel=1)
        nn.init.zeros_(self.zero.weight)
        if self.zero.bias is not None:
            nn.init.zeros_(self.zero.bias)

    def forward(self, stage: torch.Tensor, guidance: torch.Tensor) -> torch.Tensor:
        """Join (N, C, h, w) and (N, G, h', w') to (N, C, h, w).

        The guidance is resized where a network rounds its grids otherwise.

        Source: see the class.
        """
        guidance = resized(guidance, tuple(stage.shape[2:]))
        joined: torch.Tensor = self.zero(self.join(torch.cat([stage, guidance], dim=1)))
        return stage + joined.to(stage.dtype)


class FusedEncoder(nn.Module):
    """The stages of a copy of a network, with guidance fused into them while it runs.

    What a fusion gives replaces the stage's output, so that both the network's next stage and
    whoever reads the stages get it. That is done by hooks on the copy's submodules, which hang
    there from the start and do nothing but in a call of this encoder: what a call fuses and reads
    is kept per thread, so that several threads can run the same encoder, and `backbone` by itself
    is the plain network. The pass ends with the last stage.

    All parameters that the stages depend on are made trainable and all others are not, so that
    `requires_grad` says what an optimiser has to hold.

    Args:
        network: what to copy; it stays as it is.
        guidance_channels: G of the guidance's features at strides 2, 4, 8 and 16; None for an
            encoder without fusions.
        freeze_stages: so many stages, and what comes before them, are not trained, and their batch
            norms keep their statistics. Fusions are trained anyway.
        generator: of the fusions' weights.

    Attributes:
        backbone: the copy.
        stages: the network's stages, ascending: 0..4, or 1..4 where it has no stage 0.
        names: of the submodules of `backbone` that end them.
        channels: of these stages.
        ends_early: a pass ends with the last stage. An exception does that, and who traces a pass
            needs every module to return.

    Raises:
        ConfigError: not as many stages as are to be frozen, or not four widths of guidance.

    Source: SGSF (arXiv 2209.12440; abstract only); details as in NIGSF (IEEE TCSVT 34(6), 2024).
    Differs: see `Fusion`; the encoder is pretrained.
    """

    def __init__(
        self,
        network: Network,
        *,
        guidance_channels: Sequence[int] | None = None,
        freeze_stages: int = 0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if guidance_channels is not None and len(guidance_channels) != len(FUSED_STAGES):
            raise ConfigError(
                "guidance of other strides than 2, 4, 8 and 16",
                expected=f"{len(FUSED_STAGES)} widths",
                got=len(guidance_channels),
            )
        if freeze_stages != 0 and freeze_stages - 1 not in network.stages:
            known = ", ".join(map(str, network.stages))
            raise ConfigError(
                f"{freeze_stages} stages of {network.name} cannot be frozen",
                expected=f"0, or one more than a stage it has ({known})",
                got=freeze_stages,
            )
        self.stages = tuple(sorted(network.stages))
        self.names = tuple(network.stages[stage] for stage in self.stages)
        self.backbone = copy.deepcopy(network.module).eval()
        self.ends_early = True
        self._call = _Call()
        self._hooks = [
            # A bound method, which a deep copy of the encoder binds to the copy; a closure would
            # go on to fuse with the original's weights.
            self.backbone.get_submodule(name).register_forward_hook(
                functools.partial(self._at_stage, stage)
            )
            for stage, name in zip(self.stages, self.names, strict=True)
        ]
        self.channels = self._settle(freeze_stages)
        self.fusions = nn.ModuleDict()
        if guidance_channels is not None:
            for stage, width in zip(self.stages, self.channels, strict=True):
                if stage in FUSED_STAGES:
                    self.fusions[str(stage)] = Fusion(width, guidance_channels[stage], generator)

    def forward(
        self, pixels: torch.Tensor, guidance: Sequence[torch.Tensor] | None = None
    ) -> list[torch.Tensor]:
        """Run the stages.

        Args:
            pixels: (N, 3, H, W) float32 as `Network.preprocess` returns them.
            guidance: (N, G, h, w) at strides 2, 4, 8 and 16; None for the network without fusions,
                whether it has any or not.

        Returns:
            (N, C, h, w) of every stage, fused where it is, in the order of `stages`.

        Raises:
            ValueError: guidance for an encoder that has no fusions.
            RuntimeError: the encoder was closed.

        Source: see the class.
        """
        if guidance is not None and not self.fusions:
            raise ValueError("this encoder was made without guidance")
        taken: dict[int, torch.Tensor] = {}
        self._call.now = (guidance, taken)
        try:
            self.backbone(pixels)
        except AllTaken:
            pass
        finally:
            self._call.now = None
        if len(taken) != len(self.stages):
            raise RuntimeError("the encoder was closed, or its network did not run its stages")
        return [taken[stage] for stage in self.stages]

    def train(self, mode: bool = True) -> FusedEncoder:
        """As `nn.Module.train`, but for frozen batch norms, which stay in eval mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def close(self) -> None:
        """Take the hooks off: `backbone` is then free of this encoder, which runs no more."""
        for handle in self._hooks:
            handle.remove()

    def _at_stage(
        self, stage: int, _module: nn.Module, _inputs: object, output: torch.Tensor
    ) -> torch.Tensor | None:
        if self._call.now is None:
            return None
        guidance, taken = self._call.now
        if guidance is not None and stage in FUSED_STAGES:
            output = self.fusions[str(stage)](output, guidance[stage])
        taken[stage] = output
        if self.ends_early and len(taken) == len(self.stages):
            raise AllTaken
        return output

    def _settle(self, freeze_stages: int) -> tuple[int, ...]:
        """Which parameters are trained, and the channels of the stages: both asked of autograd."""
        parameters = [each for each in self.backbone.parameters() if each.is_floating_point()]
        with torch.inference_mode(False), torch.enable_grad():
            for parameter in parameters:
                parameter.requires_grad_(True)
            pixels = torch.zeros((1, 3, _PROBE_PX, _PROBE_PX), device=parameters[0].device)
            outputs = dict(zip(self.stages, self(pixels), strict=True))
            reached = _reached(outputs[self.stages[-1]], parameters)
            frozen = _reached(outputs[freeze_stages - 1], parameters) if freeze_stages else set()
        for parameter in parameters:
            parameter.requires_grad_(parameter in reached - frozen)
        self._frozen = [
            module
            for module in self.backbone.modules()
            if any(parameter in frozen for parameter in module.parameters(recurse=False))
        ]
        return tuple(outputs[stage].shape[1] for stage in self.stages)


class _Call(threading.local):
    """The guidance and the stages taken of the call that runs in this thread, if one does."""

    now: tuple[Sequence[torch.Tensor] | None, dict[int, torch.Tensor]] | None = None

    def __deepcopy__(self, memo: dict) -> _Call:
        return _Call()


def _reached(output: torch.Tensor, parameters: Sequence[nn.Parameter]) -> set[nn.Parameter]:
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True, retain_graph=True)
    return {
        each for each, gradient in zip(parameters, gradients, strict=True) if gradient is not None
    }
