"""A bank's update put into words for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detector.bank_update import BankUpdate
from manifests.terminal import counted

_NAMED = 5


def describe_update(done: BankUpdate) -> list[str]:
    """What an update did, line by line."""
    before, after = done.coverage_before, done.coverage_after
    repeats = f", {counted(len(done.repeats), 'repeat')} left out" if done.repeats else ""
    low, high = (f"{100 * rate:.2g}" for rate in done.after.rate_interval())
    exact = "all of these scores exact"
    if done.score_bounds:
        exact = (
            f"{done.score_bounds} of these scores are upper bounds, from before the update "
            "(--set or --data makes them exact)"
        )
    return [
        f"{done.folder}: {counted(done.images, 'image')} added{repeats}",
        f"  bank        {done.entries_before} patches and {done.entries_added} new ones",
        f"  coverage    patches of the new images within {before.radius:.4g} of it, "
        f"{before.mean:.4g} on average; now {after.radius:.4g}, {after.mean:.4g}",
        f"  alarms      {len(done.exceeding)} of {done.images} new images exceeded the "
        f"threshold{_named(done.exceeding)}; now {done.exceeding_after}, each without its own "
        "patches",
        f"  thresholds  {done.before.value:.4g} (image), {done.pixel_before.value:.4g} (pixel); "
        f"now {done.after.value:.4g}, {done.pixel_after.value:.4g} from {done.after.n} images; "
        f"{low} to {high} % false alarms (95 %)",
        f"              {exact}",
        f"  model digest {done.model_digest}",
    ]


def _named(paths: Sequence[Path]) -> str:
    """The first of them, to be looked at."""
    if not paths:
        return ""
    more = ", ..." if len(paths) > _NAMED else ""
    return f" ({', '.join(path.name for path in paths[:_NAMED])}{more})"
