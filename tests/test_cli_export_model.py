"""`cutswap-det export`: files, what they say of themselves, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import REPO, invoke_det

from detector.export import agreement, exporting, onnx_file
from detector.export.exporting import SUFFIXES
from detector.export_commands import export as command
from manifests.canvas import fit_image
from manifests.digest import file_digest
from manifests.geometry import FITS, Geometry
from manifests.images import read_image, write_png
from reference.small_networks import make_images

DOCUMENT = (REPO / "docs" / "export.md").read_text(encoding="utf-8")


def snippet(name: str) -> str:
    """A block of code of the document, by the comment before it."""
    return DOCUMENT.split(f"<!-- {name} -->\n```python\n")[1].split("```")[0]


@pytest.fixture(scope="module")
def exported(fitted, category_name, sample_data, tmp_path_factory) -> SimpleNamespace:
    """The sample model as ONNX, compared on the photos of scratches."""
    out = tmp_path_factory.mktemp("exported") / "deep" / "part.onnx"
    photos = sample_data / category_name / "test"
    done = invoke_det(
        "export", fitted / category_name, "--to", "onnx", "--out", out, "--check",
        photos / "scratch", "--json",
    )  # fmt: skip
    return SimpleNamespace(
        out=out, told=json.loads(done.output), photos=photos, model=fitted / category_name
    )


def test_every_format_is_offered():
    (option,) = [one for one in command.params if one.name == "to"]
    assert tuple(option.type.choices) == tuple(SUFFIXES) == tuple(exporting.PACKAGES)


def test_a_file_and_its_description(exported):
    import onnxruntime

    names = {path.name for path in exported.out.parent.iterdir()}
    assert names == {"part.onnx", "part.onnx.json"}
    beside = json.loads((exported.out.parent / "part.onnx.json").read_bytes())
    assert beside["files"] == {"part.onnx": file_digest(exported.out)}
    found = beside.pop("agreement")
    assert found["images"] == 1 and 0 <= found["score"] <= found["tolerance"] == 1e-3
    (told,) = exported.told if isinstance(exported.told, list) else [exported.told]
    assert told["agreement"]["score"] == found["score"] and told["to"] == "onnx"
    record = json.loads((exported.model / "model.json").read_bytes())
    assert beside["thresholds"]["image"] == record["image_threshold"]
    assert beside["thresholds"]["pixel"] == record["pixel_threshold"]
    assert (
        beside["model_digest"] == told["model_digest"] == file_digest(exported.model / "model.json")
    )
    assert beside["geometry"] == record["geometry"] and beside["detector"] == "patchcore"
    session = onnxruntime.InferenceSession(exported.out, providers=["CPUExecutionProvider"])
    del beside["files"]
    assert json.loads(session.get_modelmeta().custom_metadata_map["cutswap"]) == beside
    for side, nodes in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        assert [(one["name"], one["shape"]) for one in beside[side]] == [
            (one.name, list(one.shape)) for one in nodes
        ]


BLOCKER = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"cutswap", "detector", "manifests", "generator", "torch"}:
            raise ImportError("not here: " + name)
sys.meta_path.insert(0, Refuse())
"""


def test_the_documents_consumer_needs_no_cutswap(exported, tmp_path):
    (tmp_path / "consumer.py").write_text(BLOCKER + snippet("consumer"), encoding="utf-8")
    noise = np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8)
    write_png(tmp_path / "noise.png", noise)  # not even the sample's defects are above its limit
    photos = [*sorted(exported.photos.glob("*/*.png")), tmp_path / "noise.png"]
    done = subprocess.run(
        [sys.executable, "-I", "consumer.py", exported.out, *photos],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    ours = json.loads(
        invoke_det("score", exported.model, *photos, "--output", "json", "--quiet").output
    )
    assert len(rows) == len(ours) == len(photos) > 4
    for found, wanted in zip(rows, ours, strict=True):
        assert Path(found["path"]) == Path(wanted["path"])
        assert found["score"] == pytest.approx(wanted["score"], rel=1e-4)
        assert (found["verdict"] == "defect") == (wanted["verdict"] == "defect")
    assert {row["verdict"] for row in rows} == {"good", "defect"}


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("source", [(48, 64), (100, 33), (20, 90), (64, 48), (31, 200), (7, 7)])
def test_the_documents_canvas_is_ours(fit, source):
    functions = snippet("consumer").split("model_path, *photo_paths")[0]
    names: dict = {}
    exec(compile(functions, "export.md", "exec"), names)
    geometry = Geometry(48, 64, fit)
    photo = make_images(1, seed=1, geometry=SimpleNamespace(height=source[0], width=source[1]))[0]
    canvas, placement = fit_image(photo, geometry)
    found, box = names["to_canvas"](photo, **geometry.to_json())
    assert np.array_equal(found, canvas) and box == placement.canvas_box


def test_files_in_the_way_stay(exported, tmp_path):
    out = tmp_path / "part.onnx"
    for name in ("part.onnx", "part.onnx.json"):
        (tmp_path / name).write_text("mine")
        told = invoke_det("export", exported.model, "--to", "onnx", "--out", out, exit_code=1)
        assert f"{name}: is there already; pass --overwrite" in told.output
        assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    ("arguments", "message", "exit_code"),
    [
        (("--to", "onnx", "--out", "part.xml"), "ends with .onnx, got .xml", 2),
        (("--to", "timm", "--out", "part"), "ends with .safetensors, got no suffix", 2),
        (("--to", "onnx", "--out", "part.onnx", "--batch", 0), "0 is not in the range", 2),
        (("--to", "tflite", "--out", "part.tflite"), "is not one of 'onnx'", 2),
        (("--to", "onnx", "--out", "part.onnx", "--check", "none.png"), "none.png", 1),
    ],
)
def test_refusals(exported, tmp_path, monkeypatch, arguments, message, exit_code):
    monkeypatch.chdir(tmp_path)
    told = invoke_det("export", exported.model, *arguments, exit_code=exit_code)
    assert message in " ".join(told.output.split())
    assert not list(tmp_path.iterdir())


def test_no_model(tmp_path):
    told = invoke_det("export", tmp_path, "--to", "onnx", "--out", tmp_path / "a.onnx", exit_code=1)
    assert "no model here" in told.output


def test_a_missing_package_is_named_with_the_way_to_get_it(exported, tmp_path, monkeypatch):
    monkeypatch.setitem(exporting.PACKAGES, "onnx", ("onnx", "surely_not_installed"))
    out = tmp_path / "a.onnx"
    told = invoke_det("export", exported.model, "--to", "onnx", "--out", out, exit_code=2)
    assert (
        "error: --to onnx needs surely_not_installed; pip install 'cutswap[export]'" in told.output
    )
    assert len(told.output.strip().splitlines()) == 1


@pytest.fixture
def no_tracing(exported, monkeypatch):
    """The file is the one made before; tracing it again takes seconds."""
    data = exported.out.read_bytes()
    monkeypatch.setattr("detector.export.graphs.trace_graph", lambda *_, **__: None)
    monkeypatch.setattr(onnx_file, "onnx_bytes", lambda *_: data)


def wrong(monkeypatch, change) -> None:
    """Lets ONNX Runtime answer something else."""
    right = onnx_file.open_onnx

    def open_onnx(path, description):
        run = right(path, description)
        return lambda inputs: change(*run(inputs))

    monkeypatch.setattr(onnx_file, "open_onnx", open_onnx)


@pytest.mark.parametrize(
    "change",
    [
        lambda score, maps: (score * 1.01, maps),
        lambda score, maps: (score, maps + 0.01 * maps.max()),
        lambda score, maps: (score * np.nan, maps),
        lambda score, maps: (score, maps[:, :-1]),
    ],
)
def test_a_graph_that_does_not_agree_is_not_kept(
    exported, tmp_path, monkeypatch, no_tracing, change
):
    wrong(monkeypatch, change)
    out = tmp_path / "part.onnx"
    for name in ("part.onnx", "part.onnx.json"):
        (tmp_path / name).write_text("old")
    told = invoke_det(
        "export", exported.model, "--to", "onnx", "--out", out, "--overwrite", exit_code=1
    )
    assert "does not say what the model says" in told.output and "of a score" in told.output
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["old", "old"]


def test_what_a_runtime_raises_is_told_in_a_line(exported, tmp_path, monkeypatch, no_tracing):
    def open_onnx(*_):
        raise NotImplementedError("no such\nthing")

    monkeypatch.setattr(onnx_file, "open_onnx", open_onnx)
    out = tmp_path / "part.onnx"
    told = invoke_det("export", exported.model, "--to", "onnx", "--out", out, exit_code=1)
    assert "failed on network efficientnet_lite0" in told.output
    assert "NotImplementedError: no such" in told.output and "thing" not in told.output
    assert not list(tmp_path.iterdir())


def test_overwrite_replaces(exported, tmp_path, no_tracing):
    out = tmp_path / "part.onnx"
    for name in ("part.onnx", "part.onnx.json"):
        (tmp_path / name).write_text("old")
    invoke_det("export", exported.model, "--to", "onnx", "--out", out, "--overwrite")
    assert out.read_bytes() == exported.out.read_bytes()
    assert json.loads((tmp_path / "part.onnx.json").read_bytes())["agreement"]["images"] == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_weights_for_timm(exported, tmp_path):
    import timm
    import torch
    from safetensors.torch import load_file

    out = tmp_path / "extractor.safetensors"
    invoke_det("export", exported.model, "--to", "timm", "--out", out)
    about = json.loads((tmp_path / "extractor.safetensors.json").read_bytes())
    assert about["timm"]["architecture"] == "tf_efficientnet_lite0"
    assert about["normalisation"] == {"mean": [127 / 255] * 3, "std": [128 / 255] * 3}
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(load_file(out))
    from detector.model import load_model

    own = load_model(exported.model).detector.network
    assert about["layers"] == [own.stages[2], own.stages[3]]
    photo = read_image(next(exported.photos.glob("*/*.png")))
    values = torch.from_numpy(photo[None]).permute(0, 3, 1, 2).float() / 255.0
    mean, std = (
        torch.tensor(about["normalisation"][one]).view(1, 3, 1, 1) for one in ("mean", "std")
    )
    with torch.no_grad():
        found = network.eval()((values - mean) / std)
        wanted = own.module(own.preprocess(photo[None]))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_tolerance_is_the_documented_one():
    assert agreement.TOLERANCE == 1e-3 and "a part in 1,000" in DOCUMENT
