#!/usr/bin/env python3
"""Downloads through `gantry gateway` with real clients, each byte compared, and starts it in each way.

    run.py                              all clients
    run.py curl aws                     some of them
    run.py --gantry target/debug/gantry

nats-server, an S3 server, a relay and the gateway run on 127.0.0.1 while the script runs. A client that this machine
can't get is reported as not run; with --strict that is a failure, too. Exits with 1 if a client fails.
"""

import argparse
import subprocess
import sys
import time

import cases
import clients
import fronts
import http2
from place import Place, binary

import servers

ALL = {**cases.ALL, **fronts.ALL, **http2.ALL}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="CLIENT", help=", ".join(ALL))
    parser.add_argument("--gantry", help="binary to test; default: GANTRY_BINARY, or target/debug/gantry")
    parser.add_argument("--strict", action="store_true", help="fail if a client can't be had")
    parser.add_argument("--screenshot", help="where to keep the screenshot of the index page")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in ALL]
    if unknown:
        parser.error(f"unknown client {unknown[0]}: expected one of {', '.join(ALL)}")

    place = Place(binary(args.gantry))
    place.screenshot = args.screenshot
    rows = []
    try:
        place.start()
        cases.fill(place)
        for name in args.names or ALL:
            rows.append((name, *run(place, name)))
            print(*rows[-1], sep="  ", flush=True)
    except servers.Problem as problem:
        sys.exit(f"run.py: {problem}")
    finally:
        place.close()

    count = {result: sum(row[1] == result for row in rows) for result in ("passed", "failed", "not run")}
    print(f"{count['passed']} passed, {count['failed']} failed, {count['not run']} not run")
    sys.exit(1 if count["failed"] or (args.strict and count["not run"]) else 0)


def run(place, name):
    """Runs a case. Returns its result, and what was seen."""
    began = time.monotonic()
    try:
        seen = ALL[name](place)
        return "passed", f"{seen} ({time.monotonic() - began:.1f} s)"
    except clients.NotHere as problem:
        return "not run", str(problem)
    except (cases.Wrong, subprocess.TimeoutExpired, servers.Problem) as problem:
        return "failed", str(problem)


if __name__ == "__main__":
    main()
