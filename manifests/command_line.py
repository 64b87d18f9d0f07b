"""What both command lines share: options that mean the same everywhere, errors, answers."""

from __future__ import annotations

import functools
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

import click

from manifests.errors import BadImages, ConfigError, CutswapError
from manifests.option_types import DIGEST
from manifests.progress import progress_maker
from manifests.terminal import printable

if TYPE_CHECKING:
    from manifests.categories import Category

MAX_LISTED_ERRORS = 20
# The keys of `manifests.dataset_formats.FORMATS`, whose import takes NumPy; a test compares them.
DATA_FORMATS = (
    "mvtec",
    "loco",
    "visa",
    "btad",
    "kolektor",
    "kolektor2",
    "mtd",
    "labelled",
    "list",
    "folder",
)
WHOLE = "whole and unchanged"
Answer = TypeVar("Answer")
Command = TypeVar("Command", bound=Callable[..., Any])
_OPTION_COLUMN = 30
_NO_SECTIONS: Mapping[str, Sequence[str]] = MappingProxyType({})


def out_option(help_text: str, **settings: Any) -> Callable[[Command], Command]:
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
    type=click.Choice(DATA_FORMATS),
    help="Layout of the data (docs/data.md); detected by itself when left out.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
skip_bad_option = click.option(
    "--skip-bad", is_flag=True, help="Go on without unusable images; they are listed and recorded."
)
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace what the output folder already holds."
)
expect_option = click.option(
    "--expect", type=DIGEST, help="Refuse a set of another set digest than this."
)
quiet_option = click.option("--quiet", is_flag=True, help="No progress on stderr.")


def megapixel_option(function: Command) -> Command:
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
    for option, value in presets[str(name)].items() if name else ():
        source = context.get_parameter_source(option)
        if source is not click.core.ParameterSource.COMMANDLINE:
            options[option] = value


def chosen(folders: Sequence[Path], categories: Sequence[str], path: Path | str) -> list[Path]:
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


def domain_errors(command: Callable[..., Answer]) -> Callable[..., Answer]:
    """Turns domain errors into one line on stderr and the exit code that belongs to them."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Answer:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return command(*args, **options)
        except BadImages as error:
            _list_errors(error.errors, as_json=options.get("as_json"))
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


def say(lines: Iterable[str], *, err: bool = False) -> None:
    """Prints lines that may hold a stranger's words, on stdout or stderr."""
    for line in lines:
        click.echo(printable(line), err=err)


def say_notes(categories: Iterable[Category]) -> None:
    """Says on stderr what the readers of data sets noted: what was left out, what is not read."""
    say((f"note: {one.name}: {note}" for one in categories for note in one.notes), err=True)


def report(
    answers: Iterable[Answer],
    *,
    as_json: bool,
    words: Callable[[Answer], Iterable[str]],
    plain: Callable[[Answer], object],
) -> None:
    """Prints answers: in words, each as soon as it is there, or as one JSON list at the end.

    Args:
        answers: one per category; taken one by one, so that a generator may do the work.
        words: an answer as lines.
        plain: an answer as plain JSON types.
    """
    rows = []
    for answer in answers:
        rows.append(plain(answer))
        if not as_json:
            say(words(answer))
    if as_json:
        click.echo(json.dumps(rows, indent=1))


def report_problems(
    found: Iterable[tuple[Path, Sequence[CutswapError]]],
    *,
    as_json: bool,
    whole: str = WHOLE,
) -> int:
    """Prints what is wrong with each folder, like `report`, and returns how many things are.

    Args:
        whole: what to say of a folder with which nothing is wrong.
    """
    rows = []
    for folder, problems in found:
        rows += [{"folder": str(folder), **problem.to_json()} for problem in problems]
        if not as_json:
            say([f"{folder}: {problem}" for problem in problems])
            if not problems:
                say([f"{folder}: {whole}"])
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    return len(rows)


def check_category(path: Path, category: str, categories: Sequence[str]) -> None:
    """Raises ConfigError where `--category` names another than the one of a recipe file."""
    missing = [name for name in categories if name != category]
    if missing:
        raise ConfigError(
            f"no category {missing[0]} here",
            path=path,
            expected=category,
            hint="leave --category out: a recipe holds one",
        )


def note_idle(option: str, *, where: str) -> None:
    """Says on stderr that an option which the user typed reaches nothing."""
    click.echo(f"note: {option} changes nothing {where}", err=True)


def is_typed(name: str) -> bool:
    """Whether the user typed the option of this name of the command that runs."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def check_expect_one(
    expect: str | None, found: Sequence[object], *, path: Path | str, noun: str = "set"
) -> None:
    """Raises ConfigError where `--expect` is given and there are several it could be meant for."""
    if expect and len(found) > 1:
        raise ConfigError(
            f"--expect names one {noun}",
            path=path,
            got=f"{len(found)} {noun}s",
            hint="use --category",
        )


def _list_errors(errors: Sequence[CutswapError], *, as_json: bool | None) -> None:
    """Prints what is wrong with each image, sorted by path.

    All of it, but on a terminal, where a screenful of it pushes the answer out of sight.

    Args:
        as_json: whether JSON was asked for; None where the command has no such option.
    """
    rows = sorted(errors, key=lambda error: (error.path or "", error.what))
    if as_json:
        click.echo(json.dumps([error.to_json() for error in rows], indent=1))
        return
    shown = rows[:MAX_LISTED_ERRORS] if sys.stderr.isatty() else rows
    say([f"  {error}" for error in shown], err=True)
    if len(shown) < len(rows):
        way = "--json lists all" if as_json is not None else "2> FILE takes all of them"
        say([f"  ... and {len(rows) - len(shown)} more ({way})"], err=True)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    # Where in our code it was raised is of no use to a user.
    click.echo(printable(f"warning: {' '.join(str(message).split())}"), err=True)


def _fail(error: CutswapError) -> NoReturn:
    click.echo(printable(f"error: {error}"), err=True)
    raise SystemExit(2 if isinstance(error, ConfigError) else error.exit_code) from None


def sets_at(
    location: Path | str,
    categories: Sequence[str],
    *,
    expect: str | None = None,
    quiet: bool = False,
) -> list[Path]:
    """The folders of the sets at a path or URL that `--category` names, all without it.

    A URL is fetched into the cache first.

    Args:
        expect: set digest that the one at a URL must have.
        quiet: no progress on stderr while a URL is fetched.

    Raises:
        SetError: there are none, or they cannot be fetched.
        ConfigError: no set of a category that was named.
    """
    from manifests.set_folders import find_sets
    from manifests.url import is_url

    if is_url(location):
        from manifests.remote import open_location

        location = open_location(location, expect=expect, make_progress=progress_maker(quiet=quiet))
    return chosen(find_sets(Path(location)), categories, Path(location))


class SectionedGroup(click.Group):
    """A command group whose help lists its commands under headings.

    Args:
        sections: heading -> names of commands, in order; all others follow.
    """

    def __init__(
        self, *args: Any, sections: Mapping[str, Sequence[str]] = _NO_SECTIONS, **settings: Any
    ) -> None:
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


class SectionedCommand(click.Command):
    """A command whose help lists its options under headings.

    Args:
        sections: heading -> names of parameters, in order; all others come first.
    """

    def __init__(
        self, *args: Any, sections: Mapping[str, Sequence[str]] = _NO_SECTIONS, **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        records = {one.name: one.get_help_record(ctx) for one in options}
        named = {name for names in self.sections.values() for name in names}
        others = [name for name in records if name not in named]
        # One column for all sections: click makes it as wide as the longest entry up to this.
        width = min(_OPTION_COLUMN, max(len(record[0]) for record in records.values() if record))
        for heading, names in [("Options", others), *self.sections.items()]:
            rows = [record for name in names if (record := records[name]) is not None]
            if rows:
                (first, text), *rest = rows
                with formatter.section(heading):
                    formatter.write_dl([(first.ljust(width), text), *rest])


Decorator = Callable[[Callable], Callable]


def with_options(command: Callable, options: Sequence[Decorator]) -> Callable:
    """A function with these options, in this order."""
    for option in reversed(options):
        command = option(command)
    return command


def parameter_names(options: Sequence[Decorator]) -> list[str]:
    """click's names of some options."""
    return [one.name for one in click.command()(with_options(lambda **_: None, options)).params]
