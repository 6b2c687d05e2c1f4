"""Cryogimbal beside RELION's InitialModel and cryoDRGN's ab initio: same stack, machine, threads.

    python benchmarks/peers.py 70s cryogimbal relion cryodrgn-explicit cryodrgn --work DIR \
        --programs ENVIRONMENT/bin

Runs the named programs in turn, none longer than --minutes, and scores every set of poses that they
wrote against the truth, after the best global rotation and hand. --programs names the folder of
cryoDRGN's executable, and of RELION's unless that is in PATH. cryoDRGN 4.3 has an environment of its
own, in which ``pip install torch==2.13.0`` goes before ``pip install cryodrgn==4.3.1``; RELION 3.1 is
Debian's package. ``cryodrgn`` is its default network, of which only the rate is measured, on the
first --rate-images images. Prints rows and puts them into ``benchmarks/RECORDS.md``; what has run
before with the same case, program and seed is not run again.

Times are those of the whole commands, Python's start included. A program's *own error* is the median
over the poses that it wrote last; the time to it is that of its first poses within 5 % of that. Our
time to it is that of our first checkpoint whose median is no higher than the program's own error; one
is written every 20 seconds and at every change of stage.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from datetime import date
from pathlib import Path
from typing import IO, Any

from cases import CASES, stack_folder
from peer_programs import PROGRAMS
from peer_scores import record, score
from peer_task import Program, Task
from records import append_rows, commit, processor, read_json

HEADING = "## Beside other programs"
OURS = "cryogimbal"
GRACE_SECONDS = 20
SECONDS_BETWEEN_LOOKS = 0.5


def main() -> None:
    """Run what is asked for and record it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=CASES)
    parser.add_argument("methods", nargs="+", choices=PROGRAMS, metavar="PROGRAM")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=75, help="time limit of each program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--preset", default="auto", help="of cryogimbal")
    parser.add_argument("--rate-images", type=int, default=64)
    parser.add_argument("--programs", type=Path, help="folder of cryodrgn or relion_refine")
    parser.add_argument("--work", type=Path, required=True, help="folder for stacks and runs")
    given = parser.parse_args()
    work = given.work.resolve()
    stack = stack_folder(given.case, work)
    ours = None
    # Ours first, so that the others can be set against it.
    for method in sorted(set(given.methods) | {OURS}, key=list(PROGRAMS).index):
        name = f"{method}-{given.preset}" if method == OURS else method
        task = Task(
            stack=stack,
            out=work / f"peers-{given.case}-{name}-{given.seed}",
            seed=given.seed,
            threads=given.threads,
            programs=None if given.programs is None else given.programs.resolve(),
            preset=given.preset,
            rate_images=given.rate_images,
        )
        if method not in given.methods and not (task.out / "run.json").exists():
            continue
        found = result(method, task, given.minutes * 60)
        if method in given.methods:
            row = record(given.case, name, given.seed, found, ours)
            print(row)
            append_rows(HEADING, [row])
        if method == OURS and found["timeline"]:
            ours = found


def result(method: str, task: Task, limit_seconds: float) -> dict[str, Any]:
    """How a program did: run and scored now, or read from its folder."""
    program = PROGRAMS[method]
    if not (task.out / "run.json").exists():
        # A run that was cut off from outside is begun anew: its time must be that of one run.
        shutil.rmtree(task.out, ignore_errors=True)
        task.out.mkdir(parents=True)
        _write(task.out / "run.json", run(program, task, limit_seconds))
    if not (task.out / "score.json").exists():
        _write(task.out / "score.json", score(program, task, read_json(task.out / "run.json")))
    return read_json(task.out / "run.json") | read_json(task.out / "score.json")


def run(program: Program, task: Task, limit_seconds: float) -> dict[str, Any]:
    """Run a program's commands until they end or the time is up."""
    commands = [_resolved(command) for command in program.commands(task)]
    started = time.time()
    with (task.out / "output.log").open("w", encoding="utf-8") as log:
        # The first command that is stopped is the last.
        finished = all(
            _run_until(command, program, task, log, started + limit_seconds) for command in commands
        )
    return {
        "commands": [_shown(command, task) for command in commands],
        "started": started,
        "seconds": time.time() - started,
        "finished": finished,
        "threads": task.threads,
        "machine": processor(),
        "date": date.today().isoformat(),
        "commit": commit(),
    }


def _run_until(command: list[str], program: Program, task: Task, log: IO[str], end: float) -> bool:
    """Run one command in the folder of the stack; whether it came to its own end before ``end``."""
    threads = {f"{name}_NUM_THREADS": str(task.threads) for name in ("OMP", "MKL", "OPENBLAS")}
    # A session of its own, so that the workers of a program end with it.
    process = subprocess.Popen(
        command,
        cwd=task.stack,
        env=os.environ | threads,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        while (status := process.poll()) is None:
            if time.time() > end:
                return False
            time.sleep(SECONDS_BETWEEN_LOOKS)
            program.keep(task.out)
    finally:
        _end(process)
    if status != 0:
        raise SystemExit(f"{shlex.join(command)}: exit status {status}; see {log.name}")
    return True


def _resolved(command: list[str]) -> list[str]:
    """The program by the folder that was named, else by PATH."""
    if shutil.which(command[0]) is None:
        command = [Path(command[0]).name, *command[1:]]
    if shutil.which(command[0]) is None:
        raise SystemExit(f"{command[0]}: not found; --programs names the folder that has it")
    return command


def _shown(command: list[str], task: Task) -> str:
    """The command without the folders of this machine."""
    words = [Path(command[0]).name, *(word.replace(str(task.out), "OUT") for word in command[1:])]
    return shlex.join(words)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
