"""Data folders of every layout, without pixels, and what opening them finds."""

from __future__ import annotations

from pathlib import Path

from manifests.datasets import Category, open_data


def tree(root: Path, *names: str) -> Path:
    """Files with a byte each: opening a data set reads no pixels."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def mvtec(root: Path, defect: str = "scratch") -> Path:
    return tree(
        root,
        "train/good/000.png",
        "train/good/001.png",
        "train/good/.DS_Store",
        "test/good/000.png",
        f"test/{defect}/000.png",
        f"test/{defect}/001.PNG",
        f"test/{defect}/Thumbs.db",
        f"ground_truth/{defect}/000_mask.png",
        f"ground_truth/{defect}/001_mask.png",
    )


def mtd(root: Path, free: int = 10) -> Path:
    stems = [f"MT_Free/Imgs/exp1_num_{i}" for i in range(free)]
    names = [stem + suffix for stem in stems for suffix in (".jpg", ".png")]
    names += ["MT_Blowhole/Imgs/exp2_num_7.jpg", "MT_Blowhole/Imgs/exp2_num_7.png", "README.md"]
    return tree(root, *names, "dataset.jpg")


def one(path: object, **options: object) -> Category:
    (category,) = open_data(path, **options)
    return category


def sources(samples: tuple) -> list[str]:
    return [sample.source for sample in samples]
