"""What a merged set holds: which image, negative and saliency map is taken from which set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from generator.copied_shard import CopyUnit, plan_unit
from generator.set_rows import NegativeRow, NormalRow, Place, SetRows
from manifests.errors import SetError
from manifests.schema import shard_name
from manifests.shard_records import COUNT_LIMIT

_Kind = tuple[str, int]  # policy, level
_Draw = tuple[str, str, int, int]  # digest of the normal, policy, level, repeat


@dataclass(frozen=True)
class MergePlan:
    """What the new set holds.

    Attributes:
        normals: sorted by digest, with the set that each is taken from.
        maps: where each normal's saliency is taken from, as `normals`; None for nowhere.
        negatives: in no order, each with its set and its new repeat.
        saliency: of the manifest.
        counts: of the manifest: duplicate images and negatives, renumbered negatives.
        other_files: duplicate images whose file is another one.
    """

    normals: list[tuple[SetRows, NormalRow]]
    maps: list[tuple[SetRows, NormalRow] | None]
    negatives: list[tuple[SetRows, NegativeRow, int]]
    saliency: str
    counts: dict[str, int]
    other_files: int

    def units(
        self, made_from: Mapping[str, object], *, shard_images: int, store: str
    ) -> list[CopyUnit]:
        """The plan cut into shards; negatives by normal, policy, level and repeat."""
        drawn: dict[str, list[tuple[SetRows, NegativeRow, int]]] = {}
        for one in self.negatives:
            drawn.setdefault(one[1].normal, []).append(one)
        units: list[CopyUnit] = []
        for start in range(0, len(self.normals), shard_images):
            part = slice(start, start + shard_images)
            normals: list[tuple[tuple[SetRows, Place], tuple[SetRows, Place] | None]] = []
            negatives: list[tuple[SetRows, Place, int, int]] = []
            for (rows, normal), maps in zip(self.normals[part], self.maps[part], strict=True):
                place = None if maps is None else (maps[0], maps[1].place)
                own = sorted(
                    drawn.get(normal.digest, ()),
                    key=lambda one: (one[1].policy, one[1].level, one[2], one[1].digest),
                )
                negatives += [
                    (source, row.place, len(normals), repeat) for source, row, repeat in own
                ]
                normals.append(((rows, normal.place), place))
            name = shard_name(len(units))
            units.append(plan_unit(name, normals, negatives, origin=made_from, store=store))
        return units


def plan_merge(sets: Sequence[SetRows], *, renumber: bool, drop_saliency: bool) -> MergePlan:
    """Unites sets of one category and canvas, of which the first counts where they say otherwise.

    Raises:
        SetError: one image covers two parts of the canvas, negatives are in conflict and
            `renumber` is not given, or saliency does not fit together and is not to be dropped.
    """
    normals, duplicate_images, other_files = _united_normals(sets)
    negatives, duplicates, renumbered = _united_negatives(sets, normals, renumber=renumber)
    saliency, maps = _united_saliency(sets, normals, drop=drop_saliency)
    order = sorted(normals)
    return MergePlan(
        normals=[normals[digest] for digest in order],
        maps=[maps.get(digest) for digest in order],
        negatives=negatives,
        saliency=saliency,
        counts={
            "duplicate_images": duplicate_images,
            "duplicate_negatives": duplicates,
            "renumbered_negatives": renumbered,
        },
        other_files=other_files,
    )


def _united_normals(
    sets: Sequence[SetRows],
) -> tuple[dict[str, tuple[SetRows, NormalRow]], int, int]:
    """Each content once, as the first set has it; how often another set has it under another name.

    The last number counts those whose file is another one too.
    """
    normals: dict[str, tuple[SetRows, NormalRow]] = {}
    duplicates = other_files = 0
    for rows in sets:
        for row in rows.normals:
            before, known = normals.setdefault(row.digest, (rows, row))
            if known.canvas_box != row.canvas_box:
                raise SetError(
                    f"{row.source} covers another part of the canvas than in {before.folder}",
                    path=rows.folder,
                    expected=known.canvas_box,
                    got=row.canvas_box,
                    hint="leave the image out of one of the sets with cutswap-gen subset",
                )
            duplicates += (known.source, known.file_sha256) != (row.source, row.file_sha256)
            other_files += known.file_sha256 != row.file_sha256
    return normals, duplicates, other_files


def _united_negatives(
    sets: Sequence[SetRows], normals: Mapping[str, tuple[SetRows, NormalRow]], *, renumber: bool
) -> tuple[list[tuple[SetRows, NegativeRow, int]], int, int]:
    """Negatives with their new repeats; how many were there already; how many were renumbered."""
    united: list[tuple[SetRows, NegativeRow, int]] = []
    held: set[_Draw | tuple[str, str, int, str]] = set()
    taken: dict[_Draw, SetRows] = {}
    top: dict[_Kind, int] = {}
    conflicts: list[tuple[SetRows, SetRows, NegativeRow]] = []
    duplicates = renumbered = 0
    for rows in sets:
        fresh = [
            row
            for row in rows.negatives
            if (row.normal, row.policy, row.level, row.digest) not in held
        ]
        duplicates += len(rows.negatives) - len(fresh)
        clashes = [row for row in fresh if (row.normal, row.policy, row.level, row.repeat) in taken]
        shift: dict[_Kind, int] = {}
        if renumber:
            # For all images alike, so that one number goes on meaning one draw of one set.
            shift = {(row.policy, row.level): top[row.policy, row.level] + 1 for row in clashes}
        else:
            places = [(row.normal, row.policy, row.level, row.repeat) for row in clashes]
            conflicts += [
                (taken[place], rows, row) for place, row in zip(places, clashes, strict=True)
            ]
        for row in fresh:
            kind = (row.policy, row.level)
            repeat = row.repeat + shift.get(kind, 0)
            renumbered += repeat != row.repeat
            united.append((rows, row, repeat))
            held.add((row.normal, *kind, row.digest))
            taken[row.normal, *kind, repeat] = rows
        for row in fresh:
            kind = (row.policy, row.level)
            top[kind] = max(top.get(kind, 0), row.repeat + shift.get(kind, 0))
    if conflicts:
        _refuse_conflicts(conflicts, normals)
    if top and max(top.values()) > COUNT_LIMIT:
        raise SetError(
            "the sets hold too many repeats to be numbered", expected=f"at most {COUNT_LIMIT}"
        )
    return united, duplicates, renumbered


def _refuse_conflicts(
    conflicts: Sequence[tuple[SetRows, SetRows, NegativeRow]],
    normals: Mapping[str, tuple[SetRows, NormalRow]],
) -> None:
    before, later, row = conflicts[0]
    count = len(conflicts)
    level = "" if row.level < 0 else f", level {row.level}"
    raise SetError(
        f"{count} negative{'s are' if count > 1 else ' is'} in conflict, first "
        f"{row.policy}{level}, repeat {row.repeat} of {normals[row.normal][1].source}: "
        f"{before.folder} has other pixels for it",
        path=later.folder,
        hint="pass --renumber to keep both under different repeats",
    )


def _united_saliency(
    sets: Sequence[SetRows], normals: Mapping[str, tuple[SetRows, NormalRow]], *, drop: bool
) -> tuple[str, dict[str, tuple[SetRows, NormalRow]]]:
    """The manifest's `saliency`, and per normal the first set that stores its maps."""
    states = {rows.manifest.saliency for rows in sets}
    storing = [rows for rows in sets if rows.manifest.saliency == "stored"]
    if drop or not storing:
        return ("unused" if states == {"unused"} else "absent"), {}
    first = storing[0]
    maps: dict[str, tuple[SetRows, NormalRow]] = {}
    for rows in storing:
        if rows.maps != first.maps:
            _refuse_saliency(rows, f"has other saliency levels than {first.folder}")
        shared = {row.digest for row in rows.normals} & maps.keys()
        own = rows.saliency_digests(shared)
        known: dict[str, str] = {}
        for earlier in storing[: storing.index(rows)] if shared else ():
            known |= earlier.saliency_digests(shared - known.keys())
        for row in rows.normals:
            if row.digest in shared and own[row.digest] != known[row.digest]:
                _refuse_saliency(rows, f"has another saliency of {row.source} than an earlier set")
            maps.setdefault(row.digest, (rows, row))
    for digest, (rows, row) in normals.items():
        if digest not in maps:
            _refuse_saliency(rows, f"has no saliency of {row.source}, while others store theirs")
    return "stored", maps


def _refuse_saliency(rows: SetRows, what: str) -> None:
    raise SetError(
        what,
        path=rows.folder,
        hint="pass --drop-saliency to merge without maps, or build it from the same options",
    )
