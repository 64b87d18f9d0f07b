"""HDF5's plug-ins are off before it could load one, in both commands too."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]

PLUGIN = """
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) static void trace(void) {
    FILE *file = fopen(getenv("TRACE"), "w");
    if (file) fclose(file);
}
"""
ASKS = """
import os, sys
{before}
import h5py
{after}
h5py.h5z.filter_avail(32015)  # HDF5 looks for it in every library of the plug-in folders
"""
DISABLE = "from manifests import hdf5_plugins; hdf5_plugins.disable()"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to make a plug-in with")
    where = tmp_path_factory.mktemp("plugins")
    (where / "trace.c").write_text(PLUGIN)
    command = ["gcc", "-shared", "-fPIC", "-o", where / "libtrace.so", where / "trace.c"]
    subprocess.run(command, check=True, capture_output=True)
    return where


@pytest.mark.parametrize(
    "before, after, is_loaded", [("", "", True), (DISABLE, "", False), ("", DISABLE, False)]
)
def test_no_plugin_is_loaded(plugin, tmp_path, before, after, is_loaded):
    trace = tmp_path / "trace"
    environment = {**os.environ, "TRACE": str(trace), "HDF5_PLUGIN_PATH": str(plugin)}
    environment.pop("HDF5_PLUGIN_PRELOAD", None)
    environment["PYTHONPATH"] = str(REPO)
    script = ASKS.format(before=before, after=after)
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert trace.exists() == is_loaded


def test_both_commands_switch_plugins_off_before_hdf5_is_there():
    script = """
        import os, sys
        from click.testing import CliRunner
        from {stage}.cli import main
        assert "h5py" not in sys.modules
        CliRunner().invoke(main, ["{command}", "{folder}"])
        assert os.environ["HDF5_PLUGIN_PRELOAD"] == "::"
        """
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    environment.pop("HDF5_PLUGIN_PRELOAD", None)
    for stage, command in (("generator", "inspect"), ("detector", "score")):
        text = textwrap.dedent(script.format(stage=stage, command=command, folder=REPO / "docs"))
        subprocess.run([sys.executable, "-c", text], env=environment, check=True)
