"""Scores the images of a folder as they arrive, a line each, for as long as it is wanted."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detector.arrivals import Arrival, Arrivals
from detector.line_output import LineOutput
from detector.score_record import RecordedModel, error_record, image_record
from detector.scoring import Scorer
from detector.stop_signals import StopSignals
from manifests.errors import CutswapError
from manifests.images import IMAGE_SUFFIXES

# Images handed to the scorer at a time: enough for its threads, in batches.
_BATCHES = 8


@dataclass
class Watched:
    """What a watch has done so far.

    Attributes:
        images: how many were judged.
        defects: how many of them are defective.
        unusable: how many files could not be judged.
    """

    images: int = 0
    defects: int = 0
    unusable: int = 0


@dataclass(frozen=True, eq=False)
class Watch:
    """A folder, what its images are judged with, and where the verdicts go.

    Args:
        scorer: with regions.
        readers: threads that read images.
        max_pixels: larger images cannot be judged.
        on_note: takes what an operator should know, a line each.
    """

    arrivals: Arrivals
    scorer: Scorer
    output: LineOutput
    readers: int
    max_pixels: int
    on_note: Callable[[str], None]
    done: Watched = field(default_factory=Watched)

    def run(self, stop: StopSignals, *, is_once: bool = False) -> Watched:
        """Judges files until a signal comes; every complete version of a file has one line.

        The image in hand is finished first. Nothing else of it is to be cleared up: what has no
        line was not judged.

        Args:
            is_once: end as well when every file that lies there has a line.

        Raises:
            DataError: the folder cannot be read to begin with.
            OutputError: a line or a picture cannot be written.
        """
        most = _BATCHES * self.scorer.model.config.batch
        while not stop.is_set:
            self.arrivals.look()
            if taken := self.arrivals.take(most):
                self._judge(taken, stop)
            elif is_once and self.arrivals.is_drained:
                break
            else:
                stop.wait(self.arrivals.rest_s())
        return self.done

    def _judge(self, taken: Sequence[Arrival], stop: StopSignals) -> None:
        files = [self.arrivals.path(arrival) for arrival in taken]
        names = {path: _picture_name(path) for path in files}
        stream = self.scorer.stream(
            files, readers=self.readers, max_pixels=self.max_pixels, skip_bad=True
        )
        recorded = RecordedModel.of(self.scorer.model, self.scorer.model_digest)
        bad = set(range(len(taken)))
        with contextlib.closing(self.scorer.score(stream, names)) as batches:
            for batch in batches:
                for place, row in batch:
                    bad.discard(place)
                    if not self.arrivals.judged(taken[place]):
                        continue
                    self.output.write(_timed(image_record(row, recorded)))
                    self.done.images += 1
                    self.done.defects += row.is_defect
                    if stop.is_set:
                        return
        for place, error in zip(sorted(bad), stream.errors, strict=True):
            if self.arrivals.failed(taken[place]):
                self._give_up(taken[place], error, recorded)

    def _give_up(self, arrival: Arrival, error: CutswapError, recorded: RecordedModel) -> None:
        self.output.write(_timed(error_record(self.arrivals.path(arrival), error, recorded)))
        self.done.unusable += 1
        self.on_note(f"cannot be judged: {error}")


def _timed(record: dict) -> dict:
    """A record with the time, UTC, at which its line is written."""
    now = datetime.datetime.now(datetime.UTC)
    time = now.isoformat(timespec="milliseconds").removesuffix("+00:00")
    return {"time": f"{time}Z", **record}


def _picture_name(path: Path) -> Path:
    """`part.png` for `part.png`, `part.jpg.png` for `part.jpg`, another one for every name."""
    is_free = Path(path.stem).suffix.lower() not in IMAGE_SUFFIXES
    return Path(path.name if path.suffix == ".png" and is_free else f"{path.name}.png")
