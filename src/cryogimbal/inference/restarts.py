"""A search that has collapsed begins again with another seed, at most three times, and says so.

Signs of collapse (:mod:`cryogimbal.evaluation.collapse`) are looked for in the map whenever one stage
hands over to the next, and in map and poses at the end. A search from nothing that shows one is given
up there and then; the last one is kept with its signs, so that nobody takes it for a structure.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from cryogimbal.inference.config import ReconstructionConfig
from cryogimbal.inference.reconstruct import ReconstructionRun
from cryogimbal.inference.records import NoticeRecord, Record, SwitchRecord
from cryogimbal.inference.seeding import generator_for
from cryogimbal.inference.start_and_result import Reconstruction

MOST_RESTARTS = 3


def config_of_attempt(config: ReconstructionConfig, attempt: int) -> ReconstructionConfig:
    """The same options with another seed; those of attempt 0 as they are."""
    if attempt == 0:
        return config
    seed = generator_for(config.seed, "restart", attempt).initial_seed() % 2**31
    return replace(config, seed=seed)


class RestartingRun:
    """A reconstruction that begins again where it fails; itself such a search."""

    def __init__(
        self, begin: Callable[[int], ReconstructionRun], *, most_restarts: int = MOST_RESTARTS
    ) -> None:
        """Prepare for the first; ``begin`` makes the run of an attempt, counted from 0.

        A run that starts from a map or from poses given would end where it ended before: for such
        ``most_restarts`` is 0.
        """
        self._begin = begin
        self._most = most_restarts
        self._attempt = 0
        self._run = begin(0)
        self._signs: tuple[str, ...] = ()

    def records(self) -> Iterator[Record]:
        """Run to the end, of the last attempt if need be, one record at a time."""
        while True:
            # A checkpoint may stand between a sign and the restart that answers it.
            if self._signs and self._attempt < self._most:
                yield self._begin_again()
            for record in self._run.records():
                if isinstance(record, SwitchRecord) and self._attempt < self._most:
                    self._signs = self._run.signs_of_collapse()
                yield record
                if self._signs and self._attempt < self._most:
                    break
            else:
                self._signs = self._run.signs_of_collapse()
                if not self._signs or self._attempt >= self._most:
                    return

    def result(self) -> Reconstruction:
        """What the last attempt has found, with the signs of collapse that it shows.

        Raises
        ------
        RuntimeError
            If it has not reached its end.
        """
        return replace(self._run.result(), signs_of_collapse=self._signs, n_restarts=self._attempt)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later :meth:`load_state_dict` needs to go on bit by bit."""
        return {
            "attempt": self._attempt,
            "signs": list(self._signs),
            "run": self._run.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint of runs with the same images and options."""
        if state["attempt"] != self._attempt:
            self._run = self._begin(state["attempt"])
        self._attempt, self._signs = state["attempt"], tuple(state["signs"])
        self._run.load_state_dict(state["run"])

    def _begin_again(self) -> NoticeRecord:
        reasons, self._signs = "; ".join(self._signs), ()
        self._attempt += 1
        self._run = self._begin(self._attempt)
        return NoticeRecord(
            text=f"the search has failed ({reasons}) and begins again with another seed: restart "
            f"{self._attempt} of at most {self._most}"
        )
