"""Reads a study's plan from TOML or from options, and refuses by name what cannot be run."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detector.study.plain_values import (
    check_keys,
    check_name,
    number_of,
    numbers_of,
    options_of,
    table_list_of,
    tables_of,
    text_of,
    texts_of,
)
from detector.study.plan_types import METRICS, Arm, Claim, DataSpec, Plan, Table
from detector.study.statistics import CLAIMS
from manifests.errors import ConfigError

__all__ = [
    "METRICS",
    "Arm",
    "Claim",
    "DataSpec",
    "Plan",
    "Table",
    "parse_options",
    "parse_plan",
    "read_plan",
]

DEFAULT_SET = "default"
MAX_PLAN_BYTES = 1 << 20


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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the plan is no TOML: {error}", path=path) from error
    try:
        plain = _changed(plain, changes or {})
        return parse_plan(plain, folder=path.parent, name=path.stem, data=data)
    except ConfigError as error:
        raise ConfigError(
            error.what, path=path, expected=error.expected, got=error.got, hint=error.hint
        ) from error


def _changed(plain: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A plan's plain values with others in their place; tables lose the coresets that are gone.

    What is not of its kind stays, for `parse_plan` to refuse.
    """
    plain = {**plain, **changes}
    if "coresets" not in changes or not isinstance(plain.get("tables"), list):
        return plain
    kept = changes["coresets"]
    tables = [_with_coresets(table, kept) for table in plain["tables"]]
    for table in tables:
        if isinstance(table, dict) and isinstance(table.get("claims"), list):
            claims = [_with_coresets(claim, kept) for claim in table["claims"]]
            table["claims"] = [claim for claim in claims if _is_shown(claim)]
    return {**plain, "tables": [table for table in tables if _is_shown(table)]}


def _with_coresets(table: Any, kept: Sequence[float]) -> Any:
    if not isinstance(table, dict) or not isinstance(table.get("coresets"), list):
        return dict(table) if isinstance(table, dict) else table
    return {**table, "coresets": [ratio for ratio in table["coresets"] if ratio in kept]}


def _is_shown(table: Any) -> bool:
    return not isinstance(table, dict) or table.get("coresets") != []


def parse_plan(
    plain: Mapping[str, Any], *, folder: Path, name: str, data: Sequence[DataSpec] = ()
) -> Plan:
    """A plan from plain values; see docs/studies.md for its keys. Raises ConfigError.

    Args:
        folder: what paths in it are relative to.
    """
    keys = {"note", "data", "build", "fit", "sets", "arms", "tables", "coresets", "seeds", "split"}
    keys |= {"validation_seed", "validation_share", "metrics", "baseline", "bank_draws"}
    check_keys("the plan", plain, keys)
    specs = {spec.name: spec for spec in _data(plain, folder)}
    specs.update({spec.name: spec for spec in data})
    shared_build = _options("build", plain.get("build", {}), folder)
    sets = {DEFAULT_SET: shared_build}
    for set_name, options in tables_of(plain, "sets"):
        sets[set_name] = {**shared_build, **_options(f"sets.{set_name}", options, folder)}
    shared_fit = _options("fit", plain.get("fit", {}), folder)
    arms = []
    for arm_name, options in tables_of(plain, "arms"):
        where = f"arms.{arm_name}"
        own = _options(where, options, folder)
        label = text_of(own, "label", arm_name, where=where)
        set_name = text_of(own, "set", DEFAULT_SET, where=where)
        options = {key: value for key, value in own.items() if key not in ("label", "set")}
        arms.append(Arm(arm_name, label, set_name, {**shared_fit, **options}))
    names = tuple(arm.name for arm in arms)
    coresets = numbers_of(plain, "coresets", (0.001, 0.01), float)
    metrics = texts_of(plain, "metrics", METRICS)
    baseline = text_of(plain, "baseline", names[0] if names else "")
    tables = [
        _table(table, number, names, coresets, metrics, baseline)
        for number, table in enumerate(table_list_of(plain, "tables"), start=1)
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
        seeds=numbers_of(plain, "seeds", (0, 1, 2, 3, 4), int),
        bank_draws=plain.get("bank_draws", 1),
        split=text_of(plain, "split", "report"),
        validation_seed=plain.get("validation_seed", 0),
        validation_share=plain.get("validation_share", 0.2),
        note=text_of(plain, "note", ""),
    )


def parse_options(text: str, *, option: str) -> tuple[str, dict[str, Any]]:
    """`NAME` or `NAME:key=value,key=value` of the command line; values as TOML would read them.

    A value may hold commas where it is in brackets or quotes. Raises ConfigError.
    """
    name, _, rest = text.partition(":")
    check_name(f"{option} {text!r}", name)
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
    except (tomllib.TOMLDecodeError, ValueError, RecursionError):
        return text  # a bare word


def _data(plain: Mapping[str, Any], folder: Path) -> list[DataSpec]:
    specs = []
    for name, table in tables_of(plain, "data"):
        where = f"data.{name}"
        check_keys(where, table, {"path", "format", "train_list", "categories"})
        given = {
            key: text_of(table, key, where=where)
            for key in ("format", "train_list")
            if key in table
        }
        specs.append(
            DataSpec(
                name=name,
                path=folder / text_of(table, "path", where=where),
                format=given.get("format"),
                train_list=folder / given["train_list"] if "train_list" in given else None,
                categories=texts_of(table, "categories", where=where),
            )
        )
    return specs


def _options(where: str, table: object, folder: Path) -> dict[str, Any]:
    """Options of a command; a path among them as seen from here."""
    options = options_of(where, table)
    for name in ("weights", "roi", "textures"):
        if name in options:
            options[name] = str(folder / text_of(options, name, where=where))
    return options


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
    check_keys(where, plain, keys)
    name = text_of(plain, "name", f"table-{number}", where=where)
    check_name(where, name)
    baseline = text_of(plain, "baseline", baseline, where=where)
    return Table(
        name=name,
        title=text_of(plain, "title", name, where=where),
        arms=texts_of(plain, "arms", names, where=where),
        baseline=baseline,
        coresets=numbers_of(plain, "coresets", coresets, float, where=where),
        metrics=texts_of(plain, "metrics", metrics, where=where),
        note=text_of(plain, "note", "", where=where),
        claims=tuple(
            _claim(claim, f"{where}: claim", baseline)
            for claim in table_list_of(plain, "claims", where=where)
        ),
        curve=text_of(plain, "curve", "", where=where).replace("-", "_"),
    )


def _claim(plain: Mapping[str, Any], where: str, baseline: str) -> Claim:
    check_keys(where, plain, {"arm", "against", "kind", "metrics", "coresets", "margin", "paper"})
    return Claim(
        arm=text_of(plain, "arm", where=where),
        against=text_of(plain, "against", baseline, where=where),
        kind=text_of(plain, "kind", CLAIMS[0], where=where),
        metrics=texts_of(plain, "metrics", METRICS[:2], where=where),
        coresets=numbers_of(plain, "coresets", (), float, where=where),
        margin=number_of(plain, "margin", 0.0, float, where=where),
        paper=text_of(plain, "paper", "", where=where),
    )
