"""`cutswap-gen check`: every kind of finding, on data sets of a few small images."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import invoke_gen
from PIL import Image

from generator.check_text import describe_check
from generator.data_check import DataCheck, check_category
from generator.finding import KINDS, Finding
from manifests.datasets import open_data

H, W = 48, 40


def photo(seed: int, height: int = H, width: int = W) -> np.ndarray:
    """(H, W, 3) uint8 with R, G and B apart, unlike that of any other seed."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def marked(height: int = H, width: int = W, value: int = 255) -> np.ndarray:
    """(H, W) uint8 mask with one marked corner."""
    mask = np.zeros((height, width), np.uint8)
    mask[:5, :7] = value
    return mask


def part(root: Path, *, good: int = 4) -> Path:
    """A category in MVTec layout with nothing wrong but its small size."""
    for number in range(good):
        save(root / f"train/good/{number}.png", photo(number))
    save(root / "test/good/0.png", photo(100))
    save(root / "test/dent/0.png", photo(200))
    save(root / "ground_truth/dent/0_mask.png", marked())
    return root


def checked(root: Path, *, rate: float = 0.5, **options: object) -> DataCheck:
    (category,) = open_data(root, **options)
    return check_category(category, false_alarm_rate=rate, max_pixels=10**6, jobs=2)


def found(root: Path, **options: object) -> dict[str, Finding]:
    """Findings by kind, without the note on few images, which all of these have."""
    findings = checked(root, **options).findings
    assert len({one.kind for one in findings}) == len(findings)
    return {one.kind: one for one in findings if one.kind != "few-normals" or one.spoils}


def only(root: Path, **options: object) -> Finding:
    (finding,) = found(root, **options).values()
    return finding


def test_nothing_wrong(tmp_path: Path) -> None:
    assert found(part(tmp_path / "part")) == {}


# --- the same twice -------------------------------------------------------------------------------


def test_a_test_image_that_is_a_training_image(tmp_path: Path) -> None:
    root = part(tmp_path / "part")
    save(root / "test/good/copy.bmp", photo(2))  # another file of the same pixels
    one = only(root)
    assert (one.kind, one.spoils) == ("train-test-overlap", True)
    assert one.title == "1 test image has the pixels of a training image"
    assert one.rows == (
        (
            "test/good/copy.bmp = train/good/2.png",
            {
                "source": "test/good/copy.bmp",
                "split": "test",
                "defect": "good",
                "other": "train/good/2.png",
                "other_split": "train",
                "other_defect": "good",
            },
        ),
    )


def test_a_defective_image_that_is_a_good_one(tmp_path: Path) -> None:
    root = part(tmp_path / "part")
    save(root / "test/dent/0.png", photo(100))
    one = only(root)
    assert (one.kind, one.spoils) == ("label-conflict", True)
    assert one.rows[0][0] == "test/dent/0.png = test/good/0.png"
    save(root / "test/dent/0.png", photo(3))
    both = found(root)
    assert list(both) == ["train-test-overlap", "label-conflict"]
    assert both["train-test-overlap"].title.endswith(", 1 of them labelled defective")


def test_duplicates_within_a_split_are_a_note(tmp_path: Path) -> None:
    root = part(tmp_path / "part")
    grey = photo(7)[:, :, 0]
    save(root / "train/good/grey.png", grey)
    save(root / "train/good/rgb.png", np.dstack([grey] * 3))
    findings = found(root)
    assert list(findings) == ["duplicate", "pixels"]
    assert not findings["duplicate"].spoils
    assert findings["duplicate"].title == "1 training image has the pixels of another one"
    assert findings["duplicate"].rows[0][0] == "train/good/rgb.png = train/good/grey.png"


def smooth(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((160, 192), Image.Resampling.BICUBIC))


def test_near_duplicates_are_a_note_and_those_of_both_splits_come_first(tmp_path: Path) -> None:
    root = part(tmp_path / "part")
    for number in range(4):
        save(root / f"train/good/{number}.png", smooth(number))
    save(root / "train/good/again.jpg", smooth(1))  # compressed anew
    darker = (smooth(2) * 0.8).astype(np.uint8)
    save(root / "test/good/0.png", darker)
    save(root / "test/dent/0.png", smooth(300))
    save(root / "ground_truth/dent/0_mask.png", marked(192, 160))
    one = only(root)
    assert (one.kind, one.spoils) == ("near-duplicate", False)
    assert one.title == (
        "2 pairs of images nearly alike (at most 8 of 256 bits of a difference hash), 1 of them of "
        "a training and a test image, 0 of a good and a defective one"
    )
    assert [text for text, _ in one.rows] == [
        "train/good/2.png ~ test/good/0.png",
        "train/good/1.png ~ train/good/again.jpg",
    ]


def test_parts_in_both_splits(tmp_path: Path) -> None:
    for number in (10, 20):  # two exposures of one tile
        save(tmp_path / f"MT_Free/Imgs/exp{number // 10}_num_{number}.jpg", smooth(number))
    names = tmp_path / "train.txt"
    names.write_text("exp1_num_10.jpg\n")
    findings = found(tmp_path, format="mtd", train_list=names)
    assert findings["part-overlap"].title == (
        "1 test image shows a part that training images show as well"
    )
    assert findings["part-overlap"].rows[0][0].endswith(": 1 for training, 1 for testing")


# --- files ----------------------------------------------------------------------------------------


def png_header(height: int, width: int) -> bytes:
    """A PNG that claims a size and ends there."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))
    return b"\x89PNG\r\n\x1a\n" + chunk


def test_files_that_are_no_images_and_hostile_ones(tmp_path: Path) -> None:
    root = part(tmp_path / "part")
    good = root / "train/good"
    (good / "a.png").write_text("Thumbs")
    (good / "b.jpg").write_bytes(b"")
    (good / "c.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    whole = (good / "0.png").read_bytes()
    (good / "d.png").write_bytes(whole[: len(whole) // 2])
    (good / "e.png").write_bytes(png_header(100_000, 100_000))
    (good / "f.png").symlink_to(root / "gone.png")
    save(root / "test/good/tiny.png", photo(1, 8, 8))
    findings = found(root)
    assert list(findings) == ["not-an-image", "unreadable"]
    assert findings["not-an-image"].title.startswith("3 files are no image (1 ")
    assert "1 a Git LFS pointer instead of the image" in findings["not-an-image"].title
    assert findings["unreadable"].title.startswith("4 images cannot be read (")
    assert findings["not-an-image"].advice.startswith("a build stops at them: ")
    assert findings["unreadable"].advice.startswith("a build and an evaluation stop at them: ")
    sources = [fields["source"] for _, fields in findings["unreadable"].rows]
    assert sources == [f"train/good/{n}.png" for n in "def"] + ["test/good/tiny.png"]
    assert all(one.spoils for one in findings.values())


def test_flat_images(tmp_path: Path) -> None:
    root = part(tmp_path / "part")
    save(root / "train/good/black.png", np.zeros((H, W), np.uint8))
    save(root / "test/good/grey.png", np.full((H, W, 3), 90, np.uint8))
    findings = found(root)
    assert list(findings) == ["flat-training", "flat-test", "pixels"]
    assert [findings[kind].spoils for kind in findings] == [True, False, False]
    assert findings["flat-training"].rows[0][0] == "train/good/black.png"
    assert findings["flat-test"].title == "1 test image of a single grey value"


def test_files_of_kinds_that_are_passed_over(tmp_path: Path) -> None:
    root = part(tmp_path / "part")
    for name in ("a.HEIC", "b.heic", "c.gif", "notes.txt"):
        (root / "train/good" / name).write_bytes(b"x")
    one = only(root)
    assert (one.kind, one.spoils) == ("passed-over", False)
    assert one.title == "3 files of kinds that are not read (2 .heic, 1 .gif)"
    assert one.rows[0] == ("train/good/a.HEIC", {"path": "train/good/a.HEIC"})


# --- sizes and pixels -----------------------------------------------------------------------------


def test_several_sizes_say_which_fit_to_take(tmp_path: Path) -> None:
    root = part(tmp_path / "part")
    save(root / "test/good/0.png", photo(100, 2 * H, 2 * W))
    one = only(root)
    assert (one.kind, one.spoils) == ("sizes", False)
    assert one.title == (
        "2 sizes, heights 48 to 96 and widths 40 to 80 px, height/width 1.2 to 1.2; "
        "1 test image of a size that no training image has"
    )
    assert one.advice == "all of one shape: --fit stretch (the default) will do"
    assert [fields for _, fields in one.rows] == [
        {"height": 48, "width": 40, "images": 5},
        {"height": 96, "width": 80, "images": 1},
    ]
    save(root / "test/good/0.png", photo(100, H, 3 * W))
    assert "differ by a factor of 3: take --fit letterbox" in only(root).advice


def test_several_kinds_of_pixels(tmp_path: Path) -> None:
    root = part(tmp_path / "part")
    save(root / "test/dent/0.png", photo(200)[:, :, 0])
    one = only(root)
    assert one.kind == "pixels"
    assert (
        one.title == "2 kinds of pixels (5 RGB, 8 bit, 1 grey, 8 bit); no good image is grey, 8 bit"
    )
    assert [text for text, _ in one.rows] == [
        "RGB, 8 bit, good: 5 images",
        "grey, 8 bit, dent: 1 image",
    ]


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("1", "black and white, 1 bit"),
        ("L", "grey, 8 bit"),
        ("LA", "grey with alpha, 8 bit"),
        ("P", "palette, 8 bit"),
        ("RGBA", "RGB with alpha, 8 bit"),
        ("I;16", "grey, 16 bit"),
    ],
)
def test_what_a_file_holds(mode: str, told: str) -> None:
    from manifests.decoder import decode_described

    pixels = Image.fromarray(photo(0))
    if mode == "I;16":
        pixels = Image.fromarray(photo(0)[:, :, 0].astype(np.uint16) * 256)
    else:
        pixels = pixels.convert(mode)
    for suffix in ("PNG", "TIFF"):
        file = io.BytesIO()
        pixels.save(file, suffix)
        assert decode_described(file.getvalue(), path="x", max_pixels=10**6)[1] == told


def test_16_bits_of_which_12_are_used(tmp_path: Path) -> None:
    root = part(tmp_path / "part")
    values = np.random.default_rng(5).integers(0, 4096, (H, W), dtype=np.uint16)
    save(root / "train/good/12bit.png", values)
    findings = found(root)
    assert list(findings) == ["pixels", "dark-16-bit"]
    assert findings["dark-16-bit"].rows[0][0] == "train/good/12bit.png: 16 grey values"
    save(root / "train/good/12bit.png", values * 16)
    assert list(found(root)) == ["pixels"]


# --- masks ----------------------------------------------------------------------------------------


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    root = part(tmp_path / "part")
    for number in range(1, 6):
        save(root / f"test/dent/{number}.png", photo(200 + number))
    masks = root / "ground_truth/dent"
    save(masks / "1_mask.png", marked(H, W + 1))
    save(masks / "2_mask.png", np.zeros((H, W), np.uint8))
    save(masks / "3_mask.png", 255 - marked())
    edge = marked()
    edge[5] = 128
    save(masks / "4_mask.png", edge)
    (masks / "5_mask.png").write_bytes(b"no mask")
    findings = found(root)
    assert list(findings) == [
        "mask-unreadable",
        "mask-size",
        "mask-empty",
        "mask-large",
        "mask-not-binary",
    ]
    assert [one.spoils for one in findings.values()] == [True, True, False, False, False]
    for number, kind in enumerate(
        ["mask-size", "mask-empty", "mask-large", "mask-not-binary", "mask-unreadable"], start=1
    ):
        ((text, fields),) = findings[kind].rows
        assert fields["source"] == f"test/dent/{number}.png" and f"{number}_mask.png" in text
    assert findings["mask-size"].title == "1 mask of another size than its image"
    assert (
        findings["mask-size"]
        .rows[0][0]
        .startswith(
            "ground_truth/dent/1_mask.png: 48 x 41 px, image 48 x 40 px, 2 values, 1.8% marked"
        )
    )
    assert findings["mask-large"].rows[0][1]["marked_frac"] == round(1 - 35 / (H * W), 6)


def test_masks_of_a_list(tmp_path: Path) -> None:
    """Where good images may have a mask, and one may be named that is not there."""
    root = part(tmp_path / "part")
    save(root / "empty.png", np.zeros((H, W), np.uint8))
    rows = ["path,split,label,mask"]
    rows += [f"train/good/{number}.png,train,good,empty.png" for number in range(4)]
    rows += ["test/good/0.png,test,good,ground_truth/dent/0_mask.png"]
    rows += ["test/dent/0.png,test,dent,gone.png"]
    (root / "list.csv").write_text("\n".join(rows))
    findings = found(root / "list.csv")
    assert list(findings) == ["mask-unreadable", "mask-of-good"]
    assert findings["mask-unreadable"].title == "1 mask cannot be read (1 no such file)"
    assert findings["mask-of-good"].rows[0][1]["source"] == "test/good/0.png"


def test_kinds_of_defects_without_masks(tmp_path: Path) -> None:
    root = part(tmp_path / "part")
    save(root / "test/crack/0.png", photo(300))
    one = only(root)
    assert (one.kind, one.spoils) == ("mask-missing", False)
    assert one.title == "1 of 2 defective images without a mask"
    assert one.rows == (("crack: 1 image", {"defect": "crack", "images": 1}),)


# --- counts ---------------------------------------------------------------------------------------


def test_too_few_normals(tmp_path: Path) -> None:
    root = part(tmp_path / "part", good=1)
    save(root / "train/good/copy.png", photo(0))
    few = found(root)["few-normals"]
    assert few.spoils and few.title.startswith("1 different good training image that can be used")
    root = part(tmp_path / "more", good=9)
    (few,) = checked(root, rate=0.05).findings
    assert not few.spoils
    assert few.title == (
        "9 different good training images: thresholds can promise a false-alarm rate of 0.1 at "
        "best, not 0.05"
    )
    assert few.advice.startswith("19 images promise it")
    (few,) = checked(root, rate=0.1).findings  # 1 / (9 + 1): just reached
    assert "several times" in few.title
    assert checked(part(tmp_path / "enough", good=32), rate=0.1).findings == ()


def test_no_test_images_and_what_the_reader_left_out(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"photos/{number}.png", photo(number))
    one = only(tmp_path / "photos")
    assert (one.kind, one.title) == ("test-images", "no good and no defective test images")
    root = part(tmp_path / "loco")
    save(root / "test/logical_anomalies/0.png", photo(400))
    save(root / "validation/good/0.png", photo(500))
    result = checked(root)
    notes = [one.title for one in result.findings if one.kind == "note"]
    assert len(notes) == 2 and notes[1] == "1 image in validation left out"
    assert result.to_json()["left_out"] == ["validation/good/0.png"]


# --- the command ----------------------------------------------------------------------------------


def test_the_answer_in_words(tmp_path: Path) -> None:
    root = part(tmp_path / "part")
    for number in range(4):
        save(root / f"test/good/copy{number}.png", photo(number))
        save(root / f"train/good/again{number}.png", photo(number))
    lines = describe_check(checked(root, rate=0.2))
    assert lines == [
        "part: 8 training images, 5 good and 1 defective test images (layout mvtec)",
        "part: WRONG: 4 test images have the pixels of a training image",
        "    test/good/copy0.png = train/good/0.png",
        "    test/good/copy1.png = train/good/1.png",
        "    test/good/copy2.png = train/good/2.png",
        "    ... and 1 more (--json lists all)",
        "  > a model knows them already and scores look too good: keep each in one split",
        "part: note: 4 different good training images: training will see each several times per "
        "batch",
        "  > 32 or more are better",
        "part: note: 4 training images have the pixels of another one",
        "    train/good/again0.png = train/good/0.png",
        "    train/good/again1.png = train/good/1.png",
        "    train/good/again2.png = train/good/2.png",
        "    ... and 1 more (--json lists all)",
        "  > a build keeps the first of them and records the others",
        "part: 1 thing would spoil a build or an evaluation; 2 notes",
    ]


def test_the_command_and_its_exit_codes(tmp_path: Path) -> None:
    part(tmp_path / "data" / "a"), part(tmp_path / "data" / "b")
    before = sorted(tmp_path.rglob("*"))
    text = invoke_gen("check", tmp_path / "data", "--quiet").stdout
    assert text.count("nothing would spoil a build or an evaluation; 1 note") == 2
    save(tmp_path / "data/b/test/good/1.png", photo(0))
    result = invoke_gen("check", tmp_path / "data", "--quiet", "--json", exit_code=1)
    first, second = json.loads(result.stdout)
    assert (first["category"], first["is_spoilt"]) == ("a", False)
    assert (second["category"], second["is_spoilt"]) == ("b", True)
    assert second["images"] == {"train": 4, "test_good": 2, "test_defective": 1, "left_out": 0}
    assert second["findings"][0]["kind"] == "train-test-overlap"
    assert second["findings"][0]["rows"][0]["other"] == "train/good/0.png"
    assert "1 data set with faults: b" in result.stderr
    invoke_gen("check", tmp_path / "data", "--category", "a", "--quiet")
    (tmp_path / "data/b/test/good/1.png").unlink()
    assert sorted(tmp_path.rglob("*")) == before
    invoke_gen("check", tmp_path / "gone", exit_code=1)


def test_every_kind_is_tested_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f'"{kind}"' not in text] == []
