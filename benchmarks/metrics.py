"""Image and pixel metrics of a whole data set: seconds, and values against peers.

Synthetic score maps with blobs for defects, as many as MVTec AD's test set has by default. The
peers are scikit-learn's exact AUROC and average precision over all pixels, and anomalib's AUPRO
where it is installed (`pip install '.[peers]'`); both take minutes and gigabytes, so they run on
the first images only, where our values are compared with theirs.

    python benchmarks/metrics.py [--images N] [--peer-images N] [--repeats R]
"""

from __future__ import annotations

import argparse
import statistics

import cv2
import numpy as np
import torch
from common import interleave, machine, table

from detector.metrics import image_metrics, pixel_metrics

SIDE = 256


def make_maps(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps (n, SIDE, SIDE) float32 and masks; about 73 % of the images hold a defect."""
    source = np.random.default_rng(0)
    maps = np.empty((count, SIDE, SIDE), np.float32)
    masks = np.zeros((count, SIDE, SIDE), bool)
    for i in range(count):
        coarse = source.random((32, 32), np.float32)
        maps[i] = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        if source.random() < 0.73:
            blobs = np.zeros((SIDE, SIDE), np.uint8)
            for _ in range(source.integers(1, 5)):
                centre = tuple(int(value) for value in source.integers(0, SIDE, 2))
                axes = tuple(int(value) for value in source.integers(3, 30, 2))
                cv2.ellipse(blobs, centre, axes, float(source.uniform(0, 180)), 0, 360, 1, -1)
            masks[i] = blobs.astype(bool)
            maps[i] += masks[i] * np.float32(source.uniform(0, 0.6))
    return maps, masks


def sklearn_side(maps: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
    """Pixel AUROC and AP."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    labels, scores = masks.reshape(-1), maps.reshape(-1)
    return roc_auc_score(labels, scores), average_precision_score(labels, scores)


def anomalib_side(maps: np.ndarray, masks: np.ndarray) -> float:
    """AUPRO, which anomalib samples at thresholds. Raises ImportError."""
    from anomalib.metrics.aupro import _AUPRO

    metric = _AUPRO(fpr_limit=0.3)
    metric.update(torch.from_numpy(maps), torch.from_numpy(masks).int())
    return float(metric.compute())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1725)
    parser.add_argument("--peer-images", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    maps, masks = make_maps(arguments.images)
    scores, labels = maps.max((1, 2)), masks.any((1, 2))
    found: dict[str, object] = {}

    def run(name, function, *inputs):
        return lambda: found.update({name: function(*inputs)})

    few = slice(0, arguments.peer_images)
    sides = {
        "image metrics, all": run("image", image_metrics, scores, labels),
        "pixel metrics, all": run("pixel", pixel_metrics, maps, masks, None),
        "pixel metrics, few": run("few", pixel_metrics, maps[few], masks[few], None),
        "scikit-learn AUROC and AP, few": run("sklearn", sklearn_side, maps[few], masks[few]),
    }
    missing = ""
    try:
        import anomalib.metrics.aupro  # noqa: F401

        sides["anomalib AUPRO, few"] = run("anomalib", anomalib_side, maps[few], masks[few])
    except ImportError as error:
        missing = f"\nanomalib cannot be imported ({error}): pip install '.[peers]'"
    timings = interleave(sides, arguments.repeats)
    print(
        f"{arguments.images} maps of {SIDE} × {SIDE}, few: {arguments.peer_images}, medians of "
        f"{arguments.repeats}; {machine('scikit-learn', 'anomalib')}\n"
    )
    print("\n".join(table(timings, base="pixel metrics, few")))
    ours, theirs = found["few"], found["sklearn"]
    print("\n| few | ours | peer | difference |\n|---|---|---|---|")
    rows = [
        ("AUROC, scikit-learn", ours.auroc, theirs[0]),
        ("AP, scikit-learn", ours.ap, theirs[1]),
    ]
    if not missing:
        rows.append(("AUPRO, anomalib", ours.aupro, found["anomalib"]))
    for name, own, other in rows:
        print(f"| {name} | {own:.6f} | {other:.6f} | {own - other:.1e} |")
    both = sum(statistics.median(timings[name].wall) for name in list(sides)[:2])
    print(f"\nImage and pixel metrics of all {arguments.images}: {both:.2f} s{missing}")


if __name__ == "__main__":
    main()
