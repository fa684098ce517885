#!/usr/bin/env python3
"""Measures how consumers share a thin leaf link that none of them can see.

    thin_leaf.py                                  1, 4 and 12 consumers of 3 MB each at 1 MB/s: about a minute
    thin_leaf.py --consumers 24,48 --size 6000000
    thin_leaf.py --consumers 3 --size 1000000 --rate 20000
    thin_leaf.py --consumers 1,4 --size 100000000 --rate 12500000 --rtt-ms 100
    thin_leaf.py --consumers 48 --different       each consumer downloads an object of its own
    thin_leaf.py --consumers 48 --compression off
    thin_leaf.py --gantry target/debug/gantry

A relay and a nats-server are at the hub. The nats-server of the site is a leaf node of it, behind a proxy that passes
so many bytes per second to the site. Each consumer is a process of its own. They start while the site's nats-server is
frozen, so that all of them begin when it continues. Beside them, a request and its reply cross the link ten times a
second. nats-server compresses a leaf link by default. If all consumers download one object, those that are at the same
offset get more through the link than others, and less than the bytes crosses it.

Each line must be within these bars: all files are right, the time is at most 1.15 times that of the bytes at the
link's rate, no consumer recovers more than once, the slowest takes at most 1.5 times as long as the fastest, and 99 of
100 requests take less than 1 s.

All processes listen on 127.0.0.1 and stop when this process ends. Exits with 1 if a bar is missed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "deploy" / "dev"), str(HERE)]

import demo
import servers
from demo import Problem, say
from isolation import page
from ports import free_port
from throttle import Throttle
from wire import Connection

TOTAL_MAX, RECOVERIES_MAX, SPREAD_MAX, P99_MAX_S = 1.15, 1, 1.5, 1.0
# The time that processes need to start: at least, and for each. After 4 s without an answer of nats-server, they fail.
START_S, START_EACH_S = 0.5, 0.02


class Probe(threading.Thread):
    """A request from the site to the hub and its reply, ten times a second. The reply crosses the thin link."""

    def __init__(self, hub, site):
        super().__init__(daemon=True)
        self.hub, self.site, self.took, self.ends = Connection(hub), Connection(site), [], threading.Event()
        self.hub.subscribe("probe.ask")
        self.site.subscribe("probe.reply")
        threading.Thread(target=self._reply, daemon=True).start()
        threading.Thread(target=self._note, daemon=True).start()
        self.start()

    def run(self):
        while not self.ends.wait(0.1):
            self.site.publish("probe.ask", time.monotonic())

    def _reply(self):
        try:
            while True:
                self.hub.publish("probe.reply", json.loads(self.hub.next()[1]))
        except (OSError, EOFError, ValueError):
            pass

    def _note(self):
        try:
            while True:
                self.took.append(time.monotonic() - json.loads(self.site.next()[1]))
        except (OSError, EOFError, ValueError):
            pass

    def stop(self):
        """Ends the requests, and returns how long they took, in seconds, in ascending order."""
        self.ends.set()
        self.join()
        self.hub.close()
        self.site.close()
        return sorted(self.took)


class Scene:
    """A hub with a relay, and a site behind a thin link."""

    def __init__(self, stage, gantry, size, rate, rtt_ms, objects, compression):
        self.stage, self.gantry, self.size, self.rate = stage, gantry, size, rate
        self.files, self.objects = stage.folder / "files", objects
        self.files.mkdir()
        for index in range(objects):
            self.file(index).write_bytes(os.urandom(size))

        leaf_port = free_port()
        self.hub = self._nats("hub", f"leafnodes {{ listen: 127.0.0.1:{leaf_port} }}")
        self.link = Throttle(("127.0.0.1", leaf_port), rate, delay_s=rtt_ms / 2000)
        remote = f"url: nats://127.0.0.1:{self.link.port}, compression: {compression}"
        self.site = self._nats("site", f"leafnodes {{ remotes: [ {{ {remote} }} ] }}")
        self.site_server = stage.processes[-1][1]

        http = f"127.0.0.1:{free_port()}"
        env = {**demo.clean_env(), "NATS_URL": self.hub}
        stage.start("relay", [gantry, "serve", f"--store=thin=file://{self.files}", "--http", http], env)
        stage.wait_for("the relay is not ready", lambda: "nats: connected" in page(http, "readyz"))
        stage.wait_for("the leaf link is not up", self._is_linked)

    def _nats(self, name, config):
        file = self.stage.folder / f"{name}.conf"
        file.write_text(config + "\n")
        return demo.start_nats(self.stage, "-c", file)

    def _is_linked(self):
        command = [self.gantry, "stat", f"thin/{self.file(0).name}"]
        return self.stage.run(command, env=self.env(), capture_output=True, timeout=60).returncode == 0

    def env(self):
        return {**demo.clean_env(), "NATS_URL": self.site}

    def file(self, consumer):
        """Returns the file that a consumer downloads."""
        return self.files / f"object-{consumer % self.objects}"

    def run(self, count):
        """Starts `count` consumers at once, and returns whether all bars are met."""
        names = [f"get-{count}-{index}" for index in range(count)]
        many, passed, began = self._start(names)
        probe = Probe(self.hub, self.site)

        within_s, ended = 10 * count * self.size / self.rate + 60, {}
        watches = [threading.Thread(target=watch, args=(process, began, within_s, ended), daemon=True) for process in many]
        for thread in watches:
            thread.start()
        for thread in watches:
            thread.join()
        if len(ended) < count:
            raise Problem(f"{count - len(ended)} of {count} consumers did not end within {within_s:.0f} s")
        crossed, waits = self.link.passed - passed, probe.stop()
        return self.judge(names, many, list(ended.values()), crossed / (count * self.size), waits)

    def _start(self, names):
        """Starts the consumers, which begin all at once. Returns them, what the link has carried, and the time."""
        self.site_server.send_signal(signal.SIGSTOP)
        try:
            many = [self.stage.start(name, self._get(index, name), self.env()) for index, name in enumerate(names)]
            time.sleep(START_S + len(names) * START_EACH_S)
            passed, began = self.link.passed, time.monotonic()
        finally:
            self.site_server.send_signal(signal.SIGCONT)
        return many, passed, began

    def _get(self, consumer, name):
        return [self.gantry, "get", f"thin/{self.file(consumer).name}", "-o", f"{name}.bin", "--json"]

    def judge(self, names, many, took, crossed, waits):
        total, ideal = max(took), len(names) * self.size / self.rate
        codes = {process.returncode for process in many}
        reports = [summary(self.stage.log(name)) for name in names]
        copies = [self.stage.folder / f"{name}.bin" for name in names]
        is_right = codes == {0} and all(copy.read_bytes() == self.file(index).read_bytes()
                                        for index, copy in enumerate(copies))
        for copy in copies:
            copy.unlink(missing_ok=True)

        recoveries = max(report.get("recoveries", 0) for report in reports)
        spread = total / min(took)
        p50, p99 = (waits[int(len(waits) * part)] for part in (0.5, 0.99))
        say(f"{len(names):3} x {self.size} B at {self.rate} B/s: {total:.1f} s, {total / ideal:.2f} times the link alone; "
            f"{crossed:.2f} times the bytes crossed; recoveries at most {recoveries}; slowest / fastest {spread:.2f}; "
            f"other requests p50 {p50:.2f}, p99 {p99:.2f}, max {waits[-1]:.2f} s; "
            f"{'all files right' if is_right else f'exit codes {sorted(codes)}'}")

        is_fair = recoveries <= RECOVERIES_MAX and spread <= SPREAD_MAX
        return is_right and total <= TOTAL_MAX * ideal and is_fair and p99 < P99_MAX_S


def watch(process, began, within_s, ended):
    """Records when a process ends, in seconds, if that is within its time."""
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        return
    ended[process.pid] = time.monotonic() - began


def summary(log):
    """Returns the report of `gantry get --json`."""
    lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--consumers", default="1,4,12", help="how many at once; several numbers make several lines")
    parser.add_argument("--size", type=int, default=3_000_000, help="bytes of the object")
    parser.add_argument("--rate", type=int, default=1_000_000, help="bytes per second of the link to the site")
    parser.add_argument("--rtt-ms", type=int, default=0, help="round trip of the link without a queue")
    parser.add_argument("--different", action="store_true", help="each consumer downloads an object of its own")
    parser.add_argument("--compression", default="s2_auto", help="nats-server's compression of the leaf link")
    parser.add_argument("--gantry", type=lambda path: Path(path).resolve(), help="use this binary, do not build")
    args = parser.parse_args()

    counts = [int(count) for count in args.consumers.split(",")]
    stage, missed = demo.Stage(), []
    try:
        servers.DEV.mkdir(exist_ok=True)
        gantry = args.gantry or demo.build(stage)
        stage.folder = Path(tempfile.mkdtemp(dir=servers.DEV, prefix="field-"))
        objects = max(counts) if args.different else 1
        scene = Scene(stage, gantry, args.size, args.rate, args.rtt_ms, objects, args.compression)
        for count in counts:
            if not scene.run(count):
                missed.append(str(count))
    except Problem as problem:
        sys.exit(f"thin_leaf: {problem}")
    finally:
        stage.close()
    sys.exit(f"bars missed by: {', '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
