"""Fixtures that several test modules share."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

# Triton reads this when it is first imported: without a GPU its kernels are interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

REPOSITORY = Path(__file__).resolve().parent.parent
RELION_MISSING = "RELION is not installed (Debian: apt-get install relion)"
RELION_TIMEOUT_S = 300


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("relion") and shutil.which("relion_project") is None:
        pytest.skip(RELION_MISSING)
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    # The tests' tensors are small: more threads only wait for each other.
    torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Folder with files made by other programs, which are not part of this repository."""
    named = os.environ.get("CRYOGIMBAL_TEST_DATA", "../shared/data")
    folder = (REPOSITORY / named).resolve()
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder} (set CRYOGIMBAL_TEST_DATA)")
    return folder


@pytest.fixture
def relion(tmp_path: Path) -> Callable[..., str]:
    """Run a RELION program in ``tmp_path``: ``relion("relion_project", "--i", ...)`` -> stdout."""
    if shutil.which("relion_project") is None:
        pytest.skip(RELION_MISSING)

    def run(program: str, *arguments: object, timeout_s: float = RELION_TIMEOUT_S) -> str:
        command = [program, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(
                f"{' '.join(command)} exited with {done.returncode}\n"
                f"stdout: {done.stdout[-2000:]}\nstderr: {done.stderr[-2000:]}"
            )
        return done.stdout

    return run


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20240616)


@pytest.fixture(params=[16, 17], ids=["even", "odd"])
def box(request: pytest.FixtureRequest) -> int:
    """Side of a small box; every law of projections, shifts and resampling holds for both."""
    return request.param
