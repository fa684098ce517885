#!/usr/bin/env python3
"""Runs the field suite, and prints a table by server and set-up.

    run.py              the quick part: S3 servers, NATS set-ups and topologies, faults of the host, and why a download
                        is slow
    run.py --long       Ceph radosgw and OpenStack Swift, which are not part of `make test`

The tests of the quick part are also part of `make test`. Exits with 1 if a test fails, or if a line has no test.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "deploy" / "dev"))

import servers

# Server, set-up, and the names of its tests: those that begin so.
QUICK = [
    ("moto", "conformance, errors, command line, boto3, TLS with HTTP/2 offered", ["moto::"]),
    ("rclone serve s3", "conformance, errors, command line, boto3, TLS with HTTP/2 offered", ["rclone::"]),
    ("SeaweedFS", "conformance, versions, checksums", ["stores::s3::"]),
    ("S3 double", "faults of the network and of bodies", ["stores::s3_faults::"]),
    ("S3 double", "odd answers", ["stores::s3_odd::"]),
    ("S3 double", "other permissions, encodings, checksums", ["stores::s3_setups::"]),
    ("S3 double", "TLS with a private authority, HTTP/2 offered", ["stores::s3_tls::"]),
    ("nats-server", "WebSocket", ["nats_field::downloads_work_over_websocket", "nats_field::a_websocket"]),
    ("nats-server", "cluster, certificates with host names", ["nats_field::members_of_a_cluster"]),
    ("nats-server", "gossip of unreachable and plain-text servers", ["gossip::"]),
    ("nats-server", "addresses that never answer", ["nats_field::an_address_that_never"]),
    ("nats-server", "limits of accounts", ["nats_field::the_lower_payload_limit", "nats_field::the_check_finds"]),
    ("nats-server", "leaf node, least permissions", ["nats_links::downloads_cross_a_leaf_link"]),
    ("nats-server", "gateway, least permissions", ["nats_links::downloads_cross_a_gateway"]),
    ("nats-server", "permissions, other accounts", ["nats_deploy::", "nats_field::a_download_without_permission"]),
    ("nats-server", "credentials revoked", ["nats_field::revoked_credentials"]),
    ("nats-server", "credentials revoked, JWT", ["nats_jwt::"]),
    ("nats-server", "malformed messages", ["malformed::"]),
    ("host", "devices, pipes, links, other users' files", ["targets::"]),
    ("host", "nobody reads the log; stderr fails", ["streams::"]),
    ("host", "limit on processes", ["nats_field::a_limit_of_processes"]),
    ("host", "directories that vanish, names that are not UTF-8", ["stores::file::"]),
]
LONG = [
    ("Ceph radosgw (Debian)", "conformance, errors, command line, boto3, TLS with HTTP/2 offered", ["radosgw::"]),
    ("Swift (Debian)", "conformance, errors, command line, boto3, TLS with HTTP/2 offered", ["swift::"]),
]

# Scripts of the quick part.
SCRIPTS = [
    ("causes.py", "all", "five causes of slowness, each named"),
    ("topologies.py", "nats-server", "topologies of deploy/nats, each part stopped in turn"),
]

RESULT = re.compile(r"^test (\S+) \.\.\. (ok|FAILED|ignored)")


def run(target, args):
    """Runs the tests of one target whose names contain one of the arguments. Returns the results by name."""
    command = ["cargo", "test", "--workspace", "--locked", "--no-fail-fast", "--test", target, "--", *args]
    print("---", " ".join(command), flush=True)
    cargo = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    results = {}
    for line in cargo.stdout:
        print(line, end="", flush=True)
        if found := RESULT.match(line):
            results[found.group(1)] = found.group(2)
    if cargo.wait() and "FAILED" not in results.values():
        sys.exit(f"the tests of {target} did not run")
    return results


def script(name):
    """Runs a script of this folder with the binary of the tests. Returns whether it succeeded."""
    metadata = subprocess.run(["cargo", "metadata", "--no-deps", "--format-version=1", "--locked"], cwd=ROOT, check=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    gantry = Path(json.loads(metadata.stdout)["target_directory"]) / "debug" / "gantry"
    command = [sys.executable, str(HERE / name), "--gantry", str(gantry)]
    return subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="run the long part instead")
    args = parser.parse_args()

    try:
        quick = ("nats-server", "weed", "rclone", "moto", "debian-nats-server")
        for name in (*servers.LONG_NAMES, "moto") if args.long else quick:
            if servers.path_of(name) is None and args.long:
                sys.exit(f"{name} needs apt, which this machine does not have")
        servers.path_of("nats-server")
    except servers.Problem as problem:
        sys.exit(f"run.py: {problem}")

    lines = LONG if args.long else QUICK
    if args.long:
        # Each test starts several servers, so one test at a time.
        results = run("field_long", ["--test-threads=1"])
    else:
        results = run("field", []) | run("it", [name for _, _, names in lines for name in names])

    rows, is_bad = [], False
    for server, setup, names in lines:
        found = [result for test, result in results.items() if test.startswith(tuple(names))]
        passed = found.count("ok")
        is_bad |= not found or passed < len(found)
        rows.append((server, setup, f"{passed} of {len(found)}"))
    if not args.long:
        for name, server, setup in SCRIPTS:
            holds = script(name)
            is_bad |= not holds
            rows.append((server, setup, "passed" if holds else "failed"))

    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    print("\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows))
    sys.exit(1 if is_bad else 0)


if __name__ == "__main__":
    main()
