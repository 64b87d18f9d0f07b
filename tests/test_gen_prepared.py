"""What the first process has done of a unit changes none of its bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_gen_textures import texture_folder

from generator import pipeline, prepared, unit
from generator.config import BuildConfig
from generator.pipeline import build_set
from generator.prepared import with_canvases, with_maps
from generator.scan import scan_samples
from generator.shard_task import Work
from generator.textures import Textures
from generator.unit import Unit, plan_units
from manifests.datasets import Category, open_data
from manifests.errors import ImageError
from manifests.images import Geometry

CONFIG = BuildConfig(geometry=Geometry(80, 96), shard_images=4, batch=3)
OPTIONS = {"weights": None, "device": "cpu", "max_pixels": 10**7}


@pytest.fixture
def category(sample_data) -> Category:
    return open_data(sample_data)[0]


def scanned(category: Category, kept_bytes: int):
    scan = scan_samples(
        category.train, CONFIG.geometry, max_pixels=10**7, jobs=1, kept_bytes=kept_bytes
    )
    return scan, plan_units(scan.images, {"seed": 0}, CONFIG.shard_images)


def test_a_scan_keeps_canvases_up_to_a_bound(category):
    one = 80 * 96 * 3
    nothing, _ = scanned(category, 0)
    some, _ = scanned(category, 5 * one + one // 2)
    everything, _ = scanned(category, 1 << 30)
    assert nothing.canvases == {} and len(some.canvases) == 5
    assert len(everything.canvases) == len(everything.images)
    for image in everything.images:
        canvas, box = everything.canvases[image.digest]
        again, again_box = unit.load_again(image, CONFIG, max_pixels=10**7)
        assert np.array_equal(canvas, again) and box == again_box == (0, 0, 80, 96)


def test_canvases_are_taken_out_and_a_unit_that_lacks_one_reads_its_files(category):
    scan, units = scanned(category, 1 << 30)
    kept = dict(scan.canvases)
    del kept[units[1].images[2].digest]
    found = list(with_canvases(units, {one.name: None for one in units}, kept, BuildConfig()))
    assert [one.unit for one in found] == units
    assert [one.canvases is None for one in found] == [False, True, False]
    assert [len(found[0].canvases), len(found[2].canvases)] == [4, 1]
    assert kept == {}


def test_maps_of_the_first_process_are_those_of_a_worker(category):
    scan, units = scanned(category, 1 << 30)
    levels = (0, 2, 4)
    # Half of the images are read again.
    kept = dict(list(scan.canvases.items())[::2])
    found = list(with_maps(units, kept, CONFIG, levels=levels, **OPTIONS))
    assert [one.unit for one in found] == units and kept == {}
    for one in found:
        canvases = np.stack([canvas for canvas, _ in one.canvases])
        maps_of, environment = unit._saliency_source(one.unit, CONFIG, levels, None, "cpu", None)
        digests = [image.digest for image in one.unit.images]
        taken = one.stored.maps(digests, levels)
        assert one.stored.environment == environment
        for start in range(0, len(canvases), CONFIG.batch):
            stop = start + CONFIG.batch
            for level, maps in maps_of(start, canvases[start:stop]).items():
                assert np.array_equal(taken[level][start:stop], maps)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("policies", [CONFIG.policies, ("saliency-perlin",)])
def test_a_network_in_the_first_process_gives_the_same_bytes(
    category, tmp_path, monkeypatch, jobs, policies
):
    config = replace(CONFIG, policies=policies, donors="textures")
    textures = Textures.open(texture_folder(tmp_path / "textures"), config.geometry)
    expected = build_set(category, config, tmp_path / "a", jobs=1, textures=textures)
    monkeypatch.setattr(Work, "is_for_gpu", property(lambda work: bool(work.levels)))
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments)
        return with_maps(*arguments, **options)

    monkeypatch.setattr("generator.output.with_maps", counted)
    found = build_set(category, config, tmp_path / "b", jobs=jobs, textures=textures)
    assert len(calls) == 1 and found.set_digest == expected.set_digest


def test_without_canvases_the_bytes_are_the_same(category, tmp_path, monkeypatch):
    expected = build_set(category, CONFIG, tmp_path / "a")
    monkeypatch.setattr(pipeline, "KEPT_BYTES", 3 * 80 * 96 * 3)
    assert build_set(category, CONFIG, tmp_path / "b").set_digest == expected.set_digest


def test_a_file_that_changed_is_named(category, tmp_path):
    scan, _ = scanned(category, 0)
    moved = tmp_path / "moved.png"
    moved.write_bytes(scan.images[0].path.read_bytes() + b"x")
    images = (replace(scan.images[0], path=moved),)
    one = Unit(name="shard-00000.h5", digest="0" * 64, images=images)
    with pytest.raises(ImageError, match="changed while the set was built") as caught:
        list(with_maps([one], {}, CONFIG, levels=(0,), **OPTIONS))
    assert caught.value.path == str(moved)


def test_images_are_read_ahead_but_not_all_at_once(category, monkeypatch):
    _, units = scanned(category, 0)
    many = [replace(units[0], name=f"shard-{number:05d}.h5") for number in range(9)]
    read = []

    def load(image, config, *, max_pixels):
        read.append(image.digest)
        return np.zeros((80, 96, 3), np.uint8), (0, 0, 80, 96)

    monkeypatch.setattr(prepared, "load_again", load)
    monkeypatch.setattr(
        prepared, "computed_maps", lambda canvases, config, **_options: len(canvases)
    )
    coming = with_maps(many, {}, CONFIG, levels=(0,), **OPTIONS)
    assert next(coming).stored == 4
    assert len(read) <= 4 * 3
    assert len(list(coming)) == 8 and len(read) == 4 * 9
