"""Literal training: one weight formula after the other, no optimiser class, no prefetch."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import torch

HEIGHT, WIDTH = 40, 56


class PaintedSet:
    """Reddish noise; a swap has a bright block, a scar dark lines."""

    digest = "cd" * 32
    n_normals = 8
    negative_normal = np.tile(np.arange(8), 4)
    negative_policy = np.array(["swap", "scar"] * 2).repeat(8)
    negative_level = np.array([2, 2, 3, 3]).repeat(8)
    manifest = SimpleNamespace(recipe={"policies": ["swap", "scar"]})

    def normal(self, index: int):
        rng = np.random.default_rng(index)
        image = rng.integers((120, 60, 30), (180, 120, 90), (HEIGHT, WIDTH, 3), dtype=np.uint8)
        return SimpleNamespace(image=image)

    def negative_image(self, index: int) -> np.ndarray:
        image = self.normal(int(self.negative_normal[index])).image
        if self.negative_policy[index] == "swap":
            image[5:25, 5:30] = 240
        else:
            image[::6] = 0
        return image

    def __getitem__(self, index: int):
        image = self.negative_image(index)
        normal = self.normal(int(self.negative_normal[index])).image
        return SimpleNamespace(image=image, mask=(image != normal).any(axis=2))


def train_literally(
    module,
    head,
    batches,
    *,
    lr,
    momentum,
    weight_decay,
    frozen_start,
    freeze_bn,
    to_features,
    to_loss=None,
    ema=0.0,
):
    """Train `module` and `head` in place on a list of (inputs, targets).

    Returns the losses, and the moving averages of the module's floating-point state by name.
    """
    losses = []
    velocity = {}
    to_loss = to_loss or cross_entropy_literally
    averages = {name: value.clone() for name, value in _floats(module)}
    for update, (inputs, targets) in enumerate(batches):
        rate = lr * (1 + math.cos(math.pi * update / len(batches))) / 2
        parameters = list(head.parameters())
        head.train()
        module.eval()
        if update >= frozen_start:
            parameters += list(module.parameters())
            module.train(not freeze_bn)
        for parameter in parameters:
            parameter.requires_grad_(True)
            parameter.grad = None
        loss = to_loss(head(to_features(module, inputs)), targets)
        losses.append(loss.item())
        loss.backward()
        with torch.no_grad():
            for parameter in parameters:
                if parameter.grad is None:
                    continue
                slope = parameter.grad + weight_decay * parameter
                speed = momentum * velocity.get(parameter, 0.0) + slope
                velocity[parameter] = speed
                parameter -= rate * speed
        t = update - frozen_start
        if t >= 0:
            decay = min(ema, (1 + t) / (10 + t))
            for name, value in _floats(module):
                averages[name] = decay * averages[name] + (1 - decay) * value
    return losses, averages


def cross_entropy_literally(logits, targets):
    rows = []
    for row, target in zip(logits, targets.tolist(), strict=True):
        rows.append(torch.log(torch.exp(row).sum()) - row[target])
    return sum(rows) / len(rows)


def cell_loss_literally(logits, targets):
    """Logits and targets (N, h, w): the mean over cells, edited ones weighted, at most 50-fold."""
    pairs = list(zip(logits.reshape(-1), targets.reshape(-1).tolist(), strict=True))
    n_edited = sum(target for _, target in pairs)
    weight = min(50.0, (len(pairs) - n_edited) / max(1.0, n_edited))
    total = 0.0
    for logit, target in pairs:
        probability = 1 / (1 + torch.exp(-logit))
        total -= weight * torch.log(probability) if target else torch.log(1 - probability)
    return total / len(pairs)


def cell_targets_literally(mask, grid):
    """(H, W) bool to (h, w): cells from floor(i H / h) to ceil((i + 1) H / h), over a quarter."""
    height, width = mask.shape
    targets = np.zeros(grid, dtype=np.float32)
    for i in range(grid[0]):
        for j in range(grid[1]):
            top, bottom = i * height // grid[0], -(-(i + 1) * height // grid[0])
            left, right = j * width // grid[1], -(-(j + 1) * width // grid[1])
            n_edited = sum(int(mask[y, x]) for y in range(top, bottom) for x in range(left, right))
            targets[i, j] = 4 * n_edited > (bottom - top) * (right - left)
    return targets


def _floats(module):
    state = module.state_dict()
    return [(name, value.detach()) for name, value in state.items() if value.is_floating_point()]
