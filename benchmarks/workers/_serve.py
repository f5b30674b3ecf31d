"""The worker's side of a side-by-side benchmark: prepares one job at a time and runs it when told to.

Read a line `{"job": name}` to prepare, `{"run": true}` to run once; answer each with one JSON line. Standard library
only, so that it works in any peer's environment.
"""

import json
import sys
import time


def serve(jobs, versions):
    """`jobs` maps a name to a function that prepares data and returns `run() -> anything, check(result) -> dict`."""
    channel, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not disturb the channel
    say(channel, {"ready": versions()})
    run = result = None
    for line in sys.stdin:
        request = json.loads(line)
        if "job" in request:
            run, check = jobs[request["job"]]()
            start = time.perf_counter()
            result = run()
            say(channel, {"first": time.perf_counter() - start, "check": check(result)})
        elif "run" in request and run is not None:
            result = None  # freeing the last result is not part of this run
            start = time.perf_counter()
            result = run()
            say(channel, {"seconds": time.perf_counter() - start})


def say(channel, message):
    print(json.dumps(message), file=channel, flush=True)
