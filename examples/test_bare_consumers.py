#!/usr/bin/env python3
"""Runs the bare consumers against a real relay, and compares each file. A missing toolchain is reported as not run.

    test_bare_consumers.py    Python needs nats-py and awscrt; JavaScript node with @nats-io/transport-node; Go `go`
                              with nats.go, as a module or in GOPATH (Debian: golang-github-nats-io-go-nats-dev)

GANTRY_BINARY names the relay. Objects of several sizes go through each consumer; with `--large` also one of 300 MiB.
The one in Python also reads 5 MiB twenty times at once over one connection, slowly.
"""

import asyncio
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent
sys.path.insert(0, str(EXAMPLES.parent / "clients" / "python" / "tests"))

from harness import Harness, sha256, wait_until  # noqa: E402

CHUNK, MIB = 520_192, 1 << 20
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 5 * MIB]
LARGE = 300 * MIB
AT_ONCE = 20
WITHIN_S = 120
DEBIAN_GOPATH = "/usr/share/gocode"


def main():
    harness = Harness()
    passed = failed = skipped = 0
    try:
        for max_payload in (MIB, 64 * 1024):
            url = harness.nats(max_payload=max_payload).url
            harness.relay(url, name=f"relay-{max_payload}")
            sizes = SIZES + [LARGE] if max_payload == MIB and "--large" in sys.argv else SIZES
            digests = {size: harness.object(f"{max_payload}-{size}", size) for size in sizes}
            for name, find in (("Python", python), ("JavaScript", javascript), ("Go", go)):
                command = find(harness)
                if isinstance(command, str):
                    print(f"NOT RUN HERE: bare consumer in {name}, max_payload {max_payload}: {command}", flush=True)
                    skipped += 1
                    continue
                problem = check(harness, [*command, url, "files"], max_payload, digests)
                if name == "Python" and not problem:
                    problem = asyncio.run(check_at_once(url, f"{max_payload}-{5 * MIB}", digests[5 * MIB]))
                result = f"FAILED: {problem}" if problem else "ok"
                print(f"bare consumer in {name}, max_payload {max_payload}: {result}", flush=True)
                failed += bool(problem)
                passed += not problem
    finally:
        harness.close()
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed or not passed else 0)


def check(harness, command, max_payload, digests):
    """Returns a description of the first failure, or an empty string."""
    folder = harness.folder
    # The relay may not be ready yet, and a bare consumer does not retry.
    wait_until(lambda: not run([*command, f"{max_payload}-1", folder / "ready"]).returncode, "the relay")
    for size, digest in digests.items():
        done = run([*command, f"{max_payload}-{size}", folder / "out"])
        if done.returncode != 0:
            return f"with {size} bytes: {done.stderr[-300:]}"
        if sha256(folder / "out") != digest:
            return f"with {size} bytes: the bytes differ"

    if not run([*command, "none", folder / "none"]).returncode:
        return "a missing object did not fail"
    return ""


async def check_at_once(url, key, digest):
    """Runs twenty slow downloads over one connection. Returns a description of the failure, or an empty string."""
    import bare_consumer
    import nats

    nc = await nats.connect(url, allow_reconnect=False)
    files = [SlowFile() for _ in range(AT_ONCE)]
    try:
        downloads = (bare_consumer.download(nc, "files", key, file) for file in files)
        await asyncio.wait_for(asyncio.gather(*downloads), WITHIN_S)
    except Exception as error:
        return f"at once: {error!r}"
    finally:
        await nc.close()
    return "" if all(file.digest.hexdigest() == digest for file in files) else "at once: the bytes differ"


class SlowFile:
    """Accepts bytes slowly, and hashes them."""

    def __init__(self):
        self.digest = hashlib.sha256()

    def write(self, data):
        time.sleep(len(data) / (100 * MIB))
        self.digest.update(data)


def run(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, stdin=subprocess.DEVNULL)


def python(_):
    for module in ("nats", "awscrt"):
        if importlib.util.find_spec(module) is None:
            return f"the package {module} is not installed"
    return [sys.executable, EXAMPLES / "bare_consumer.py"]


def javascript(_):
    node = shutil.which("node")
    if node is None:
        return "node is not installed"
    known = run([node, "-e", "require.resolve('@nats-io/transport-node', {paths: [process.argv[1]]})", EXAMPLES])
    if known.returncode != 0:
        return "the package @nats-io/transport-node is not installed"
    return [node, EXAMPLES / "bare_consumer.js"]


def go(harness):
    binary = harness.folder / "bare_consumer_go"
    if binary.exists():
        return [binary]
    if shutil.which("go") is None:
        return "go is not installed"
    env = {**os.environ, "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    if "GOPATH" not in env and Path(DEBIAN_GOPATH).exists():
        env["GOPATH"] = DEBIAN_GOPATH
    for modules in ("auto", "off"):
        flags = {"GO111MODULE": modules, **({"GOFLAGS": ""} if modules == "off" else {})}
        built = subprocess.run(["go", "build", "-o", binary, EXAMPLES / "bare_consumer.go"], env={**env, **flags},
                               capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if built.returncode == 0:
            return [binary]
    if "cannot find package" in built.stderr:
        return "the package github.com/nats-io/nats.go is not installed"
    raise SystemExit(f"bare_consumer.go does not compile: {built.stderr}")


if __name__ == "__main__":
    main()
