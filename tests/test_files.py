"""Files are written whole or not at all, and what a killed process left goes when the file is written again."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lethe.files import whole, write_json

WRITER = """
import sys, time
from pathlib import Path
from lethe.files import whole
with whole(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    time.sleep(600)
"""


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def writer(tmp_path: Path):
    """A process in the middle of writing `tmp_path/file`, and its temporary file."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "file")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_a_file_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path: Path):
    write_json(tmp_path / "file", 1)
    with pytest.raises(ValueError, match="half"), whole(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise ValueError("half way")
    assert (tmp_path / "file").read_text() == "1"
    assert names(tmp_path) == ["file"]


def test_what_a_living_process_writes_is_left_alone_and_what_a_killed_one_left_goes(tmp_path, writer):
    process, temporary = writer
    write_json(tmp_path / "file", 1)
    assert temporary.read_text() == "half"
    process.send_signal(signal.SIGKILL)
    while Path(f"/proc/{process.pid}/stat").exists() and ") Z " not in Path(f"/proc/{process.pid}/stat").read_text():
        time.sleep(0.01)
    write_json(tmp_path / "file", 2)  # the process is a zombie still: nobody has waited for it
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="tells processes apart by /proc")
def test_a_number_that_is_used_again_does_not_keep_what_was_left(tmp_path, writer):
    process, temporary = writer
    process.kill()
    process.wait()
    number, birth = temporary.name.rsplit(".", 1)[1].split("-")
    thread = threading.Thread(target=time.sleep, args=(1,))  # its number can be signalled like a process's
    thread.start()
    for reused in (os.getpid(), thread.native_id):
        temporary.rename(temporary := temporary.with_name(temporary.name.replace(f".{number}-", f".{reused}-")))
        number = reused
        assert birth
        write_json(tmp_path / "file", 1)
        assert names(tmp_path) == ["file"]
        temporary.write_text("half")
    thread.join()
