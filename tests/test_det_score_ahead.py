"""Batches scored in several threads: all of them, in order, and what was raised comes last."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from detector.detectors.base import Scores
from detector.score_ahead import score_ahead
from manifests.errors import BadImages, ImageError, ModelError


class Odd:
    """A detector that takes longer over some batches, and refuses a seven."""

    device = "cpu"

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.shares: set[int] = set()

    def score(self, images: np.ndarray, canvas_boxes: object) -> Scores:
        self.threads.add(threading.current_thread().name)
        self.shares.add(torch.get_num_threads())
        number = int(images[0, 0, 0, 0])
        if number == 7:
            raise ModelError("seven")
        time.sleep(0.03 if number % 3 == 0 else 0.0)
        return Scores(np.array([number], np.float32), np.zeros((1, 2, 2), np.float32))


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


def arrays_of(number: int) -> tuple[np.ndarray, list]:
    return np.full((1, 2, 2, 3), number, np.uint8), [(0, 0, 2, 2)]


def scores(detector, batches) -> list[tuple[int, float]]:
    return [(n, float(found.image[0])) for n, found in score_ahead(detector, batches, arrays_of)]


def test_all_in_order_with_the_threads_shared_out():
    detector = Odd()
    numbers = [n for n in range(40) if n != 7]
    assert scores(detector, numbers) == [(n, float(n)) for n in numbers]
    assert len(detector.threads) > 1 and detector.shares == {1}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_one_batch_and_a_gpu_stay_in_this_thread(device):
    detector = Odd()
    detector.device = device
    numbers = [3] if device == "cpu" else [3, 4, 5]
    assert scores(detector, numbers) == [(n, float(n)) for n in numbers]
    assert detector.threads == {threading.current_thread().name} and detector.shares == {4}
    assert scores(detector, []) == []


@pytest.mark.parametrize("good", [0, 1, 2, 11])
def test_unreadable_images_are_told_after_the_last_scores(good):
    def batches():
        yield from range(10, 10 + good)
        raise BadImages([ImageError("torn", path="a.png")])

    found = []
    with pytest.raises(BadImages, match="1 unusable image"):
        for number, _ in score_ahead(Odd(), batches(), arrays_of):
            found.append(number)
    assert found == list(range(10, 10 + good))


def test_what_a_detector_raises_ends_it():
    found = []
    with pytest.raises(ModelError, match="seven"):
        for number, _ in score_ahead(Odd(), iter(range(30)), arrays_of):
            found.append(number)
    assert found == list(range(7))


def test_few_batches_wait_at_a_time():
    read = []

    def batches():
        for number in range(10, 40):
            read.append(number)
            yield number

    for number, _ in score_ahead(Odd(), batches(), arrays_of):
        assert len(read) <= number - 10 + 6
    assert len(read) == 30
