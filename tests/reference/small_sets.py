"""Small negative sets made by hand, without network and generator: swaps, scars and blends."""

import numpy as np

from manifests.digest import array_digest, bytes_digest
from manifests.edits import Blend, ColourShift, Copy, DonorTransform, render
from manifests.shard import NegativeRecord, NormalRecord, Shard, negative_digest, write_shard
from reference.set_writer import SetWriter

H, W = 32, 44
UNIT = "b" * 64
LEVELS = {4: (2, 3), 10: (5, 7)}


def picture(seed, height=H, width=W):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def edits_of(number, donor):
    """Swap, scar and blend in turn, each a little different."""
    first, second = (1 + number % 5, 2, 9, 6), (15, 20 + number % 9, 9, 6)
    if number % 3 == 0:
        return "swap", (Copy(first, second), Copy(second, first))
    if number % 3 == 1:
        shift = ColourShift((250, 260, 256), (3, -4, number))
        return "scar", (Copy(first, second, 3000 + number, shift), Copy(second, first, -4100))
    mask = np.zeros((H, W), dtype=bool)
    mask[5 : 9 + number % 7, 8:31] = True
    return "sgsf", (Blend(donor, DonorTransform(1, True, False, (3, 5)), mask, 120),)


def records(n=4, r=9, *, seed=0, category="tiles"):
    """`n` normals and `r` negatives of them, and the donors of the blends."""
    normals = []
    for i in range(n):
        image = picture((seed, i))
        saliency = {
            level: picture((seed, i, level), *shape)[..., 0] for level, shape in LEVELS.items()
        }
        centres = {level: np.arange(1 + (i + level) % 4, dtype=np.float32) for level in LEVELS}
        file_sha256 = bytes_digest(f"{category} {seed} {i}".encode())
        normals.append(
            NormalRecord(
                image,
                array_digest(image),
                f"train/gut-é{i}.png",
                file_sha256,
                (0, 2, H, W - 4),
                saliency,
                centres,
            )
        )
    donor = picture((seed, 99))
    donors = {array_digest(donor): donor}
    negatives = []
    for j in range(r):
        row = j % n
        policy, edits = edits_of(j, array_digest(donor))
        image, mask = render(normals[row].image, edits, donors)
        anchors = np.full((2, 4), -1, dtype=np.int32)
        if policy != "sgsf":
            anchors[:] = [edits[0].src, edits[0].dst]
        level = -1 if policy == "sgsf" else (4, 10)[j % 2]
        negatives.append(
            NegativeRecord(
                normal=row,
                policy=policy,
                level=level,
                repeat=j // n,
                anchors=anchors,
                edits=edits,
                fallback=j % 4,
                rejections=j,
                digest=negative_digest(image, mask),
                image=image,
                mask=mask,
            )
        )
    return normals, negatives, donors


def write_shard_of(path, *, store="pixels", **changes):
    """A shard of `records()` at `path`; `changes` are options of `write_shard`."""
    normals, negatives, donors = records()
    options = {"donors": donors, "store": store, "unit_digest": UNIT} | changes
    return write_shard(path, normals, negatives, **options)


def write_set(folder, *, store="pixels", shards=2, category="tiles", n=4, r=9):
    """A whole set in `folder`; returns its manifest and set digest."""
    writer = SetWriter(folder)
    for number in range(shards):
        normals, negatives, donors = records(n, r, seed=number, category=category)
        writer.add(
            normals,
            negatives,
            donors,
            store=store,
            unit=f"{category} {number}",
            environment={"numpy": np.__version__},
        )
    return writer.finish(
        category=category,
        recipe={"geometry": {"height": H, "width": W, "fit": "stretch"}, "seed": 0, "area": 0.15},
        attribution="Ölmühle GmbH",
        skipped=({"source": "train/broken.png", "reason": "truncated"},),
    )


def read_everything(shard: Shard):
    """Every value a reader can ask a shard for."""
    for i in range(shard.n_normals):
        shard.normal(i)
    for j in range(shard.n_negatives):
        shard.negative(j), shard.rendered(j)


def flip_pixel(shard):
    """Changes one bit of the first normal's pixels in a shard file: no quick check looks there."""
    with Shard(shard) as stored:
        place = int(stored.index.images.offset[0])
    data = bytearray(shard.read_bytes())
    data[place] ^= 1
    shard.write_bytes(data)
