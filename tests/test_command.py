"""The command from its first line on: Ctrl-C while the libraries are imported."""

import signal
import subprocess
import sys

import pytest

# A test run in the background of a shell would hand on that SIGINT is to be ignored.
HEED = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
SCRIPT = "import sys; from ntkit_command import main; sys.exit(main())"


@pytest.mark.parametrize("start", [("-c", SCRIPT), ("-m", "ntkit"), ("-m", "ntkit.cli")], ids=" ".join)
@pytest.mark.parametrize("sign", ["numpy", "jaxlib", "equinox"])
def test_ctrl_c_while_libraries_are_imported(start, sign):
    command = [sys.executable, "-c", HEED, "-X", "importtime", *start, "info"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:  # one for each import
            if sign in line:
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    said = [line for line in err.splitlines() if line and not line.startswith("import time:")]
    assert said == ["Stopped. Nothing had begun."]
