"""Ctrl-C and SIGTERM end a run at its next step, after a checkpoint."""

import signal
from types import FrameType, TracebackType

EXIT_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StoppedBySignalError(Exception):
    """The run was asked to stop and has done so in good order."""

    def __init__(self, number: signal.Signals, message: str) -> None:
        super().__init__(message)
        self.exit_status = EXIT_STATUS[number]


class StopSignals:
    """Catches the first signal for the loop to see; a second one ends the process at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in EXIT_STATUS:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def raise_if_received(self, message: str) -> None:
        """End in good order if a signal has come.

        Raises
        ------
        StoppedBySignalError
            With the exit status that belongs to the signal.
        """
        if self.received is not None:
            raise StoppedBySignalError(self.received, message)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise StoppedBySignalError(self.received, "stopped at once by a second signal")
        self.received = signal.Signals(number)
