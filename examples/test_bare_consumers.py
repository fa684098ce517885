#!/usr/bin/env python3
"""Runs the consumers in docs/PROTOCOL.md and in this folder against a real relay, and compares each file.

    test_bare_consumers.py    Python needs nats-py and awscrt; JavaScript node with @nats-io/transport-node; Go `go`
                              with nats.go, as a module or in GOPATH (Debian: golang-github-nats-io-go-nats-dev)

A missing toolchain is reported as not run. GANTRY_BINARY names the relay. Objects of several sizes go through each
consumer, with two values of nats-server's max_payload; the bare consumer of the document also reads 300 MiB, and with
`--large` so does every other one. The programs of the document also read an object with a composite checksum from S3, and
5 MiB twenty times at once over one connection, slowly. 100 MiB must not take the bare consumer more than 230 chunks and
120 control messages.
"""

import asyncio
import hashlib
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent
sys.path.insert(0, str(EXAMPLES.parent / "clients" / "python" / "tests"))

import document  # noqa: E402
from harness import Harness, s3_env, sha256, wait_until  # noqa: E402
from test_s3 import put_parts  # noqa: E402

CHUNK, MIB = 520_192, 1 << 20
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 5 * MIB]
LARGE = 300 * MIB
COUNTED = 100 * MIB
CHUNKS_MAX, CONTROLS_MAX = 230, 120
AT_ONCE = 20
LINES_MAX = 80
WITHIN_S = 120
DEBIAN_GOPATH = "/usr/share/gocode"


def main():
    harness = Harness()
    results = [check_document(), check_lengths()]
    try:
        document.extract(harness.folder / "document")
        sys.path.insert(0, str(harness.folder / "document"))
        results += check_crc()
        for max_payload in (MIB, 64 * 1024):
            results += check_files(harness, max_payload)
        results += check_s3(harness)
    finally:
        harness.close()

    failed = sum(result is False for result in results)
    print(f"{results.count(True)} passed, {failed} failed, {results.count(None)} skipped")
    sys.exit(1 if failed or True not in results else 0)


def check_document():
    """Compares the example with the document."""
    is_same = (EXAMPLES / "bare_consumer.py").read_text() == document.programs()["bare_consumer.py"]
    return report("bare_consumer.py", "" if is_same else "it differs from the one in docs/PROTOCOL.md")


def check_lengths():
    """Compares the lengths that the documents state, and those of the examples with their maximum."""
    table, readme = (document.ROOT / "docs" / "PROTOCOL.md").read_text(), (document.ROOT / "README.md").read_text()
    lengths = {level: sum(line.strip() != "" for line in document.programs()[program].splitlines())
               for level, program in document.LEVELS.items()}
    problems = [f"{level} has {length} lines, and not what the table states" for level, length in lengths.items()
                if not re.search(rf"^\| \[{level}\].*\| {length}( more)? \|", table, re.MULTILINE)]
    if f"{lengths['bare']} lines of Python" not in " ".join(readme.split()):
        problems.append("README.md states another length")
    for program in sorted(EXAMPLES.glob("bare_consumer.*")):
        if len(program.read_text().splitlines()) >= LINES_MAX:
            problems.append(f"{program.name} has {LINES_MAX} lines or more")
    return report("lengths", "; ".join(problems))


def check_crc():
    """Compares the document's lines with the package."""
    try:
        from awscrt.checksums import crc64nvme
    except ImportError:
        return [report("crc64nvme.py", "", "awscrt is not installed")]

    lines = importlib.import_module("crc64nvme")
    data = os.urandom(1000)
    same = lines.crc64nvme(data) == crc64nvme(data) == lines.crc64nvme(data[400:], lines.crc64nvme(data[:400]))
    return [report("crc64nvme.py", "" if same else "it computes something else")]


def check_files(harness, max_payload):
    """Sends files of several sizes through each consumer. Returns the results."""
    url = harness.nats(max_payload=max_payload).url
    harness.relay(url, name=f"relay-{max_payload}")
    sizes = [*SIZES, LARGE] if max_payload == MIB else SIZES
    digests = {size: harness.object(f"{max_payload}-{size}", size) for size in sizes}
    results = []

    for name, command in consumers(harness):
        title = f"{name}, max_payload {max_payload}"
        if isinstance(command, str):
            results.append(report(title, "", command))
            continue
        wanted = {size: digest for size, digest in digests.items()
                  if size < LARGE or "--large" in sys.argv or name == "bare, docs/PROTOCOL.md"}
        results.append(report(title, check(harness, [*command, url, "files"], max_payload, wanted)))

        if "docs/PROTOCOL.md" in name and max_payload == MIB:
            module = importlib.import_module(document.LEVELS[name.split(",")[0]].removesuffix(".py"))
            problem = asyncio.run(check_at_once(module, url, f"{max_payload}-{5 * MIB}", digests[5 * MIB]))
            results.append(report(f"{AT_ONCE} at once, {name}", problem))
    if max_payload == MIB and not python():
        results.append(report("bare, docs/PROTOCOL.md, 100 MiB", check_counts(harness, url)))
    return results


def consumers(harness):
    """Yields the name and the command of each consumer, or why it can't run here."""
    for level, program in document.LEVELS.items():
        missing = python()
        yield f"{level}, docs/PROTOCOL.md", missing or [sys.executable, harness.folder / "document" / program]
    yield "bare, JavaScript", javascript(harness)
    yield "bare, Go", go(harness)


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


async def check_at_once(module, url, key, digest):
    """Runs twenty slow downloads over one connection. Returns a description of the failure, or an empty string."""
    import nats

    nc = await nats.connect(url, allow_reconnect=False)
    files = [SlowFile() for _ in range(AT_ONCE)]
    try:
        downloads = (start(module, nc, key, file) for file in files)
        await asyncio.wait_for(asyncio.gather(*downloads), WITHIN_S)
    except Exception as error:
        return f"at once: {error!r}"
    finally:
        await nc.close()
    return "" if all(file.digest.hexdigest() == digest for file in files) else "at once: the bytes differ"


def start(module, nc, key, file):
    """Starts a download with one of the document's programs."""
    if hasattr(module, "download"):
        return module.download(nc, "files", key, file)

    program = getattr(module, "FullDownload", None) or module.Download
    return program(nc, "files", key, file).run()


class SlowFile:
    """Accepts bytes slowly, and hashes them."""

    def __init__(self):
        self.digest = hashlib.sha256()
        self.data = bytearray()

    def write(self, data):
        time.sleep(len(data) / (100 * MIB))
        self.digest.update(data)
        self.data += data

    def seek(self, _):
        self.rest = self.data

    def read(self, size):
        block, self.rest = self.rest[:size], self.rest[size:]
        return block


def check_counts(harness, url):
    """Counts the messages of one download. Returns a description of the failure, or an empty string."""
    import bare_consumer
    import nats

    digest = harness.object("counted", COUNTED)
    counts = {"controls": 0}

    async def download():
        nc = await nats.connect(url, allow_reconnect=False)
        publish = nc.publish

        async def counted(subject, *args, **kwargs):
            counts["controls"] += ".ctl." in subject
            await publish(subject, *args, **kwargs)

        nc.publish = counted
        with open(harness.folder / "counted", "wb") as file:
            await bare_consumer.download(nc, "files", "counted", file)
        await nc.close()

    asyncio.run(download())
    log = harness.folder / f"relay-{MIB}.log"
    ended = re.compile(rf"bytes={COUNTED} chunks=(\d+)")
    wait_until(lambda: ended.search(log.read_text()), "the relay's report")
    chunks, controls = int(ended.search(log.read_text())[1]), counts["controls"]
    print(f"100 MiB took {chunks} chunks and {controls} control messages", flush=True)
    if sha256(harness.folder / "counted") != digest:
        return "the bytes differ"
    within = chunks <= CHUNKS_MAX and controls <= CONTROLS_MAX
    return "" if within else f"{chunks} chunks and {controls} control messages"


def check_s3(harness):
    """Reads an object with a composite checksum from S3. Returns the results."""
    if python():
        return [report("S3, docs/PROTOCOL.md", "", python())]

    server, url = harness.s3(), harness.nats().url
    harness.relay(url, "files=s3://objects", name="relay-s3", env=s3_env(server))
    data = os.urandom(12 * MIB + 345)
    put_parts(server, "objects", "composite.bin", [data[: 5 * MIB], data[5 * MIB : 10 * MIB], data[10 * MIB :]])
    results = []
    for level, program in document.LEVELS.items():
        out = harness.folder / f"s3-{level}"
        command = [sys.executable, harness.folder / "document" / program, url, "files", "composite.bin", out]
        wait_until(lambda: not run(command).returncode, "the relay")
        done = run(command)
        is_verified = level != "full" or "against the store's checksum" in done.stdout
        problem = done.stderr[-300:] or ("" if is_verified and out.read_bytes() == data else f"{done.stdout}: differs")
        results.append(report(f"S3, {level}, docs/PROTOCOL.md", problem))
    return results


def report(name, problem, missing=""):
    """Prints a result, and returns whether it is good; `None` if it was not run."""
    if missing:
        print(f"NOT RUN HERE: {name}: {missing}", flush=True)
        return None
    print(f"consumer: {name}: {f'FAILED: {problem}' if problem else 'ok'}", flush=True)
    return not problem


def run(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, stdin=subprocess.DEVNULL)


def python():
    """Returns which package is missing, if one is."""
    for module in ("nats", "awscrt"):
        if importlib.util.find_spec(module) is None:
            return f"the package {module} is not installed"
    return None


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
