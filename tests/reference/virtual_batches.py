"""Literal training by virtual batches: a copy of the network for each, then everything averaged."""

from __future__ import annotations

import copy
import math

import torch


def parts_literally(labels, n_parts):
    """Places of every part: image after image, dealt out by its number within its class."""
    labels = list(labels)
    parts = [[] for _ in range(n_parts)]
    for place, label in enumerate(labels):
        before = sum(other == label for other in labels[:place])
        count = sum(other == label for other in labels)
        parts[before * n_parts // count].append(place)
    return parts


def train_in_parts_literally(
    module,
    head,
    batches,
    *,
    n_parts,
    lr,
    momentum,
    weight_decay,
    frozen_start,
    to_features,
    to_loss,
):
    """Train `module` and `head` in place on a list of (inputs, targets); returns the losses."""
    losses, velocity = [], {}
    for update, (inputs, targets) in enumerate(batches):
        rate = lr * (1 + math.cos(math.pi * update / len(batches))) / 2
        is_frozen = update < frozen_start
        copies, values = [], []
        for places in parts_literally(targets.tolist(), n_parts):
            body, top = copy.deepcopy(module), copy.deepcopy(head)
            body.requires_grad_(not is_frozen).train(not is_frozen)
            top.requires_grad_(True).train()
            loss = to_loss(top(to_features(body, inputs[places])), targets[places])
            loss.backward()
            copies.append((body, top))
            values.append(loss.item())
        losses.append(sum(values) / n_parts)
        with torch.no_grad():
            for index, whole in enumerate((module, head)):
                parts = [pair[index] for pair in copies]
                _step(whole, parts, velocity, rate, momentum, weight_decay)
                _average_statistics(whole, parts)
    return losses


def _step(whole, parts, velocity, rate, momentum, weight_decay):
    for name, parameter in whole.named_parameters():
        slopes = [dict(part.named_parameters())[name].grad for part in parts]
        if slopes[0] is None:
            continue
        slope = sum(slopes) / len(slopes) + weight_decay * parameter
        velocity[parameter] = momentum * velocity.get(parameter, 0.0) + slope
        parameter -= rate * velocity[parameter]


def _average_statistics(whole, parts):
    for name, buffer in whole.named_buffers():
        found = [dict(part.named_buffers())[name] for part in parts]
        if buffer.is_floating_point():
            buffer.copy_(sum(found) / len(found))
        else:
            buffer.copy_(found[0])  # the counter of batches: one more, in each of them
