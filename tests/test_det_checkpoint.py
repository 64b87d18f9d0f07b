"""Checkpoints: whole or not there, of this training or refused."""

from __future__ import annotations

import errno
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from detector import checkpoint as module
from detector.checkpoint import (
    CHECKPOINT_NAME,
    Checkpoint,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from manifests.errors import ModelError, OutputError

RUN = {"lr": 0.003, "seed": 1, "labels": ("normal", "swap"), "set_digest": "ab" * 32}


def example(update: int = 7, *, run: dict = RUN) -> Checkpoint:
    generator = torch.Generator().manual_seed(update)
    weight = torch.randn((4, 3, 5, 5), generator=generator)
    return Checkpoint(
        run=run,
        update=update,
        environment={"threads": 2},
        tensors={
            "module/weight": weight.to(memory_format=torch.channels_last),
            "module/num_batches_tracked": torch.tensor(update),
            "momentum/module/weight": torch.randn((4, 3, 5, 5), generator=generator),
            "log": torch.randn((update, 6), dtype=torch.float64, generator=generator),
        },
    )


def test_what_is_written_is_read(tmp_path):
    saved = example()
    path = write_checkpoint(tmp_path / "new" / "folder", saved)
    assert path.name == CHECKPOINT_NAME
    found = read_checkpoint(tmp_path / "new" / "folder", run=RUN)
    assert (found.update, found.environment) == (7, {"threads": 2})
    assert found.tensors.keys() == saved.tensors.keys()
    for name, tensor in saved.tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)


def test_special_values_survive_bit_for_bit(tmp_path):
    values = torch.tensor([0.0, -0.0, 1e-45, float("inf"), float("nan")])
    write_checkpoint(tmp_path, Checkpoint(RUN, 0, {}, {"values": values}))
    found = read_checkpoint(tmp_path, run=RUN).tensors["values"]
    assert torch.equal(found.view(torch.int32), values.view(torch.int32))


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path):
    saved = example()
    first = write_checkpoint(tmp_path / "a", saved).read_bytes()
    turned = dict(reversed(saved.tensors.items()))
    turned["module/weight"] = turned["module/weight"].contiguous()
    second = write_checkpoint(tmp_path / "b", Checkpoint(RUN, 7, {"threads": 2}, turned))
    assert second.read_bytes() == first


def test_the_file_is_plain_safetensors(tmp_path):
    saved = example()
    tensors = load_file(write_checkpoint(tmp_path, saved))
    assert torch.equal(tensors["log"], saved.tensors["log"])


def test_no_checkpoint_is_none(tmp_path):
    assert read_checkpoint(tmp_path, run=RUN) is None
    assert read_checkpoint(tmp_path / "missing", run=RUN) is None


def test_removing_is_final_and_may_be_repeated(tmp_path):
    write_checkpoint(tmp_path, example())
    (tmp_path / f".{CHECKPOINT_NAME}.tmp-123").write_bytes(b"left by a killed process")
    remove_checkpoint(tmp_path)
    remove_checkpoint(tmp_path)
    remove_checkpoint(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_another_run_is_refused_with_what_differs(tmp_path):
    write_checkpoint(tmp_path, example())
    with pytest.raises(ModelError) as caught:
        read_checkpoint(tmp_path, run={**RUN, "lr": 0.03})
    line = str(caught.value)
    assert "expected lr=0.03, got lr=0.003" in line
    assert "--overwrite" in line and CHECKPOINT_NAME in line
    assert "seed" not in line
    with pytest.raises(ModelError, match=r"momentum=0\.9"):
        read_checkpoint(tmp_path, run={**RUN, "momentum": 0.9})


def test_a_newer_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHECKPOINT_VERSION", 2)
    write_checkpoint(tmp_path, example())
    monkeypatch.undo()
    with pytest.raises(ModelError, match="newer cutswap"):
        read_checkpoint(tmp_path, run=RUN)


def test_every_truncation_is_noticed(tmp_path):
    path = write_checkpoint(tmp_path, example())
    data = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ModelError, match="damaged"):
            read_checkpoint(tmp_path, run=RUN)
    path.write_bytes(data + b"\0")
    with pytest.raises(ModelError, match="damaged"):
        read_checkpoint(tmp_path, run=RUN)


def test_every_flipped_bit_is_noticed(tmp_path):
    path = write_checkpoint(tmp_path, example())
    data = path.read_bytes()
    header_bytes = 8 + int.from_bytes(data[:8], "little")
    # Tensors are alike to the reader from end to end, so fewer of their bytes are tried.
    for position in [
        *range(0, header_bytes, 3),
        *range(header_bytes, len(data), 97),
        len(data) - 1,
    ]:
        damaged = bytearray(data)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(tmp_path, run=RUN)
        except ModelError:
            continue
        # Spaces that pad the header mean nothing, and may become other white space at most.
        assert data[position : position + 1] == b" "
        assert found.update == 7


@pytest.mark.parametrize("kind", ["pickle", "foreign", "empty", "list"])
def test_files_of_other_kinds_are_refused(tmp_path, kind):
    path = tmp_path / CHECKPOINT_NAME
    tensors = {"module/weight": torch.ones(2)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"weight": 1.0}))
    elif kind == "foreign":
        save_file(tensors, path)
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        save_file(tensors, path, metadata={"cutswap": "[1, 2]"})
    with pytest.raises(ModelError, match="damaged"):
        read_checkpoint(tmp_path, run=RUN)


def test_unexpected_tensor_types_are_refused(tmp_path):
    write_checkpoint(
        tmp_path, Checkpoint(RUN, 0, {}, {"weight": torch.ones(2, dtype=torch.bfloat16)})
    )
    with pytest.raises(ModelError, match="unexpected types"):
        read_checkpoint(tmp_path, run=RUN)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, example(3))

    def no_space(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("manifests.atomic.os.fsync", no_space)
    with pytest.raises(OutputError, match="No space left"):
        write_checkpoint(tmp_path, example(4))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT_NAME]
    assert read_checkpoint(tmp_path, run=RUN).update == 3


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"--out"):
        write_checkpoint(tmp_path / "file" / "model", example())
