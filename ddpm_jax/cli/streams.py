"""Standard output and error that take whatever is said, even where nobody listens any more."""

import contextlib
import os
import sys
from typing import Any, TextIO


class Forgiving:
    """A stream to write to that goes on silently once its reader is gone.

    `evaluate --json FILE | head -1` still writes FILE; and no error is lost for want of a letter.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        # What a terminal cannot show, or is no Unicode at all, is shown by its number.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore

    def write(self, text: str) -> int:
        """Write, or pretend to."""
        with self._forgiven():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or pretend to."""
        with self._forgiven():
            self.stream.flush()

    @contextlib.contextmanager
    def _forgiven(self) -> Any:
        try:
            yield
        except BrokenPipeError:
            # Below Python, too, which flushes what it has left when it exits.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def prepare() -> None:
    """Make both streams forgiving, and give those that were closed somewhere to go."""
    # A closed one's number would go to the first file that is opened, and get all that is said.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        if not isinstance(stream, Forgiving):
            setattr(sys, name, Forgiving(stream))
