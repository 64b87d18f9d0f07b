"""Recipes read by the letter of docs/formats.md, and sets of real image files to make them from."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from manifests.digest import array_digest, bytes_digest
from manifests.edits import Blend, ColourShift, Copy, DonorTransform, render
from manifests.geometry import Geometry
from manifests.images import decode_image, fit_image
from manifests.shard import NegativeRecord, NormalRecord, negative_digest
from reference.set_writer import SetWriter
from reference.small_sets import LEVELS, picture

GEOMETRY = Geometry(32, 44, "letterbox")


def literal_recipe(path: Path) -> tuple[str, list[list]]:
    """Set digest and rows of a recipe whose every digest is taken again, with json and hashlib."""
    title, body = path.read_bytes().split(b"\n", 1)
    name, version, digest = title.decode("ascii").split(" ")
    assert (name, version, digest) == ("cutswap-recipe", "1", hashlib.sha256(body).hexdigest())
    text = gzip.decompress(body).decode("ascii")
    rows = [json.loads(line) for line in text.splitlines()]
    assert text == "".join(_compact(row) + "\n" for row in rows)
    manifest = rows[0][1]
    content: dict[str, list[str]] = {}
    for row in rows[1:]:
        if row[0] == "shard":
            lines = content.setdefault(row[1], ["cutswap content 1"])
            digests = []
        elif row[0] == "normal":
            digests.append(row[1])
            lines.append(_compact(row))
        elif row[0] == "negative":
            edits = [_canonical(edit) for edit in row[6]]
            edits_digest = hashlib.sha256(_compact(edits).encode()).hexdigest()
            lines.append(_compact(["negative", digests[row[1]], *row[2:6], edits_digest, *row[7:]]))
    for entry in manifest["shards"]:
        text = "".join(line + "\n" for line in content.pop(entry["name"]))
        assert hashlib.sha256(text.encode()).hexdigest() == entry["content_digest"]
    assert not content
    indented = json.dumps(manifest, sort_keys=True, indent=1, separators=(",", ": ")) + "\n"
    return hashlib.sha256(indented.encode()).hexdigest(), rows


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _canonical(edit: dict) -> dict:
    if edit["kind"] == "copy":
        return edit
    bits = zlib.decompress(base64.b64decode(edit["mask"]["bits"]))
    mask = {"shape": edit["mask"]["shape"], "sha256": hashlib.sha256(bits).hexdigest()}
    return {**edit, "mask": mask}


def photos(folder: Path, count: int, *, suffix: str = ".png") -> list[str]:
    """`count` pictures below a folder, of several sizes; their paths in it."""
    sources = []
    for number in range(count):
        source = f"train/good/{number:03d}{suffix}"
        path = folder / source
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth = picture((7, number), 9, 11)
        # Larger than the canvas, and not of its shape; smooth, as JPEG would have it.
        size = (60 + number % 3, 47)
        Image.fromarray(smooth).resize(size, Image.Resampling.BILINEAR).save(path, quality=90)
        sources.append(source)
    return sources


def photo_set(
    folder: Path,
    data: Path,
    sources: list[str],
    *,
    category: str = "parts",
    store: str = "pixels",
    donor: str = "lent",
    has_saliency: bool = True,
    per_shard: int = 3,
    licence: str = "",
):
    """A whole set of image files; returns its manifest and set digest.

    Every normal has a swap, a turned scar and, unless `donor` is "", a blend: "lent" takes the
    donor from the normals of another shard, "foreign" from outside the set.
    """
    loaded = []
    for source in sources:
        raw = (data / source).read_bytes()
        canvas, placement = fit_image(decode_image(raw, path=source), GEOMETRY)
        loaded.append((source, bytes_digest(raw), canvas, placement.canvas_box))
    foreign = picture(99, GEOMETRY.height, GEOMETRY.width)
    writer = SetWriter(folder)
    for number, start in enumerate(range(0, len(loaded), per_shard)):
        lender = foreign if donor == "foreign" else loaded[start - 1][2]
        donors = {array_digest(lender): lender}
        normals, negatives = [], []
        for row, (source, file_sha256, canvas, box) in enumerate(loaded[start : start + per_shard]):
            maps = {
                level: picture((start, row, level), *shape)[..., 0]
                for level, shape in LEVELS.items()
            }
            centres = {level: np.arange(2, dtype=np.float32) for level in LEVELS}
            normals.append(
                NormalRecord(
                    canvas,
                    array_digest(canvas),
                    source,
                    file_sha256,
                    box,
                    maps if has_saliency else {},
                    centres if has_saliency else {},
                )
            )
            negatives += _negatives(canvas, row, donors if donor else {})
        writer.add(normals, negatives, donors, store=store, unit=str(number))
    return writer.finish(
        category=category,
        recipe={
            "geometry": GEOMETRY.to_json(), "seed": 0, "store": store, "policies": ["swap", "scar"],
            "levels": sorted(LEVELS) if has_saliency else [], "precision": "fp32",
            "network": {"name": "vgg16", "digest": "0" * 64} if has_saliency else None,
            "clusters": {"k": 2, "choice": "max"} if has_saliency else None,
        },
        licence=licence,
        versions={"pillow": "9.0.0", "opencv-python-headless": "4.1.2"},
        saliency="stored" if has_saliency else "unused",
    )  # fmt: skip


def _negatives(canvas, row, donors) -> list[NegativeRecord]:
    first, second = (6 + row, 4, 9, 6), (14, 20 + row, 9, 6)
    shift = ColourShift((250, 260, 256), (3, -4, 1))
    mask = np.zeros(canvas.shape[:2], dtype=bool)
    mask[5:12, 8:31] = True
    drawn = [
        ("swap", 4, (Copy(first, second), Copy(second, first))),
        ("scar", 10, (Copy(first, second, 3000 + row, shift, 2), Copy(second, first, -4100))),
    ]
    for digest in donors:
        transform = DonorTransform(1, True, False, (3, 5))
        drawn.append(("sgsf", -1, (Blend(digest, transform, mask, 120),)))
    records = []
    for policy, level, edits in drawn:
        image, painted = render(canvas, edits, donors)
        records.append(
            NegativeRecord(
                normal=row,
                policy=policy,
                level=level,
                repeat=0,
                anchors=np.array([first, second], dtype=np.int32),
                edits=edits,
                fallback=row % 3,
                rejections=row,
                digest=negative_digest(image, painted),
                image=image,
                mask=painted,
            )
        )
    return records
