"""Ctrl-C where Python cannot hear it: in the middle of a call that takes minutes, and while threads are waited for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ntkit.cli._interrupt import GRACE, ONE_KEY

LISTEN = """
import hashlib, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import ntkit_command
ntkit_command.hear()
from pathlib import Path
from ntkit.cli import _interrupt
from ntkit._files import atomically
from ntkit.cli._run import say_stopped
from ntkit.gram.run import saving
_interrupt.listen()

def stuck():
    while True:  # the signal may come before the long call
        try:
            print("begun", flush=True)
            hashlib.pbkdf2_hmac("sha512", b"", b"", 2**31 - 1)  # an hour, without a look at signals
        except KeyboardInterrupt:
            pass

"""
WRITING = """
with atomically(Path("model.ntk")) as draft:
    draft.write_text("half")
    stuck()
"""
WAITING = """
try:
    threading.Thread(target=stuck).start()
    time.sleep(3600)
except KeyboardInterrupt:
    say_stopped()
"""
SAVING = """
saving.set()
stuck()
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def begun():
    """Starts a process that listens, and returns when its work has begun."""
    running = []

    def begun(work):
        command = [sys.executable, "-c", LISTEN + work]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        assert running[-1].stdout.readline() == "begun\n"
        return running[-1]

    yield begun
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("work", [WRITING, WAITING], ids=["one long call", "a thread that is waited for"])
def test_it_ends_whatever_python_is_doing(begun, work):
    process = begun(work)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip() == "Stopped. What was finished is kept; nothing is half written."
    assert os.listdir() == []


def test_tiles_on_their_way_to_the_disk_are_waited_for_until_a_second_key(begun):
    process = begun(SAVING)
    for _ in range(2):  # one key, which a wrapper hands on
        process.send_signal(signal.SIGINT)
        time.sleep(ONE_KEY / 20)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2 * GRACE)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.count("Stopped") == 1


@pytest.mark.slow
def test_a_fit_that_compiles_ends_in_a_second_or_two():
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    script = heed + "import sys; from ntkit_command import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "fit", "digits"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("digits")
        time.sleep(1)  # from here on it compiles for ten seconds
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, err = process.communicate(timeout=60)
        seconds = time.monotonic() - start
    assert process.returncode == 130
    assert "Traceback" not in err
    assert seconds < 3 * GRACE
    assert not Path("model.ntk").exists()
