#!/usr/bin/env python3
"""Measures what an edge relay's link to the hub carries.

    edge.py                          50 consumers of 10 MB over 10 Mbit/s, twice: about half a minute
    edge.py --consumers 5 --size 1000000
    edge.py --gantry target/debug/gantry

A relay at the hub serves a directory. A relay at the site reads it through a proxy that passes so many bytes per second,
and keeps it on disk. All consumers start at once at the site, each as a process of its own. Every file is compared.

The first round must carry at most 1.02 times the object's bytes, and the second one only requests for descriptions:
at most 4 KiB per consumer, and no transfer at the hub.

edge_faults.py and edge_upstreams.py test the same with faults. All processes listen on 127.0.0.1 and stop when this
process ends. Exits with 1 if a bar is missed.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "deploy" / "dev"), str(HERE)]

import demo
import servers
from demo import Problem, say
from edge_rig import Hub, Site

FIRST_MAX, LATER_MAX_BYTES = 1.02, 4096


class Scene:
    """A hub with a relay, and a site whose relay reaches the hub through a thin link."""

    def __init__(self, stage, gantry, size, rate):
        self.size, self.rate, self.body = size, rate, os.urandom(size)
        self.hub = Hub(stage, gantry)
        self.hub.put("object", self.body)
        self.hub.start_relay()
        self.site = Site(stage, gantry, self.hub.url, rate=rate)
        self.site.start_edge()

    def end(self, gets):
        """Waits for downloads, and returns whether all files are right."""
        is_right = True
        for get in gets:
            if get.end(60 + 10 * self.size / self.rate).body != self.body:
                say(f"{get.file.name}: exit code {get.code}: {get.said[-500:]}")
                is_right = False
        return is_right

    def round(self, name, count):
        """Lets consumers start at once, and returns the bytes on the link, those of objects, and whether all is right."""
        link, began = self.site.link, time.monotonic()
        passed, sent = link.passed, self.hub.sent()
        is_right = self.end([self.site.start_get("object") for _ in range(count)])
        took, crossed, objects = time.monotonic() - began, link.passed - passed, self.hub.sent() - sent
        say(f"{name}: {count} x {self.size} B in {took:.1f} s ({self.size / self.rate:.1f} s for one over the link); the link "
            f"carried {crossed} B, {crossed / self.size:.4f} times the object; {crossed / count:.0f} B per consumer; "
            f"{'all files right' if is_right else 'WRONG'}")
        return crossed, objects, is_right


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--consumers", type=int, default=50)
    parser.add_argument("--size", type=int, default=10_000_000, help="bytes of the object")
    parser.add_argument("--rate", type=int, default=1_250_000, help="bytes per second of the link to the site")
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
        scene.site.kill_edge()
        scene.site.start_edge()
        later, objects, later_right = scene.round("second", args.consumers)
        is_met = first_right and crossed <= FIRST_MAX * args.size
        is_met &= later_right and objects == 0 and later <= LATER_MAX_BYTES * args.consumers
    except Problem as problem:
        sys.exit(f"edge: {problem}")
    finally:
        stage.close()
    sys.exit(0 if is_met else "edge: a bar is missed")


if __name__ == "__main__":
    main()
