"""An arm's options as a config: what `cutswap-det fit` would make of them, on any machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from detector.config import DEFAULT_DETECTOR, DETECTOR_OPTIONS, FitConfig
from detector.fit_options import PRESETS, fit_config, fit_options
from manifests import command_line as common
from manifests.errors import ConfigError

_CHOSEN_BY_STUDY = {"seed": "seeds", "coreset": "coresets"}


@click.command("fit", add_help_option=False)
@common.seed_option
@fit_options
def _fit(**_options: object) -> None:
    """Holds the options of `fit`; never run."""


def arm_config(
    name: str, options: Mapping[str, Any], *, coreset: float, seed: int, device: str
) -> tuple[FitConfig, Path | None]:
    """The config of one cell, and the file with its weights if one is named.

    Args:
        name: of the arm, for messages.
        options: long names of `fit`'s options with underscores; lists and switches as in TOML.
        coreset: share of patches kept; a detector without a bank has none.
        seed: of training, coreset and folds.
        device: "cpu" or "cuda".

    Training is in fp32 unless the options name another precision.

    Raises:
        ConfigError: an unknown option, or a value that `fit` would refuse.
    """
    for option, key in _CHOSEN_BY_STUDY.items():
        if option in options:
            raise ConfigError(
                f"arm {name}: --{option} differs between cells", hint=f"use the plan's {key}"
            )
    if "anomalous" in options:
        raise ConfigError(
            f"arm {name}: --anomalous is not for studies",
            hint="its images would have to leave the test set of all arms; use weak = true",
        )
    arguments = ["--seed", str(seed)]
    if "coreset_ratio" in DETECTOR_OPTIONS.get(str(options.get("detector", DEFAULT_DETECTOR)), {}):
        arguments += ["--coreset", repr(coreset)]
    if "precision" not in options:
        # `auto` looks at the processor, and cells must be the same on every machine.
        arguments += ["--precision", "fp32"]
    switches = {
        flag: parameter
        for parameter in _fit.params
        if isinstance(parameter, click.Option)
        for flag in (*parameter.opts, *parameter.secondary_opts)
        if parameter.is_flag
    }
    for option, value in options.items():
        flag = f"--{option.replace('_', '-')}"
        if isinstance(value, bool):
            arguments += _switch(name, flag, value, switches)
        else:
            arguments += [flag, _text(value)]
    try:
        context = _fit.make_context("fit", arguments)
    except click.UsageError as error:
        raise ConfigError(f"arm {name}: {error.format_message()}") from error
    parameters = dict(context.params)
    common.apply_preset(context, parameters, PRESETS)
    try:
        return fit_config(context, parameters, device), parameters["weights"]
    except ConfigError as error:
        raise ConfigError(
            f"arm {name}: {error.what}", expected=error.expected, got=error.got, hint=error.hint
        ) from error


def _switch(name: str, flag: str, value: bool, switches: Mapping[str, click.Option]) -> list[str]:
    if flag not in switches:
        raise ConfigError(f"arm {name}: {flag} is no switch", got=str(value).lower())
    if value:
        return [flag]
    others = switches[flag].secondary_opts
    # A switch without a counterpart is off by being left out.
    return [others[0]] if others else []


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    if isinstance(value, Mapping):
        return ",".join(f"{key}:{number}" for key, number in value.items())
    return str(value)
