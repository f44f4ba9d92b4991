"""The stand-in for the platform's log-in on this machine: short links, each of which logs somebody in once.

A token is too long for a line of a terminal. So a link holds a code, which the helper that runs beside the product
exchanges for a token. Codes are files that only the owner of the data can read and write: whoever can make one could
make a token as well.
"""

import json
import re
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import UUID

from deploy.local.keys import DevelopmentKeys
from deploy.local.passwords import write_private
from deploy.local.paths import private_directory
from deploy.local.ports import LOOPBACK, free_port

LASTS = timedelta(hours=1)
"""How long a code is good."""

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_LENGTH = 12
_CODE = re.compile(f"[{_ALPHABET}]{{{_LENGTH}}}")
_GONE = b"""<!doctype html><title>Popfax</title><meta name="color-scheme" content="light dark">
<p>This link has been used, or is too old. <code>popfax person link ID</code> prints another one.</p>
"""


class LoginCodes:
    """Codes for people, in the directory of a local product."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "logins"
        self._address = self._directory / "url"

    def link(self, subscriber_id: UUID, lasts: timedelta = LASTS) -> str | None:
        """Return a new link for a person; None if no helper runs here."""
        if not self._address.exists():
            return None
        code = "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
        until = datetime.now(UTC) + lasts
        write_private(self._directory / code, json.dumps([str(subscriber_id), until.isoformat()]))
        return f"{self._address.read_text()}/{code}"

    def redeem(self, code: str) -> UUID | None:
        """Use a code up; return whom it is for, None if it is none, too old, or was used."""
        path = self._directory / code
        try:
            found, until = json.loads(path.read_text())
            path.unlink()  # of two who come at the same moment, one succeeds
        except FileNotFoundError:
            return None
        return UUID(found) if datetime.fromisoformat(until) > datetime.now(UTC) else None

    @contextmanager
    def served(self, keys: DevelopmentKeys, page: str) -> Iterator[None]:
        """Exchange codes for links to the page at this address, as long as the context lasts."""
        server = ThreadingHTTPServer((LOOPBACK, free_port()), _helper(self, keys, page))
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        private_directory(self._directory)
        write_private(self._address, f"http://{LOOPBACK}:{server.server_address[1]}")
        try:
            yield
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)
            server.shutdown()
            server.server_close()


def _helper(codes: LoginCodes, keys: DevelopmentKeys, page: str) -> type[BaseHTTPRequestHandler]:
    class Helper(BaseHTTPRequestHandler):
        """Sends whoever comes with a good code on to the page. Only a visit uses it up, no look at it."""

        def do_GET(self) -> None:
            """Answer."""
            code = self.path.removeprefix("/")
            is_visit = "prefetch" not in self.headers.get("Sec-Purpose", "") and _CODE.fullmatch(code)
            who = codes.redeem(code) if is_visit else None
            if who is None:
                return self._answer(HTTPStatus.NOT_FOUND, {"Content-Type": "text/html; charset=utf-8"}, _GONE)
            return self._answer(HTTPStatus.SEE_OTHER, {"Location": keys.login_link(page, who)}, b"")

        def _answer(self, status: HTTPStatus, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            common = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "Content-Length": str(len(body))}
            for name, value in (headers | common).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: the terminal is for the command's own output."""

    return Helper
