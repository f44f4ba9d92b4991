"""A network of our own: a TCP proxy for each connection between two parts, which can be cut, slowed, or refuse."""

import asyncio
import contextlib
import threading
from collections.abc import Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Self

from deploy.local.ports import LOOPBACK

_AT_ONCE = 1 << 16


class Link:
    """The way to one server. Connections that are there when it is cut stay: what is sent waits, as behind a switch
    that is off, and arrives when the link is mended.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        """Where it listens. Known once the network is up."""
        self._target = 0
        self._delay_s = 0.0
        self._refuses = False
        self._whole = asyncio.Event()
        self._whole.set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def lead_to(self, port: int) -> None:
        """Say where the server is."""
        self._target = port

    def set(self, *, cut: bool = False, delay_s: float = 0.0, refuses: bool = False) -> None:
        """Say how it is from now on; without arguments, whole. On the network's event loop."""
        self._delay_s, self._refuses = delay_s, refuses
        if cut:
            self._whole.clear()
        else:
            self._whole.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._whole.wait()
        try:
            if self._refuses:
                return
            there, back = await asyncio.open_connection(LOOPBACK, self._target)
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        except OSError:  # one of both is gone
            pass
        finally:
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_AT_ONCE):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                await self._whole.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            await self._whole.wait()  # nor does the end get through
            writer.close()


class Network:
    """Links by their names, on an event loop in a thread of its own."""

    def __init__(self, names: Iterable[str]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._names = list(names)
        self.links: Mapping[str, Link] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        self.links = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set(self, names: Iterable[str], *, cut: bool = False, delay_s: float = 0.0, refuses: bool = False) -> None:
        """Say how these links are from now on; without further arguments, whole."""
        for name in names:
            self._loop.call_soon_threadsafe(partial(self.links[name].set, cut=cut, delay_s=delay_s, refuses=refuses))

    async def _open(self) -> Mapping[str, Link]:
        made = {name: Link(name) for name in self._names}
        for link in made.values():
            await link.open()
        return made

    async def _close(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for link in self.links.values():
            if link._server is not None:
                link._server.close()
        for each in others:
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*others, return_exceptions=True)
