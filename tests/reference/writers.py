"""Commands that write, and the small world of photos and sets that they work in."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from test_gen_pipeline import good_photos

from manifests.errors import SetError
from manifests.schema import read_manifest
from manifests.verify import verify_set
from reference.faults import contents
from reference.fork_server import ForkServer

NAME = "photos"
FREE = ("--policies", "random-swap,cutpaste")

SETUP = """
import cv2, fsspec, h5py, joblib
import generator.cli, generator.merge, generator.pipeline, generator.replay, generator.subset
import manifests.datasets, manifests.pull, manifests.recipe
"""
# What only a pass through a network and models need takes seconds.
SETUP_TORCH = (
    SETUP
    + """
import generator.saliency, detector.model, reference.small_networks
from generator.unit import cached_network
cached_network("efficientnet_lite0", None, "cpu")
"""
)

_REPLAY = """
from generator.replay import replay_set
replay_set(*given)
"""
_MERGE = """
from generator.merge import merge_sets
merge_sets(*given)
"""
_SUBSET = """
from generator.subset import subset_set
subset_set(*given, policies=("cutpaste",))
"""
_PULL = """
from manifests.pull import pull_set
pull_set(*given)
"""
_EXPORT = """
from manifests.negative_set import NegativeSet
from manifests.recipe import write_recipe
with NegativeSet.open(Path(given[0])) as negative_set:
    write_recipe(Path(given[1]), negative_set)
"""
_SAVE = """
from reference.writers import save_small_model
save_small_model(Path(given[0]))
"""


@dataclass(frozen=True)
class World:
    """What the commands work on.

    Attributes:
        photos, some: six images, and four of them.
        sets: by name, folders of a finished set each.
        recipe: of the set "first".
    """

    photos: Path
    some: Path
    sets: dict[str, Path]
    recipe: Path


def build(data: Path, out: Path, *more: object, jobs: int = 1) -> list:
    """A `build` of tiny images in shards of two."""
    return [
        "generator.cli", "build", data, "--out", out, "--image-size", "64x48",
        "--shard-images", 2, "--jobs", jobs, "--quiet", *more,
    ]  # fmt: skip


def call(source: str, *given: object) -> str:
    """Python source that is told what it is given: texts and lists of texts."""
    plain = [[str(one) for one in item] if isinstance(item, list) else str(item) for item in given]
    return f"from pathlib import Path\ngiven = {plain!r}\n{source}"


def make_world(server: ForkServer, root: Path) -> World:
    """The photos, the sets made from them, and a recipe."""
    photos = good_photos(root / NAME, 6)
    some = good_photos(root / "some" / NAME, 4)
    roots = {name: root / "sets" / name for name in ("first", "second", "some", "other")}
    sets = {name: folder / NAME for name, folder in roots.items()}
    recipe = root / "first.recipe"
    for command in (
        build(photos, roots["first"], *FREE),
        build(photos, roots["second"], "--policies", "random-scar"),
        build(some, roots["some"], *FREE),
        build(photos, roots["other"], *FREE, "--seed", 7),
        call(_EXPORT, sets["first"], recipe),
    ):
        run = server.run(command)
        assert run.code == 0, run.output
    return World(photos, some, sets, recipe)


@dataclass(frozen=True)
class Writer:
    """A command that writes.

    Attributes:
        command: from the world and the folder it writes to.
        before: the finished set that is there when it starts.
        makes_set: whether what it leaves is a set.
    """

    name: str
    command: Callable[[World, Path], list | str]
    before: str | None = None
    makes_set: bool = True

    def prepare(self, world: World, out: Path) -> Path:
        """A folder as the command finds it."""
        if self.before is not None:
            shutil.copytree(world.sets[self.before], out / NAME)
        else:
            out.mkdir(parents=True)
        return out


_WRITERS = (
    Writer("build", lambda world, out: build(world.photos, out, *FREE)),
    Writer("build with saliency", lambda world, out: build(world.photos, out)),
    Writer("build by two workers", lambda world, out: build(world.photos, out, *FREE, jobs=2)),
    Writer(
        "build --overwrite",
        lambda world, out: build(world.photos, out, *FREE, "--overwrite"),
        before="other",
    ),
    Writer(
        "build --add", lambda world, out: build(world.photos, out, *FREE, "--add"), before="some"
    ),
    Writer("replay", lambda world, out: call(_REPLAY, world.recipe, world.photos, out)),
    Writer(
        "merge",
        lambda world, out: call(_MERGE, [world.sets["first"], world.sets["second"]], out),
    ),
    Writer("subset", lambda world, out: call(_SUBSET, world.sets["first"], out)),
    Writer("pull", lambda world, out: call(_PULL, world.sets["first"].as_uri(), out)),
    Writer(
        "export-recipe",
        lambda world, out: call(_EXPORT, world.sets["first"], out / "new.recipe"),
        makes_set=False,
    ),
    Writer("save_model", lambda _, out: call(_SAVE, out), makes_set=False),
)
WRITERS = {writer.name: writer for writer in _WRITERS}


@dataclass(frozen=True)
class Undisturbed:
    """What a writer leaves when nobody disturbs it, for how long it runs, and how it writes.

    Attributes:
        calls: as `FailingCalls` names them.
    """

    files: dict[str, bytes]
    seconds: float
    calls: tuple[str, ...]


class Workshop:
    """Runs writers in a world, and knows what they leave when nobody disturbs them."""

    def __init__(self, server: ForkServer, root: Path) -> None:
        self.server = server
        self.root = root
        self.world = make_world(server, root)
        self._known: dict[str, Undisturbed] = {}

    def undisturbed(self, writer: Writer) -> Undisturbed:
        """The writer's result, made once."""
        if writer.name not in self._known:
            out = writer.prepare(self.world, self.root / "undisturbed")
            run = self.server.run(writer.command(self.world, out), fault={"folders": [str(out)]})
            assert run.code == 0, run.output
            if writer.makes_set:
                assert verify_set(out / NAME) == []
            self._known[writer.name] = Undisturbed(contents(out), run.seconds, run.calls)
            shutil.rmtree(out)
        return self._known[writer.name]

    def set_digests(self, writer: Writer) -> list[str]:
        """Set digests that a reader may find: of the old set, where there is one, and the new."""
        new = self.undisturbed(writer).files[f"{NAME}/manifest.sha256"].split()[0].decode()
        old = [] if writer.before is None else [read_manifest(self.world.sets[writer.before])[1]]
        return [*old, new]

    def check_is_nothing_or_whole(self, writer: Writer, out: Path) -> None:
        """After a fault: nothing that reads as whole and is not, nothing else that can be read."""
        if not writer.makes_set:
            names = {"new.recipe", "model.json"} & contents(out).keys()
            expected = self.undisturbed(writer).files
            assert all((out / name).read_bytes() == expected[name] for name in names)
            if "model.json" in names:
                assert contents(out).items() >= expected.items()
            return
        folder = out / NAME
        try:
            _, digest = read_manifest(folder)
        except SetError:
            assert not (folder / "manifest.json").exists()
            return
        assert digest in self.set_digests(writer)
        # Shards that are about to be added to a set are not in its manifest yet.
        problems = [one for one in verify_set(folder) if one.what != "is not in the manifest"]
        assert problems == []

    def check_goes_on(self, writer: Writer, out: Path) -> None:
        """After a fault: whole or nothing; and the same command then ends with the same bytes."""
        self.check_is_nothing_or_whole(writer, out)
        run = self.server.run(writer.command(self.world, out))
        assert run.code == 0, run.output
        self.check_is_as_undisturbed(writer, out)

    def check_is_as_undisturbed(self, writer: Writer, out: Path) -> None:
        """The same files with the same bytes, logs left out, and sha256sum agrees."""
        files, expected = contents(out), self.undisturbed(writer).files
        assert files.keys() == expected.keys()
        assert [name for name in files if files[name] != expected[name]] == []
        if writer.makes_set:
            check_sha256sum(out / NAME)


def check_sha256sum(folder: Path) -> None:
    """What someone without this package checks a manifest with."""
    if shutil.which("sha256sum"):
        command: Sequence[str] = ["sha256sum", "--check", "--quiet", "--strict", "manifest.sha256"]
        subprocess.run(command, cwd=folder, check=True)


def save_small_model(folder: Path) -> None:
    """A model that can be saved and verified, though not loaded: its network is nobody's."""
    import numpy as np
    import torch

    from detector.calibration import TRAINING, Calibration
    from detector.config import FitConfig
    from detector.model import Model, save_model
    from detector.normal_list import FittedNormal
    from manifests.geometry import Geometry
    from reference.small_networks import make_network

    bank = {
        "features": torch.arange(12.0).reshape(4, 3),
        "image_index": torch.arange(4).int(),
        "cell": torch.arange(4).int(),
    }
    calibration = Calibration.of(np.array([0.5, 1.0, 1.2, 1.5]), np.array([1, 2, 3, 4]), TRAINING)
    image_threshold, pixel_threshold = calibration.thresholds(0.2)
    detector = SimpleNamespace(
        network=make_network(), untuned=None, holds_pixels=False, state=lambda: bank
    )
    model = Model(
        category=NAME,
        detector=detector,
        config=FitConfig(false_alarm_rate=0.2),
        geometry=Geometry(),
        calibration=calibration,
        image_threshold=image_threshold,
        pixel_threshold=pixel_threshold,
        training_files=frozenset(["0" * 64]),
        set_digest="1" * 64,
        initial_digest="2" * 64,
        attribution="",
        licence="",
        versions={"numpy": "2.0"},
        normals=tuple(
            FittedNormal(f"{n}.png", str(n) * 64, "a" * 64, (0, 0, 256, 256)) for n in range(4)
        ),
    )
    save_model(folder, model)
