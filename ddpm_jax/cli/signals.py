"""How a command ends: errors as one line, signals as a stop at a good moment."""

import contextlib
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax

from ddpm_jax import numerics, parallel
from ddpm_jax.cli import lifeline, streams
from ddpm_jax.cli.arguments import in_flags
from ddpm_jax.errors import InputError


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Exit with main's status; 2 after one message on stderr; 130 or 143 after a signal."""
    streams.prepare()
    numerics.fix()
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    try:
        status = main()
    except (InputError, OSError) as error:
        print(f"error: {in_flags(str(error))}", file=sys.stderr)
        status = parallel.leave(2)
    except Stopped as stopped:
        status = parallel.leave(128 + stopped.signum)
    except Exception as error:
        if is_out_of_memory(error):
            first = str(error).partition("\n")[0].rpartition(": ")[2]
            print(
                f"error: out of memory ({first}): fewer columns, a smaller --batch-size or "
                "--snapshot-points take less",
                file=sys.stderr,
            )
            sys.exit(parallel.leave(2))
        if jax.distributed.is_initialized():
            time.sleep(
                5
            )  # where the cause is a process that is gone, the lifeline says so, and ends
        raise
    else:
        lifeline.release()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    sys.exit(status)


def is_out_of_memory(error: Exception) -> bool:
    """Whether NumPy or XLA has asked for more than there is."""
    asked = isinstance(error, jax.errors.JaxRuntimeError) and "out of memory" in str(error).lower()
    return asked or isinstance(error, MemoryError)


class Stopped(KeyboardInterrupt):
    """A signal has asked the process to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def stop(signum: int, frame: object) -> NoReturn:
    """Handle a signal: unwind, so that nothing half-written is left; a second one exits at once."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, lambda signum, frame: os._exit(128 + signum))
    raise Stopped(signum)


class Interrupt:
    """Which signal, if any, has asked the process to stop."""

    signum: int | None = None

    def __bool__(self) -> bool:
        return self.signum is not None


@contextlib.contextmanager
def interruptible(interrupt: Interrupt) -> Iterator[Interrupt]:
    """Only note SIGINT and SIGTERM, for a better moment to stop; a second one exits at once."""

    def handle(signum: int, frame: object) -> None:
        if interrupt:
            os._exit(128 + signum)
        interrupt.signum = signum

    previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
