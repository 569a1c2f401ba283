"""Addresses of network streams. Importing this file loads nothing heavy."""

SCHEMES = ("http", "https", "mms", "rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp")
"""Schemes that FFmpeg can open as a live stream or a file on a server."""


def is_address(source: object) -> bool:
    """Return whether a source is the address of a stream: "rtsp://host/path"."""
    if not isinstance(source, str):
        return False
    scheme, separator, _ = source.partition("://")
    return bool(separator) and scheme.lower() in SCHEMES


def without_password(address: str) -> str:
    """Return an address without user name and password, for messages and titles."""
    scheme, separator, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
