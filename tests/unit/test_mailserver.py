"""The mail sink keeps what it said it keeps, even if the machine crashes."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from deploy.local.mailserver import JOURNAL, KeepOnDisk, Kept, Server

MAILS = [b"Subject: one\r\n\r\n1\r\n", b"", b"Subject: two\r\n\r\nx.eml 3 4\n" * 1000]


def add(directory: Path) -> None:
    with closing(Kept(directory)) as sink:
        sink.add(MAILS)


def kept(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(directory.glob("*.eml"))]


def test_mails_are_files_in_the_order_of_their_arrival(tmp_path: Path) -> None:
    with closing(Kept(tmp_path)) as sink:
        sink.add(MAILS[:1])
        sink.add(MAILS[1:])
    assert kept(tmp_path) == MAILS
    assert list(tmp_path.glob("*.unfinished")) == []


def test_mails_are_on_the_disk_before_they_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[bytes, list[bytes]]] = []
    monkeypatch.setattr(
        os, "fsync", lambda _descriptor: synced.append(((tmp_path / JOURNAL).read_bytes(), kept(tmp_path)))
    )
    add(tmp_path)
    journal, files = synced[-1]
    assert all(mail in journal for mail in MAILS)
    assert files == []


@pytest.mark.parametrize("lost", ["names", "contents"])
def test_what_a_crash_loses_is_made_from_the_journal(tmp_path: Path, lost: str) -> None:
    add(tmp_path)
    for path in tmp_path.glob("*.eml"):
        path.unlink() if lost == "names" else path.write_bytes(b"")
    Kept(tmp_path).close()
    assert kept(tmp_path) == MAILS
    assert (tmp_path / JOURNAL).read_bytes() == b""


def test_what_was_half_written_is_no_mail(tmp_path: Path) -> None:
    add(tmp_path)
    journal = (tmp_path / JOURNAL).read_bytes()
    for end in (*range(40), *range(len(journal) - 40, len(journal))):
        for path in tmp_path.glob("*.eml"):
            path.unlink()
        (tmp_path / JOURNAL).write_bytes(journal[:end])
        Kept(tmp_path).close()
        assert kept(tmp_path) in (MAILS[:0], MAILS[:1], MAILS[:2])


def test_the_journal_does_not_grow_for_ever(tmp_path: Path) -> None:
    with closing(Kept(tmp_path, most=1000)) as sink:
        for _ in range(100):
            sink.add(MAILS[:1])
    assert (tmp_path / JOURNAL).stat().st_size <= 1100
    assert kept(tmp_path) == MAILS[:1] * 100


@pytest_asyncio.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    handler = KeepOnDisk(tmp_path)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Server(handler, hostname="here", enable_SMTPUTF8=True), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    handler.kept.close()


ADDRESSES = ["<a.b+c@d.example>", "<>", "<a..b@d.example>", '<"a b"@d.example>', "<é@d.example>", "a@d.example"]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("content", [b"Subject: x\r\n\r\n.\r\n..\r\n.a\r\n\r\n", b"", b".\r\n", b"a\r\n"])
async def test_a_mail_is_kept_as_it_was_meant_and_each_command_is_answered(
    port: int, tmp_path: Path, at_once: bool, content: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"
    commands = [b"MAIL FROM:<a@b.example> SIZE=5\r\n", b"RCPT TO:<b@c.example>\r\n", b"DATA\r\n"]
    said = [b"EHLO there\r\n", *([b"".join(commands)] if at_once else commands), stuffed, b"QUIT\r\n"]
    heard = [await reader.readline()]
    for each in said:
        writer.write(each)
        for _ in range(each.count(b"\r\n") if each not in (stuffed, said[0]) else 1):
            while (line := await reader.readline())[3:4] == b"-":
                pass
            heard.append(line)
    assert [line[:3] for line in heard] == [b"220", b"250", b"250", b"250", b"354", b"250", b"221"]
    assert kept(tmp_path) == [content]
    writer.close()


@pytest.mark.parametrize("argument", [f"{each}{more}" for each in ADDRESSES for more in ("", " SIZE=5", "x")])
async def test_plain_addresses_are_read_as_aiosmtpd_reads_them(tmp_path: Path, argument: str) -> None:
    with closing(Kept(tmp_path)):
        server: Any = Server(object())
        assert server._getaddr(argument) == super(Server, server)._getaddr(argument)


async def test_no_mail_is_said_to_be_kept_if_writing_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler: Any = KeepOnDisk(tmp_path)
    envelope = SimpleNamespace(original_content=b"x\r\n")

    def full(_mails: Any) -> None:
        raise OSError

    monkeypatch.setattr(handler.kept, "add", full)
    answers = await asyncio.gather(
        *(handler.handle_DATA(None, None, envelope) for _ in range(3)), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [OSError] * 3
    handler.kept.close()
