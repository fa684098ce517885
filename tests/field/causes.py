#!/usr/bin/env python3
"""Makes a download slow for each of five reasons, and checks that the log line and the metric name the right one.

    causes.py                       all five
    causes.py --cause disk          one of them
    causes.py --gantry target/debug/gantry

store: S3 sends 2 MB/s. limits: the relay has a rate limit. bus: the relay's link to nats-server is slow, for eight
downloads at once. link: the consumer's link is slow. disk: the consumer writes to a pipe that is read slowly.

The relay's line `transfer ended` and gantry_transfer_waited_seconds_total must have most of the time under the cause.
For a slow consumer that is `credit`, and `output_ms` of `gantry get --json` tells its disk from its link. A single
download over a slow link of the relay fits into the buffers of the kernel, and also waits for credit.

All processes listen on 127.0.0.1 and stop when this process ends. Exits with 1 if a cause is not named.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "deploy" / "dev"), str(HERE)]

import demo
import s3
import servers
from demo import Problem, say
from isolation import Place, page
from throttle import Throttle

RATE = 2_000_000
SIZE = 12_000_000
OTHERS = 7
WAITS = ("store", "bus", "credit", "limits")
EXPECTED = {"store": "store", "limits": "limits", "bus": "bus", "link": "credit", "disk": "credit"}


class Scene:
    """A bucket with one object."""

    def __init__(self, place, folder):
        self.place, self.folder = place, folder
        self.server, process = s3.start(folder / "s3", stdin=place.stage.alive_fd)
        place.stage.processes.append(("s3", process))
        s3.put(self.server, "bucket", "object", os.urandom(SIZE))
        self.nats = address(place.url)

    def serve(self, endpoint=None, nats=None, **settings):
        keys = self.server["users"]["admin"]
        env = {"AWS_ACCESS_KEY_ID": keys["access_key_id"], "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"],
               "AWS_REGION": self.server["region"], "AWS_ENDPOINT_URL": endpoint or self.server["endpoint"],
               "NATS_URL": nats or self.place.url, "GANTRY_LOG__FORMAT": "json", **settings}
        process, http = self.place.serve({"objects": "s3://bucket"}, env)
        log = self.folder / f"relay-{self.place.relays}.log"
        return process, http, log


def address(url):
    host, port = re.search(r"//([^/:]+):(\d+)", url).groups()
    return host, int(port)


def run(scene, cause):
    """Downloads once while this cause is made. Returns what the relay and the consumer report."""
    throttles = []

    def slow(target, up=False):
        throttles.append(Throttle(target, RATE * (1 + OTHERS if up else 1), up))
        return throttles[-1].port

    relay, consumer = {}, dict(scene.place.env)
    if cause == "store":
        relay["endpoint"] = f"http://127.0.0.1:{slow(address(scene.server['endpoint']))}"
    elif cause == "limits":
        relay["GANTRY_RELAY__RATE_MAX_BYTES_PER_S"] = str(RATE)
    elif cause == "bus":
        relay["nats"] = f"nats://127.0.0.1:{slow(scene.nats, up=True)}"
    elif cause == "link":
        consumer["NATS_URL"] = f"nats://127.0.0.1:{slow(scene.nats)}"

    process, http, log = scene.serve(**relay)
    try:
        target = "-" if cause == "disk" else str(scene.folder / "target")
        command = [scene.place.gantry, "get", "objects/object", "--json", "-o", target]
        others = [subprocess.Popen([*command[:-1], "/dev/null", "--quiet"], env=consumer, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL) for _ in range(OTHERS if cause == "bus" else 0)]
        began = time.monotonic()
        get = subprocess.Popen(command, env=consumer, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
        out = read_slowly(get.stdout) if cause == "disk" else get.stdout.read()
        err = get.stderr.read()
        if get.wait(60):
            raise Problem(f"{cause}: exit code {get.returncode}: {err.decode().strip()}")
        took = time.monotonic() - began
        if any(other.wait(60) for other in others):
            raise Problem(f"{cause}: another download failed")
        summary = json.loads(err if cause == "disk" else out)
        if cause == "disk" and len(out) != SIZE:
            raise Problem(f"{len(out)} bytes instead of {SIZE}")
        return took, line_of(scene, log, process), metrics(http), summary
    finally:
        scene.place.stage.processes = [(name, other) for name, other in scene.place.stage.processes
                                       if other is not process]
        process.terminate()
        process.wait(30)
        for throttle in throttles:
            throttle.close()


def read_slowly(pipe):
    """Reads a pipe at RATE."""
    data, began = bytearray(), time.monotonic()
    while piece := pipe.read(64 * 1024):
        data += piece
        time.sleep(max(0, len(data) / RATE - (time.monotonic() - began)))
    return bytes(data)


def line_of(scene, log, process):
    """The relay's line at the end of the transfer."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if "transfer ended" in line:
                event = json.loads(line)
                return event.get("fields", event)
        time.sleep(0.05)
    raise Problem("the relay logged no end of the transfer")


def metrics(http):
    text = page(http, "metrics")
    pattern = r'^gantry_transfer_waited_seconds_total\{store="objects",cause="(\w+)"\} (\S+)$'
    return {cause: float(seconds) for cause, seconds in re.findall(pattern, text, re.M)}


def is_named(cause, took, line, waited, summary):
    """Whether everything that is reported leads to the cause."""
    expected = EXPECTED[cause]
    in_log = {wait: line[f"{wait}_ms"] for wait in WAITS}
    output_ms, elapsed_ms = summary["output_ms"], summary["elapsed_ms"]
    say(f"{cause}: {took:.1f} s; log: " + " ".join(f"{wait}_ms={in_log[wait]}" for wait in WAITS)
        + "; metric: " + " ".join(f"{wait}={waited.get(wait, 0):.2f}" for wait in WAITS)
        + f"; consumer: output_ms={output_ms} of elapsed_ms={elapsed_ms}")

    most_in_log, most_in_metric = max(in_log, key=in_log.get), max(waited, key=waited.get)
    is_long = in_log[expected] > line["ms"] / 2 and waited[expected] * 1000 > line["ms"] / 2
    consumer_is_right = (output_ms > elapsed_ms / 2) == (cause == "disk")
    return most_in_log == most_in_metric == expected and is_long and consumer_is_right


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cause", choices=EXPECTED, action="append", help="make only this cause; may be repeated")
    parser.add_argument("--gantry", type=lambda path: Path(path).resolve(), help="use this binary, do not build")
    args = parser.parse_args()

    stage, failed = demo.Stage(), []
    try:
        servers.DEV.mkdir(exist_ok=True)
        gantry = args.gantry or demo.build(stage)
        stage.folder = Path(tempfile.mkdtemp(dir=servers.DEV, prefix="field-"))
        scene = Scene(Place(stage, gantry), stage.folder)
        for cause in args.cause or EXPECTED:
            if not is_named(cause, *run(scene, cause)):
                failed.append(cause)
    except Problem as problem:
        sys.exit(f"causes: {problem}")
    finally:
        stage.close()
    sys.exit(f"not named: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
