"""A study's plan: which data, sets, extractors, coresets and seeds are compared, and why."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifests.errors import ConfigError

METRICS = ("image_auroc", "pixel_auroc", "aupro", "image_ap", "pixel_ap")
SPLITS = ("report", "validation")
CLAIMS = ("better", "not-worse")
DEFAULT_SET = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")
MAX_PLAN_BYTES = 1 << 20
MAX_BANK_DRAWS = 100


@dataclass(frozen=True)
class DataSpec:
    """One data folder: its path and how it is read (as for `cutswap-det eval`)."""

    name: str
    path: Path
    format: str | None = None
    train_list: Path | None = None
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arm:
    """One way to make a model: a row of the tables.

    Attributes:
        name: what tables and claims call it.
        label: what it is called in print.
        set_name: the negative set it is trained from.
        options: options of `cutswap-det fit` by their long names, with underscores.
    """

    name: str
    label: str
    set_name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """That one arm is better than, or not worse than, another, in some metrics at some coresets."""

    arm: str
    against: str
    kind: str = "better"
    metrics: tuple[str, ...] = METRICS[:2]
    coresets: tuple[float, ...] = ()
    margin: float = 0.0
    paper: str = ""


@dataclass(frozen=True)
class Table:
    """One question: some arms beside a baseline.

    Attributes:
        curve: option of `fit` or `build` by which the arms differ; a plot shows the metrics
            against it. Empty for none.
    """

    name: str
    title: str
    arms: tuple[str, ...]
    baseline: str
    coresets: tuple[float, ...]
    metrics: tuple[str, ...]
    note: str = ""
    claims: tuple[Claim, ...] = ()
    curve: str = ""


@dataclass(frozen=True)
class Plan:
    """Everything a study compares.

    Attributes:
        split: "report": all test images but the validation part; "validation": that part alone,
            for choosing settings.
        sets: options of `cutswap-gen build` by set, by their long names, with underscores.
        bank_draws: memory banks per seed, each from another first patch; a seed's figure is their
            mean. Small banks vary more with that patch than with anything else, and drawing a
            further one costs seconds where a further training costs minutes.
    """

    name: str
    data: tuple[DataSpec, ...]
    sets: Mapping[str, Mapping[str, Any]]
    arms: tuple[Arm, ...]
    tables: tuple[Table, ...]
    coresets: tuple[float, ...] = (0.001, 0.01)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    bank_draws: int = 1
    split: str = "report"
    validation_seed: int = 0
    validation_share: float = 0.2
    note: str = ""
    by_name: Mapping[str, Arm] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {arm.name: arm for arm in self.arms})
        _need(bool(self.data), "the plan names no data", "a [data.NAME] table, or --data NAME=PATH")
        _need(bool(self.arms), "the plan has no arms", "an [arms.NAME] table, or --arm")
        _need(bool(self.seeds), "the plan has no seeds", "seeds = [0, 1, ...]")
        _need(bool(self.coresets), "the plan has no coresets", "coresets = [0.001, ...]")
        for ratio in self.coresets:
            _need(0 < ratio <= 1, f"coreset {ratio} cannot be used", "above 0, at most 1")
        draws = self.bank_draws
        is_met = type(draws) is int and 1 <= draws <= MAX_BANK_DRAWS
        _need(is_met, f"bank_draws {draws!r} cannot be used", f"1 to {MAX_BANK_DRAWS}")
        _need(self.split in SPLITS, f"split {self.split!r} is unknown", " or ".join(SPLITS))
        _need(0 < self.validation_share < 1, "validation_share cannot be used", "between 0 and 1")
        for arm in self.arms:
            known = arm.set_name in self.sets
            _need(known, f"arm {arm.name}: no set {arm.set_name!r}", ", ".join(self.sets))
        for table in self.tables:
            self._check_table(table)

    def _check_table(self, table: Table) -> None:
        where = f"table {table.name}"
        mentioned = {*table.arms, table.baseline}
        for claim in table.claims:
            mentioned |= {claim.arm, claim.against}
            _need(claim.kind in CLAIMS, f"{where}: claim {claim.kind!r} is unknown", CLAIMS)
            _check_members(where, "metric", claim.metrics, METRICS)
            _check_members(where, "coreset", claim.coresets, self.coresets)
        _check_members(where, "arm", sorted(mentioned), self.by_name)
        _check_members(where, "metric", table.metrics, METRICS)
        _check_members(where, "coreset", table.coresets, self.coresets)
        if table.curve:
            found = [name for name in table.arms if self.option(name, table.curve) is not None]
            _need(
                len(found) > 1, f"{where}: no curve over {table.curve!r}", "an option of two arms"
            )

    def option(self, arm_name: str, option: str) -> Any:
        """An option of an arm, or of its set, as the plan gives it; None where it does not."""
        arm = self.by_name[arm_name]
        return arm.options.get(option, self.sets[arm.set_name].get(option))


def read_plan(
    path: Path, *, data: Sequence[DataSpec] = (), changes: Mapping[str, Any] | None = None
) -> Plan:
    """A plan from a TOML file; paths in it are relative to it.

    Args:
        data: data folders given beside the plan; they replace those of the same name.
        changes: values that win over the file's.

    Raises:
        ConfigError: no such file, no TOML, an unknown key or name, or a value out of range.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the plan cannot be read: {error.strerror or error}", path=path, hint="check the path"
        ) from error
    try:
        if len(raw) > MAX_PLAN_BYTES:
            raise ValueError("too large for a plan")
        plain = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"the plan is no TOML: {error}", path=path) from error
    try:
        plain = _changed(plain, changes or {})
        return parse_plan(plain, folder=path.parent, name=path.stem, data=data)
    except ConfigError as error:
        raise ConfigError(
            error.what, path=path, expected=error.expected, got=error.got, hint=error.hint
        ) from error


def _changed(plain: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A plan's plain values with others in their place; tables lose the coresets that are gone."""
    plain = {**plain, **changes}
    if "coresets" not in changes or not isinstance(plain.get("tables", []), list):
        return plain
    kept = changes["coresets"]
    tables = []
    for table in plain.get("tables", []):
        table = dict(table)
        if "coresets" in table:
            table["coresets"] = [ratio for ratio in table["coresets"] if ratio in kept]
        claims = [dict(claim) for claim in table.get("claims", [])]
        for claim in claims:
            if "coresets" in claim:
                claim["coresets"] = [ratio for ratio in claim["coresets"] if ratio in kept]
        table["claims"] = [claim for claim in claims if claim.get("coresets", kept)]
        if table.get("coresets", kept):
            tables.append(table)
    return {**plain, "tables": tables}


def parse_plan(
    plain: Mapping[str, Any], *, folder: Path, name: str, data: Sequence[DataSpec] = ()
) -> Plan:
    """A plan from plain values; see docs/studies.md for its keys. Raises ConfigError."""
    keys = {"note", "data", "build", "fit", "sets", "arms", "tables", "coresets", "seeds", "split"}
    keys |= {"validation_seed", "validation_share", "metrics", "baseline", "bank_draws"}
    _check_keys("the plan", plain, keys)
    specs = {spec.name: spec for spec in _data(plain.get("data", {}), folder)}
    specs.update({spec.name: spec for spec in data})
    shared_build = _options("build", plain.get("build", {}))
    sets = {DEFAULT_SET: shared_build}
    for set_name, options in _tables_of(plain, "sets"):
        sets[set_name] = {**shared_build, **_options(f"sets.{set_name}", options)}
    shared_fit = _options("fit", plain.get("fit", {}))
    arms = []
    for arm_name, options in _tables_of(plain, "arms"):
        own = _options(f"arms.{arm_name}", options)
        label, set_name = own.pop("label", arm_name), own.pop("set", DEFAULT_SET)
        arms.append(Arm(arm_name, str(label), str(set_name), {**shared_fit, **own}))
    names = tuple(arm.name for arm in arms)
    coresets = _numbers(plain, "coresets", (0.001, 0.01), float)
    metrics = tuple(plain.get("metrics", METRICS))
    baseline = plain.get("baseline", names[0] if names else "")
    tables = [
        _table(table, number, names, coresets, metrics, baseline)
        for number, table in enumerate(plain.get("tables", []), start=1)
    ]
    if not tables and names:
        tables = [Table("all", "All arms", names, baseline, coresets, metrics)]
    if len({table.name for table in tables}) < len(tables):
        raise ConfigError("two tables of the plan have the same name")
    return Plan(
        name=name,
        data=tuple(specs.values()),
        sets=sets,
        arms=tuple(arms),
        tables=tuple(tables),
        coresets=coresets,
        seeds=_numbers(plain, "seeds", (0, 1, 2, 3, 4), int),
        bank_draws=plain.get("bank_draws", 1),
        split=plain.get("split", "report"),
        validation_seed=plain.get("validation_seed", 0),
        validation_share=plain.get("validation_share", 0.2),
        note=str(plain.get("note", "")),
    )


def parse_options(text: str, *, option: str) -> tuple[str, dict[str, Any]]:
    """`NAME` or `NAME:key=value,key=value` of the command line; values as TOML would read them.

    A value may hold commas where it is in brackets or quotes. Raises ConfigError.
    """
    name, _, rest = text.partition(":")
    _check_name(f"{option} {text!r}", name)
    values: dict[str, Any] = {}
    for part in re.findall(r"[^,\[\]\"]*(?:\[[^\]]*\]|\"[^\"]*\")?[^,\[\]\"]*", rest):
        if not part.strip():
            continue
        key, is_given, value = part.partition("=")
        if not is_given:
            raise ConfigError(f"{option} {text!r} cannot be read", expected="NAME:key=value,...")
        values[key.strip().replace("-", "_")] = _value(value.strip())
    return name, values


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word


def _data(tables: Any, folder: Path) -> list[DataSpec]:
    specs = []
    for name, table in _tables_of({"data": tables}, "data"):
        _check_keys(f"data.{name}", table, {"path", "format", "train_list", "categories"})
        if "path" not in table:
            raise ConfigError(f"data.{name} has no path")
        train_list = table.get("train_list")
        specs.append(
            DataSpec(
                name=name,
                path=folder / table["path"],
                format=table.get("format"),
                train_list=None if train_list is None else folder / train_list,
                categories=tuple(table.get("categories", ())),
            )
        )
    return specs


def _table(
    plain: Mapping[str, Any],
    number: int,
    names: tuple[str, ...],
    coresets: tuple[float, ...],
    metrics: tuple[str, ...],
    baseline: str,
) -> Table:
    where = f"table {number}"
    keys = {"name", "title", "arms", "baseline", "coresets", "metrics", "note", "claims"}
    keys |= {"curve"}
    _check_keys(where, plain, keys)
    name = str(plain.get("name", f"table-{number}"))
    _check_name(where, name)
    claims = []
    for claim in plain.get("claims", ()):
        keys = {"arm", "against", "kind", "metrics", "coresets", "margin", "paper"}
        _check_keys(f"{where}: claim", claim, keys)
        if "arm" not in claim:
            raise ConfigError(f"{where}: a claim names no arm")
        claims.append(
            Claim(
                arm=claim["arm"],
                against=claim.get("against", plain.get("baseline", baseline)),
                kind=claim.get("kind", "better"),
                metrics=tuple(claim.get("metrics", METRICS[:2])),
                coresets=tuple(float(ratio) for ratio in claim.get("coresets", ())),
                margin=float(claim.get("margin", 0.0)),
                paper=str(claim.get("paper", "")),
            )
        )
    return Table(
        name=name,
        title=str(plain.get("title", name)),
        arms=tuple(plain.get("arms", names)),
        baseline=str(plain.get("baseline", baseline)),
        coresets=_numbers(plain, "coresets", coresets, float),
        metrics=tuple(plain.get("metrics", metrics)),
        note=str(plain.get("note", "")),
        claims=tuple(claims),
        curve=str(plain.get("curve", "")).replace("-", "_"),
    )


def _tables_of(plain: Mapping[str, Any], key: str) -> list[tuple[str, Mapping[str, Any]]]:
    tables = plain.get(key, {})
    if not isinstance(tables, Mapping) or not all(isinstance(t, Mapping) for t in tables.values()):
        raise ConfigError(f"{key} of the plan must hold tables", expected=f"[{key}.NAME]")
    for name in tables:
        _check_name(key, name)
    return list(tables.items())


def _options(where: str, table: Any) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} of the plan must be a table", expected=f"[{where}]")
    return {key.replace("-", "_"): value for key, value in table.items()}


def _numbers(plain: Mapping[str, Any], key: str, default: tuple, kind: type) -> tuple:
    values = plain.get(key, default)
    is_list = isinstance(values, list | tuple)
    allowed = (int,) if kind is int else (int, float)
    if not is_list or not all(type(v) in allowed for v in values) or len(set(values)) < len(values):
        raise ConfigError(f"{key} must be a list of different numbers", got=repr(values)[:60])
    return tuple(kind(value) for value in values)


def _check_keys(where: str, table: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}", expected=", ".join(sorted(known)))


def _check_members(
    where: str, kind: str, names: Sequence[Any], known: Sequence[Any] | Mapping[str, Any]
) -> None:
    for name in names:
        _need(name in known, f"{where}: no {kind} {name!r}", ", ".join(map(str, known)))


def _check_name(where: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: {name!r} is no name", expected="letters, digits, '_', '.', '+' and '-'"
        )


def _need(is_met: bool, what: str, expected: object) -> None:
    if not is_met:
        raise ConfigError(what, expected=expected)
