"""The command of `cutswap-det` that runs beside a line: watch."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from detector.score_options import min_area_option
from manifests import command_line as common
from manifests.errors import ConfigError
from manifests.terminal import counted

if TYPE_CHECKING:
    from detector.min_area import MinArea


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append the lines to this file instead of writing them to stdout.",
)
@click.option(
    "--heatmaps",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for overlays in original pixels, written before the image's line.",
)
@min_area_option
@click.option(
    "--existing/--no-existing",
    default=True,
    show_default=True,
    help="Whether to score what lies in DIR at the start.",
)
@click.option("--once", is_flag=True, help="End when every file in DIR has its line.")
@click.option(
    "--settle",
    type=click.FloatRange(min=0, max=3600),
    default=0.5,
    show_default=True,
    help="Seconds for which a file must not have changed before it is read; more for a network "
    "share, whose sizes and times come late.",
)
@click.option(
    "--patience",
    type=click.FloatRange(min=0, max=86400),
    default=10.0,
    show_default=True,
    help="Seconds for which a file that cannot be read must not have changed before it is given "
    "up.",
)
@common.jobs_option
@common.device_option
@common.megapixel_option
@common.quiet_option
@common.domain_errors
def watch(
    model: Path,
    folder: Path,
    out: Path | None,
    heatmaps: Path | None,
    min_area: MinArea,
    existing: bool,
    once: bool,
    settle: float,
    patience: float,
    jobs: int | None,
    device: str,
    max_megapixels: float,
    quiet: bool,
) -> None:
    """Score images as they arrive in a folder, a line of JSON each.

    MODEL is a model folder, or a root with one model in it. DIR is where a camera drops its
    images; folders in it are not looked into. Every complete version of a file has exactly one
    line: a name that is written again is scored again, a file that stays unreadable gets a line
    with its error, and one that goes before it is complete gets none. Ctrl-C and SIGTERM end it
    after the image in hand, with exit code 0.

    \b
    cutswap-det watch models/part /var/spool/camera1 >> verdicts.jsonl
    cutswap-det watch models/part inbox --out verdicts.jsonl --heatmaps heat --min-area 0.05%
    cutswap-det watch models/part inbox --once | jq -r 'select(.verdict == "defect").path'
    """
    from detector.arrivals import Arrivals
    from detector.line_output import STDOUT, LineOutput, appended
    from detector.model_folder import find_model
    from detector.scoring import Scorer
    from detector.stop_signals import StopSignals
    from detector.watch import Watch
    from manifests.allocator import keep_freed_memory
    from manifests.weights import resolve_device

    def note(line: str) -> None:
        common.say([line], err=True)

    if heatmaps is not None and heatmaps.resolve() == folder.resolve():
        raise ConfigError(
            "--heatmaps names the watched folder, so that heat maps would be scored",
            path=folder,
            hint="name another folder",
        )
    keep_freed_memory()
    arrivals = Arrivals(
        folder, settle_s=settle, patience_s=patience, is_old_wanted=existing, on_note=note
    )
    # What was there at the start is what is there now, not when the model is loaded.
    arrivals.look()
    scorer = Scorer.load(
        find_model(model),
        device=resolve_device(device),
        min_area=min_area,
        with_regions=True,
        heatmaps=heatmaps,
    )
    with contextlib.ExitStack() as stack:
        if out is None:
            output = LineOutput(sys.stdout.fileno(), Path(STDOUT))
        else:
            output = stack.enter_context(appended(out))
        stop = stack.enter_context(StopSignals())
        if not quiet:
            note(f"watching {folder} with model {scorer.model_digest}")
        done = Watch(
            arrivals,
            scorer,
            output,
            readers=jobs or os.cpu_count() or 1,
            max_pixels=round(max_megapixels * 1e6),
            on_note=note,
        ).run(stop, is_once=once)
    if not quiet:
        unusable = f", {counted(done.unusable, 'file')} unusable" if done.unusable else ""
        note(f"ended: {counted(done.images, 'image')}, {counted(done.defects, 'defect')}{unusable}")
