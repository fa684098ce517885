#!/usr/bin/env python3
"""Breaks everything under running downloads, with real processes, and compares every file.

    run.py                    at least 200 faults of all kinds, at four places at once: about ten minutes
    run.py --short            every important kind once: about a minute, part of `make test`
    run.py --seed 7 --plan    the faults that this seed gives, without doing them

Each place has nats-server (one, or a cluster of three), an S3 server, two relays, and consumers that download one
object after another with `gantry get`, with a proxy of ours on every link. A table tells for each kind of fault how
long no new byte came and how many came twice. It fails for wrong bytes, for who hangs, and for what is left behind;
never for slowness. Everything listens on 127.0.0.1, and ends with this process however that ends.
"""

import argparse
import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "deploy" / "dev"))

import demo
import servers
from consumer import Consumer
from demo import Problem, say
from faults import KINDS, Hit, plan
from rig import Rig, usage, until
from table import Report

# Large enough to be hit in the middle, small enough for many.
SIZES = {"empty.bin": 0, "one.bin": 1, "chunk.bin": 520_192, "odd.bin": 3_000_001, "large.bin": 48 << 20,
         "larger.bin": (64 << 20) + 12_345}
# So that a download outlasts the moment in which a fault comes, and two cores carry all of it.
PACE_BYTES_PER_S = 12 << 20
CONSUMERS = 2
# name: how many nats-servers
PLACES = {"one-nats-a": 1, "one-nats-b": 1, "three-nats-a": 3, "three-nats-b": 3}
FAULTS = 212
SHORT_KINDS = ("relay killed", "relay frozen, thawed", "relay drained", "relay's NATS link cut",
               "relay's NATS link blackholed", "consumer killed", "consumer killed for good", "consumer interrupted",
               "consumer's NATS link blackholed", "nats-server restarted", "S3 link cut", "S3 link blackholed",
               "S3 server killed, started again")
# A relay at rest, compared with itself when it was new: threads that wait for work, a connection being probed.
FDS_MORE, THREADS_MORE = 4, 24
S3_CONNECTIONS_MAX = 16
RSS_MAX_BYTES = 512 << 20
IDLE_WITHIN_S = 60


async def rig_of(name, stage, gantry, nodes, report, seed, pace=PACE_BYTES_PER_S, consumers=CONSUMERS, sizes=None):
    """A place that runs: servers, relays, objects, consumers."""
    rig = Rig(name, stage.folder / name, gantry, stage.alive_fd, nodes, pace)
    await rig.start_servers()
    # A relay is not ready before its bucket is there.
    for key, size in (sizes or SIZES).items():
        await rig.put(key, size, f"{seed} {key}")
    await rig.start_relays()
    crowd = [Consumer(rig, number, random.Random(f"{seed} {name} {number}"), report) for number in range(consumers)]
    for consumer in crowd:
        await consumer.start()
    return rig, crowd


async def chaos(name, stage, gantry, nodes, orders, report, seed):
    """Works off the faults of one place, one after the other."""
    rig, crowd = await rig_of(name, stage, gantry, nodes, report, seed)
    try:
        for number, order in enumerate(orders, 1):
            await strike(rig, crowd, order, report, f"{name} {number}/{len(orders)}")
        for consumer in crowd:
            await consumer.stop()
        await at_rest(rig, report)
    finally:
        await rig.close()


async def strike(rig, crowd, order, report, where):
    """One fault, in the middle of a download; what is wrong with it does not end the run."""
    consumer = crowd[order.consumer]
    try:
        await until(f"{consumer.name} is in the middle of a download", lambda: consumer.can_be_hit(order.share) and
                    rig.relay_of(consumer.meter.instance), 180)
    except Problem as problem:
        return report.hang(f"{where}: {problem}")
    hit = Hit(rig, crowd, order)
    began = time.monotonic()
    at_share = consumer.meter.high / consumer.size
    try:
        await KINDS[order.kind][0](hit)
    except Problem as problem:
        (report.hang if "no bytes" in str(problem) else report.unexpected)(f"{where} {order.kind}: {problem}")
    samples = hit.samples()
    report.fault(order.kind, samples)
    rig.sample()
    gaps = ", ".join(f"{gap:.2f} s" for gap, _ in samples) or "-"
    say(f"  {where} {order.kind}, at {at_share:.0%}: no new byte for {gaps} ({time.monotonic() - began:.1f} s)")


async def at_rest(rig, report):
    """What must be gone when nobody downloads any more."""
    for relay in rig.relays:
        state = {}

        async def rests(relay=relay, state=state):
            now = usage(relay.process.pid)
            state.update(now, active=await relay.active(), s3=relay.s3_proxy.connections,
                         nats=sum(proxy.connections for proxy in relay.nats_proxies))
            return (state["active"] == 0 and state["nats"] == 1 and state["s3"] <= S3_CONNECTIONS_MAX
                    and state["fds"] - state["s3"] <= relay.idle["fds"] + FDS_MORE
                    and state["threads"] <= relay.idle["threads"] + THREADS_MORE and state["rss_bytes"] <= RSS_MAX_BYTES)

        try:
            await until("the relay is at rest", rests, IDLE_WITHIN_S)
        except Problem as problem:
            report.leak(f"{rig.name} relay {relay.number}: {problem}: {state}, when it was new {relay.idle}")
        report.notes.append(
            f"{rig.name} relay {relay.number} at rest: {state['active']} transfers, {state['fds']} files and "
            f"{state['threads']} threads ({relay.idle['fds']} and {relay.idle['threads']} when new), {state['s3']} "
            f"connections to S3, {state['rss_bytes'] >> 20} MiB, at most {relay.rss_peak_bytes >> 20} MiB seen")


def places(args):
    """(name, nats-servers, faults) of each place."""
    if args.short:
        kinds = [kind for kind in SHORT_KINDS if not args.kinds or kind in args.kinds]
        return [("one-nats", 1, plan(random.Random(f"{args.seed} one-nats"), args.faults or len(kinds), 1, CONSUMERS, kinds))]
    share = -(-(args.faults or FAULTS) // len(PLACES))
    return [(name, nodes, plan(random.Random(f"{args.seed} {name}"), share, nodes, CONSUMERS, args.kinds))
            for name, nodes in PLACES.items()]


async def run(stage, args):
    report = Report(say)
    gantry = args.gantry or demo.build(stage)
    stage.folder = Path(tempfile.mkdtemp(dir=servers.DEV, prefix="chaos-"))
    remove_when_gone(stage)
    began = time.monotonic()
    say(f"chaos: seed {args.seed}, {sum(len(orders) for *_, orders in places(args))} faults")
    ran = await asyncio.gather(*(chaos(name, stage, gantry, nodes, orders, report, args.seed)
                                 for name, nodes, orders in places(args)), return_exceptions=True)
    for error in ran:
        if isinstance(error, BaseException):
            raise error
    report.print()
    say(f"chaos: {time.monotonic() - began:.0f} s, seed {args.seed}")
    if report.problems:
        raise Problem("not all was as promised")


def remove_when_gone(stage):
    """Has the folder removed when this process is gone, even if it was killed."""
    keeper = [sys.executable, "-I", "-S", str(demo.s3.RUN), "--remove", str(stage.folder), "--", "sleep", "infinity"]
    stage.processes.append(("keeper", subprocess.Popen(keeper, stdin=stage.alive_fd)))


def options(parser):
    parser.add_argument("--seed", default="1", help="the same faults for the same seed")
    parser.add_argument("--gantry", type=lambda path: Path(path).resolve(), help="the binary, in place of a fresh build")
    parser.add_argument("--keep", action="store_true", help="leave the folder with all logs")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options(parser)
    parser.add_argument("--faults", type=int, help="how many")
    parser.add_argument("--kinds", type=lambda text: text.split(";"), help="only these, separated by semicolons")
    parser.add_argument("--short", action="store_true", help="every important kind once")
    parser.add_argument("--plan", action="store_true", help="only say what would be done")
    args = parser.parse_args()
    if args.plan:
        for name, _, orders in places(args):
            for order in orders:
                print(name, order)
        return
    play(run, args, "chaos")


def play(acted, args, name):
    """Runs a mode on a stage that is cleared afterwards."""
    for sig in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, signal.default_int_handler)
    stage = demo.Stage()
    try:
        for server in ("nats-server", "weed"):
            servers.path_of(server)
        servers.DEV.mkdir(exist_ok=True)
        asyncio.run(acted(stage, args))
    except Problem as problem:
        sys.exit(f"{name}: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if args.keep and stage.folder:
            shutil.copytree(stage.folder, f"{stage.folder}-kept", ignore=shutil.ignore_patterns("data", "*.sock"))
            say(f"logs: {stage.folder}-kept")
        stage.close()


if __name__ == "__main__":
    main()
