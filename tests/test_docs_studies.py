"""The committed plans are read, and every arm of them is one that `fit` would take."""

from __future__ import annotations

import pytest
from conftest import REPO

from detector.study.arm_config import arm_config
from detector.study.builds import request_set
from detector.study.plan import DataSpec, read_plan

PLANS = sorted((REPO / "docs" / "studies").glob("*.toml"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_a_committed_plan_can_be_run(path, tmp_path):
    from generator.cli import build

    plan = read_plan(path, data=[DataSpec("mtd", tmp_path)])
    assert len(plan.arms) >= 2  # fewer compare nothing
    for arm in plan.arms:
        arm_config(arm.name, arm.options, coreset=0.01, seed=0, device="cpu")
    known = {parameter.name for parameter in build.params}
    known |= {option.lstrip("-").replace("-", "_") for p in build.params for option in p.opts}
    for name, options in plan.sets.items():
        request_set(plan.data[0], name, options, tmp_path)
        assert set(options) <= known, name
    assert {arm.set_name for arm in plan.arms} <= set(plan.sets)
