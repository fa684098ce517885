#!/usr/bin/env python3
"""Checks the Python client: builds its wheel, installs it, runs mypy and all tests, the consumers of
docs/PROTOCOL.md, and the conformance kit.

    check.py [--chaos] [--large] [--conformance]
    check.py --prepare

Everything is installed into .dev/python-venv from requirements.txt, where pip checks every hash. GANTRY_BINARY names
the relay to test with; the default is the one that cargo builds for tests. `--chaos` adds 50 kills, `--large` an
object of 300 MiB for each bare consumer, and `--conformance` the kit's runs with all consumers and with broken ones.
`--prepare` only installs the packages.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VENV = ROOT / ".dev" / "python-venv"
PYTHON = VENV / "bin" / "python"
PIP = [PYTHON, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
REQUIREMENTS = HERE / "requirements.txt"
# A registry may be away for some minutes.
PAUSES_S = (20, 60, 180)
WITHIN_S = 900

sys.path.insert(0, str(ROOT / "deploy" / "dev"))

import servers  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chaos", action="store_true", help="add 50 kills of relays, nats-server and clients")
    parser.add_argument("--conformance", action="store_true", help="add the examples, and broken consumers")
    parser.add_argument("--large", action="store_true", help="add an object of 300 MiB for each bare consumer")
    parser.add_argument("--prepare", action="store_true", help="only install the packages that the checks need")
    args = parser.parse_args()

    prepare()
    if args.prepare:
        return
    wheel = build()
    pip("install", "--no-deps", "--no-index", "--force-reinstall", wheel)

    env = {**os.environ, "GANTRY_BINARY": gantry(), "PYTHONDONTWRITEBYTECODE": "1"}
    tests = ["-m", "unittest", "discover", "-s", "tests", "-t", "tests"]
    large = ["--large"] if args.large else []
    checks = [
        ("types", ["-m", "mypy"]),
        ("tests", tests),
        ("checksums in pure Python", ["-c", PURE]),
        ("consumers of the document", [ROOT / "examples" / "test_bare_consumers.py", *large]),
        ("conformance", [ROOT / "examples" / "test_conformance.py", "--jobs", "16", *OWN]),
    ]
    if args.conformance:
        checks.append(("conformance of the examples", [ROOT / "examples" / "test_conformance.py"]))
        checks.append(("conformance of broken consumers", [ROOT / "examples" / "test_conformance.py", "--broken"]))
    if args.chaos:
        checks.append(("chaos", ["tests/chaos.py"]))

    failed = [name for name, arguments in checks if not passes(name, arguments, env)]
    for name in failed:
        print(f"FAILED: Python client, {name}")
    print(f"{len(checks) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


# The implementations that applications use.
OWN = ["--consumer", "gantry serve", "--consumer", "gantry get", "--consumer", "Python package"]

# Runs one test module without access to awscrt.
PURE = """
import sys, unittest
sys.modules["awscrt"] = None
sys.path.insert(0, "tests")
unittest.main("test_units")
"""


def prepare():
    """Recreates the virtual environment if the requirements or the interpreter have changed."""
    stamp = VENV / "stamp"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    run("venv", [sys.executable, "-m", "venv", "--clear", VENV])
    packages = ["install", "--require-hashes", "--only-binary=:all:", "-r", REQUIREMENTS]
    for pause_s in PAUSES_S:
        if succeeds([*PIP, *packages]):
            break
        print(f"check.py: the packages could not be installed, trying again in {pause_s} s", flush=True)
        time.sleep(pause_s)
    else:
        pip(*packages)
    stamp.write_text(wanted)


def build():
    """Builds the wheel, and returns its path."""
    folder = ROOT / ".dev" / "python-wheel"
    for old in folder.glob("*.whl"):
        old.unlink()
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, HERE)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"check.py: expected one wheel in {folder}")
    return wheels[0]


def gantry():
    """Returns the path of the relay to test with."""
    given = os.environ.get("GANTRY_BINARY")
    if given:
        return given
    metadata = subprocess.run(["cargo", "metadata", "--no-deps", "--format-version=1", "--locked"], cwd=ROOT,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    binary = Path(json.loads(metadata.stdout)["target_directory"], "debug", "gantry")
    if not binary.exists():
        raise SystemExit(f"check.py: no relay at {binary}: run `cargo build --locked`, or set GANTRY_BINARY")
    return str(binary)


def pip(verb, *arguments):
    run(f"pip {verb}", [*PIP, verb, *arguments])


def run(name, command):
    if not succeeds(command):
        raise SystemExit(f"check.py: FAILED: {name}")


def succeeds(command):
    print(f"check.py: {' '.join(map(str, command))}", flush=True)
    return subprocess.run(command, cwd=HERE, stdin=subprocess.DEVNULL).returncode == 0


def passes(name, arguments, env):
    print(f"--- Python client, {name}", flush=True)
    # With faulthandler, SIGABRT makes Python print what each thread is doing.
    process = subprocess.Popen([PYTHON, "-X", "faulthandler", *arguments], cwd=HERE, env=env, stdin=subprocess.DEVNULL)
    try:
        return process.wait(WITHIN_S) == 0
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        process.wait()
        print(f"FAILED: Python client, {name}: still running after {WITHIN_S} s", flush=True)
        return False


if __name__ == "__main__":
    for name in ("nats-server", "weed"):
        servers.path_of(name)
    main()
