"""`cutswap-det fit` with a fault in one of its processes: FAULT RANK UPDATE, then its arguments."""

from __future__ import annotations

import os
import signal
import sys
import time

import torch

from detector.cli import main
from detector.dataset import TripletSampler
from detector.trainee import Trainee
from manifests.errors import SetError


def wrong_weights(trainee: Trainee) -> None:
    with torch.no_grad():
        next(iter(trainee.module.parameters())).mul_(1.001)


def arm(fault: str, rank: int, at: int) -> None:
    if int(os.environ["RANK"]) != rank:
        return
    read, step = TripletSampler.batch, Trainee.update

    def batch(self, update, **wanted):
        if update == at and fault == "unreadable":
            raise SetError("a shard cannot be read", path="shard-00000.h5", hint="copy it again")
        return read(self, update, **wanted)

    def update(self, number, batch, **settings):
        row = step(self, number, batch, **settings)
        if number == at:
            if fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "terminated":
                os.kill(os.getpid(), signal.SIGTERM)
            if fault == "interrupted":
                os.kill(os.getpid(), signal.SIGINT)
            if fault == "hangs":
                time.sleep(1000)
            if fault == "bug":
                raise ZeroDivisionError("a bug")
            if fault == "wrong":
                wrong_weights(self)
        return row

    TripletSampler.batch, Trainee.update = batch, update


if __name__ == "__main__":
    if seconds := os.environ.get("FAULTY_TIMEOUT_S"):
        from datetime import timedelta

        from detector import processes

        processes.UPDATE_TIMEOUT = timedelta(seconds=float(seconds))
    arm(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    main(sys.argv[4:])
