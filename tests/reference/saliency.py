"""LayerCAM to the letter: one forward and one backward pass per level and image, plain loops.

`M(i,j) = relu(sum_k relu(dy / dA_k(i,j)) * A_k(i,j))` for the logit y of the argmax class.
"""

from __future__ import annotations

import copy

import numpy as np
import torch


def literal_layer_cam(network, images, *, levels):
    """level -> (B, h, w) float64 for (B, H, W, 3) uint8 images."""
    module = _without_inplace(network.module)
    return {
        level: np.stack(
            [_one_map(module, network, image, network.levels[level]) for image in images]
        )
        for level in levels
    }


def _one_map(module, network, image, path):
    kept = []

    def keep(_module, _inputs, output):
        output.retain_grad()
        kept.append(output)

    handle = module.get_submodule(path).register_forward_hook(keep)
    red_green_blue = (image.astype(np.float32) - np.float32(network.mean)) / np.float32(network.std)
    pixels = torch.from_numpy(red_green_blue.transpose(2, 0, 1)[None].copy())
    logits = module(pixels.requires_grad_())[0]
    handle.remove()
    logits[int(logits.argmax())].backward()
    (activation,) = kept
    return _formula(activation[0].tolist(), activation.grad[0].tolist())


def _formula(activation, gradient):
    n_channels, height, width = len(activation), len(activation[0]), len(activation[0][0])
    result = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            total = 0.0
            for k in range(n_channels):
                weight = max(gradient[k][i][j], 0.0)
                total += weight * activation[k][i][j]
            result[i, j] = max(total, 0.0)
    return result


def _without_inplace(module):
    # What a layer gave must still be there after the next one has run.
    module = copy.deepcopy(module).to(memory_format=torch.contiguous_format)
    for layer in module.modules():
        if hasattr(layer, "inplace"):
            layer.inplace = False
    return module
