#!/bin/sh
# Prints the first interpreter that is Python >= 3.11 and can make a virtual environment, or says what to install.
# An argument names the only candidate.
[ $# -gt 0 ] || set -- python3 python3.13 python3.12 python3.11 python3.14 python
bare=
for python in "$@"; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue
    if "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
        echo "$python"
        exit 0
    fi
    bare=$python
done
if [ -n "$bare" ]; then
    echo "$bare cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv" >&2
else
    echo "ntkit needs Python 3.11 or newer; tried: $*. Install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2
fi
exit 1
