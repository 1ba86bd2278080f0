"""What stands before every answer: reading only, or playing, known host names, the token, and headers against harm."""

import secrets
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "eyas_view"
PLAY = "/api/play/"
PLAY_HEADER = "X-Eyas-Play"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
        "connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """Wraps an application. `hosts` are the names it may be called by; empty: any. `token`: what a caller must know.

    With `has_play` the page, and no page of another site, may also post to `PLAY`.
    """

    def __init__(
        self, app: ASGIApp, hosts: Sequence[str] = LOOPBACK, token: str | None = None, has_play: bool = False
    ) -> None:
        self.app = app
        self.has_play = has_play
        self.hosts = frozenset(hosts)
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        await (self._refusal(scope) or self.app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer in place of the application's; None where the request may pass."""
        headers = Headers(scope=scope)
        is_move = self.has_play and scope["method"] == "POST" and scope["path"].startswith(PLAY)
        if scope["method"] not in ("GET", "HEAD") and not is_move:
            return _error(405, "this server only reads: use GET")
        # Another site's name may be made to point here; a browser would then let that site read the answers.
        if self.hosts and _host_name(headers.get("host", "")) not in self.hosts:
            return _error(403, "unknown host name: open the address that `eyas view` printed")
        if is_move and not _is_own(headers):
            return _error(403, "only the page that this server sent may play")
        return None if self.token is None else self._token_refusal(scope, headers, self.token)

    def _token_refusal(self, scope: Scope, headers: Headers, token: str) -> Response | None:
        if _is_same(_cookie(headers.get("cookie", "")), token):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if not _is_same(given, token):
            return _error(401, "the token is missing or wrong: open the address that `eyas view` printed")
        if scope["path"] != "/":
            return None
        answer = RedirectResponse("/", status_code=303)  # the token leaves the address bar
        answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", path="/")
        return answer


def new_token() -> str:
    return secrets.token_urlsafe(24)


def _error(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status_code=status)


def _is_own(headers: Headers) -> bool:
    """Whether the server's own page posts. Another site's cannot set the header unasked, and its origin has another name."""
    origin, host = headers.get("origin"), headers.get("host", "")
    is_same_origin = origin in (None, f"http://{host}", f"https://{host}")
    return is_same_origin and PLAY_HEADER in headers and headers.get("sec-fetch-site", "same-origin") == "same-origin"


def _host_name(header: str) -> str:
    """The host of `name:port` or `[address]:port`, in lower case."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if ":" in header else header.lower()


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def _is_same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())
