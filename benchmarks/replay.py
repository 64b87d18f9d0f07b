"""How much faster is `replay` than `build`, and how far from its floor, decoding plus writing?

All sides make the same images into sets with stored pixels, interleaved in one run, so that a noisy
machine hits all of them. Prints medians of wall and CPU time and their ratios, and what a replayed
image's time is spent on.

    python benchmarks/replay.py [--data FOLDER] [--images N] [--repeats R] [--jobs J] [--large]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2

from generator.config import BuildConfig
from generator.pipeline import build_set
from generator.replay import replay_set
from generator.sample_data import render_sample_data
from manifests.allocator import keep_freed_memory
from manifests.datasets import Category, open_data
from manifests.edits import decode, render
from manifests.images import fit_image, read_image, write_png
from manifests.negative_set import NegativeSet
from manifests.recipe import read_recipe, write_recipe
from manifests.shard import Shard, negative_digest, write_shard
from manifests.shard_image import shard_image

LARGE_PX = 1024


def timed(side: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a call, its children's not counted."""
    wall, cpu = time.perf_counter(), time.process_time()
    side()
    return time.perf_counter() - wall, time.process_time() - cpu


def decode_and_write(category: Category, config: BuildConfig, built: Path, out: Path) -> None:
    """The floor: every image decoded and fitted, and the bytes of the set's shards written."""
    for sample in category.train:
        fit_image(read_image(sample.path), config.geometry)
    out.mkdir(parents=True)
    for path in sorted(built.glob("shard-*.h5")):
        (out / path.name).write_bytes(path.read_bytes())


def parts(category: Category, built: Path, scratch: Path) -> dict[str, float]:
    """CPU milliseconds per image of the steps of one replay, each by itself."""
    recipe_path = scratch / f"parts-{category.name}.recipe"
    with NegativeSet.open(built) as negative_set:
        write_recipe(recipe_path, negative_set)
    recipe = read_recipe(recipe_path)
    geometry, count = recipe.geometry, recipe.n_normals
    spent = dict.fromkeys(
        ("read recipe", "decode and fit", "read edits", "render", "digests", "shard", "write"), 0.0
    )

    def step(name: str, side: Callable[[], object]) -> object:
        started = time.process_time()
        result = side()
        spent[name] += 1000 * (time.process_time() - started) / count
        return result

    step("read recipe", lambda: read_recipe(recipe_path))
    step(
        "decode and fit",
        lambda: [fit_image(read_image(one.path), geometry) for one in category.train],
    )
    for shard in recipe.shards:
        with Shard(built / shard.name) as stored:
            normals = [
                replace(stored.normal(i), saliency={}, centres={}) for i in range(stored.n_normals)
            ]
            rows = [stored.record(j) for j in range(stored.n_negatives)]
        edits = step(
            "read edits",
            lambda shard=shard: [
                decode(row.edits_json, geometry.height, geometry.width) for row in shard.negatives
            ],
        )
        drawn = step(
            "render",
            lambda edits=edits, rows=rows, normals=normals: [
                render(normals[row.normal].image, one) for row, one in zip(rows, edits, strict=True)
            ],
        )
        step("digests", lambda drawn=drawn: [negative_digest(*one) for one in drawn])
        negatives = [
            replace(row, image=image, mask=mask)
            for row, (image, mask) in zip(rows, drawn, strict=True)
        ]
        step(
            "shard",
            lambda normals=normals, negatives=negatives: shard_image(
                normals, negatives, donors={}, store="pixels", unit_digest="0" * 64, environment={}
            ),
        )
        before = spent["shard"]
        step(
            "write",
            lambda normals=normals, negatives=negatives, shard=shard: write_shard(
                scratch / shard.name, normals, negatives, store="pixels", unit_digest="0" * 64,
                check_pixels=False,
            ),
        )  # fmt: skip
        spent["shard"] = before
    spent["write"] -= spent["shard"]  # which write_shard does once more
    return spent


def large_sources(category: Category, folder: Path) -> Category:
    """The same images at 1024 px, as PNG."""
    samples = []
    for number, sample in enumerate(category.train):
        path = folder / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = read_image(sample.path)
        write_png(path, cv2.resize(image, (LARGE_PX, LARGE_PX), interpolation=cv2.INTER_LINEAR))
        samples.append(replace(sample, path=path, source=path.name))
    return replace(category, name="large", root=folder, samples=tuple(samples))


def table(title: str, seconds: dict[str, list[tuple[float, float]]], count: int) -> None:
    """Medians per image, and how many times the replay's."""
    print(title)
    medians = {
        name: [1000 * statistics.median(column) / count for column in zip(*rows, strict=True)]
        for name, rows in seconds.items()
    }
    base = medians["cutswap-gen replay"]
    for name, (wall, cpu) in medians.items():
        print(
            f"  {name:<28} {wall:8.1f} ms per image {wall / base[0]:6.2f}"
            f"   CPU {cpu:8.1f} ms {cpu / base[1]:6.2f}"
        )


def compare(
    category: Category, config: BuildConfig, scratch: Path, *, repeats: int, jobs: int, build: bool
) -> None:
    """Time the sides on one category and print the table."""
    built = scratch / "built" / category.name
    build_set(category, config, built.parent, jobs=jobs)  # also the warm-up
    recipe = scratch / f"{category.name}.recipe"
    with NegativeSet.open(built) as negative_set:
        summary = write_recipe(recipe, negative_set)
    count = summary.n_normals
    sides: dict[str, Callable[[Path], object]] = {
        "cutswap-gen replay": lambda out: replay_set(recipe, category.root, out, jobs=jobs),
        "floor: decode + write": lambda out: decode_and_write(category, config, built, out),
    }
    if build:
        sides["cutswap-gen build"] = lambda out: build_set(category, config, out, jobs=jobs)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for number, (name, side) in enumerate(sides.items()):
            out = scratch / f"out-{category.name}-{repeat}-{number}"
            spent = timed(lambda side=side, out=out: side(out))
            shutil.rmtree(out)  # or the page cache fills up, and the last sides pay for it
            if repeat:  # the first is a warm-up
                seconds[name].append(spent)
    side_px = read_image(category.train[0].path).shape[:2]
    table(
        f"{count} images of {category.name} ({side_px[0]}x{side_px[1]} px and alike) at 256 px, "
        f"{jobs} jobs, medians of {repeats}; recipe {summary.file_bytes / 1024 / count:.2f} KB "
        f"per image, {summary.text_bytes / summary.file_bytes:.1f} times that as text",
        seconds,
        count,
    )
    steps = parts(category, built, scratch)
    print("  CPU ms per image: " + ", ".join(f"{name} {ms:.2f}" for name, ms in steps.items()))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="data set; default: our sample data")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--large", action="store_true", help="also from 1024-px sources")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        data = options.data
        if data is None:
            data = scratch / "data"
            render_sample_data(data, train=options.images, test_good=1, per_defect=1)
        category = open_data(data)[0]
        category = replace(category, samples=tuple(category.train[: options.images]))
        shared = {"scratch": scratch, "repeats": options.repeats, "jobs": options.jobs}
        compare(category, BuildConfig(), build=True, **shared)
        if options.large:
            large = large_sources(category, scratch / "large-data")
            # Saliency does not grow with the source, so build says nothing here.
            free = BuildConfig(policies=("random-swap", "random-scar"))
            compare(large, free, build=False, **shared)


if __name__ == "__main__":
    main()
