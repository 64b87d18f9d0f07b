"""Which file an image of a negative set becomes in a tree of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from manifests.confine import is_file_name
from manifests.errors import ConfigError
from manifests.negative_set import NegativeSet


@dataclass(frozen=True)
class Layout:
    """Where the files of a layout go, below the category's folder.

    Attributes:
        normal, negative, mask: paths with {policy} and {name}, the number of an image in its
            folder, as wide as the largest there: tools pair images and masks by sorted names.
        is_good_kept: the name "good" is kept for normal images.
    """

    normal: str
    negative: str
    mask: str
    is_good_kept: bool


LAYOUTS: dict[str, Layout] = {
    "folder": Layout(
        normal="normal/{name}.png",
        negative="abnormal/{policy}-{name}.png",
        mask="mask/{policy}-{name}.png",
        is_good_kept=False,
    ),
    "mvtec": Layout(
        normal="train/good/{name}.png",
        negative="test/{policy}/{name}.png",
        mask="ground_truth/{policy}/{name}_mask.png",
        is_good_kept=True,
    ),
}


@dataclass(frozen=True)
class ExportUnit:
    """The images of one shard: their numbers in the set and their files below the tree.

    Attributes:
        normals: number and file.
        negatives: number, file, the mask's file, and the file of its normal.
    """

    normals: tuple[tuple[int, str], ...]
    negatives: tuple[tuple[int, str, str, str], ...]

    @property
    def files(self) -> tuple[str, ...]:
        """All files, the masks too."""
        normals = (file for _, file in self.normals)
        return *normals, *(file for row in self.negatives for file in row[1:3])

    @property
    def n_images(self) -> int:
        return len(self.normals) + len(self.negatives)


def plan_export(
    negative_set: NegativeSet, layout: Layout, policies: Sequence[str]
) -> list[ExportUnit]:
    """The files of an export, shard by shard.

    Args:
        negative_set: an open set.
        layout: where files go.
        policies: kinds of negatives; none means all.

    Raises:
        ConfigError: a policy that the set does not have or the layout cannot name.
    """
    kinds = negative_set.negative_policy
    unknown = [name for name in policies if name not in negative_set.policies]
    if unknown:
        raise ConfigError(
            f"--policies: the set has no negatives of {unknown[0]}",
            path=negative_set.path,
            expected=f"some of {', '.join(negative_set.policies)}",
        )
    wanted = set(policies) or set(negative_set.policies)
    if layout.is_good_kept and "good" in wanted:
        raise ConfigError(
            "a policy is called good, as this layout calls normal images",
            path=negative_set.path,
            hint="pass --to folder",
        )
    for policy in sorted(wanted):
        # A stranger's word, and the name of a folder in some layouts.
        parts = layout.negative.format(policy=policy, name="000").split("/")
        if not all(map(is_file_name, parts)):
            raise ConfigError(
                f"a policy is called {policy}, which is no name for a folder here",
                path=negative_set.path,
                hint="pass --to folder, or leave it out with --policies",
            )
    names = number_names(negative_set.n_normals)
    normal_files = [layout.normal.format(name=name) for name in names]
    totals = Counter(kinds.tolist())
    left = {policy: iter(number_names(totals[policy])) for policy in wanted}
    units, normal, negative = [], 0, 0
    for entry in negative_set.manifest.shards:
        rows = []
        for j in range(negative, negative + entry.negatives):
            policy = str(kinds[j])
            if policy not in wanted:
                continue
            name = next(left[policy])
            of = normal_files[negative_set.negative_normal[j]]
            file, mask = (
                form.format(policy=policy, name=name) for form in (layout.negative, layout.mask)
            )
            rows.append((j, file, mask, of))
        numbers = range(normal, normal + entry.normals)
        units.append(ExportUnit(tuple((i, normal_files[i]) for i in numbers), tuple(rows)))
        normal, negative = normal + entry.normals, negative + entry.negatives
    return units


def number_names(count: int) -> list[str]:
    """Names of equal width: "1000" would sort between "100_mask" and "101"."""
    width = max(3, len(str(count - 1)))
    return [f"{number:0{width}d}" for number in range(count)]
