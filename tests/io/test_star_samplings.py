"""Tables of several boxes and pixel sizes, read and written again."""

from pathlib import Path

import numpy as np
import torch

from cryogimbal.data.poses import PoseSet
from cryogimbal.io.star import read_particles
from cryogimbal.io.star_write import write_particles
from cryogimbal.rotations import random_rotations
from tests.io.tables import RELION_31, loop, particle_columns, write_stack

SECOND = "krios 2 200.0 2.7 0.07 1.7 13\n"


def write_mixed(folder: Path) -> tuple[Path, list[np.ndarray]]:
    stacks = [write_stack(folder / "a.mrcs", 2, 8), write_stack(folder / "b.mrcs", 3, 13, seed=1)]
    names = ["1@a.mrcs", "2@b.mrcs", "2@a.mrcs", "1@b.mrcs", "3@b.mrcs"]
    groups = ["1", "2", "1", "2", "2"]
    columns = particle_columns(names, {"rlnOpticsGroup": groups})
    header = RELION_31.format(pixel_size=2.5, box=8).replace("\n\n\n# v", f"\n{SECOND}\n\n# v")
    path = folder / "mixed.star"
    path.write_text(header.removesuffix("loop_\n") + "loop_\n" + loop(columns))
    return path, stacks


def test_each_group_has_its_own_sampling(tmp_path: Path) -> None:
    path, stacks = write_mixed(tmp_path)
    stack, _ = read_particles(path)
    assert [(group.box, group.pixel_size_angstrom) for group in stack.optics] == [
        (8, 2.5),
        (13, 1.7),
    ]
    assert stack.optics_index.tolist() == [0, 1, 0, 1, 1]
    assert stack.ctf.voltage_kilovolt.tolist() == [300.0, 200.0, 300.0, 200.0, 200.0]
    # As wide as the narrowest (20 Å), as fine as the finest.
    assert (stack.width_angstrom, stack.box) == (20.0, 11)
    wide = stack.images.read(torch.tensor([3, 1]))
    assert torch.equal(wide, torch.from_numpy(stacks[1][[0, 1]]))
    narrow = stack.images.read(torch.tensor([2]))
    assert torch.equal(narrow, torch.from_numpy(stacks[0][[1]]))


def test_a_table_of_two_samplings_comes_back(tmp_path: Path, generator: torch.Generator) -> None:
    path, _ = write_mixed(tmp_path)
    stack, table = read_particles(path)
    shift = torch.randn(5, 2, generator=generator)
    poses = PoseSet(rotation=random_rotations(5, generator), shift_angstrom=shift)
    write_particles(tmp_path / "out.star", table, poses)
    again, _ = read_particles(tmp_path / "out.star")
    assert again.optics == stack.optics
    assert torch.equal(again.optics_index, stack.optics_index)
    assert again.poses is not None
    torch.testing.assert_close(again.poses.rotation, poses.rotation, atol=1e-5, rtol=0)
    torch.testing.assert_close(again.poses.shift_angstrom, shift, atol=1e-4, rtol=0)
