"""docs/formats.md is enough: a reader made from that page alone reads whatever is written here.

Source: docs/formats.md
"""

from __future__ import annotations

import ast
import base64
import gzip
import json
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import invoke_gen
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from manifests import edits as ours
from manifests.digest import array_digest, bytes_digest
from manifests.edit_codec import canonical, encode
from manifests.edits import Blend, ColourShift, Copy, DonorTransform
from manifests.errors import CutswapError
from manifests.negative_set import NegativeSet
from manifests.recipe import write_recipe
from manifests.shard import negative_digest
from reference import formats_reader as reader
from reference.formats_reader import FormatError, read_recipe, read_set
from reference.loose_sets import loose_set
from reference.small_sets import H, W, records

POLICIES = "swap,scar,random-swap,random-scar,cutpaste,cutpaste-scar,perlin,saliency-perlin"
ALLOWED_IMPORTS = {"base64", "gzip", "h5py", "hashlib", "json", "math", "numpy", "pathlib", "zlib"}


@dataclass(frozen=True)
class Written:
    """Sets by name, each with its recipe beside it."""

    root: Path

    def folder(self, name: str) -> Path:
        (manifest,) = (self.root / name).glob("**/manifest.json")
        return manifest.parent

    def recipe(self, name: str) -> Path:
        return self.root / f"{name}.recipe"


@cache
def read_once(folder: Path) -> dict:
    """What the reader finds in a set that no test changes."""
    return read_set(folder)


def write_photos(folder: Path) -> None:
    """Three textured images, two of another shape than the canvas, one with an accent."""
    folder.mkdir(parents=True)
    for number, (height, width) in enumerate([(48, 64), (60, 40), (40, 90)]):
        noise = np.random.default_rng(number).integers(0, 256, (8, 11, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"photo é{number}.png")


def hand_made():
    """Records of every kind of edit: blends of normals and of others, tables, colours, seams.

    In shards of two, the last normal is alone, and its donors are normals of another shard.
    """
    normals, negatives, donors = records(5, 10)
    donors |= {row.digest: row.image for row in normals}
    table = np.random.default_rng(5).integers(0, 256, (3, 256), dtype=np.uint8)
    spots = np.random.default_rng(6).random((H, W)) < 0.2
    extra = (
        Blend(normals[0].digest, DonorTransform(3, False, True, (-7, 50), table), spots, 200),
        Copy((3, 4, 11, 9), (-4, 38, 11, 9), -2345, ColourShift((300, 0, 256), (-9, 90, 0)), 4),
        Copy((0, 0, 7, 5), (20, 10, 7, 5), 36000, None, 127),
        Blend(normals[1].digest, DonorTransform(2, True, True, (0, 0)), ~spots, 0),
    )
    for row, edits in [(1, extra), (4, extra[::-1]), (0, extra[1:3])]:
        image, mask = ours.render(normals[row].image, edits, donors)
        new = {"edits": edits, "image": image, "mask": mask, "normal": row, "policy": "by-hand"}
        digest = negative_digest(image, mask)
        negatives.append(replace(negatives[0], digest=digest, level=-1, repeat=row, **new))
    return normals, negatives, donors


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Written:
    """Sets of every origin: built, subset, merged, and written by hand in both stores."""
    root = tmp_path_factory.mktemp("formats")
    photos = root / "photos"
    write_photos(photos)
    invoke_gen(
        "build", photos, "--out", root / "built", "--policies", POLICIES, "--levels", "1,3",
        "--image-size", "48x64", "--fit", "letterbox", "--feather", 12, "--repeats", 2,
        "--shard-images", 2, "--jobs", 1, "--quiet",
    )  # fmt: skip
    built = root / "built" / "photos"
    for name, kinds in [("subset", "swap,cutpaste"), ("other", "cutpaste,scar,cutpaste-scar")]:
        invoke_gen("subset", built, "--out", root / name, "--policies", kinds, "--levels", "3")
    invoke_gen(
        "merge", root / "subset", root / "other", "--out", root / "merged", "--store", "anchors",
    )  # fmt: skip
    for store in ("pixels", "anchors"):
        loose_set(root / store, *hand_made(), shard_images=2, store=store)
    written = Written(root)
    for name in ("built", "subset", "merged", "pixels", "anchors"):
        with NegativeSet.open(written.folder(name)) as negative_set:
            write_recipe(written.recipe(name), negative_set, with_donors=True)
    return written


def test_the_reader_is_independent_of_this_project():
    tree = ast.parse(Path(reader.__file__).read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported <= ALLOWED_IMPORTS


# Sets


@pytest.mark.parametrize("name", ["built", "subset", "merged", "pixels", "anchors"])
def test_a_set_is_what_the_page_says(written, name):
    found = read_once(written.folder(name))
    images = [image for shard in found["shards"] for image in shard["images"]]
    masks = [mask for shard in found["shards"] for mask in shard["masks"]]
    with NegativeSet.open(written.folder(name)) as negative_set:
        assert found["set_digest"] == negative_set.digest
        assert len(images) == len(negative_set) > 0
        for image, mask, negative in zip(images, masks, negative_set, strict=True):
            assert np.array_equal(image, negative.image)
            assert np.array_equal(mask > 0, negative.mask)
        sources = [row[2] for shard in found["shards"] for row in shard["normals"]]
        count = range(negative_set.n_normals)
        assert sources == [negative_set.normal(i).source for i in count]


def test_the_sets_hold_all_that_the_page_describes(written):
    """Else the reader would agree because nothing was asked of it."""
    built = read_once(written.folder("built"))
    kinds = [row[2] for shard in built["shards"] for row in shard["negatives"]]
    assert set(kinds) == set(POLICIES.split(",")) and len(kinds) == 3 * 8 * 2 * 2
    assert len(built["shards"]) == 2
    boxes = [tuple(row[4]) for shard in built["shards"] for row in shard["normals"]]
    assert len(set(boxes)) == 3 and (0, 0, 48, 64) in boxes
    assert any(not row[2].isascii() for shard in built["shards"] for row in shard["normals"])

    texts = [written_edits(written.folder(name)) for name in ("built", "pixels")]
    edits = [edit for text in texts for edit in text]
    copies = [edit for edit in edits if edit["kind"] == "copy"]
    assert {"copy", "blend"} == {edit["kind"] for edit in edits}
    assert {1, 2, 127} <= {edit.get("feather_px", 0) for edit in copies}
    assert any(edit["angle_cdeg"] % 36000 for edit in copies)
    assert any(edit["colour"] for edit in copies)
    assert any(min(edit["dst"][:2]) < 0 for edit in copies)
    blends = [edit["transform"] for edit in edits if edit["kind"] == "blend"]
    assert {blend["quarter_turns"] for blend in blends} >= {1, 2, 3}
    assert any(blend["lut"] for blend in blends)

    hand = read_once(written.folder("pixels"))
    assert hand["manifest"]["saliency"] == "stored"
    travelling = [donor for shard in hand["shards"] for donor in shard["donors"]]
    normals = {row[1] for shard in hand["shards"] for row in shard["normals"]}
    assert set(travelling) & normals and set(travelling) - normals
    merged = read_once(written.folder("merged"))["manifest"]
    assert merged["origin"]["command"] == "merge"
    assert merged["counts"]["merged"]["duplicate_negatives"] > 0
    assert read_once(written.folder("subset"))["manifest"]["origin"]["command"] == "subset"


def written_edits(folder: Path) -> list[dict]:
    """All edits of a set, as they stand in its shards."""
    found = []
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path) as shard:
            data, offset = shard["negatives/edits_data"][()], shard["negatives/edits_offset"][()]
        for start, end in pairwise(offset):
            found += json.loads(data[start:end].tobytes())
    return found


def test_both_stores_have_the_same_content(written):
    pixels, anchors = (read_once(written.folder(name)) for name in ("pixels", "anchors"))
    assert pixels["set_digest"] != anchors["set_digest"]
    for field in ("content_digest", "saliency_digest"):
        assert pixels["manifest"][field] == anchors["manifest"][field]
    for one, other in zip(pixels["shards"], anchors["shards"], strict=True):
        assert [one["attributes"]["store"], other["attributes"]["store"]] == ["pixels", "anchors"]
        assert one["negatives"] == other["negatives"]


def test_a_manifest_in_the_middle_of_being_replaced_is_accepted(written, tmp_path):
    folder = shutil.copytree(written.folder("anchors"), tmp_path / "set")
    record = folder / "manifest.sha256"
    line, stale = record.read_text(), f"{'0' * 64}  manifest.json\n"
    for text in (line + stale, stale + line):
        record.write_text(text)
        read_set(folder)
        NegativeSet.open(folder).close()
    for text in (stale, stale + stale, line + stale + stale, ""):
        record.write_text(text)
        with pytest.raises(FormatError, match=r"manifest\.sha256"):
            read_set(folder)
        with pytest.raises(CutswapError):
            NegativeSet.open(folder)


# Recipes


@pytest.mark.parametrize("name", ["built", "subset", "merged", "pixels", "anchors"])
def test_a_recipe_is_the_set_without_its_pixels(written, name):
    expected = read_once(written.folder(name))
    with NegativeSet.open(written.folder(name)) as negative_set:
        normals = [negative_set.normal(i).image for i in range(negative_set.n_normals)]
    found = read_recipe(written.recipe(name), {array_digest(image): image for image in normals})
    assert found["set_digest"] == expected["set_digest"]
    assert found["manifest"] == expected["manifest"]
    rows = [(shard["normals"], shard["negatives"]) for shard in expected["shards"]]
    assert found["shards"] == rows
    donors = {donor for shard in expected["shards"] for donor in shard["donors"]}
    assert set(found["donors"]) == donors - {array_digest(image) for image in normals}
    assert bool(found["donors"]) == (name in ("pixels", "anchors"))


# Changes


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256", "shard-00000.h5", "recipe"])
def test_a_changed_byte_is_found(written, tmp_path, name):
    if name == "recipe":
        path, read = tmp_path / "changed.recipe", read_recipe
        path.write_bytes(written.recipe("anchors").read_bytes())
        argument = path
    else:
        argument = shutil.copytree(written.folder("anchors"), tmp_path / "set")
        path, read = argument / name, read_set
    before = path.read_bytes()
    places = {0, len(before) - 1, *range(0, len(before), max(1, len(before) // 40))}
    for place in sorted(places):
        changed = bytearray(before)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(FormatError):
            read(argument)
    path.write_bytes(before)
    read(argument)


@pytest.fixture(scope="module")
def one_shard(tmp_path_factory) -> Path:
    """A small set of one shard with every data set of the page."""
    folder = tmp_path_factory.mktemp("one") / "tiles"
    loose_set(folder, *records(2, 6), shard_images=2)
    return folder


def data_sets() -> list[str]:
    """Every data set of the page, of a shard with pixels, donors and a saliency level 4."""
    page = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    rows = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    groups = ("normals/", "saliency/", "negatives/", "donors/")
    return [row.replace("<l>", "4") for row in rows if row.startswith(groups)]


def sign(folder: Path) -> None:
    """Makes the digests of files right again, as somebody would who changed a shard on purpose."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for entry in manifest["shards"]:
        entry["file_sha256"] = reader.sha256((folder / entry["name"]).read_bytes())
    data = reader.pretty(manifest).encode("ascii")
    (folder / "manifest.json").write_bytes(data)
    (folder / "manifest.sha256").write_text(f"{reader.sha256(data)}  manifest.json\n")


@pytest.mark.parametrize("name", data_sets())
def test_a_changed_value_is_found_under_right_file_digests(one_shard, tmp_path, name):
    folder = shutil.copytree(one_shard, tmp_path / "set")
    with h5py.File(folder / "shard-00000.h5", "r+") as shard:
        values = shard[name][()]
        flat = values.reshape(-1)
        if values.dtype.kind == "S":
            flat[0] = b"x" + flat[0][1:]
        elif values.dtype.kind == "f":
            flat[0] += 1
        else:
            flat[0] ^= 1
        shard[name][...] = values
    sign(folder)
    with pytest.raises(FormatError):
        read_set(folder)


def test_signing_an_unchanged_set_changes_nothing(one_shard, tmp_path):
    folder = shutil.copytree(one_shard, tmp_path / "set")
    sign(folder)
    assert read_set(folder)["set_digest"] == read_once(one_shard)["set_digest"]


def signed_recipe(path: Path, lines: list[list]) -> Path:
    """A recipe of these lines whose header is right."""
    body = gzip.compress("".join(reader.compact(line) + "\n" for line in lines).encode(), mtime=0)
    path.write_bytes(f"cutswap-recipe 1 {reader.sha256(body)}\n".encode() + body)
    return path


def recipe_lines(path: Path) -> list[list]:
    text = gzip.decompress(path.read_bytes().partition(b"\n")[2])
    return [json.loads(line) for line in text.splitlines()]


def recipe_changes() -> Iterator:
    """A kind of line, a place in it, and what is put there."""
    yield pytest.param("shard", 1, "shard-00007.h5", id="shard")
    yield pytest.param("normal", 1, "0" * 64, id="digest")
    yield pytest.param("normal", 2, "train/another.png", id="source")
    yield pytest.param("normal", 4, [0, 0, 1, 1], id="canvas box")
    yield pytest.param("negative", 1, 1, id="row")
    yield pytest.param("negative", 2, "scars", id="policy")
    yield pytest.param("negative", 4, 900, id="repeat")
    yield pytest.param("negative", 7, 4, id="fallback")
    yield pytest.param("negative", 8, 900, id="rejections")
    yield pytest.param("negative", 9, "0" * 64, id="negative digest")
    pixels = base64.b64encode(zlib.compress(bytes(H * W * 3))).decode()
    yield pytest.param("donor", 3, pixels, id="donor")


@pytest.mark.parametrize(("kind", "place", "value"), [*recipe_changes()])
def test_a_changed_line_is_found_under_a_right_header(written, tmp_path, kind, place, value):
    lines = recipe_lines(written.recipe("pixels"))
    line = next(line for line in lines if line[0] == kind)
    assert line[place] != value
    line[place] = value
    with pytest.raises(FormatError):
        read_recipe(signed_recipe(tmp_path / "changed.recipe", lines))


def test_changed_edits_are_found_under_a_right_header(written, tmp_path):
    lines = recipe_lines(written.recipe("pixels"))
    copy = next(line for line in lines if line[0] == "negative" and line[6][0]["kind"] == "copy")
    copy[6][0]["angle_cdeg"] += 100
    with pytest.raises(FormatError, match="another content digest"):
        read_recipe(signed_recipe(tmp_path / "changed.recipe", lines))
    copy[6][0]["angle_cdeg"] -= 100
    read_recipe(signed_recipe(tmp_path / "same.recipe", lines))


# Rendering

boxes = st.integers(1, 9)


@st.composite
def copies(draw, height: int, width: int) -> dict:
    h, w = draw(st.integers(1, height)), draw(st.integers(1, width))
    src = [draw(st.integers(0, height - h)), draw(st.integers(0, width - w)), h, w]
    dst = [draw(st.integers(-h, height)), draw(st.integers(-w, width)), h, w]
    gain = st.lists(st.integers(0, 4096), min_size=3, max_size=3)
    offset = st.lists(st.integers(-255, 255), min_size=3, max_size=3)
    colour = draw(st.none() | st.fixed_dictionaries({"gain_q8": gain, "offset": offset}))
    angle = draw(st.sampled_from([0, 4500, 9000, -9000, 18000]) | st.integers(-36000, 36000))
    edit = {"kind": "copy", "src": src, "dst": dst, "angle_cdeg": angle, "colour": colour}
    feather = draw(st.integers(0, 6) | st.just(127))
    return edit | ({"feather_px": feather} if feather else {})


@st.composite
def blends(draw, height: int, width: int, donor: str) -> dict:
    count = height * width
    bits = draw(st.lists(st.booleans(), min_size=count, max_size=count).filter(any))
    packed = np.packbits(np.array(bits, bool)).tobytes()
    lut = draw(st.none() | st.binary(min_size=768, max_size=768))
    shift = st.integers(-65536, 65536) | st.integers(-9, 9)
    transform = {
        "quarter_turns": draw(st.integers(0, 3)),
        "flip_y": draw(st.booleans()),
        "flip_x": draw(st.booleans()),
        "shift": [draw(shift), draw(shift)],
        "lut": lut if lut is None else base64.b64encode(lut).decode(),
    }
    mask = {"bits": base64.b64encode(zlib.compress(packed)).decode(), "shape": [height, width]}
    alpha = draw(st.integers(0, 255))
    return {"kind": "blend", "donor": donor, "transform": transform, "mask": mask, "alpha": alpha}


@st.composite
def scenes(draw):
    """A normal, a donor of any size, and the text of one to four edits."""
    height, width = draw(boxes), draw(boxes)
    noise = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    normal = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
    donor = noise.integers(0, 256, (draw(boxes), draw(boxes), 3), dtype=np.uint8)
    edit = copies(height, width) | blends(height, width, array_digest(donor))
    edits = draw(st.lists(edit, min_size=1, max_size=4))
    return normal, donor, reader.compact(edits)


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_any_edits_render_as_the_page_says(scene):
    normal, donor, text = scene
    donors = {array_digest(donor): donor}
    try:
        edits = ours.decode(text.encode(), *normal.shape[:2])
    except CutswapError:  # a copy that lies outside
        with pytest.raises(FormatError, match="an edit writes nothing"):
            reader.render(normal, reader.parse_edits(text, *normal.shape[:2]), donors)
        return
    image, mask = ours.render(normal, edits, donors)
    expected, expected_mask = reader.render(
        normal, reader.parse_edits(text, *normal.shape[:2]), donors
    )
    assert np.array_equal(image, expected)
    assert np.array_equal(np.where(mask, 255, 0), expected_mask)
    assert bytes_digest(canonical(edits)) == reader.canonical_edits_digest(text)
    assert negative_digest(image, mask) == reader.negative_digest(expected, expected_mask)


def test_mixing_rounds_as_the_page_says():
    """Weights that share no factor with 255, or no value would lie on a boundary."""
    noise = np.random.default_rng(3)
    normal, donor = noise.integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
    everywhere = np.ones((24, 24), dtype=bool)
    donors = {array_digest(donor): donor}
    mixtures: list[Blend | Copy] = [
        Blend(array_digest(donor), DonorTransform(), everywhere, alpha)
        for alpha in (1, 2, 127, 128, 254)
    ]
    mixtures += [Copy((0, 0, 20, 20), (4, 4, 20, 20), 0, None, f) for f in (3, 6, 15, 31)]
    boundaries = 0
    for edit in mixtures:
        image, _ = ours.render(normal, [edit], donors)
        edits = reader.parse_edits(encode([edit]).decode(), 24, 24)
        assert np.array_equal(image, reader.render(normal, edits, donors)[0])
        if isinstance(edit, Blend):
            difference = donor.astype(int) - normal
            boundaries += np.count_nonzero(edit.alpha * difference % 255 == 127)
    assert boundaries > 10


def test_long_boxes_turn_as_the_page_says():
    """Only far from the centre does the last bit of a sine decide which pixel is read."""
    normal = np.random.default_rng(4).integers(0, 256, (6, 4096, 3), dtype=np.uint8)
    for angle in (7, -13, 17995):
        copy = Copy((0, 0, 6, 4096), (0, 0, 6, 4096), angle)
        image, mask = ours.render(normal, [copy])
        edits = reader.parse_edits(encode([copy]).decode(), 6, 4096)
        expected, expected_mask = reader.render(normal, edits, {})
        assert np.array_equal(image, expected)
        assert np.array_equal(np.where(mask, 255, 0), expected_mask)


def edit_mutations() -> Iterator[tuple[str, str]]:
    """A record, and what makes another of it that neither reader may take."""
    copy = '[{"angle_cdeg":0,"colour":null,"dst":[0,1,2,2],"kind":"copy","src":[0,0,2,2]}]'
    yield copy, "[]"
    for old, new in [
        (",", ", "),
        ('"angle_cdeg":0', '"angle_cdeg":0,"angle_cdeg":0'),
        ('"angle_cdeg":0', '"angle_cdeg":0.0'),
        ('"angle_cdeg":0', '"angle_cdeg":36001'),
        ('"angle_cdeg":0', '"angle_cdeg":false'),
        ('"angle_cdeg":0,"colour":null', '"colour":null,"angle_cdeg":0'),
        ('"colour":null,', ""),
        ('"colour":null', '"colour":{"gain_q8":[4097,0,0],"offset":[0,0,0]}'),
        ('"colour":null', '"colour":{"gain_q8":[0,0,0],"offset":[0,-256,0]}'),
        ('[0,1,2,2],"kind"', '[0,1,2,2],"feather_px":0,"kind"'),
        ('[0,1,2,2],"kind"', '[0,1,2,2],"feather_px":128,"kind"'),
        ("[0,1,2,2]", "[0,1,2,3]"),
        ("[0,1,2,2]", "[-65537,1,2,2]"),
        ("[0,0,2,2]", "[0,4,2,2]"),
        ("[0,0,2,2]", "[-1,0,2,2]"),
        ('"kind":"copy"', '"kind":"move"'),
        ('"src":[0,0,2,2]', '"src":[0,0,2,2],"z":0'),
    ]:
        assert old in copy
        yield copy, copy.replace(old, new)
    yield copy, "[" + ",".join([copy[1:-1]] * 65) + "]"


@pytest.mark.parametrize(("text", "changed"), [*edit_mutations()])
def test_what_the_page_rules_out_both_refuse(text, changed):
    reader.parse_edits(text, 5, 5)
    ours.decode(text.encode(), 5, 5)
    with pytest.raises(FormatError):
        reader.parse_edits(changed, 5, 5)
    with pytest.raises(CutswapError):
        ours.decode(changed.encode(), 5, 5)


def test_no_angle_is_near_a_rounding_boundary():
    """So that any correct sine gives the same integers; the page names the distance."""
    radians = np.deg2rad(np.arange(-36000, 36001) / 100)
    exact = 65536 * np.concatenate([np.cos(radians), np.sin(radians)])
    distance = np.abs(exact - np.floor(exact) - 0.5)
    assert distance.min() > 1e-5
