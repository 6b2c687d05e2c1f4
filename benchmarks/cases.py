"""The stacks that the benchmarks run on, made once each by ``cryogimbal simulate``."""

import os
import subprocess
import sys
from pathlib import Path

from records import REPOSITORY

DATA = "$CRYOGIMBAL_TEST_DATA"
# Files of cases/ that describe one each.
DESCRIBED = ("realistic", "ideal", "large")
# A case is what stands behind `cryogimbal simulate`.
CASES = {
    **{name: f"{REPOSITORY}/benchmarks/cases/{name}.toml" for name in DESCRIBED},
    "70s": f"{DATA}/atomic/4V5A_assembly1_70S.cif.gz --box 64 --pixel-size 5"
    " --n-particles 5000 --snr 0.1",
    "hsp90": f"{DATA}/atomic/2cg9.pdb.gz --box 64 --pixel-size 3 --n-particles 5000 --snr 0.1",
    "spike": f"{DATA}/atomic/6vyb.pdb.gz --box 64 --pixel-size 4.26 --n-particles 5000 --snr 0.1",
    # A map is cut to so many voxels.
    "bgal": f"{DATA}/maps/ngl_betaGal_100.mrc --box 64 --n-particles 5000 --snr 0.1",
    "20s": f"{DATA}/atomic/3j9i.pdb.gz --box 64 --pixel-size 4 --n-particles 5000 --snr 0.1",
    "phantom": "asymmetric --box 32 --pixel-size 8 --n-particles 2000 --snr 0.1",
    "phantom-odd": "asymmetric --box 49 --pixel-size 4 --n-particles 3000 --snr 0.05"
    " --phantom-seed 1",
}
# Poses that these make equal are equal.
GROUPS = {"20s": "D7", "bgal": "D2"}


def stack_folder(case: str, work: Path) -> Path:
    """Folder with the stack of a case and its truth; simulated if it is not there yet."""
    folder = work / case
    if not (folder / "truth.mrc").exists():
        simulate(case, folder)
    return folder


def simulate(case: str, folder: Path, *others: str) -> None:
    """Simulate a case; options given as well go over the case's own."""
    data = Path(os.environ.get("CRYOGIMBAL_TEST_DATA", REPOSITORY / "../shared/data")).resolve()
    # Files of cases name it themselves.
    os.environ["CRYOGIMBAL_TEST_DATA"] = str(data)
    source = CASES[case].replace(DATA, str(data))
    command("simulate", *source.split(), *others, "--out", str(folder))


def command(*arguments: str) -> None:
    """Run one command of cryogimbal and let it print."""
    subprocess.run([sys.executable, "-m", "cryogimbal.cli.main", *arguments], check=True)
