#!/usr/bin/env python3
"""Measures the memory of `get -r --dry-run` and `sync --dry-run` with many keys.

    many_keys.py                       100,000 and 1,000,000 keys, in a bucket and in a directory
    many_keys.py --keys 20000 200000   other numbers
    many_keys.py --gantry target/debug/gantry

The bucket is a double that answers listings only. The directory is on a tmpfs (/dev/shm) with empty files, 1000 in each
folder. Every command must print one line for each key. It fails if the peak memory of a consumer grows by more than 8 MiB
from the smallest number of keys to the largest; eight bytes for each of a million keys in a set would take 16 MiB. The
relay's peak is printed as well: it keeps the names of a directory that is being listed, in at most 32 MiB.
"""

import argparse
import http.server
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "deploy" / "dev"), str(HERE)]

import demo
import servers
from demo import Problem, say
from isolation import MIB, Place, peak_rss

GROWTH_MAX_KIB = 8 * 1024
PAGE = 1000
BUCKET = "bucket"


def key(number):
    return f"{number // PAGE:05}/{number % PAGE:03}"


class Listings(http.server.BaseHTTPRequestHandler):
    """Answers ListObjectsV2 for keys that exist nowhere."""

    protocol_version = "HTTP/1.1"
    keys = 0

    def do_GET(self):
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlparse(self.path).query))
        first = int(query.get("continuation-token", 0))
        limit = min(int(query.get("max-keys", PAGE)), PAGE)
        end = min(first + limit, self.keys)
        contents = "".join(
            f"<Contents><Key>{key(number)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{number:032x}&quot;</ETag><Size>0</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for number in range(first, end))
        more = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < self.keys else ""
        self.answer(f'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                    f"<Name>{BUCKET}</Name><Prefix></Prefix><KeyCount>{end - first}</KeyCount><MaxKeys>{limit}</MaxKeys>"
                    f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{contents}{more}</ListBucketResult>")

    def answer(self, body):
        body = body.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def bucket():
    """Starts the double, and returns its server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listings)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def grow(folder, first, end):
    """Adds empty files for these keys."""
    for number in range(first, end):
        if number % PAGE == 0:
            (folder / key(number)).parent.mkdir()
        os.close(os.open(folder / key(number), os.O_CREAT | os.O_WRONLY, 0o644))


def run(place, keys, *arguments):
    """Runs a command that must print a line for each key. Returns its time in seconds and its peak memory in KiB."""
    process = subprocess.Popen([str(word) for word in (place.gantry, *arguments)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=place.env)
    began = time.perf_counter()
    lines = sum(block.count(b"\n") for block in iter(lambda: process.stdout.read(1 << 20), b""))
    said = process.stderr.read().decode(errors="replace").strip()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Problem(f"gantry {' '.join(map(str, arguments))}: exit code {process.returncode}: {said}")
    if lines != keys:
        raise Problem(f"gantry {' '.join(map(str, arguments))}: {lines} lines for {keys} keys: {said}")
    return time.perf_counter() - began, usage.ru_maxrss


def measure(place, store, url, env, keys, peaks):
    """Runs both commands on a store with a relay of its own."""
    relay, _ = place.serve({store: url}, env)
    for name, arguments in (("get", ["get", f"{store}/", "-r", "-o", "absent"]),
                            ("sync", ["sync", store, "absent", "--delete"])):
        took, peak = run(place, keys, *arguments, "--dry-run", "--progress", "none")
        peaks.setdefault((store, name), []).append(peak)
        say(f"{store:9} {name:4} {keys:9,} keys: consumer {peak / 1024:5.1f} MiB, "
            f"relay {peak_rss(relay.pid) / MIB:5.1f} MiB, {took:5.1f} s")

    relay.send_signal(signal.SIGTERM)
    place.stage.processes = [(name, other) for name, other in place.stage.processes if other is not relay]
    relay.wait(60)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, nargs="+", default=[100_000, 1_000_000], help="numbers of keys")
    parser.add_argument("--gantry", type=lambda path: Path(path).resolve(), help="use this binary, do not build")
    args = parser.parse_args()

    stage, peaks, made = demo.Stage(), {}, 0
    folder = Path(tempfile.mkdtemp(prefix="gantry-keys-", dir="/dev/shm"))
    try:
        servers.DEV.mkdir(exist_ok=True)
        gantry = args.gantry or demo.build(stage)
        stage.folder = Path(tempfile.mkdtemp(dir=servers.DEV, prefix="field-"))
        place = Place(stage, gantry)
        env = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
               "AWS_ENDPOINT_URL": f"http://127.0.0.1:{bucket().server_port}"}
        for keys in sorted(args.keys):
            Listings.keys = keys
            measure(place, "bucket", f"s3://{BUCKET}", env, keys, peaks)
            grow(folder, made, keys)
            made = keys
            measure(place, "directory", f"file://{folder}", {}, keys, peaks)
    except Problem as problem:
        sys.exit(f"many_keys: {problem}")
    finally:
        stage.close()
        shutil.rmtree(folder)

    grown = {" ".join(name): found[-1] - found[0] for name, found in peaks.items()}
    for name, kib in grown.items():
        say(f"{name}: grew by {kib / 1024:.1f} MiB")
    sys.exit("the memory depends on the number of keys" if max(grown.values()) > GROWTH_MAX_KIB else 0)


if __name__ == "__main__":
    main()
