"""Addresses of TVM's RPC servers and trackers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from autocompress.core.errors import TargetError

SCHEME = "tvm-rpc"
#: Where a server listens that was told no port.
USUAL_PORT = 9090
_FORM = f"{SCHEME}://host:port of one server, or {SCHEME}://host:port/key of a tracker's servers"


@dataclass(frozen=True, slots=True, kw_only=True)
class TvmAddress:
    """One server, or all that a tracker knows under a key.

    Args:
        host: name or address of the server, of the tracker where there is a key.
        port: likewise.
        key: of the servers; empty for a server itself.
    """

    host: str
    port: int
    key: str = ""

    @classmethod
    def parse(cls, url: str) -> TvmAddress:
        """Read ``tvm-rpc://host:port[/key]``.

        Raises:
            TargetError: it is something else.
        """
        scheme, _, rest = url.partition("://")
        where, _, key = rest.partition("/")
        if scheme != SCHEME or not re.fullmatch(r"[\w.-]*", key):
            raise TargetError(f"{url!r} is no address of TVM: write {_FORM}.")
        host, port = parse_host_port(where, form=_FORM)
        return cls(host=host, port=port, key=key)

    def __str__(self) -> str:
        return f"{SCHEME}://{self.host}:{self.port}" + (f"/{self.key}" if self.key else "")


def parse_host_port(text: str, *, form: str = "host:port") -> tuple[str, int]:
    """Read ``host:port``; an IPv6 host stands in brackets.

    Args:
        text: what to read.
        form: what would be right, for the message.

    Raises:
        TargetError: it is something else.
    """
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:/\[\]\s]+)):(\d{1,5})", text)
    if found is None or not 0 < int(found[3]) < 65536:
        raise TargetError(f"{text!r} is no address: write {form}.")
    return found[1] or found[2], int(found[3])
