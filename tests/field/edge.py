#!/usr/bin/env python3
"""Measures what an edge relay's link to the hub carries.

    edge.py                          50 consumers of 10 MB over 10 Mbit/s, twice: about half a minute
    edge.py --consumers 5 --size 1000000
    edge.py --kills 20               and an edge relay that is killed at random, with a damaged block each time
    edge.py --gantry target/debug/gantry

A relay at the hub serves a directory. A relay at the site reads it through a proxy that passes so many bytes per second,
and keeps it on disk. All consumers start at once at the site, each as a process of its own. Every file is compared.

The first round must carry at most 1.02 times the object's bytes, and the second one only requests for descriptions:
at most 4 KiB per consumer, and no transfer at the hub.

All processes listen on 127.0.0.1 and stop when this process ends. Exits with 1 if a bar is missed.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "deploy" / "dev"), str(HERE)]

import demo
import servers
from demo import Problem, say
from isolation import free_port, page
from throttle import Throttle

FIRST_MAX, LATER_MAX_BYTES = 1.02, 4096


class Scene:
    """A hub with a relay, and a site whose relay reaches the hub through a thin link."""

    def __init__(self, stage, gantry, size, rate):
        self.stage, self.gantry, self.size, self.rate = stage, gantry, size, rate
        self.body = os.urandom(size)
        files = stage.folder / "files"
        files.mkdir()
        (files / "object").write_bytes(self.body)

        self.hub, self.site = self._nats("hub"), self._nats("site")
        self.link = Throttle(("127.0.0.1", int(self.hub.rsplit(":", 1)[1])), rate)
        self.hub_http, self.edge_http = (f"127.0.0.1:{free_port()}" for _ in range(2))
        env = {**demo.clean_env(), "NATS_URL": self.hub}
        stage.start("hub-relay", [gantry, "serve", f"--store=thin=file://{files}", "--http", self.hub_http], env)
        stage.wait_for("the relay is not ready", lambda: "nats: connected" in page(self.hub_http, "readyz"))

        self.cache = stage.folder / "cache"
        self.config = stage.folder / "edge.toml"
        self.config.write_text(
            f'[stores.thin]\nurl = "nats:thin"\ncache_dir = "{self.cache}"\n'
            f'[stores.thin.nats]\nurl = "nats://127.0.0.1:{self.link.port}"\n')
        self.edges = 0
        self.start_edge()

    def _nats(self, name):
        file = self.stage.folder / f"{name}.conf"
        file.write_text("\n")
        return demo.start_nats(self.stage, "-c", file)

    def env(self):
        return {**demo.clean_env(), "NATS_URL": self.site}

    def start_edge(self):
        self.edges += 1
        # Consumers have ended, and the last relay may have been killed.
        self.stage.processes = [(name, process) for name, process in self.stage.processes if process.poll() is None]
        command = [self.gantry, "serve", "--config", self.config, "--http", self.edge_http]
        self.edge = self.stage.start(f"edge-{self.edges}", command, self.env())
        self.stage.wait_for("the edge relay is not ready", lambda: "store thin: ok" in page(self.edge_http, "readyz"))

    def hub_sent(self):
        lines = [line for line in page(self.hub_http, "metrics").splitlines() if line.startswith("gantry_sent_bytes_total")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def start_consumers(self, name, count, *options):
        names = [f"{name}-{index}" for index in range(count)]
        return [(self.stage.start(name, [self.gantry, "get", "thin/object", "-o", f"{name}.bin", *options], self.env()), name)
                for name in names]

    def end(self, consumers):
        """Waits for consumers, and returns whether all files are right."""
        is_right = True
        for process, name in consumers:
            copy = self.stage.folder / f"{name}.bin"
            try:
                code = process.wait(60 + 10 * self.size / self.rate)
            except subprocess.TimeoutExpired:
                raise Problem(f"{name} did not end") from None
            if code != 0 or copy.read_bytes() != self.body:
                say(f"{name}: exit code {code}: {self.stage.log(name).read_text().strip()[-500:]}")
                is_right = False
            copy.unlink(missing_ok=True)
        return is_right

    def round(self, name, count):
        """Lets consumers start at once, and returns the bytes on the link, those of objects, and whether all is right."""
        passed, sent, began = self.link.passed, self.hub_sent(), time.monotonic()
        is_right = self.end(self.start_consumers(name, count))
        took, crossed, objects = time.monotonic() - began, self.link.passed - passed, self.hub_sent() - sent
        say(f"{name}: {count} x {self.size} B in {took:.1f} s ({self.size / self.rate:.1f} s for one over the link); the link "
            f"carried {crossed} B, {crossed / self.size:.4f} times the object; {crossed / count:.0f} B per consumer; "
            f"{'all files right' if is_right else 'WRONG'}")
        return crossed, objects, is_right

    def kills(self, count):
        """Kills the edge relay during downloads, and damages a block each time."""
        is_right, seed = True, random.Random(7)
        for number in range(count):
            consumers = self.start_consumers(f"kill-{number}", 3, "--limit-rate", "4M")
            time.sleep(seed.uniform(0.05, 2))
            self.edge.kill()
            self.edge.wait()
            blocks = sorted(self.cache.glob("*.block"))
            if blocks:
                with open(seed.choice(blocks), "r+b") as block:
                    block.seek(seed.randrange(2000))
                    block.write(os.urandom(100))
            self.start_edge()
            is_right &= self.end(consumers)
        say(f"killed {count} times: {'all files right' if is_right else 'WRONG'}")
        return is_right


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--consumers", type=int, default=50)
    parser.add_argument("--size", type=int, default=10_000_000, help="bytes of the object")
    parser.add_argument("--rate", type=int, default=1_250_000, help="bytes per second of the link to the site")
    parser.add_argument("--kills", type=int, default=0, help="how often the edge relay is killed")
    parser.add_argument("--gantry", type=lambda path: Path(path).resolve(), help="use this binary, do not build")
    args = parser.parse_args()

    stage, is_met = demo.Stage(), False
    try:
        servers.DEV.mkdir(exist_ok=True)
        gantry = args.gantry or demo.build(stage)
        stage.folder = Path(tempfile.mkdtemp(dir=servers.DEV, prefix="field-"))
        scene = Scene(stage, gantry, args.size, args.rate)

        crossed, _, first_right = scene.round("first", args.consumers)
        # What is in memory is lost, so that the second round comes from the disk.
        scene.edge.kill()
        scene.edge.wait()
        scene.start_edge()
        later, objects, later_right = scene.round("second", args.consumers)
        is_met = first_right and crossed <= FIRST_MAX * args.size
        is_met &= later_right and objects == 0 and later <= LATER_MAX_BYTES * args.consumers
        if args.kills:
            is_met &= scene.kills(args.kills)
    except Problem as problem:
        sys.exit(f"edge: {problem}")
    finally:
        stage.close()
    sys.exit(0 if is_met else "edge: a bar is missed")


if __name__ == "__main__":
    main()
