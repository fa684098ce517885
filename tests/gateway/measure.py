#!/usr/bin/env python3
"""Measures the gateway: against `gantry get`, against S3, over a slow link, and with idle connections.

    measure.py                              all figures, with objects of 256 MiB
    measure.py ranges idle                  some of them
    measure.py --gantry target/release/gantry --mib 64

Use a release binary for figures that are to be published. The figures: `get` is curl through the gateway divided by
`gantry get`; `aws` is `aws s3 cp` through the gateway divided by `aws s3 cp` from S3; `ranges` is the time for sequential
ranges of 64 KiB over a link of 50 ms, compared with a round trip each; `idle` is the memory of the gateway with 1000 idle
connections. Exits with 1 if a figure is worse than its bound.
"""

import argparse
import http.client
import re
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import cases
import clients
import demo
from faults import Links
from place import ANY_KEY, OBJECTS, Place, binary, random_bytes

import servers

MIB = 1 << 20
ROUNDS = 5
ROUND_TRIP_S = 0.05
STEP = 64 << 10
# The part of an object that is read in sequential ranges.
READ_MIB = 16
IDLE = 1000


def timed(command, env):
    """Runs a command, and returns how long it took, in seconds."""
    began = time.perf_counter()
    done = subprocess.run([*map(str, command)], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise servers.Problem(f"{command[0]}: exit code {done.returncode}: {done.stderr.strip()}")
    return time.perf_counter() - began


def ratio(place, name, ours, theirs, bound):
    """Runs two commands in turn, and compares their medians. Returns whether ours reaches the bound."""
    times = {"ours": [], "theirs": []}
    for _ in range(ROUNDS):
        for which, (command, env) in (("ours", ours), ("theirs", theirs)):
            times[which].append(timed(command, env))
    fast, slow = (statistics.median(times[which]) for which in ("theirs", "ours"))
    size = len(place.content) / MIB
    print(f"{name}: {size / slow:.0f} MiB/s and {size / fast:.0f} MiB/s, ratio {fast / slow:.2f}, bound {bound}", flush=True)
    return fast / slow >= bound


def get(place):
    curl = ([clients.path_of("curl"), "-sSf", "-o", place.out / "curl", f"{place.http}/{OBJECTS}/big"], clients.environment())
    env = {**demo.clean_env(), "NATS_URL": place.url}
    gantry = ([place.gantry, "get", f"{OBJECTS}/big", "-o", place.out / "get"], env)
    return ratio(place, "curl through the gateway, gantry get", curl, gantry, 0.85)


def aws(place):
    def copy(endpoint, keys):
        command = [*cases.aws_command(), "--endpoint-url", endpoint, "s3", "cp", "--only-show-errors",
                   f"s3://{OBJECTS}/big", place.out / "aws"]
        return command, {**clients.environment(), **ANY_KEY, **cases.peers_env(), **keys}

    admin = place.server["users"]["admin"]
    keys = {"AWS_ACCESS_KEY_ID": admin["access_key_id"], "AWS_SECRET_ACCESS_KEY": admin["secret_access_key"]}
    ours, theirs = copy(place.http, {}), copy(place.server["endpoint"], keys)
    return ratio(place, "aws s3 cp through the gateway, from S3", ours, theirs, 0.6)


def ranges(place):
    """Reads sequential ranges over one connection, through a gateway that is 50 ms away from nats-server."""
    link = Links().to(int(place.url.rsplit(":", 1)[1]))
    link.delay_s = ROUND_TRIP_S / 2
    place.stop_gateway()
    place.start_gateway(nats=f"nats://127.0.0.1:{link.port}")

    connection = http.client.HTTPConnection(place.address, timeout=60)
    began = time.perf_counter()
    for start in range(0, READ_MIB * MIB, STEP):
        connection.request("GET", f"/{OBJECTS}/big", headers={"Range": f"bytes={start}-{start + STEP - 1}"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 206 or content != place.content[start:start + STEP]:
            raise servers.Problem(f"the range at {start} has status {answer.status} or other bytes")
    took = time.perf_counter() - began
    connection.close()
    place.stop_gateway()
    place.start_gateway()

    trips = READ_MIB * MIB // STEP * ROUND_TRIP_S
    print(f"sequential ranges of 64 KiB over 50 ms: {READ_MIB / took:.1f} MiB/s, {trips / took:.1f} times as fast as a "
          "round trip each, bound 20", flush=True)
    return trips / took >= 20


def idle(place):
    host, port = place.address.split(":")

    def memory():
        status = Path(f"/proc/{place.gateway.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) << 10

    before = memory()
    held = []
    for _ in range(IDLE):
        connection = socket.create_connection((host, int(port)))
        connection.sendall(f"GET /{OBJECTS}/small HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\nsmall"):
            piece = connection.recv(4096)
            if not piece:
                raise servers.Problem(f"no answer: {answer[:200]}")
            answer += piece
        held.append(connection)
    after = memory()
    for connection in held:
        connection.close()
    print(f"{IDLE} idle connections: {(after - before) / IDLE / 1024:.1f} KiB each, {after / MIB:.0f} MiB in all", flush=True)
    return after - before < 64 * MIB


ALL = {figure.__name__: figure for figure in (get, aws, ranges, idle)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="FIGURE", help=", ".join(ALL))
    parser.add_argument("--gantry", help="binary to measure; default: GANTRY_BINARY, or target/debug/gantry")
    parser.add_argument("--mib", type=int, default=256, help="size of the object")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in ALL]
    if unknown:
        parser.error(f"unknown figure {unknown[0]}: expected one of {', '.join(ALL)}")

    place = Place(binary(args.gantry))
    try:
        place.start()
        place.content = random_bytes(args.mib * MIB, 9)
        place.put("big", place.content)
        place.put("small", b"small")
        good = [ALL[name](place) for name in args.names or ALL]
    except servers.Problem as problem:
        sys.exit(f"measure.py: {problem}")
    finally:
        place.close()
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
