"""Small particles, made once by the command itself, and options to go with them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cryogimbal.io.stack_images import StackImages
from tests.cli.commands import BOX, N_PARTICLES, PIXEL_SIZE, TINY, command


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    # Runs of one thread count are the same bit by bit, in this process and in others.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a simulation without shifts."""
    return simulate(tmp_path_factory.mktemp("simulated") / "data")


@pytest.fixture(scope="package")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a simulation with shifts of some pixels."""
    return simulate(tmp_path_factory.mktemp("shifted") / "data", "--shift-sd", 2 * PIXEL_SIZE)


def simulate(out: Path, *more: object) -> Path:
    options = ("--box", BOX, "--pixel-size", PIXEL_SIZE, "--n-particles", N_PARTICLES, "--snr", 1)
    assert command("simulate", "asymmetric", "--out", out, *options, *more) == 0
    return out


@pytest.fixture(scope="package")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Options of a run of a second."""
    path = tmp_path_factory.mktemp("options") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="package")
def finished(simulated: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run; tests may read it, not change it."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    table = simulated / "particles.star"
    assert command("reconstruct", table, "--out", out, "--config", tiny) == 0
    return out


@pytest.fixture(scope="module")
def no_pictures(finished: Path) -> Iterator[None]:
    """Runs of this module draw nothing, which halves their time; ``finished`` has its pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cryogimbal.cli.results._write_figures", lambda *_: None)
        yield


@pytest.fixture
def no_image_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is refused is refused before any image has been looked at."""

    def read(self: StackImages, index: torch.Tensor) -> torch.Tensor:
        raise AssertionError((self, index))

    monkeypatch.setattr(StackImages, "read", read)
