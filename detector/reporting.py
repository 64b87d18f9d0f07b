"""Orders the steps of `report`: models and test images into one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from detector.evaluate import evaluate
from detector.html_report.category_report import CategoryReport, category_report
from detector.html_report.page import DEFAULT_TITLE, page
from detector.html_report.set_facts import SetFacts, read_set_facts
from detector.min_area import ANY_AREA, MinArea
from detector.model import load_model
from detector.model_record import read_record
from detector.results import EvalResult, measure
from manifests.atomic import output_error, write_atomic
from manifests.datasets import Category
from manifests.errors import ConfigError, OutputError
from manifests.images import DEFAULT_MAX_PIXELS
from manifests.negative_set import NegativeSet
from manifests.progress import ProgressMaker, quiet_progress
from manifests.schema import read_manifest

PICTURES = 1000
PICTURE_PX = 320
SET_PICTURE_PX = 160


@dataclass(frozen=True)
class ReportSummary:
    """What a report holds.

    Attributes:
        path: the file.
        size_bytes: of it.
        images: test images that were scored.
        shown: of them, those with a picture.
        results: the metrics, one per category.
        notes: what a reader must know of it.
    """

    path: Path
    size_bytes: int
    images: int
    shown: int
    results: tuple[EvalResult, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict:
        """Plain JSON types."""
        return {
            "path": str(self.path),
            "bytes": self.size_bytes,
            "images": self.images,
            "shown": self.shown,
            "notes": list(self.notes),
            "results": [result.to_json() for result in self.results],
        }


def write_html_report(
    pairs: Sequence[tuple[Path, Category]],
    out: str | PathLike[str],
    *,
    sets: Sequence[Path] = (),
    title: str = DEFAULT_TITLE,
    pictures: int = PICTURES,
    picture_px: int = PICTURE_PX,
    device: str = "cpu",
    min_area: MinArea = ANY_AREA,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    skip_bad: bool = False,
    overwrite: bool = False,
    make_progress: ProgressMaker = quiet_progress,
) -> ReportSummary:
    """Evaluates every (model folder, data category) and writes the page about all of them.

    Args:
        out: the HTML file.
        sets: folders of negative sets; each is told of where its category's model is.
        title: heading of the page.
        pictures: test images shown at most per category.
        picture_px: longest side of their pictures.
        min_area: what verdicts ask of regions; no metric depends on it.
        overwrite: replace a file that is there.

    Raises:
        OutputError: the file is there already, or cannot be written.
        ConfigError: a set of a category that no model is of, or two sets of one category.
        DataError, BadImages, ModelError, SetError: as `evaluate`, `load_model` and `NegativeSet`.
    """
    out = Path(out)
    _check_output(out, overwrite=overwrite)
    folders = _sets_by_category(sets, [category.name for _, category in pairs], pairs)
    reports: list[CategoryReport] = []
    notes: list[str] = []
    for folder, category in pairs:
        model = load_model(folder, device=device)
        record = read_record(folder)
        evaluation = evaluate(
            model,
            category,
            max_pixels=max_pixels,
            min_area=min_area,
            skip_bad=skip_bad,
            progress=make_progress(f"eval {category.name}", "images"),
        )
        facts = _set_facts(folders.get(category.name), make_progress)
        if facts is not None and facts.digest != model.set_digest:
            notes.append(
                f"{category.name}: the set {facts.digest[:12]} is not the one that the model was "
                f"fitted on, {model.set_digest[:12]}; the page says so"
            )
        reports.append(
            category_report(
                measure(category.name, model, evaluation),
                model,
                record,
                evaluation,
                pictures=pictures,
                picture_px=picture_px,
                max_pixels=max_pixels,
                set_facts=facts,
            )
        )
    data = page(reports, title=title).encode("utf-8")
    _check_output(out, overwrite=overwrite)  # it may have come meanwhile
    write_atomic(out, data)
    return ReportSummary(
        path=out,
        size_bytes=len(data),
        images=sum(len(report.labels) for report in reports),
        shown=sum(len(report.images) for report in reports),
        results=tuple(report.result for report in reports),
        notes=tuple(notes),
    )


def _check_output(out: Path, *, overwrite: bool) -> None:
    """Raises OutputError before any work is done for a file that could not be written."""
    if out.is_dir():
        raise OutputError("is a folder", path=out, hint="name a file, such as report.html")
    if out.exists() and not overwrite:
        raise OutputError(
            "is there already", path=out, hint="pass --overwrite to replace it, or another --out"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(out, error) from error


def _sets_by_category(
    sets: Sequence[Path], names: Sequence[str], pairs: Sequence[tuple[Path, Category]]
) -> Mapping[str, Path]:
    """The folder of each category's set.

    Where there is one model and one set, they belong together whatever their names are.
    """
    found: dict[str, Path] = {}
    for folder in sets:
        name = read_manifest(folder)[0].category
        if name in found:
            raise ConfigError(f"two sets of category {name}", path=folder, got=str(found[name]))
        found[name] = folder
    if len(found) == len(pairs) == 1:
        return {names[0]: next(iter(found.values()))}
    if found and not set(found) & set(names):
        raise ConfigError(
            "no set of a model's category here",
            path=next(iter(found.values())).parent,
            expected=" or ".join(sorted(names)),
            got=", ".join(sorted(found)),
            hint="change --set",
        )
    return found


def _set_facts(folder: Path | None, make_progress: ProgressMaker) -> SetFacts | None:
    if folder is None:
        return None
    with NegativeSet.open(folder, check="files") as negative_set:
        return read_set_facts(
            negative_set,
            tile_px=SET_PICTURE_PX,
            progress=make_progress(f"read the set {negative_set.manifest.category}", "masks"),
        )
