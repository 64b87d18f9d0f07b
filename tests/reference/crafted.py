"""Files made to cost their reader time or memory, all of whose digests and counts fit."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from manifests.digest import bytes_digest
from manifests.schema import read_manifest, set_digest_of
from manifests.strict_json import dump_json
from reference.small_sets import write_set


def crafted_recipe(path: Path, count: int, *, is_one_draw: bool, is_random: bool) -> Path:
    """A recipe of one image with `count` negatives, which passes every check but those on size.

    Args:
        is_one_draw: whether all negatives have the same policy, level and repeat.
        is_random: whether digests are of the kind that does not shrink.
    """
    write_set(path.parent / "set", shards=1, n=1, r=1, store="anchors")
    manifest, _ = read_manifest(path.parent / "set")
    (file_sha256,) = manifest.training_files
    rng = np.random.default_rng(0)
    normal = ["normal", "ab" * 32, "train/a.png", file_sha256, [0, 0, 32, 44]]
    edits = [{"angle_cdeg": 0, "colour": None, "dst": [0, 0, 2, 2], "kind": "copy"}]
    edits[0]["src"] = [4, 4, 2, 2]
    edits_text = _compact(edits)
    edits_digest = bytes_digest(edits_text.encode())
    rows, content = [_compact(normal)], ["cutswap content 1", _compact(normal)]
    for number in range(count):
        digest = rng.bytes(32).hex() if is_random else f"{number:064x}"
        repeat = 0 if is_one_draw else number
        values = f'"cutpaste",-1,{repeat},[[-1,-1,-1,-1],[-1,-1,-1,-1]]'
        rows.append(f'["negative",0,{values},{edits_text},0,0,"{digest}"]')
        content.append(f'["negative","{normal[1]}",{values},"{edits_digest}",0,0,"{digest}"]')
    content_digest = bytes_digest("".join(line + "\n" for line in content).encode())
    entry = replace(manifest.shards[0], normals=1, negatives=count, content_digest=content_digest)
    manifest = replace(
        manifest,
        shards=(entry,),
        content_digest=set_digest_of([content_digest]),
        counts={"normals": 1, "negatives": count, "policies": {"cutpaste": {"-1": count}}},
        fallbacks={"cutpaste": {"-1": {"none": count}}},
    )
    lines = [_compact(["manifest", asdict(manifest)]), _compact(["shard", entry.name]), *rows]
    body = gzip.compress("".join(line + "\n" for line in lines).encode(), 9, mtime=0)
    title = f"cutswap-recipe 1 {hashlib.sha256(body).hexdigest()}\n"
    path.write_bytes(title.encode() + body)
    return path


def claim(folder: Path, **config: object) -> None:
    """Puts other values into a model's config, with digests that fit."""
    plain = json.loads((folder / "model.json").read_bytes())
    plain["config"] |= config
    data = dump_json(plain, indent=1)
    (folder / "model.json").write_bytes(data)
    (folder / "model.sha256").write_text(f"{bytes_digest(data)}  model.json\n")


def _compact(value: object) -> str:
    return dump_json(value).decode("ascii")
