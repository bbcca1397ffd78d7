"""Sources behind a server that misbehaves on purpose."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from misbehaving import Server, serve

from lethe.config import UserError
from lethe.corpora import remote
from lethe.corpora.extract import Extraction, scan_unit
from lethe.corpora.merge import merge
from lethe.corpora.remote import TRIES, BrokenSourceError, Limiter, attempt, file_system, read_range
from lethe.corpora.source import Source, open_source, read_pages
from lethe.files import sha256


@pytest.fixture
def server(tmp_path: Path, toy: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Two files of 300 pages behind a server, and a client that is quick to try again."""
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(remote, "STALL", 1.0)
    monkeypatch.setattr(remote.tempfile, "tempdir", str(tmp_path))
    for i, words in enumerate((toy.soup, toy.car)):
        toy.write(tmp_path / "pages" / f"{i}.parquet", toy.pages(words, range(300 * i, 300 * i + 300)))
    with serve(tmp_path / "pages") as running:
        yield running


def texts(source: Source) -> list[str]:
    return [text for unit in source.units for page in read_pages(unit) for text in page["text"].to_pylist()]


@pytest.mark.parametrize("fault", ["429", "503", "500", "stall", "cut"])
def test_what_passes_is_tried_again_and_no_page_is_lost_or_doubled(server: Server, tmp_path: Path, fault: str) -> None:
    server.fault = lambda number, path: fault if number % 3 < 2 and number < 9 else ""
    source = open_source(f"{server.url}/files/", tmp_path)
    assert source.fingerprint == open_source("pages", tmp_path).fingerprint
    assert texts(source) == texts(open_source("pages", tmp_path))
    assert [told for _, _, told in server.asked].count(fault) == 6


def test_a_source_that_stays_broken_is_named_after_bounded_tries(server: Server, tmp_path: Path) -> None:
    server.fault = lambda number, path: "503" if path.endswith("1.parquet") else ""
    with pytest.raises(BrokenSourceError, match=rf"/1\.parquet: still broken after {TRIES} tries: .*503.*goes on"):
        open_source(f"{server.url}/files/", tmp_path)
    # One more or less: a connection that the server closed meanwhile is opened anew without being counted as a try.
    assert abs([fault for _, _, fault in server.asked].count("503") - TRIES) <= 1


@pytest.mark.parametrize("answer", ["404", "403", "401"])
def test_what_will_not_pass_is_told_at_once(server: Server, tmp_path: Path, answer: str) -> None:
    server.fault = lambda number, path: answer if path.endswith("1.parquet") else ""
    with pytest.raises(UserError, match=r"/1\.parquet: cannot be read: "):
        open_source(f"{server.url}/files/", tmp_path, on_bad_file="skip")  # a source without an answer is no bad file
    assert [path for _, path, _ in server.asked].count("/files/1.parquet") == 1


def test_nothing_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    with pytest.raises(BrokenSourceError, match=r"http://127\.0\.0\.1:9/x/a\.parquet: still broken"):
        open_source("http://127.0.0.1:9/x/a.parquet", tmp_path)


def test_who_is_told_to_wait_makes_all_wait(server: Server) -> None:
    server.retry_after = "1"
    server.fault = lambda number, path: "429" if number == 0 else ""
    fs, path = file_system(f"{server.url}/files/0.parquet")
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(read_range, fs, path, 1000, 0, 10)
        while not server.asked:
            time.sleep(0.01)
        time.sleep(0.2)
        others = [pool.submit(read_range, fs, path, 1000, start, start + 10) for start in (10, 20, 30)]
        assert [len(f.result()) for f in (first, *others)] == [10] * 4
    told = server.asked[0][0]
    assert len(server.asked) == 5
    assert min(when for when, _, _ in server.asked[1:]) - told >= 0.9


ASK_MANY = """
import sys, tempfile
from concurrent.futures import ThreadPoolExecutor
from lethe.corpora import remote
remote.SLOTS = 3
remote.Limiter.__init__.__defaults__ = (3,)
tempfile.tempdir = sys.argv[2]
fs, path = remote.file_system(sys.argv[1])
with ThreadPoolExecutor(6) as pool:
    list(pool.map(lambda i: remote.read_range(fs, path, 9000, i, i + 2000), range(8)))
"""


def test_the_processes_of_a_machine_share_the_slots(server: Server, tmp_path: Path) -> None:
    server.fault = lambda number, path: time.sleep(0.2) or ""  # type: ignore[func-returns-value]
    command = [sys.executable, "-c", ASK_MANY, f"{server.url}/files/0.parquet", str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(server.asked) == 16
    assert 1 < server.most_at_once <= 3


def test_a_killed_process_frees_its_slot(tmp_path: Path) -> None:
    hold = "import sys, time; from pathlib import Path; from lethe.corpora.remote import Limiter\n"
    hold += "with Limiter(Path(sys.argv[1]), 1).turn(): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    entered = threading.Event()

    def enter() -> None:
        with Limiter(tmp_path, 1).turn():
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert not entered.wait(0.3)
    holder.send_signal(signal.SIGKILL)
    assert entered.wait(10)
    thread.join()
    holder.wait()


@pytest.mark.parametrize("header", ["soon", "", "nan", "-5", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_retry_after_that_says_nothing_useful(server: Server, tmp_path: Path, header: str) -> None:
    server.retry_after = header
    server.fault = lambda number, path: "429" if number < 2 else ""
    assert len(texts(open_source(f"{server.url}/files/", tmp_path))) == 600


def test_a_pause_beyond_reason_or_of_another_clock_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "pause").write_text(repr(time.time() + 1e6))
    with Limiter(tmp_path).turn():
        pass
    (tmp_path / "pause").write_text("half a numb")
    with Limiter(tmp_path).turn():
        pass


def test_a_mistake_of_ours_is_not_tried_again() -> None:
    calls = []

    def wrong() -> None:
        calls.append(1)
        raise ValueError("no such thing")

    with pytest.raises(UserError, match="x: cannot be read: no such thing"):
        attempt("x", wrong)
    assert len(calls) == 1


def test_a_source_that_changes_is_refused_by_name(server: Server, tmp_path: Path, toy: Any) -> None:
    source = open_source(f"{server.url}/files/", tmp_path)
    first, second = source.units
    whole = (tmp_path / "pages" / "0.parquet").read_bytes()
    for other in (whole[:400] + b"xx" + whole[402:], whole[:-1000], whole + b"more", b"<html>Not here</html>"):
        (tmp_path / "pages" / "0.parquet").write_bytes(other)
        with pytest.raises(UserError, match=r"/0\.parquet: changed since it was listed") as told:
            list(read_pages(first))
        assert not isinstance(told.value, BrokenSourceError)
    (tmp_path / "pages" / "0.parquet").write_bytes(whole)
    assert sum(page.num_rows for page in read_pages(first)) == 300

    def swap(number: int, path: str) -> str:  # between the footer and the pages
        (tmp_path / "pages" / "1.parquet").write_bytes(whole)
        return ""

    server.fault = swap
    with pytest.raises(UserError, match=r"/1\.parquet: changed since it was listed"):
        list(read_pages(second))


def test_a_local_file_that_is_written_to_while_it_is_read(server: Server, tmp_path: Path, toy: Any) -> None:
    (unit, _) = open_source("pages", tmp_path).units
    pages = read_pages(unit)
    next(pages)
    toy.write(tmp_path / "pages" / "0.parquet", toy.pages(toy.news, range(300)))
    with pytest.raises(UserError, match=r"0\.parquet: changed since it was listed"):
        list(pages)


def test_what_was_made_before_the_source_broke_is_kept(server: Server, tmp_path: Path, toy: Any) -> None:
    expected = Extraction(open_source("pages", tmp_path), toy.corpora, tmp_path)
    for unit in expected.source.units:
        scan_unit(unit, toy.corpora, expected.scan_folder)
    merge(expected)
    before = hashes(expected)
    shutil.rmtree(tmp_path / "data")

    def begin() -> Extraction:
        return Extraction(open_source(f"{server.url}/files/", tmp_path), toy.corpora, tmp_path)

    extraction = begin()
    server.fault = lambda number, path: "503" if path.endswith("1.parquet") else ""
    first, second = extraction.source.units
    scan_unit(first, toy.corpora, extraction.scan_folder)
    with pytest.raises(BrokenSourceError, match=r"1\.parquet"):
        scan_unit(second, toy.corpora, extraction.scan_folder, "skip")
    server.fault = lambda number, path: ""
    again = begin()
    assert again.missing_units() == [second]
    scan_unit(second, toy.corpora, again.scan_folder)
    merge(again)
    assert hashes(again) == before


def hashes(extraction: Extraction) -> dict[str, str]:
    return {
        f"{name}/{path.relative_to(folder)}": sha256(path)
        for name, folder in extraction.folders.items()
        for path in sorted(folder.rglob("*.parquet"))
    }


HUB = """
import json, sys
from pathlib import Path
from lethe.corpora.source import open_source, read_pages
source = open_source(sys.argv[1], Path("/"))
texts = [text for unit in source.units for page in read_pages(unit) for text in page["text"].to_pylist()]
print(json.dumps([source.fingerprint, texts]))
"""


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("hf://datasets/org/name/*.parquet", ""),
        ("hf://datasets/org/name@main", "429"),
        ("hf://datasets/org/name/**/*.parquet", "cut"),
    ],
)
def test_a_hub_s_own_file_system(server: Server, tmp_path: Path, given: str, fault: str) -> None:
    server.fault = lambda number, path: fault if number == 1 else ""
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", HUB, given], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    local = open_source("pages", tmp_path)
    assert json.loads(done.stdout) == [local.fingerprint, texts(local)]
    assert [told for _, _, told in server.asked].count(fault or "429") == bool(fault)


def test_a_server_that_does_not_speak_ranges(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "ranges", False)
    with pytest.raises(UserError, match=r"/0\.parquet: cannot be read: .*range"):
        open_source(f"{server.url}/files/0.parquet", tmp_path)
