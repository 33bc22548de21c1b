"""Lines of a pipe."""

import io
import os

from tfkit.engine.inference.pipe import Pipe


def test_a_stream_that_does_not_wait_is_read_to_its_end() -> None:
    """As a parent process may leave stdin: the stream then gives None while there is nothing to read."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    parts = [b"first\nsec", b"ond\n"]

    class Slow(io.FileIO):
        """Whose writer writes after each read that found nothing."""

        def read(self, size: int | None = -1, /) -> bytes:
            block = super().read(size)
            if block is None:
                os.write(write_end, parts.pop(0)) if parts else os.close(write_end)
            return block

    with Slow(read_end) as raw:
        assert [*Pipe(raw, "stdin")] == [b"first\n", b"second\n"]
