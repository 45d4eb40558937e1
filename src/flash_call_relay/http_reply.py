"""Read an HTTP reply: head and body, or an error if it is ambiguous or not whole.

http.client takes a sixth of a POST's CPU for the headers alone, and accepts broken chunks (docs/decisions.md).
"""

import http.client
import re
from collections.abc import Mapping
from typing import AnyStr, BinaryIO, NamedTuple

MAX_WIRE_BYTES = 256 * 1024  # of one reply, with headers and chunk framing
MAX_HEADERS, MAX_LINE_BYTES = 100, 64 * 1024  # http.client's limits


class HTTPReply(NamedTuple):
    """A whole reply.

    Attributes:
        headers: by name, in lower case. Commas join the values of a repeated header.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def read_reply(wire: BinaryIO) -> tuple[HTTPReply, bool]:
    """Return a reply, and whether it is the connection's last one.

    Args:
        wire: the connection's file, which bounds the number of bytes and the time that they take.

    Raises:
        http.client.HTTPException: if this is no HTTP, if the end of the body is ambiguous, or if a part is missing.
    """
    status = 0
    while status < 200:  # an interim reply precedes the real one
        if not (line := wire.readline()):
            raise http.client.RemoteDisconnected("")
        match = _match(_STATUS_LINE, line)
        status, headers = int(match[2]), _read_headers(wire)
    codings, lengths = _members(headers, "transfer-encoding") - {"identity"}, _members(headers, "content-length")
    is_last = match[1] == b"1.0" or "close" in _members(headers, "connection")
    if status in (204, 304):
        body = b""
    elif codings == {"chunked"}:
        body = _read_chunks(wire)
    elif codings or len(lengths) > 1:
        raise http.client.HTTPException
    elif lengths:
        body = _read_exactly(wire, int(_match(_LENGTH, lengths.pop())[0]))
    else:
        body, is_last = wire.read(), True
    return HTTPReply(status, headers, body), is_last


def _read_headers(wire: BinaryIO) -> dict[str, str]:
    headers: dict[str, str] = {}
    name = ""
    for _ in range(MAX_HEADERS):
        line = wire.readline(MAX_LINE_BYTES).decode("latin-1")
        if line in ("\r\n", "\n"):
            return headers
        if not line.endswith("\n"):
            break
        if line.startswith((" ", "\t")) and headers:  # the header before it goes on
            headers[name] += f" {line.strip()}"
            continue
        # Not by a pattern: one that strips the value takes time that grows with the square or the cube of its length.
        name, colon, value = line.partition(":")
        if not colon:
            break
        name, value = name.rstrip().lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    raise http.client.HTTPException


def _members(headers: Mapping[str, str], name: str) -> set[str]:
    # As a set, because a proxy may repeat a header of its backend.
    return {member.strip() for member in headers.get(name, "").lower().split(",")} - {""}


def _read_chunks(wire: BinaryIO) -> bytes:
    body = bytearray()  # a list of many small chunks would take megabytes
    while size := int(_match(_CHUNK_SIZE, wire.readline())[1], 16):
        body += _read_exactly(wire, size)
        _match(_LINE_END, wire.readline(2))
    while wire.readline().strip():  # a trailer
        pass
    return bytes(body)


def _read_exactly(wire: BinaryIO, size: int) -> bytes:
    data = wire.read(min(size, MAX_WIRE_BYTES))
    if len(data) < size:
        raise http.client.HTTPException
    return data


def _match(pattern: re.Pattern[AnyStr], text: AnyStr) -> re.Match[AnyStr]:
    if not (match := pattern.fullmatch(text)):
        raise http.client.HTTPException
    return match


_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9]{2})( .*)?\r?\n")
_LENGTH = re.compile("[0-9]{1,20}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(;.*)?\r?\n")
_LINE_END = re.compile(rb"\r?\n")
