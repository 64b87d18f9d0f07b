"""Kinds of files that strangers send: how each is mutated, and every way in which it is read."""

import contextlib
import importlib
import io
import json
import shutil
from abc import ABC, abstractmethod

import numpy as np
from PIL import Image

import manifests.negative_set
import manifests.verify
from manifests.digest import bytes_digest, file_digest
from manifests.edits import decode, encode
from manifests.errors import CutswapError
from manifests.images import read_image
from manifests.negative_set import NegativeSet
from manifests.probe import mark_familiar
from manifests.recipe import read_recipe, recipe_problems, write_recipe
from manifests.schema import Manifest, read_manifest
from manifests.strict_json import dump_json
from manifests.verify import verify_set
from reference import mutants
from reference.recipe import photo_set, photos
from reference.small_sets import H, W, picture, records, write_set


def every(*reads):
    """One reader of several: all are tried, and the first refusal counts."""

    def read():
        refusals = []
        for one in reads:
            try:
                one()
            except CutswapError as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]

    return read


def read_set(folder):
    with NegativeSet.open(folder) as negative_set:
        for i in range(min(negative_set.n_normals, 50)):
            negative_set.normal(i)
        for j in range(min(len(negative_set), 50)):
            negative_set[j]


def check_list(problems):
    """What a list of problems says must be plain, too."""
    for problem in problems:
        assert isinstance(problem, CutswapError) and str(problem).isprintable(), repr(problem)


def run_gen(*arguments):
    """Runs `cutswap-gen`; whatever it raises but its exit codes is a failure."""
    from generator.cli import main

    _run(main, arguments)


def run_det(*arguments):
    """Runs `cutswap-det` likewise."""
    from detector.cli import main

    _run(main, arguments)


def _run(main, arguments):
    # Bytes below, as a terminal has them: names that are no text are written so.
    out, err = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main.main([str(argument) for argument in arguments], standalone_mode=True)
        except SystemExit as error:
            assert error.code in (0, 1, 2)


def _import(*names):
    """What a forked child would otherwise import again and again."""
    for name in names:
        importlib.import_module(name)


class Kind(ABC):
    """A kind of file, in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    @abstractmethod
    def mutate(self, rng, is_repaired):
        """Writes a mutant; if it is repaired, the digests over it are put right again."""

    @abstractmethod
    def readers(self, number):
        """Every way to read the mutant with this number, each a function without arguments."""


class ManifestKind(Kind):
    def __init__(self, folder):
        super().__init__(folder)
        write_set(folder / "set", shards=2, n=2, r=3, store="anchors")
        self.path = folder / "set" / "manifest.json"
        self.data = self.path.read_bytes()
        mark_familiar(folder / "set")

    def mutate(self, rng, is_repaired):
        data = mutants.mutated_document(rng, self.data, indent=1)
        self.path.write_bytes(data)
        recorded = data if is_repaired else self.data
        self.path.with_suffix(".sha256").write_text(f"{bytes_digest(recorded)}  manifest.json\n")

    def readers(self, number):
        folder = self.path.parent
        reads = [
            lambda: Manifest.from_bytes(self.path.read_bytes()),
            lambda: read_manifest(folder),
            lambda: read_set(folder),
            lambda: check_list(verify_set(folder)),
        ]
        if number % 9 == 0:
            reads += [lambda: run_gen("inspect", folder), lambda: run_gen("verify", folder)]
        return reads


class ShardKind(Kind):
    def __init__(self, folder):
        super().__init__(folder)
        write_set(folder / "set", shards=1, n=2, r=3)
        self.path = folder / "set" / "shard-00000.h5"
        self.data = self.path.read_bytes()
        self.ranges = mutants.shard_ranges(self.data)
        self.plain = json.loads((folder / "set" / "manifest.json").read_bytes())

    def mutate(self, rng, is_repaired):
        self.path.write_bytes(
            mutants.mutated_shard(rng, self.data, self.ranges, is_repaired=is_repaired)
        )
        entry = self.plain["shards"][0]
        entry = entry | {"file_bytes": self.path.stat().st_size}
        if is_repaired:
            entry["file_sha256"] = file_digest(self.path)
        data = dump_json(self.plain | {"shards": [entry]}, indent=1)
        path = self.path.with_name("manifest.json")
        path.write_bytes(data)
        path.with_suffix(".sha256").write_text(f"{bytes_digest(data)}  manifest.json\n")

    def readers(self, number):
        folder = self.path.parent
        reads = [lambda: read_set(folder), lambda: check_list(verify_set(folder))]
        if number % 25 == 0:
            reads += [lambda: run_gen("verify", folder)]
        return [lambda: self._directly(reads)]

    @staticmethod
    def _directly(reads):
        # The forked child of this suite stands for the one that the probe would start for each:
        # what it does not survive is given to the real one afterwards.
        manifests.negative_set.familiarise = manifests.verify.familiarise = lambda *_: {}
        every(*reads)()


class RecipeKind(Kind):
    """A recipe of real image files, so that every command can go through to its end."""

    def __init__(self, folder):
        super().__init__(folder)
        sources = photos(folder / "data", 4)
        photo_set(
            folder / "set", folder / "data", sources, store="anchors", donor="foreign", per_shard=2
        )
        self.path = folder / "part.recipe"
        with NegativeSet.open(folder / "set") as negative_set:
            write_recipe(self.path, negative_set, with_donors=True)
        self.data = self.path.read_bytes()

    def mutate(self, rng, is_repaired):
        self.path.write_bytes(mutants.mutated_recipe(rng, self.data, is_repaired=is_repaired))

    def readers(self, number):
        _import("generator.cli", "generator.diff_text", "generator.describe_recipe")
        _import("generator.describe", "generator.describe_made", "generator.replay")
        reads = [
            lambda: read_recipe(self.path),
            lambda: check_list(recipe_problems(self.path)),
        ]
        if number % 3 == 0:
            reads += [
                lambda: run_gen("inspect", self.path),
                lambda: run_gen("verify", self.path, "--quiet"),
                lambda: run_gen("dump-recipe", self.path),
                lambda: run_gen("diff", self.folder / "set", self.path),
                lambda: run_gen("diff", self.path, self.path, "--json"),
                self._replay,
            ]
        return reads

    def _replay(self):
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        data = ("--data", self.folder / "data", "--out", out)
        run_gen("replay", self.path, *data, "--jobs", 1, "--quiet")


class EditsKind(Kind):
    def __init__(self, folder):
        super().__init__(folder)
        self.path = folder / "edits"
        self.data = [encode(row.edits) for row in records(2, 3)[1]]

    def mutate(self, rng, is_repaired):
        data = self.data[int(rng.integers(len(self.data)))]
        self.path.write_bytes(mutants.mutated_document(rng, data, indent=None))

    def readers(self, number):
        return [lambda: decode(self.path.read_bytes(), H, W)]


class ImageKind(Kind):
    def __init__(self, folder):
        super().__init__(folder)
        self.path = folder / "image"
        values = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
        values[10:30] = 77
        pictures = {
            "PNG": [Image.fromarray(values), Image.fromarray(values).convert("P")],
            "JPEG": [Image.fromarray(values), Image.fromarray(values).convert("CMYK")],
        }
        self.data = []
        for name, ones in pictures.items():
            for one in ones:
                stream = io.BytesIO()
                one.save(stream, name, **({"exif": b"Exif\0\0II*\0"} if name == "JPEG" else {}))
                self.data.append((name, stream.getvalue()))

    def mutate(self, rng, is_repaired):
        name, data = self.data[int(rng.integers(len(self.data)))]
        if name == "PNG":
            data = mutants.mutated_png(rng, data, is_repaired=is_repaired)
        else:
            data = mutants.mutated_bytes(rng, data)
        self.path.write_bytes(data)

    def readers(self, number):
        return [lambda: read_image(self.path, max_pixels=4_000_000)]


class ModelKind(Kind):
    """A model of the real command, of which all but the weights is small."""

    def __init__(self, folder, model):
        super().__init__(folder)
        self.model = model
        self.data = {
            path.name: path.read_bytes()
            for path in model.iterdir()
            if path.suffix in (".json", ".safetensors")
        }
        for path in model.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        self.image = folder / "photo.png"
        Image.fromarray(picture(0, 60, 47)).save(self.image)
        self.is_changed = None

    def mutate(self, rng, is_repaired):
        if self.is_changed:
            (self.folder / self.is_changed).write_bytes(self.data[self.is_changed])
        record = self.data["model.json"]
        names = [name for name in sorted(self.data) if name != "model.json"]
        name = "model.json" if rng.random() < 0.6 else names[int(rng.integers(len(names)))]
        self.is_changed = name
        if name == "model.json":
            record = mutants.mutated_document(rng, record, indent=1)
        else:
            data = self.data[name]
            # The header is where the parser is: its length, and JSON.
            head = 8 + int.from_bytes(data[:8], "little")
            data = mutants.mutated_bytes(rng, data, [(0, 8), (8, head)])
            (self.folder / name).write_bytes(data)
            if is_repaired:
                plain = json.loads(record)
                plain["files"][name] = bytes_digest(data)
                record = dump_json(plain, indent=1)
        (self.folder / "model.json").write_bytes(record)
        if is_repaired:
            line = f"{bytes_digest(record)}  model.json\n"
            (self.folder / "model.sha256").write_text(line)

    def readers(self, number):
        import torch

        from detector.model import load_model
        from detector.verify_model import verify_model

        torch.set_num_threads(1)
        _import("detector.cli", "detector.describe", "detector.scoring")
        reads = [
            lambda: load_model(self.folder),
            lambda: check_list(verify_model(self.folder)),
        ]
        if number % 3 == 0:
            reads += [
                lambda: run_det("inspect", self.folder),
                lambda: run_det("verify", self.folder),
            ]
        if number % 6 == 0:
            score = ("score", self.folder, self.image, "--jobs", 1, "--device", "cpu", "--quiet")
            reads.append(lambda: run_det(*score))
        return reads


KINDS = {
    "manifest": ManifestKind,
    "shard": ShardKind,
    "recipe": RecipeKind,
    "edits": EditsKind,
    "image": ImageKind,
}
