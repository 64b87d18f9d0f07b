"""Literal training loop: one weight formula after the other, no optimiser class, no prefetch."""

from __future__ import annotations

import math

import torch


def train_literally(
    module, head, batches, *, lr, momentum, weight_decay, frozen_start, freeze_bn, to_features
):
    """Train `module` and `head` in place on a list of (inputs, targets); returns the losses."""
    losses = []
    velocity = {}
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
        logits = head(to_features(module, inputs))
        rows = []
        for row, target in zip(logits, targets.tolist(), strict=True):
            rows.append(torch.log(torch.exp(row).sum()) - row[target])
        loss = sum(rows) / len(rows)
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
    return losses
