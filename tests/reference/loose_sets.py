"""Sets made of any records, and everything in a set as plain values, read in the slowest way."""

from dataclasses import replace

import numpy as np

from manifests.digest import array_digest
from manifests.familiar import mark_familiar
from manifests.negative_set import NegativeSet
from reference.set_writer import SetWriter
from reference.small_sets import H, W

RECIPE = {
    "policies": ["swap", "scar", "sgsf"],
    "geometry": {"height": H, "width": W, "fit": "stretch"},
    "seed": 0,
    "draws": 2,
    "shard_images": 3,
    "store": "pixels",
}


def loose_set(
    folder, normals, negatives, donors, *, recipe=None, shard_images=3, store="pixels", **changes
):
    """A set of these records in `folder`; `changes` are fields of its manifest."""
    writer = SetWriter(folder)
    for start in range(0, len(normals), shard_images):
        part = normals[start : start + shard_images]
        own = [
            replace(row, normal=row.normal - start)
            for row in negatives
            if start <= row.normal < start + len(part)
        ]
        writer.add(
            part,
            own,
            donors,
            store=store,
            unit=f"{folder} {start}",
            environment={"numpy": np.__version__, "threads": "1"},
        )
    fields = {
        "recipe": {**RECIPE, "store": store, "shard_images": shard_images, **(recipe or {})},
        "saliency": "stored" if normals[0].saliency else "unused",
    }
    writer.finish(**{**fields, **changes})
    mark_familiar(folder)
    return folder


def part(normals, negatives, rows):
    """Some of the normals, by their rows, and their negatives."""
    new = {old: row for row, old in enumerate(rows)}
    own = [replace(one, normal=new[one.normal]) for one in negatives if one.normal in new]
    return [normals[row] for row in rows], own


def contents(folder, *, saliency=True):
    """Images by digest, and negatives by image, policy, level and repeat, with all their pixels."""
    images, negatives = {}, {}
    with NegativeSet.open(folder) as negative_set:
        digests = []
        for i in range(negative_set.n_normals):
            normal = negative_set.normal(i)
            maps = {
                level: (
                    array_digest(negative_set.saliency(i, level)),
                    negative_set.centres(i, level).tolist(),
                )
                for level in (negative_set.levels if saliency else ())
            }
            digests.append(normal.digest)
            images[normal.digest] = (
                array_digest(normal.image),
                normal.source,
                normal.file_sha256,
                normal.canvas_box,
                maps,
            )
        repeats = negative_set.negative_repeat.tolist()
        for j, repeat in enumerate(repeats):
            one = negative_set[j]
            key = (digests[one.normal], one.policy, one.level, repeat)
            assert key not in negatives
            negatives[key] = (
                array_digest(one.image),
                array_digest(one.mask),
                one.anchors.tolist(),
                one.fallback,
                one.digest,
                one.source,
            )
    return images, negatives
