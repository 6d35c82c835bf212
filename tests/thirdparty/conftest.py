"""The distribution `supervm-coffer`, built and installed as a stranger would, apart from our environment."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COFFER = Path(__file__).with_name("coffer")


@pytest.fixture(scope="session")
def coffer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH that holds the installed distribution. Built without any network."""
    work = tmp_path_factory.mktemp("coffer")
    source, wheels, site = work / "source", work / "wheels", work / "site"
    shutil.copytree(COFFER, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", *quiet, "--no-build-isolation", "--wheel-dir", wheels, source], check=True)
    (wheel,) = wheels.glob("supervm_coffer-*.whl")
    subprocess.run([*pip, "install", *quiet, "--target", site, wheel], check=True)
    return site
