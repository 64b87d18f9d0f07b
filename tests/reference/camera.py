"""A camera that drops images into a folder, as badly as cameras and copying programs do."""

from __future__ import annotations

import hashlib
import io
import os
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass
class Dropped:
    """What has become of the files, by their SHA-256 or name.

    Attributes:
        complete: digest -> name of each version of a file that stayed complete.
        replaced: digests of versions that were overwritten, perhaps before anyone could look.
        renamed_at: digest -> wall-clock time at which it was complete, of those renamed into place.
        damaged: names of files that stay unreadable.
        stalled: names whose writer itself took longer than the patience, so that they may have an
            error besides.
    """

    complete: dict[str, bytes] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    renamed_at: dict[str, float] = field(default_factory=dict)
    damaged: set[bytes] = field(default_factory=set)
    stalled: set[bytes] = field(default_factory=set)


class Camera(threading.Thread):
    """Writes files of all kinds until `stop` is set, each kind with its share.

    While `is_held` it writes no new ones, so that a slow machine does not fall behind for ever.

    Args:
        settle_s, patience_s: as the watch has them; pauses lie on either side of the first and
            below the second.
        rest_s: mean time between files.
    """

    def __init__(
        self, folder: Path, *, seed: int, settle_s: float, patience_s: float, rest_s: float
    ) -> None:
        super().__init__(daemon=True)
        self.folder = os.fsencode(folder)
        self.draw = random.Random(seed)
        self.rng = np.random.default_rng(seed)
        self.settle_s, self.patience_s, self.rest_s = settle_s, patience_s, rest_s
        self.stop = threading.Event()
        self.is_held = False
        self.dropped = Dropped()
        self.written = 0
        self.failure: BaseException | None = None
        self.slow: list[threading.Thread] = []

    def run(self) -> None:
        kinds = (
            (self._renamed, 8), (self._at_once, 4), (self._slowly, 3), (self._overwritten, 1),
            (self._truncated, 1), (self._no_image, 1), (self._vanishing, 2), (self._beside, 1),
        )  # fmt: skip
        actions, weights = zip(*kinds, strict=True)
        try:
            while not self.stop.is_set():
                if self.is_held:
                    time.sleep(self.rest_s)
                    continue
                self.draw.choices(actions, weights)[0]()
                self.written += 1
                time.sleep(self.draw.expovariate(1 / self.rest_s))
            for thread in self.slow:
                thread.join()
        except BaseException as error:
            self.failure = error

    def _renamed(self) -> None:
        name, data = self._image()
        temporary = os.path.join(self.folder, b"." + name)
        self._put(temporary, data)
        self._note(name, data)
        self.dropped.renamed_at[_digest(data)] = time.time()
        os.rename(temporary, os.path.join(self.folder, name))

    def _at_once(self) -> None:
        name, data = self._image()
        self._note(name, data)
        self._put(os.path.join(self.folder, name), data)

    def _slowly(self) -> None:
        """In pieces, with pauses around the time after which a file counts as settled."""
        name, data = self._image()
        self._note(name, data)
        pauses = [self.settle_s * self.draw.uniform(0.3, 2.0) for _ in range(4)]
        self._beside_others(self._in_pieces, name, data, pauses)

    def _in_pieces(self, name: bytes, data: bytes, pauses: list[float]) -> None:
        step = len(data) // (len(pauses) + 1)  # without its last bytes alone a picture is whole
        with open(os.path.join(self.folder, name), "wb", buffering=0) as file:
            for part, pause in enumerate(pauses):
                file.write(data[part * step : (part + 1) * step])
                began = time.monotonic()
                time.sleep(pause)
                if time.monotonic() - began >= self.patience_s / 2:
                    self.dropped.stalled.add(name)
            file.write(data[len(pauses) * step :])

    def _overwritten(self) -> None:
        name, data = self._image()
        newer = self._image()[1]
        self.dropped.replaced.add(_digest(data))
        self._note(name, newer)
        path = os.path.join(self.folder, name)

        def write_twice(pause: float) -> None:
            self._put(path, data)
            time.sleep(pause)
            self._put(path, newer)

        self._beside_others(write_twice, self.draw.uniform(0, 4 * self.settle_s))

    def _truncated(self) -> None:
        name, data = self._image()
        self.dropped.damaged.add(name)
        self._put(os.path.join(self.folder, name), data[: len(data) * 2 // 3])

    def _no_image(self) -> None:
        name = self._new_name(b".jpg")
        self.dropped.damaged.add(name)
        self._put(
            os.path.join(self.folder, name), self.draw.choice((b"", b"no image", b"\xff\xd8"))
        )

    def _vanishing(self) -> None:
        name, data = self._image()
        path = os.path.join(self.folder, name)

        def vanish(pause: float) -> None:
            began = time.monotonic()
            self._put(path, data[: len(data) // 2])
            time.sleep(pause)
            os.unlink(path)
            if time.monotonic() - began >= self.patience_s / 2:
                self.dropped.stalled.add(name)

        self._beside_others(vanish, self.draw.uniform(0, 2 * self.settle_s))

    def _beside(self) -> None:
        """What is no image file: a folder with an image's name, a text, a hidden file, a pipe."""
        path = os.path.join(self.folder, self._new_name(b".png"))
        kind = self.draw.randrange(4)
        if kind == 0:
            os.mkdir(path)
        elif kind == 1:
            self._put(path + b".txt", b"text")
        elif kind == 2:
            self._put(os.path.join(self.folder, b"." + self._new_name(b".png")), b"hidden")
        else:
            os.mkfifo(path)

    def _image(self) -> tuple[bytes, bytes]:
        """A name and a file of noise, which no other has; sizes and formats vary."""
        height, width = (int(side) for side in self.rng.integers(40, 400, 2))
        pixels = self.rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        suffix, kind = self.draw.choice(((b".png", "PNG"), (b".jpg", "JPEG"), (b".bmp", "BMP")))
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        return self._new_name(suffix), file.getvalue()

    def _new_name(self, suffix: bytes) -> bytes:
        odd = self.draw.choice((b"", b"", b"", b" \xff\xfe", "ü\u2028".encode()))
        return b"part%06d-%04d%s%s" % (self.written, self.draw.randrange(10**4), odd, suffix)

    def _note(self, name: bytes, data: bytes) -> None:
        self.dropped.complete[_digest(data)] = name

    def _put(self, path: bytes, data: bytes) -> None:
        with open(path, "wb") as file:
            file.write(data)

    def _beside_others(self, action, *arguments) -> None:
        self.slow = [thread for thread in self.slow if thread.is_alive()]
        thread = threading.Thread(target=action, args=arguments, daemon=True)
        thread.start()
        self.slow.append(thread)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
