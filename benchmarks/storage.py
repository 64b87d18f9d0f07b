"""How negatives are best stored: size, writing and reading of the same images in several formats.

Ours with pixels and with anchors alone, and plain h5py files with every image a chunk: raw, lzf,
gzip, Blosc with zstd and plain zstd (the last two only with hdf5plugin). Everything is flushed to
the disk; images are read at random from pages in memory.

    python benchmarks/storage.py [--data FOLDER] [--images N] [--repeats R]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np
from common import Timing, interleave, machine, training_part

from generator.config import BuildConfig
from generator.pipeline import build_set
from manifests.allocator import keep_freed_memory
from manifests.negative_set import NegativeSet
from manifests.shard import NegativeRecord, NormalRecord, Shard, write_shard

READS = 400


def read_records(negative_set: NegativeSet) -> tuple[list[NormalRecord], list[NegativeRecord]]:
    """Everything in a set, as one shard's records."""
    normals: list[NormalRecord] = []
    negatives: list[NegativeRecord] = []
    for path in sorted(negative_set.path.glob("shard-*.h5")):
        with Shard(path) as shard:
            first = len(normals)
            normals += [shard.normal(i) for i in range(shard.n_normals)]
            for j in range(shard.n_negatives):
                negative = shard.negative(j)
                negatives.append(replace(negative, normal=first + negative.normal))
    return normals, negatives


def filters() -> dict[str, dict]:
    """Keyword arguments of h5py's `create_dataset` by the name of the format."""
    found: dict[str, dict] = {
        "h5py raw": {},
        "h5py lzf": {"compression": "lzf"},
        "h5py gzip 4": {"compression": "gzip", "compression_opts": 4},
    }
    try:
        import hdf5plugin
    except ImportError:
        print("hdf5plugin is not installed: Blosc and zstd are left out\n")
        return found
    found["h5py Blosc zstd 5, shuffled (plug-in)"] = dict(
        hdf5plugin.Blosc(cname="zstd", clevel=5, shuffle=hdf5plugin.Blosc.SHUFFLE)
    )
    found["h5py zstd 3 (plug-in)"] = dict(hdf5plugin.Zstd(clevel=3))
    return found


def write_plain(
    path: Path,
    normals: list[NormalRecord],
    negatives: list[NegativeRecord],
    options: Mapping[str, object],
) -> None:
    """Images and masks as anybody would store them, an image a chunk."""
    with h5py.File(path, "w") as file:
        for name, rows in {
            "normals/image": [row.image for row in normals],
            "negatives/image": [row.image for row in negatives],
            "negatives/mask": [row.mask.view(np.uint8) for row in negatives],
        }.items():
            shape = (len(rows), *rows[0].shape)
            stored = file.create_dataset(
                name, shape, np.uint8, chunks=(1, *rows[0].shape), **options
            )
            for number, row in enumerate(rows):
                stored[number] = row
    with open(path, "rb+") as written:
        os.fsync(written.fileno())


def write_ours(
    path: Path, normals: list[NormalRecord], negatives: list[NegativeRecord], store: str
) -> None:
    """A shard of ours, saliency left out as the others have none."""
    write_shard(
        path,
        [replace(row, saliency={}, centres={}) for row in normals],
        negatives,
        store=store,
        unit_digest="0" * 64,
        check_pixels=False,
    )


def read_plain(path: Path, order: np.ndarray) -> None:
    with h5py.File(path, "r") as file:
        images = file["negatives/image"]
        for number in order:
            images[int(number)]


def read_ours(path: Path, order: np.ndarray) -> None:
    with Shard(path) as shard:
        for number in order:
            shard.negative_image(int(number))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="data set; default: our sample data")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    keep_freed_memory()
    print(machine("h5py", "hdf5plugin"))
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        category = training_part(arguments.data, arguments.images, Path(scratch))
        built = build_set(category, BuildConfig(), scratch / "set", jobs=os.cpu_count() or 1)
        with NegativeSet.open(built.folder) as negative_set:
            normals, negatives = read_records(negative_set)
        writers: dict[str, Callable[[], None]] = {}
        readers: dict[str, Callable[[], None]] = {}
        paths: dict[str, Path] = {}
        order = np.random.default_rng(0).integers(len(negatives), size=READS)
        for number, store in enumerate(("pixels", "anchors")):
            path = paths[f"cutswap, {store}"] = scratch / f"shard-{number:05d}.h5"
            writers[f"cutswap, {store}"] = lambda path=path, store=store: write_ours(
                path, normals, negatives, store
            )
            readers[f"cutswap, {store}"] = lambda path=path: read_ours(path, order)
        for number, (title, options) in enumerate(filters().items()):
            path = paths[title] = scratch / f"plain-{number}.h5"
            writers[title] = lambda path=path, options=options: write_plain(
                path, normals, negatives, options
            )
            readers[title] = lambda path=path: read_plain(path, order)
        written = interleave(writers, arguments.repeats, warm_up=True)
        read = interleave(readers, arguments.repeats, warm_up=True)
        print(
            f"\n{len(normals)} normals and {len(negatives)} negatives of {category.name} at 256 px "
            f"with masks, medians of {arguments.repeats}\n"
        )
        print(storage_table(paths, written, read, len(normals)))


def storage_table(
    paths: Mapping[str, Path],
    written: Mapping[str, Timing],
    read: Mapping[str, Timing],
    n_normals: int,
) -> str:
    """Markdown: size and writing per normal with its negatives, reading per negative."""
    lines = [
        "| | MB per normal | of raw | write ms per normal | read ms per negative |",
        "|---|---|---|---|---|",
    ]
    raw = paths["h5py raw"].stat().st_size
    for title, path in paths.items():
        size = path.stat().st_size
        lines.append(
            f"| {title} | {size / 1e6 / n_normals:.3f} | {size / raw:.2f} "
            f"| {1000 * written[title].median / n_normals:.1f} "
            f"| {1000 * read[title].median / READS:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
