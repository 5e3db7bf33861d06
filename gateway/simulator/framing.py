"""How events become bytes on the wire: server-sent events in clean or odd dress. What they say is in `answers`."""

import zlib

from gateway.simulator.options import Options

GZIP_WINDOW_BITS = 31


class Framer:
    """Frames the events of one stream; each call returns the pieces that are to be written one by one."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._end = "\r\n" if options.crlf else "\n"
        self._field = "data:" if options.nospace else "data: "
        self._framed = 0
        self._compressor = zlib.compressobj(wbits=GZIP_WINDOW_BITS) if options.gzip else None

    def frame(self, data: str) -> list[bytes]:
        framed = (self._comment() + self._field + data + self._end * 2).encode()
        if self._options.bom and self._framed == 0:
            framed = b"\xef\xbb\xbf" + framed
        self._framed += 1
        if self._compressor is not None:
            return [self._compressor.compress(framed) + self._compressor.flush(zlib.Z_SYNC_FLUSH)]
        return split_in_character(framed) if self._options.split_utf8 else [framed]

    def finish(self) -> bytes:
        """What is still to be written before the stream's end."""
        return self._compressor.flush() if self._compressor is not None else b""

    def _comment(self) -> str:
        """A comment alternately in a block of its own and as a line inside the event."""
        if not self._options.comments:
            return ""
        return f": keep{self._end}" + (self._end if self._framed % 2 == 0 else "")


def split_in_character(framed: bytes) -> list[bytes]:
    """Two pieces whose border lies within the first non-ASCII character; one piece if there is none."""
    border = next((place for place in range(4, len(framed)) if framed[place] & 0xC0 == 0x80), None)
    return [framed] if border is None else [framed[:border], framed[border:]]


def compress(body: bytes) -> bytes:
    return zlib.compress(body, wbits=GZIP_WINDOW_BITS)
