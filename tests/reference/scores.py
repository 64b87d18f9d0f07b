"""Scores of images, as `cutswap-det score` prints them."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import invoke_det


def scores_of(model: Path, *paths: object) -> dict[str, float]:
    result = invoke_det("score", model, *paths, "--output", "json", "--quiet")
    return {record["path"]: record["score"] for record in json.loads(result.stdout)}
