#!/usr/bin/env python3
"""Measures whether several streams make one download faster, or slower.

    streams.py                                    all cases, three rounds: about 15 minutes
    streams.py --case near,limited --rounds 5
    streams.py --streams 1,2,8
    streams.py --gantry target/debug/gantry

near: one relay on this machine.
limited: two relays, each of which sends at most 20 MB/s.
unequal: two relays, one of which sends at most 20 MB/s, the other one 2 MB/s.
each: one relay that sends at most 20 MB/s in each transfer, like a store that limits each connection.
thin: one relay, and a consumer behind a link of 1 MB/s.

In each round, the numbers of streams alternate, so that other load on the machine affects all of them. A ratio above 1
means that several streams were faster than one in the same round. Every file is compared with its object.

All processes listen on 127.0.0.1 and stop when this process ends. Exits with 1 if a download fails.
"""

import argparse
import filecmp
import json
import os
import statistics
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "deploy" / "dev"), str(HERE)]

import demo
import servers
from demo import Problem, say
from isolation import page
from ports import free_port
from throttle import Throttle

MIB = 1 << 20
STALLED_AFTER_S = 600
RELAY, TRANSFER = "GANTRY_RELAY__RATE_MAX_BYTES_PER_S", "GANTRY_RELAY__TRANSFER_RATE_MAX_BYTES_PER_S"

# `relays` are the limits of each relay, as variables of its environment. `link` is the consumer's link in bytes per
# second, or `None`. The objects are large enough for several pieces of at least 16 MiB.
Case = namedtuple("Case", "mib relays link", defaults=(None,))
CASES = {
    "near": Case(512, [{}]),
    "limited": Case(256, [{RELAY: 20_000_000}, {RELAY: 20_000_000}]),
    "unequal": Case(128, [{RELAY: 20_000_000}, {RELAY: 2_000_000}]),
    "each": Case(256, [{TRANSFER: 20_000_000}]),
    "thin": Case(40, [{}], link=1_000_000),
}


class Scene:
    """The nats-server, relays, object and link of one case."""

    def __init__(self, stage, gantry, name, case):
        self.stage, self.gantry, self.case = stage, gantry, case
        self.files = stage.folder / f"{name}-files"
        self.files.mkdir()
        self.object = self.files / "object"
        with open(self.object, "wb") as file:
            for _ in range(case.mib):
                file.write(os.urandom(MIB))

        before = len(stage.processes)
        self.url = demo.start_nats(stage)
        pages = [self._start_relay(f"{name}-relay-{number}", limits) for number, limits in enumerate(case.relays)]
        stage.wait_for("a relay is not ready", lambda: all("nats: connected" in page(http, "readyz") for http in pages))
        self.processes = stage.processes[before:]

        self.link = None
        if case.link:
            parts = urlsplit(self.url)
            self.link = Throttle((parts.hostname, parts.port), case.link)
            self.url = f"nats://127.0.0.1:{self.link.port}"

    def _start_relay(self, name, limits):
        http = f"127.0.0.1:{free_port()}"
        limits = {variable: str(value) for variable, value in limits.items()}
        self.stage.start(name, [self.gantry, "serve", f"--store=files=file://{self.files}", "--http", http],
                         {**demo.clean_env(), "NATS_URL": self.url, **limits})
        return http

    def get(self, streams):
        """Downloads the object, compares it, and returns how long the download took, in seconds."""
        copy = self.stage.folder / "copy"
        command = [self.gantry, "get", "files/object", "-o", copy, "--json", "--streams", streams]
        began = time.monotonic()
        done = self.stage.run(command, env={**demo.clean_env(), "NATS_URL": self.url}, capture_output=True,
                              timeout=STALLED_AFTER_S)
        took = time.monotonic() - began
        if done.returncode != 0:
            raise Problem(f"gantry get --streams {streams} failed: {done.stderr.strip()}")
        if not filecmp.cmp(self.object, copy, shallow=False):
            raise Problem(f"with {streams} streams, the file differs from the object")
        copy.unlink()
        return took, json.loads(done.stdout.splitlines()[-1])["recoveries"]

    def close(self):
        """Stops the processes of this case, so that they take nothing from the next one."""
        if self.link:
            self.link.close()
        for _, process in self.processes:
            process.terminate()
        for _, process in self.processes:
            process.wait()
        self.stage.processes = [entry for entry in self.stage.processes if entry not in self.processes]
        self.object.unlink()


def measure(scene, name, counts, rounds):
    samples = {count: [] for count in counts}
    recoveries = dict.fromkeys(counts, 0)
    # The first download reads the object into memory.
    scene.get(counts[0])
    for _ in range(rounds):
        for count in counts:
            took, recovered = scene.get(count)
            samples[count].append(took)
            recoveries[count] += recovered

    say(f"{name}: {scene.case.mib} MiB")
    for count in counts:
        took = statistics.median(samples[count])
        ratios = sorted(one / many for one, many in zip(samples[counts[0]], samples[count]))
        say(f"    {count:2} streams: {took:6.2f} s, {scene.case.mib / took:6.1f} MiB/s, {statistics.median(ratios):5.2f} "
            f"times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f}), {recoveries[count]} recoveries")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default=",".join(CASES), help="cases, separated by commas")
    parser.add_argument("--streams", default="1,2,4", help="numbers of streams; the others are compared with the first")
    parser.add_argument("--rounds", type=int, default=3, help="downloads with each number of streams")
    parser.add_argument("--gantry", type=lambda path: Path(path).resolve(), help="use this binary, do not build")
    args = parser.parse_args()

    names = args.case.split(",")
    if unknown := set(names) - set(CASES):
        parser.error(f"unknown case: {', '.join(sorted(unknown))}")
    counts = list(map(int, args.streams.split(",")))

    stage = demo.Stage()
    try:
        servers.DEV.mkdir(exist_ok=True)
        gantry = args.gantry or demo.build(stage)
        stage.folder = Path(tempfile.mkdtemp(dir=servers.DEV, prefix="field-"))
        for name in names:
            scene = Scene(stage, gantry, name, CASES[name])
            measure(scene, name, counts, args.rounds)
            scene.close()
    except Problem as problem:
        sys.exit(f"streams: {problem}")
    finally:
        stage.close()


if __name__ == "__main__":
    main()
