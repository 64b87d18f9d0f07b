"""A second reader of sets and recipes, written from docs/formats.md and nothing else.

It stands for somebody who reads our files in another language: HDF5 gives the arrays, everything
above that is done here, literally and slowly. Whatever disagrees with the page is a `FormatError`.

Source: docs/formats.md
"""

import base64
import hashlib
import json
import math
import zlib
from pathlib import Path

import h5py
import numpy as np

FALLBACKS = ("none", "shrunk", "moved", "lower-cluster", "anywhere")
MANIFEST_FIELDS = (
    "schema_version category format recipe licence attribution split_rule training_files duplicates"
    " skipped counts fallbacks shards content_digest saliency_digest versions saliency origin"
)
SHARD_FIELDS = (
    "name file_sha256 file_bytes normals negatives content_digest saliency_digest environment"
)
ROOT_ATTRIBUTES = (
    "schema_version height width store unit_digest content_digest saliency_digest environment"
)


class FormatError(ValueError):
    """A file is not what docs/formats.md says."""


def check(condition: object, message: str) -> None:
    """Raises a FormatError where a rule of the page does not hold."""
    if not condition:
        raise FormatError(message)


def sha256(data: bytes) -> str:
    """A digest: SHA-256 as 64 lower-case hex characters."""
    return hashlib.sha256(data).hexdigest()


def array_digest(array: np.ndarray) -> str:
    """Digest of a header of type and shape, followed by the values."""
    header = " ".join([array.dtype.name, *map(str, array.shape)]) + "\n"
    little_endian = array.astype(array.dtype.newbyteorder("<"))
    return sha256(header.encode("ascii") + little_endian.tobytes("C"))


def negative_digest(image: np.ndarray, mask: np.ndarray) -> str:
    """Digest of the digests of an image and of its mask of 0 and 255."""
    raw = bytes.fromhex(array_digest(image)) + bytes.fromhex(array_digest(mask))
    return sha256(raw)


def set_digest(digests: list[str]) -> str:
    """Content or saliency digest of a set: over its shards' raw digests, in order."""
    return sha256(b"".join(bytes.fromhex(digest) for digest in digests))


def lines_digest(title: str, rows: list[list]) -> str:
    """Digest of a title and one compact JSON array a line."""
    lines = [title, *map(compact, rows)]
    return sha256("".join(line + "\n" for line in lines).encode("ascii"))


# Text and JSON


def ascii_text(data: bytes) -> str:
    """Bytes that have to be ASCII, as text."""
    check(data.isascii(), "not ASCII")
    return data.decode("ascii")


def from_base64(text: str) -> bytes:
    """Bytes from base64 in the standard alphabet, with padding."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise FormatError(f"not base64: {error}") from error
    check(base64.b64encode(data).decode("ascii") == text, "base64 with odd bits at its end")
    return data


def inflated(data: bytes, *, gzip_member: bool = False) -> bytes:
    """Contents of exactly one zlib stream or gzip member."""
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS if gzip_member else zlib.MAX_WBITS)
    try:
        contents = stream.decompress(data)
    except zlib.error as error:
        raise FormatError(f"not a stream of zlib: {error}") from error
    check(stream.eof and not stream.unused_data, "a stream with too few or too many bytes")
    return contents


def compact(value: object) -> str:
    """ASCII, keys sorted, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def pretty(value: object) -> str:
    """The form of `manifest.json`."""
    options = {"sort_keys": True, "indent": 1, "separators": (",", ": "), "allow_nan": False}
    return json.dumps(value, **options) + "\n"


def parse(text: str, form=compact) -> object:
    """JSON in its one form; text that would be written differently is refused."""
    try:
        value = json.loads(text)
        same = form(value) == text
    except ValueError as error:
        raise FormatError(f"not JSON: {error}") from error
    check(same, "JSON is not in its one form")
    return value


def check_fields(value: object, names: str) -> None:
    """An object has exactly these fields."""
    check(isinstance(value, dict), "not an object")
    wrong = set(value) ^ set(names.split())
    check(not wrong, f"missing or unknown fields: {sorted(wrong)}")


def check_integers(values: list, low: int, high: int, length: int) -> None:
    """A list of so many integers within limits; true and false are no integers."""
    check(isinstance(values, list) and len(values) == length, f"not {length} integers: {values}")
    for value in values:
        check(type(value) is int and low <= value <= high, f"{value} is not in {low}..{high}")


# Edits


def parse_edits(text: str, height: int, width: int) -> list[dict]:
    """The edits of one negative, masks and tables unpacked, checked against the image's size."""
    check(len(text) <= 8 << 20, "edits of more than 8 MiB")
    edits = parse(text)
    check(isinstance(edits, list) and 1 <= len(edits) <= 64, "not 1 to 64 edits")
    for edit in edits:
        check(isinstance(edit, dict) and edit.get("kind") in ("copy", "blend"), "unknown edit")
        if edit["kind"] == "copy":
            _check_copy(edit, height, width)
        else:
            _unpack_blend(edit, height, width)
    check(sum(edit["kind"] == "blend" for edit in edits) <= 8, "more than 8 blends")
    return edits


def _check_copy(edit: dict, height: int, width: int) -> None:
    feathered = " feather_px" if "feather_px" in edit else ""
    check_fields(edit, "kind src dst angle_cdeg colour" + feathered)
    check_integers(edit["src"], 0, 4096, 4)
    check_integers(edit["dst"], -65536, 65536, 4)
    y, x, h, w = edit["src"]
    check(h >= 1 and w >= 1 and y + h <= height and x + w <= width, "src outside the image")
    check(edit["dst"][2:] == [h, w], "src and dst differ in size")
    check_integers([edit["angle_cdeg"]], -36000, 36000, 1)
    if edit["colour"] is not None:
        check_fields(edit["colour"], "gain_q8 offset")
        check_integers(edit["colour"]["gain_q8"], 0, 4096, 3)
        check_integers(edit["colour"]["offset"], -255, 255, 3)
    if feathered:
        check_integers([edit["feather_px"]], 1, 127, 1)


def _unpack_blend(edit: dict, height: int, width: int) -> None:
    check_fields(edit, "kind donor transform mask alpha")
    transform = edit["transform"]
    check_fields(transform, "quarter_turns flip_y flip_x shift lut")
    check_fields(edit["mask"], "bits shape")
    check_integers([edit["alpha"]], 0, 255, 1)
    check_integers([transform["quarter_turns"]], 0, 3, 1)
    check_integers(transform["shift"], -65536, 65536, 2)
    check(type(transform["flip_y"]) is bool and type(transform["flip_x"]) is bool, "flips")
    if transform["lut"] is not None:
        lut = from_base64(transform["lut"])
        check(len(lut) == 3 * 256, "a table has not 768 bytes")
        transform["lut"] = np.frombuffer(lut, np.uint8).reshape(3, 256)
    check(edit["mask"]["shape"] == [height, width], "a mask is not of the image's size")
    packed = inflated(from_base64(edit["mask"]["bits"]))
    check(len(packed) == (height * width + 7) // 8, "a mask has not as many bits as the image")
    bits = [byte >> (7 - place) & 1 for byte in packed for place in range(8)]
    check(not any(bits[height * width :]), "a mask's last byte is not filled up with zeros")
    check(any(bits), "a mask without pixels")
    edit["mask"] = np.array(bits[: height * width], bool).reshape(height, width)


def canonical_edits_digest(text: str) -> str:
    """Digest of the edits with each mask's bits replaced by their digest."""
    edits = parse(text)
    for edit in edits:
        if edit["kind"] == "blend":
            packed = inflated(from_base64(edit["mask"]["bits"]))
            edit["mask"] = {"sha256": sha256(packed), "shape": edit["mask"]["shape"]}
    return sha256(compact(edits).encode("ascii"))


def render(
    normal: np.ndarray, edits: list[dict], donors: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask (0 or 255) that the edits make of a normal image."""
    image, mask = normal.copy(), np.zeros(normal.shape[:2], np.uint8)
    for edit in edits:
        if edit["kind"] == "copy":
            pixels = _copied_pixels(normal, edit)
        else:
            check(edit["donor"] in donors, f"no donor {edit['donor']}")
            pixels = _blended_pixels(normal, edit, donors[edit["donor"]])
        check(pixels, "an edit writes nothing")
        for (y, x), value in pixels.items():
            image[y, x] = value
            mask[y, x] = 255
    return image, mask


def _copied_pixels(normal: np.ndarray, edit: dict) -> dict[tuple[int, int], list[int]]:
    """What a Copy writes, by row and column."""
    height, width = normal.shape[:2]
    sy, sx, h, w = edit["src"]
    y, x = edit["dst"][:2]
    angle = math.radians(edit["angle_cdeg"] / 100)
    c, s = round(65536 * math.cos(angle)), round(65536 * math.sin(angle))
    written = {}
    for py in range(height):
        u = 2 * py - (2 * y + h - 1)
        for px in range(width):
            v = 2 * px - (2 * x + w - 1)
            i = (c * u + s * v + ((h - 1) << 16) + (1 << 16)) >> 17
            j = (-s * u + c * v + ((w - 1) << 16) + (1 << 16)) >> 17
            if 0 <= i < h and 0 <= j < w:
                value = _recoloured(normal[sy + i, sx + j].tolist(), edit["colour"])
                if "feather_px" in edit:
                    d = min(i, h - 1 - i, j, w - 1 - j)
                    a = min(255, ((d + 1) * 255) // (edit["feather_px"] + 1))
                    value = _mixed(a, value, normal[py, px].tolist())
                written[py, px] = value
    return written


def _recoloured(value: list[int], colour: dict | None) -> list[int]:
    if colour is None:
        return value
    changes = zip(value, colour["gain_q8"], colour["offset"], strict=True)
    return [min(max((v * gain + 256 * add + 128) >> 8, 0), 255) for v, gain, add in changes]


def _mixed(alpha: int, over: list[int], under: list[int]) -> list[int]:
    return [(alpha * o + (255 - alpha) * u + 127) // 255 for o, u in zip(over, under, strict=True)]


def _blended_pixels(
    normal: np.ndarray, edit: dict, donor: np.ndarray
) -> dict[tuple[int, int], list[int]]:
    """What a Blend writes, by row and column."""
    transform = edit["transform"]
    for _ in range(transform["quarter_turns"]):
        hd, wd = donor.shape[:2]
        turned = np.empty((wd, hd, 3), np.uint8)
        for y in range(wd):
            for x in range(hd):
                turned[y, x] = donor[x, wd - 1 - y]
        donor = turned
    if transform["flip_y"]:
        donor = donor[::-1]
    if transform["flip_x"]:
        donor = donor[:, ::-1]
    hd, wd = donor.shape[:2]
    dy, dx = transform["shift"]
    written = {}
    for y, x in np.argwhere(edit["mask"]).tolist():
        value = donor[(y + dy) % hd, (x + dx) % wd].tolist()
        if transform["lut"] is not None:
            value = [int(transform["lut"][channel][value[channel]]) for channel in range(3)]
        written[y, x] = _mixed(edit["alpha"], value, normal[y, x].tolist())
    return written


# Shards


def read_shard(path: Path) -> dict:
    """Everything in a shard, with all of its digests recomputed and all negatives rendered.

    Returns a dict of `attributes`, `normals` and `negatives` (rows of the content digest),
    `donors` (digests), `images` and `masks` (of the negatives).
    """
    check(path.read_bytes()[:9] == b"\x89HDF\r\n\x1a\n\x03", "not HDF5 with a superblock version 3")
    with h5py.File(path, "r") as file:
        attributes = _read_attributes(file)
        arrays = _read_arrays(file, attributes)
    normals = _shard_normals(arrays)
    known = dict(zip((row[1] for row in normals), arrays["normals/image"], strict=True))
    donors = {}
    for digest, image in zip(
        arrays.get("donors/digest", ()), arrays.get("donors/image", ()), strict=True
    ):
        check(digest.tobytes().hex() == array_digest(image), "a donor's digest is wrong")
        check(digest.tobytes().hex() not in known, "a donor is a normal of its shard")
        check(digest.tobytes().hex() not in donors, "a donor is there twice")
        donors[digest.tobytes().hex()] = image
    negatives, images, masks = _shard_negatives(arrays, attributes, known, {**known, **donors})
    content = lines_digest("cutswap content 1", normals + negatives)
    saliency = lines_digest("cutswap saliency 1", _saliency_rows(arrays, normals))
    check(attributes["content_digest"] == content, "a shard's content digest is wrong")
    check(attributes["saliency_digest"] == saliency, "a shard's saliency digest is wrong")
    return {
        "attributes": attributes,
        "normals": normals,
        "negatives": negatives,
        "donors": sorted(donors),
        "images": images,
        "masks": masks,
    }


def _read_attributes(file: h5py.File) -> dict:
    attributes = {}
    for name, value in file.attrs.items():
        if name in ("schema_version", "height", "width"):
            check(value.dtype == np.int64 and value.shape == (), f"attribute {name}: {value!r}")
            attributes[name] = int(value)
        else:
            check(isinstance(value, np.bytes_), f"attribute {name} is not fixed-length text")
            attributes[name] = value.decode("utf-8")
    check_fields(attributes, ROOT_ATTRIBUTES)
    check(attributes["schema_version"] == 1, "another schema version")
    check(max(attributes["height"], attributes["width"]) <= 4096, "a canvas of more than 4096 px")
    check(attributes["store"] in ("pixels", "anchors"), "unknown store")
    attributes["environment"] = json.loads(attributes["environment"])
    return attributes


def _read_arrays(file: h5py.File, attributes: dict) -> dict[str, np.ndarray]:
    """All data sets by path; their shapes, types and layouts are those of the page's table."""
    found: dict[str, h5py.Dataset] = {}
    file.visititems(
        lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None
    )
    n, r = len(found["normals/digest"]), len(found["negatives/digest"])
    h, w = attributes["height"], attributes["width"]
    # Shape, type ("S" for text) and whether it holds rows; None is a size that the file decides.
    table = {
        "normals/image": ((n, h, w, 3), "u1", True),
        "normals/digest": ((n, 32), "u1", False),
        "normals/source": ((n,), "S", False),
        "normals/file_sha256": ((n, 32), "u1", False),
        "normals/canvas_box": ((n, 4), "<i4", False),
        "negatives/normal": ((r,), "<u4", False),
        "negatives/policy": ((r,), "S", False),
        "negatives/level": ((r,), "<i4", False),
        "negatives/repeat": ((r,), "<u2", False),
        "negatives/anchors": ((r, 2, 4), "<i4", False),
        "negatives/edits_data": ((None,), "u1", False),
        "negatives/edits_offset": ((r + 1,), "<u8", False),
        "negatives/fallback": ((r,), "u1", False),
        "negatives/rejections": ((r,), "<u2", False),
        "negatives/digest": ((r, 32), "u1", False),
    }
    if attributes["store"] == "pixels":
        table["negatives/image"] = ((r, h, w, 3), "u1", True)
        table["negatives/mask"] = ((r, h, w), "u1", True)
    if "donors" in file:
        table["donors/image"] = ((None, h, w, 3), "u1", True)
        table["donors/digest"] = ((None, 32), "u1", False)
    for group in file.get("saliency", ()):
        table[f"saliency/{group}/map"] = ((n, None, None), "u1", True)
        table[f"saliency/{group}/centre"] = ((n, None), "<f4", False)
    check(set(found) == set(table), f"data sets: {sorted(set(found) ^ set(table))}")
    for name, (shape, kind, rows) in table.items():
        item = found[name]
        check(
            len(item.shape) == len(shape)
            and all(size in (None, have) for size, have in zip(shape, item.shape, strict=True)),
            f"{name} has shape {item.shape}",
        )
        text = item.dtype.kind == "S"
        check(text if kind == "S" else item.dtype == np.dtype(kind), f"{name} is {item.dtype}")
        chunks = (1, *item.shape[1:]) if rows and len(item) else None
        check(item.chunks == chunks, f"{name} has chunks {item.chunks}")
        check(item.compression in (None, "gzip") and not item.shuffle, f"{name} has a filter")
    return {name: item[()] for name, item in found.items()}


def _shard_normals(arrays: dict[str, np.ndarray]) -> list[list]:
    """A row `["normal", ...]` of the content digest for each normal."""
    rows = []
    for image, digest, source, file_sha256, box in zip(
        arrays["normals/image"],
        arrays["normals/digest"],
        arrays["normals/source"],
        arrays["normals/file_sha256"],
        arrays["normals/canvas_box"],
        strict=True,
    ):
        check(digest.tobytes().hex() == array_digest(image), "a normal's digest is wrong")
        try:
            name = source.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError("a source is not UTF-8") from error
        check(not name.startswith("/") and ".." not in name.split("/"), f"source {name!r}")
        rows.append(
            ["normal", array_digest(image), name, file_sha256.tobytes().hex(), box.tolist()]
        )
    digests = [row[1] for row in rows]
    check(len(set(digests)) == len(digests), "two normals are alike")
    return rows


def _shard_negatives(
    arrays: dict[str, np.ndarray], attributes: dict, known: dict, donors: dict
) -> tuple[list[list], list[np.ndarray], list[np.ndarray]]:
    """Rows `["negative", ...]` of the content digest, and the images and masks, rendered."""
    digests = list(known)
    data, offsets = arrays["negatives/edits_data"], arrays["negatives/edits_offset"].tolist()
    check(offsets[0] == 0 and offsets[-1] == len(data), "edits_offset does not span edits_data")
    rows, images, masks = [], [], []
    unused = donors.keys() - known.keys()
    for j, normal in enumerate(arrays["negatives/normal"].tolist()):
        check(normal < len(digests), "a negative of no normal")
        text = ascii_text(data[offsets[j] : offsets[j + 1]].tobytes())
        edits = parse_edits(text, attributes["height"], attributes["width"])
        unused -= {edit["donor"] for edit in edits if "donor" in edit}
        image, mask = render(known[digests[normal]], edits, donors)
        if attributes["store"] == "pixels":
            same = np.array_equal(image, arrays["negatives/image"][j])
            check(same, f"negative {j}: other pixels than its edits render")
            same = np.array_equal(mask, arrays["negatives/mask"][j])
            check(same, f"negative {j}: another mask than its edits render")
        digest = arrays["negatives/digest"][j].tobytes().hex()
        check(digest == negative_digest(image, mask), f"negative {j}: its digest is wrong")
        fallback = int(arrays["negatives/fallback"][j])
        check(fallback < len(FALLBACKS), f"negative {j}: fallback {fallback}")
        rows.append(
            [
                "negative",
                digests[normal],
                ascii_text(arrays["negatives/policy"][j]),
                int(arrays["negatives/level"][j]),
                int(arrays["negatives/repeat"][j]),
                arrays["negatives/anchors"][j].tolist(),
                canonical_edits_digest(text),
                fallback,
                int(arrays["negatives/rejections"][j]),
                digest,
            ]
        )
        images.append(image)
        masks.append(mask)
    check(not unused, "a donor that no negative needs")
    return rows, images, masks


def _saliency_rows(arrays: dict[str, np.ndarray], normals: list[list]) -> list[list]:
    """A row of the saliency digest for each normal and level."""
    groups = {name.split("/")[1] for name in arrays if name.startswith("saliency/")}
    levels = sorted(int(group.removeprefix("level_")) for group in groups)
    rows = []
    for i, normal in enumerate(normals):
        for level in levels:
            centres = arrays[f"saliency/level_{level}/centre"][i]
            used = centres[~np.isnan(centres)]
            check(np.isnan(centres[len(used) :]).all(), "a NaN before the last centre")
            saliency = arrays[f"saliency/level_{level}/map"][i]
            rows.append(["saliency", normal[1], level, array_digest(saliency), array_digest(used)])
    return rows


# Sets


def read_set(folder: Path) -> dict:
    """A whole set, checked from `manifest.sha256` down to every pixel.

    Returns a dict of `set_digest`, `manifest` and `shards` (see `read_shard`).
    """
    data = (folder / "manifest.json").read_bytes()
    accepted = ascii_text((folder / "manifest.sha256").read_bytes()).split("\n")
    check(accepted.pop() == "" and 1 <= len(accepted) <= 2, "manifest.sha256 has not 1 or 2 lines")
    check(f"{sha256(data)}  manifest.json" in accepted, "manifest.sha256 names another manifest")
    manifest = parse(ascii_text(data), pretty)
    _check_manifest(manifest)
    shards = []
    for entry in manifest["shards"]:
        data_of_shard = (folder / entry["name"]).read_bytes()
        check(len(data_of_shard) == entry["file_bytes"], f"{entry['name']} has another size")
        check(sha256(data_of_shard) == entry["file_sha256"], f"{entry['name']} has changed")
        shard = read_shard(folder / entry["name"])
        for name in ("content_digest", "saliency_digest", "environment"):
            check(shard["attributes"][name] == entry[name], f"{entry['name']}: another {name}")
        geometry = manifest["recipe"]["geometry"]
        for name in ("height", "width"):
            check(shard["attributes"][name] == geometry[name], f"{entry['name']}: another {name}")
        shards.append(shard)
    rows = [(shard["normals"], shard["negatives"]) for shard in shards]
    _check_counts(manifest, rows)
    return {"set_digest": sha256(data), "manifest": manifest, "shards": shards}


def _check_manifest(manifest: object) -> None:
    """The fields of a manifest, and its digests as far as they follow from it alone."""
    check_fields(manifest, MANIFEST_FIELDS)
    check(manifest["schema_version"] == 1, "another schema version")
    check(manifest["saliency"] in ("stored", "absent", "unused"), "saliency")
    check_fields(manifest["origin"], "command sets options")
    commands = ("build", "replay", "merge", "subset")
    check(manifest["origin"]["command"] in commands, f"origin {manifest['origin']['command']!r}")
    training = manifest["training_files"]
    check(training == sorted(set(training)), "training_files is not sorted or has repeats")
    for number, entry in enumerate(manifest["shards"]):
        check_fields(entry, SHARD_FIELDS)
        check(entry["name"] == f"shard-{number:05d}.h5", f"shard {entry['name']!r}")
    for row in manifest["skipped"]:
        check_fields(row, "source reason")
    for name in ("content_digest", "saliency_digest"):
        expected = set_digest([entry[name] for entry in manifest["shards"]])
        check(manifest[name] == expected, f"the set's {name} is wrong")


def _check_counts(manifest: dict, rows: list[tuple[list[list], list[list]]]) -> None:
    """Counts and fallbacks are those of the normals and negatives of every shard."""
    policies: dict = {}
    fallbacks: dict = {}
    for entry, (normals, negatives) in zip(manifest["shards"], rows, strict=True):
        check(entry["normals"] == len(normals), f"{entry['name']}: another number of normals")
        check(entry["negatives"] == len(negatives), f"{entry['name']}: another number of negatives")
        check({row[3] for row in normals} <= set(manifest["training_files"]), "an unnamed file")
        for row in negatives:
            policy, level, fallback = row[2], str(row[3]), FALLBACKS[row[7]]
            of_policy = policies.setdefault(policy, {})
            of_policy[level] = of_policy.get(level, 0) + 1
            of_level = fallbacks.setdefault(policy, {}).setdefault(level, {})
            of_level[fallback] = of_level.get(fallback, 0) + 1
    counts = manifest["counts"]
    check(counts["normals"] == sum(len(normals) for normals, _ in rows), "counts.normals")
    check(counts["negatives"] == sum(len(negatives) for _, negatives in rows), "counts.negatives")
    check(counts["policies"] == policies, "counts.policies")
    check(manifest["fallbacks"] == fallbacks, "fallbacks")


# Recipes


def read_recipe(path: Path, images: dict[str, np.ndarray] | None = None) -> dict:
    """A recipe, its digests recomputed; with the normals' `images` also rendered.

    Returns a dict of `set_digest`, `manifest`, `shards` (pairs of rows as in the content digest)
    and `donors` (images by digest).
    """
    header, found, body = path.read_bytes().partition(b"\n")
    words = header.decode("ascii", "replace").split(" ")
    check(found and words[:-1] == ["cutswap-recipe", "1"], "not a recipe of version 1")
    check(words[-1] == sha256(body), "the recipe's bytes have changed")
    text = ascii_text(inflated(body, gzip_member=True))
    check(text.endswith("\n"), "a recipe's last line has no end")
    lines = [parse(line) for line in text.split("\n")[:-1]]
    check(lines and lines[0][0] == "manifest", "a recipe begins with its manifest")
    manifest = lines[0][1]
    _check_manifest(manifest)
    geometry = manifest["recipe"]["geometry"]

    shards: list[tuple[list[list], list[list]]] = []
    edits_of: list[tuple[str, list[dict], str]] = []
    donors: dict[str, np.ndarray] = {}
    for line in lines[1:]:
        kind = line[0]
        check(kind in ("shard", "normal", "negative", "donor"), f"unknown line {kind!r}")
        check(kind == "donor" or not donors, "a line after the donors")
        if kind == "shard":
            check(line[1] == f"shard-{len(shards):05d}.h5", f"shard {line[1]!r}")
            shards.append(([], []))
        elif kind == "normal":
            check(not shards[-1][1], "a normal after its shard's negatives")
            shards[-1][0].append(line)
        elif kind == "negative":
            _, row, policy, level, repeat, anchors, edits, fallback, rejections, digest = line
            check(0 <= row < len(shards[-1][0]), "a negative of no normal")
            normal = shards[-1][0][row][1]
            record = compact(edits)
            shards[-1][1].append(
                ["negative", normal, policy, level, repeat, anchors]
                + [canonical_edits_digest(record), fallback, rejections, digest]
            )
            parsed = parse_edits(record, geometry["height"], geometry["width"])
            edits_of.append((normal, parsed, digest))
        else:
            _, digest, shape, pixels = line
            values = inflated(from_base64(pixels))
            canvas = [geometry["height"], geometry["width"], 3]
            check(shape == canvas, "a donor is not of the canvas' size")
            check(len(values) == math.prod(shape), "a donor has not as many pixels as it says")
            image = np.frombuffer(values, np.uint8).reshape(shape)
            check(array_digest(image) == digest, "a donor's digest is wrong")
            check(not donors or max(donors) < digest, "donors are not sorted")
            donors[digest] = image

    normals = {row[1] for rows, _ in shards for row in rows}
    check(not normals & set(donors), "a donor is a normal of the set")
    check(len(manifest["shards"]) == len(shards), "another number of shards")
    for entry, (rows, negatives) in zip(manifest["shards"], shards, strict=True):
        content = lines_digest("cutswap content 1", rows + negatives)
        check(entry["content_digest"] == content, f"{entry['name']}: another content digest")
    _check_counts(manifest, shards)
    if images is not None:
        for normal, edits, digest in edits_of:
            image, mask = render(images[normal], edits, {**images, **donors})
            check(negative_digest(image, mask) == digest, "a negative renders differently")
    digest = sha256(pretty(manifest).encode("ascii"))
    return {"set_digest": digest, "manifest": manifest, "shards": shards, "donors": donors}
