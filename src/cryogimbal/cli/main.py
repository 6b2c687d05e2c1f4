"""The ``cryogimbal`` command."""

import signal
import sys
from collections.abc import Sequence
from typing import Any

import tyro
from rich.console import Console

from cryogimbal import __version__
from cryogimbal.cli.evaluate import Evaluate
from cryogimbal.cli.flip_hand import FlipHand
from cryogimbal.cli.fsc import Fsc
from cryogimbal.cli.infer_poses import InferPoses
from cryogimbal.cli.options import base_config
from cryogimbal.cli.reconstruct import Reconstruct, reconstruct_with_defaults
from cryogimbal.cli.resume import Resume
from cryogimbal.cli.run import FailedSearchError
from cryogimbal.cli.select import Select
from cryogimbal.cli.signals import EXIT_STATUS, StoppedBySignalError
from cryogimbal.cli.simulate import Simulate, simulate_with_defaults
from cryogimbal.cli.simulation_case import case_argument, read_case
from cryogimbal.errors import InputError

DESCRIPTION = "Finds the poses of cryo-EM particles and their 3-D density together, from nothing."
BAD_INPUT = 2
FAILED = 1
NO_STRUCTURE = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0 is success, 2 input or options that cannot be used, 1 a file system that fails, 3 a run that has
    found no structure, 130 and 143 a run that was stopped by Ctrl-C or SIGTERM after writing a
    checkpoint.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    if arguments == ["--version"]:
        Console(highlight=False).print(f"cryogimbal {__version__}")
        return 0
    try:
        _parse(arguments).run()
    except StoppedBySignalError as stop:
        errors.print(f"stopped: {stop}", markup=False)
        return stop.exit_status
    except FailedSearchError as failure:
        errors.print(f"failed: {failure}", markup=False)
        return NO_STRUCTURE
    except KeyboardInterrupt:
        errors.print("stopped by Ctrl-C")
        return EXIT_STATUS[signal.SIGINT]
    except (InputError, OSError) as error:
        errors.print(f"[bold red]error:[/] {_escaped(error)}")
        return BAD_INPUT if isinstance(error, InputError) else FAILED
    return 0


def _parse(arguments: list[str]) -> Any:
    # The help of `reconstruct` shows the defaults of the preset and file that are named beside it,
    # that of `simulate` those of the file named as its source.
    commands = {
        "simulate": Simulate,
        "reconstruct": Reconstruct,
        "resume": Resume,
        "evaluate": Evaluate,
        "flip-hand": FlipHand,
        "infer-poses": InferPoses,
        "fsc": Fsc,
        "select": Select,
    }
    if arguments[:1] == ["reconstruct"]:
        return tyro.cli(
            reconstruct_with_defaults(base_config(arguments)),
            prog="cryogimbal reconstruct",
            args=arguments[1:],
        )
    case = case_argument(arguments[1:]) if arguments[:1] == ["simulate"] else None
    if case is not None:
        return tyro.cli(
            simulate_with_defaults(read_case(case).settings),
            prog="cryogimbal simulate",
            args=arguments[1:],
        )
    return tyro.extras.subcommand_cli_from_dict(
        commands, prog="cryogimbal", args=arguments, description=DESCRIPTION
    )


def _escaped(error: Exception) -> str:
    return str(error).replace("[", "\\[")


if __name__ == "__main__":
    sys.exit(main())
