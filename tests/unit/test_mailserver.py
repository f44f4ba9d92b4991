"""The mail sink keeps what it said it keeps, even if the machine crashes."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from deploy.local.mailserver import JOURNAL, Kept

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
