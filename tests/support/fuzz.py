"""What fuzz tests draw, and the time that what they test may take."""

import contextlib
import faulthandler
import signal
import sys
import time
from collections.abc import Iterator

from hypothesis import strategies as st

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
"""Values that JSON can hold, of any depth; and NaN and infinity, which Python reads."""


class TooLongError(BaseException):
    """Not an Exception: code that catches all of those does not hide it."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail a block that takes longer, a hang included; one outside Python ends the process."""

    def stop(signum: int, frame: object) -> None:
        raise TooLongError(f"more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, stop)
    faulthandler.dump_traceback_later(seconds + 60, exit=True, file=sys.__stderr__)
    began = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again, if it came where errors are lost
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, previous)
    if time.perf_counter() - began > seconds:
        stop(0, None)
