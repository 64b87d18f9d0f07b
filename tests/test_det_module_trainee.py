"""What is trained by Adam goes on from its own checkpoints only."""

import dataclasses

import numpy as np
import pytest
import torch

from detector.checkpoint import Checkpoint
from detector.module_trainee import ModuleTrainee
from detector.train_config import TrainConfig
from manifests.errors import ModelError


def made() -> ModuleTrainee:
    """One linear layer."""
    layer = torch.nn.Linear(3, 2, bias=False)
    return ModuleTrainee({"layer": layer}, {"all": ("layer",)}, TrainConfig(updates=4))


def saved_after_one_update() -> Checkpoint:
    trainee = made()
    trainee.modules["layer"](torch.ones(1, 3)).sum().backward()
    trainee.optimisers["all"].step()
    tensors = trainee.tensors(np.zeros((4, 2)))
    return Checkpoint(run={}, update=1, environment={}, tensors=tensors)


def test_the_moments_come_back(tmp_path):
    saved = saved_after_one_update()
    trainee = made()
    trainee.restore(saved, tmp_path, rows=(4, 2))
    again = trainee.tensors(np.zeros((4, 2)))
    assert again.keys() == saved.tensors.keys()
    assert all(torch.equal(tensor, saved.tensors[name]) for name, tensor in again.items())


@pytest.mark.parametrize("key", ["step", "exp_avg", "exp_avg_sq"])
def test_a_checkpoint_with_half_of_its_moments_is_refused(key, tmp_path):
    saved = saved_after_one_update()
    lost = f"adam/layer/weight/{key}"
    tensors = {name: tensor for name, tensor in saved.tensors.items() if name != lost}
    assert len(tensors) == len(saved.tensors) - 1
    trainee = made()
    before = trainee.modules["layer"].weight.clone()
    with pytest.raises(ModelError, match="does not fit") as caught:
        trainee.restore(dataclasses.replace(saved, tensors=tensors), tmp_path, rows=(4, 2))
    assert caught.value.got == lost
    assert torch.equal(trainee.modules["layer"].weight, before)
