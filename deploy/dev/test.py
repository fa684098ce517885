#!/usr/bin/env python3
"""Runs all checks of the project and prints how many tests passed and failed.

    test.py           formatting, lints, documentation, deployment files, all tests, downloads that are slow on purpose,
                      topologies of nats-servers, a minute of chaos, a few interrupted downloads, HTTP and S3 clients with
                      and without faults, a minute of fuzzing

Each check runs even if an earlier one failed, so that one run shows all failures.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time

import servers

RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored; \d+ measured; (\d+) filtered out")
# Tests whose names contain this need apt. On a machine without apt they are counted as skipped.
NEEDS_APT = "debians_nats_server"
# Tests whose names contain this need an account of a cloud, and are run by hand only: see docs/SEMANTICS.md.
NEEDS_ACCOUNT = "a_real_"
# The only tests that may be ignored: those that take minutes, and name the make target that runs them.
LONG = re.compile(r"^test \S+ \.\.\. ignored, takes (many )?minutes: make \w+$")
# Lines of a failed check that are printed again at the end, where they are found even if a log was cut.
FAILURE = re.compile(r"\bFAIL(ED|URE)?\b|\bERROR\b|\w*Error\b|panicked|^error")
# The last lines are printed as well, for checks that were killed or fail in words of their own.
SHOWN_LINES, SHOWN_LAST_LINES, SHOWN_COLUMNS = 4, 4, 300
LEFT_BEHIND_S = 10
# Most tests wait for servers and time limits, so more of them than there are cores run at once.
THREADS_FOR_EACH_CORE = 2


def main():
    try:
        for name in servers.NAMES:
            path = servers.path_of(name)
            if path is None:
                print(f"NOT RUN HERE: tests of {name}, this machine has no apt", flush=True)
    except servers.Problem as problem:
        sys.exit(f"test.py: {problem}")

    checks = [
        ("formatting", ["cargo", "fmt", "--all", "--check"], {}),
        ("lints", ["cargo", "clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], {}),
        ("documentation", ["cargo", "doc", "--workspace", "--no-deps", "--locked"], {"RUSTDOCFLAGS": "-D warnings"}),
        ("deployment files", [sys.executable, "deploy/dev/check_deploy.py"], {}),
        ("bench", [sys.executable, "benches/build.py", "--check"], {}),
        ("lines of bench", [sys.executable, "benches/run.py", "--list"], {}),
        ("lines of fuzz", [sys.executable, "fuzz/run.py", "--check"], {}),
    ]
    # Early, since a registry may be away for some minutes. If this fails, the check of the client tries again.
    run("packages of the Python client", [sys.executable, "clients/python/check.py", "--prepare"], {})
    failed = [name for name, command, env in checks if not passes(name, command, env)]
    counts, tests_ok = run_tests()
    if not tests_ok:
        failed.append("tests")
    if counts["ignored"] > counts["long"]:
        failed.append(f"{counts['ignored'] - counts['long']} tests are ignored")
    if not counts["passed"]:
        failed.append("no test ran")
    if not passes("causes", [sys.executable, "tests/field/causes.py", "--gantry", tested_binary()], {}):
        failed.append("causes")
    if not passes("topologies", [sys.executable, "tests/field/topologies.py", "--gantry", tested_binary()], {}):
        failed.append("topologies")
    if not passes("chaos", [sys.executable, "tests/chaos/run.py", "--short", "--gantry", tested_binary()], {}):
        failed.append("chaos")
    if not passes("resume", [sys.executable, "tests/chaos/resume.py", "--times", "4", "--gantry", tested_binary()], {}):
        failed.append("resume")
    if not passes("gateway", [sys.executable, "tests/gateway/run.py", "--gantry", tested_binary()], {}):
        failed.append("gateway")
    if not passes("gateway and nginx", [sys.executable, "tests/gateway/nginx.py", "--gantry", tested_binary()], {}):
        failed.append("gateway and nginx")
    faults = [sys.executable, "tests/gateway/faults.py", "--rounds", "1", "--gantry", tested_binary()]
    if not passes("faults of the gateway", faults, {}):
        failed.append("faults of the gateway")
    if not passes("Python client", [sys.executable, "clients/python/check.py"], {"GANTRY_BINARY": tested_binary()}):
        failed.append("Python client")

    if not passes("fuzz", [sys.executable, "fuzz/run.py", "--seconds", "3"], {}):
        failed.append("fuzz")

    for name in failed:
        print(f"FAILED: {name}")
        for line in failures.get(name, ()):
            print(f"  {line[:SHOWN_COLUMNS]}")
    left_out = counts["ignored"] + counts["filtered"]
    print(f"{counts['passed']} passed, {counts['failed']} failed" + (f", {left_out} skipped" if left_out else ""))
    sys.exit(1 if failed else 0)


def tested_binary():
    """The binary that cargo has built for the tests."""
    metadata = subprocess.run(["cargo", "metadata", "--no-deps", "--format-version=1", "--locked"], cwd=servers.ROOT,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    return os.path.join(json.loads(metadata.stdout)["target_directory"], "debug", "gantry")


# Of each failed check, the lines that are printed again.
failures = {}


def passes(name, command, env):
    """Runs a check, and returns whether it succeeded."""
    code, lines = run(name, command, env)
    if code != 0:
        stated = [line for line in lines[:-SHOWN_LAST_LINES] if FAILURE.search(line)][:SHOWN_LINES]
        failures[name] = [f"exit code {code}, after {len(lines)} lines", *stated, *lines[-SHOWN_LAST_LINES:]]
    return code == 0


def run(name, command, env):
    """Runs a command and prints its output. Returns its exit code and its lines."""
    print(f"--- {name}: {' '.join(command)}", flush=True)
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=servers.ROOT, env={**os.environ, **env}, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    lines = []

    def forward():
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())

    reader = threading.Thread(target=forward, daemon=True)
    reader.start()
    code = process.wait()
    # A process that the check left behind may hold the pipe open.
    reader.join(LEFT_BEHIND_S)
    print(f"--- {name}: {time.monotonic() - began:.0f} s", flush=True)
    return code, lines


def run_tests():
    """Runs cargo's tests, prints their output, and adds up the result lines."""
    command = ["cargo", "test", "--workspace", "--locked", "--no-fail-fast", "--", "--skip", NEEDS_ACCOUNT]
    if servers.path_of("debian-nats-server") is None:
        command += ["--skip", NEEDS_APT]
    threads = THREADS_FOR_EACH_CORE * (os.cpu_count() or 1)
    code, lines = run("tests", command, {"RUST_TEST_THREADS": str(threads)})
    counts = counts_of(lines)
    # What a test panicked with follows the line that names it.
    reasons = [" ".join(lines[at:at + 3]) for at, line in enumerate(lines) if "panicked at" in line]
    failures["tests"] = reasons
    return counts, code == 0


def counts_of(lines):
    """The sums of the result lines of cargo's tests."""
    counts = dict.fromkeys(("passed", "failed", "ignored", "filtered", "long"), 0)
    for line in lines:
        counts["long"] += bool(LONG.match(line))
        result = RESULT.match(line)
        if result:
            for name, number in zip(counts, result.groups()):
                counts[name] += int(number)
    return counts


if __name__ == "__main__":
    main()
