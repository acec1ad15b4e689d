"""What the server lets through: requests to its own name, from its own page, declared as what they are, and small."""

import contextlib
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

MAX_BODY_BYTES = 16_384


def own_name(host: str, listening_on: str) -> bool:
    """Whether a Host header names this server by an address, or by a name that is its own.

    A page elsewhere whose name is made to lead here (DNS rebinding) can only come by that name.
    """
    name = ""
    with contextlib.suppress(ValueError):  # of what is no host at all, too
        name = urlsplit(f"//{host}").hostname or ""
        ipaddress.ip_address(name)
        return True
    return name in ("localhost", listening_on.lower(), socket.gethostname().lower())


class Guard:
    """Refuses requests under another name, from another page, or too large; an ASGI application around another."""

    def __init__(self, app: Callable[..., Awaitable[None]], listening_on: str):
        self.app, self.listening_on = app, listening_on

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if not own_name(host, self.listening_on):
            return await _refuse(send, 403, f"this server is not called {host!r}", "open the address that it printed")
        if origin is not None and origin.partition("://")[2] != host:
            return await _refuse(send, 403, f"the request comes from a page of {origin}", "use the server's own page")
        if scope["method"] == "POST" and headers.get("content-type", "").split(";")[0] != "application/json":
            return await _refuse(send, 415, "the body is not declared as JSON", "send Content-Type: application/json")
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > MAX_BODY_BYTES:
                return await _refuse(send, 413, f"the body has more than {MAX_BODY_BYTES} bytes", "send less")
        first = [{"type": "http.request", "body": body}]

        async def replay() -> Any:
            return first.pop() if first else await receive()

        await self.app(scope, replay, send)


async def _refuse(send: Callable[..., Any], status: int, problem: str, remedy: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"problem": problem, "remedy": remedy}).encode()})
