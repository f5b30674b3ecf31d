"""The worker's side of a side-by-side benchmark: prepares one job at a time and runs it when told to.

Read a line `{"job": name}` to prepare, `{"run": true}` for a turn, `{"memory": true}` for a run whose memory is
measured; answer each with one JSON line. A turn is one run,
or for a short job as many as fill half a second, and its time is their median: what ran before, on the same cores, is
then out of the caches. Standard library only, so that it works in any peer's environment.
"""

import ctypes
import json
import statistics
import sys
import time

TURN = 0.5


def serve(jobs, versions):
    """`jobs` maps a name to a function that prepares data and returns `run() -> anything, check(result) -> dict`."""
    channel, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not disturb the channel
    say(channel, {"ready": versions()})
    run = None
    for line in sys.stdin:
        request = json.loads(line)
        if "job" in request:
            run, check = jobs[request["job"]]()
            start = time.perf_counter()
            result = run()
            say(channel, {"first": time.perf_counter() - start, "check": check(result)})
        elif "run" in request and run is not None:
            say(channel, {"seconds": turn(run)})
        elif "memory" in request and run is not None:
            say(channel, {"mib": memory(run)})


def turn(run):
    times = []
    while sum(times) < TURN:
        result = None  # freeing the last result is not part of this run
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    del result
    return statistics.median(times)


def memory(run):
    """MiB that a run holds at most beside what was held before; what free memory was left to the process is given back
    first. Linux only: else 0."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return 0.0
    before = peak()
    result = run()
    most = peak()
    del result
    return most - before


def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))


def say(channel, message):
    print(json.dumps(message), file=channel, flush=True)
