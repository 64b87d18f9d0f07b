"""What both command lines share: options that mean the same everywhere, errors, progress.

The only module outside the two `cli.py` that knows click.
"""

from __future__ import annotations

import functools
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import click

from manifests.durations import duration
from manifests.errors import BadImages, ConfigError, CutswapError
from manifests.terminal import printable

MAX_LISTED_ERRORS = 20
_NO_SECTIONS: Mapping[str, Sequence[str]] = MappingProxyType({})


class SizeType(click.ParamType):
    """`256` (square) or `HxW`, as (height, width)."""

    name = "PX|HxW"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        try:
            sides = tuple(int(part) for part in parts)
        except ValueError:
            sides = ()
        if len(sides) not in (1, 2):
            self.fail(f"{value!r} is neither a number of pixels nor HEIGHTxWIDTH", param, ctx)
        return (sides[0], sides[-1])


class LocationType(click.ParamType):
    """A folder, or the URL of a set, which stays text: a Path would turn `s3://` into `s3:/`."""

    name = "PATH|URL"

    def convert(self, value, param, ctx):
        from manifests.url import is_url

        return value if isinstance(value, Path) or is_url(value) else Path(value)


class RangeType(click.ParamType):
    """`LOW,HIGH` as a pair of numbers."""

    name = "LOW,HIGH"

    def __init__(self, kind: type = float) -> None:
        self.kind = kind

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        try:
            low, high = (self.kind(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not two numbers LOW,HIGH", param, ctx)
        if low > high:
            self.fail(f"{value!r}: the first number must not exceed the second", param, ctx)
        return (low, high)


class ListType(click.ParamType):
    """Comma-separated values of one kind, as a tuple."""

    def __init__(self, kind: type = str, name: str = "A,B,...") -> None:
        self.kind = kind
        self.name = name

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        try:
            items = tuple(self.kind(part.strip()) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list", param, ctx)
        if "" in items or len(set(items)) != len(items):
            self.fail(f"{value!r} has an empty or repeated entry", param, ctx)
        return items


def out_option(help_text: str, **settings):
    return click.option(
        "--out", type=click.Path(path_type=Path, file_okay=False), help=help_text, **settings
    )


seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of every draw."
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the network runs; auto takes a GPU where there is one.",
)
jobs_option = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Parallel workers.  [default: one per CPU core]",
)
category_option = click.option(
    "--category",
    "categories",
    multiple=True,
    help="Only this category of a root with several (repeatable).",
)
format_option = click.option(
    "--format",
    "data_format",
    type=click.Choice(["mvtec", "mtd", "folder"]),
    help="Layout of the data; detected by itself when left out.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
skip_bad_option = click.option(
    "--skip-bad", is_flag=True, help="Go on without unusable images; they are listed and recorded."
)
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace what the output folder already holds."
)
quiet_option = click.option("--quiet", is_flag=True, help="No progress on stderr.")


def megapixel_option(function):
    return click.option(
        "--max-megapixels",
        type=click.FloatRange(min=0, min_open=True),
        default=200.0,
        show_default=True,
        help="Refuse larger images before decoding them.",
    )(function)


def apply_preset(
    context: click.Context, options: dict[str, object], presets: dict[str, dict]
) -> None:
    """Puts a preset's values into `options`, except where the user typed one."""
    name = options["preset"]
    for option, value in presets[name].items() if name else ():
        source = context.get_parameter_source(option)
        if source is not click.core.ParameterSource.COMMANDLINE:
            options[option] = value


def chosen(folders: Sequence[Path], categories: Sequence[str], path: Path) -> list[Path]:
    """The folders of the categories that `--category` names, in that order; all without it.

    Args:
        folders: one per category, each with the category's name.
        categories: what the user typed.
        path: where the folders were found.

    Raises:
        ConfigError: there is no folder of one of the names.
    """
    if not categories:
        return list(folders)
    named = {folder.name: folder for folder in folders}
    missing = [name for name in categories if name not in named]
    if missing:
        raise ConfigError(
            f"no category {missing[0]} here",
            path=path,
            expected=" | ".join(sorted(named)),
            hint="change --category",
        )
    return [named[name] for name in categories]


def domain_errors(command: Callable) -> Callable:
    """Turns domain errors into one line on stderr and the exit code that belongs to them."""

    @functools.wraps(command)
    def run(*args, **options):
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return command(*args, **options)
        except BadImages as error:
            for one in error.errors[:MAX_LISTED_ERRORS]:
                click.echo(printable(f"  {one}"), err=True)
            if len(error.errors) > MAX_LISTED_ERRORS:
                click.echo(f"  ... and {len(error.errors) - MAX_LISTED_ERRORS} more", err=True)
            _fail(error)
        except CutswapError as error:
            _fail(error)
        except KeyboardInterrupt:
            click.echo("\ninterrupted; run the same command again to go on", err=True)
            raise SystemExit(130) from None
        except BrokenPipeError:
            # The reader of our output (head, less) has gone: nothing left to say to it.
            sys.stderr.close()
            raise SystemExit(0) from None
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            click.echo(f"error: {name}{error.strerror or error}", err=True)
            raise SystemExit(1) from None

    return run


def say(lines: Iterable[str]) -> None:
    """Prints lines that may hold a stranger's words."""
    for line in lines:
        click.echo(printable(line))


def _show_warning(message, *_where: object) -> None:
    # Where in our code it was raised is of no use to a user.
    click.echo(printable(f"warning: {' '.join(str(message).split())}"), err=True)


def _fail(error: CutswapError) -> None:
    click.echo(printable(f"error: {error}"), err=True)
    raise SystemExit(2 if isinstance(error, ConfigError) else error.exit_code) from None


def sets_at(
    location: Path | str, categories: Sequence[str], *, expect: str | None = None
) -> list[Path]:
    """The folders of the sets at a path or URL that `--category` names, all without it.

    A URL is fetched into the cache first.

    Args:
        expect: set digest that the one at a URL must have.

    Raises:
        SetError: there are none, or they cannot be fetched.
        ConfigError: no set of a category that was named.
    """
    from manifests.negative_set import find_sets
    from manifests.url import is_url

    if is_url(location):
        from manifests.remote import open_location

        location = open_location(location, expect=expect)
    return chosen(find_sets(Path(location)), categories, Path(location))


class SectionedGroup(click.Group):
    """A command group whose help lists its commands under headings.

    Args:
        sections: heading -> names of commands, in order; all others follow.
    """

    def __init__(self, *args, sections: Mapping[str, Sequence[str]] = _NO_SECTIONS, **settings):
        super().__init__(*args, **settings)
        self.sections = sections

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        named = {name for names in self.sections.values() for name in names}
        others = tuple(name for name in self.list_commands(ctx) if name not in named)
        for heading, names in [*self.sections.items(), ("Others", others)]:
            rows = [
                (name, self.commands[name].get_short_help_str(limit=100))
                for name in names
                if name in self.commands
            ]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


class Progress:
    """One line on stderr: what, how far, how fast, how long still.

    On a terminal the line is rewritten; elsewhere a new one is printed every ten seconds, so that
    logs stay short. Durations go nowhere else: they belong to no digest.
    """

    def __init__(self, label: str, unit: str, *, quiet: bool = False) -> None:
        self.label, self.unit, self.quiet = label, unit, quiet
        self.is_terminal = sys.stderr.isatty()
        self.started = time.monotonic()
        self.first_done: int | None = None
        self.last_shown = -1e9
        self.width = 0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        if self.quiet:
            return
        now = time.monotonic()
        if self.first_done is None:
            # Work that an earlier run had finished must not count as speed.
            self.first_done, self.started = done, now
        is_last = done >= total
        if now - self.last_shown < (0.1 if self.is_terminal else 10.0) and not is_last:
            return
        self.last_shown = now
        elapsed = now - self.started
        fresh = done - self.first_done
        text = f"{self.label}  {done}/{total} {self.unit}"
        if fresh > 0 and elapsed > 0:
            rate = fresh / elapsed
            text += f"  {rate:.1f}/s" if rate >= 1 else f"  {1 / rate:.1f} s each"
            text += f"  {duration(elapsed)} so far" if is_last else ""
            text += "" if is_last else f"  {duration((total - done) / rate)} left"
        text += f"  {note}" if note else ""
        if self.is_terminal:
            click.echo("\r" + text.ljust(self.width), err=True, nl=is_last)
            self.width = len(text)
        else:
            click.echo(text, err=True)
