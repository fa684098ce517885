#!/usr/bin/env python3
"""Injects faults between a hub and its sites during downloads, and compares every file.

    sites.py                    104 faults of all kinds, in two setups at once
    sites.py --short            every important kind once, in one setup
    sites.py --seed 7 --plan    print the faults for this seed without injecting them

Each setup has a nats-server and two relays over an S3 server at the hub, and two sites. Each site has a leaf node of the
hub, an edge relay with a cache on disk, and consumers. The nats-servers run the files of deploy/nats/hub. Every link has
a proxy.

For each fault, up to three consumers download with `gantry get`, and the fault occurs in the middle of the first
download. A table shows for each kind of fault how long no new byte arrived, and how often consumers recovered. The run
fails on wrong bytes, on downloads that have not ended after 400 s, and on leaked resources. A fault that comes too late
for its download fails the run, too. All processes listen on 127.0.0.1 and stop when this process ends, even if it is
killed.
"""

import argparse
import asyncio
import collections
import random
import time

from play import fits, inject, options, play
from demo import Problem, say
from rig import until
from site_faults import KINDS, NEW, SiteHit, plan
from site_rig import (KEPT, KEPT_SHARE_MAX, PLACES, SIZES, SiteConsumer, SiteRig, ended_well,
                      with_private_mounts)
from table import Report, maximum, median, show

SETUPS = ("a", "b")
FAULTS = 104
SHORT_KINDS = ("edge relay killed during a fill", "edge relay killed during hits", "edge relay frozen during hits",
               "edge relay drained during a fill", "hub's relay killed", "hub's relay frozen", "hub's nats-server restarted",
               "leaf link cut", "leaf link blackholed", "both links down", "site's nats-server restarted",
               "S3 answers 503 SlowDown", "cache blocks damaged", "cache disk full", "object replaced", "consumer killed")
# Much longer than the run takes on a busy machine, so that a caller never waits forever.
SHORT_WITHIN_S, WITHIN_S = 900, 3600
# What remains of the time limit for the last fault and the report.
LAST_WITHIN_S = 240
# From the start of a download to its middle, on a busy machine.
MIDDLE_WITHIN_S = 180


class SiteReport(Report):
    """Also counts for each kind of fault how often consumers recovered."""

    HEADING = ("fault", "count", "downloads affected", "median s", "longest s", "recoveries")

    def __init__(self, say):
        super().__init__(say)
        self.recovered = collections.Counter()

    def row(self, kind):
        gaps = [gap for gap, _ in self.samples[kind]]
        return kind, self.struck[kind], len(gaps), show(median(gaps)), show(maximum(gaps)), self.recovered[kind]

    def print(self):
        super().print()
        gaps = [gap for samples in self.samples.values() for gap, _ in samples]
        self.say(f"longest time without a new byte: {show(maximum(gaps))} s")


async def run(stage, gantry, args):
    report, began = SiteReport(say), time.monotonic()
    setups = plans(args)
    say(f"chaos, sites: seed {args.seed}, {sum(map(len, setups.values()))} faults")
    until_s = began + args.within_s - LAST_WITHIN_S
    await asyncio.gather(*(strike_all(name, stage, gantry, orders, report, args.seed, until_s)
                           for name, orders in setups.items()))
    report.notes.append(f"seed {args.seed}, {time.monotonic() - began:.0f} s")
    report.print()
    if report.problems:
        raise Problem("some checks failed")


async def strike_all(name, stage, gantry, orders, report, seed, until_s):
    """Injects the faults of one setup one after the other."""
    rig = SiteRig(name, stage.folder / name, gantry, stage.alive_fd)
    try:
        await rig.start()
        # Relays that compare their stores have an inbox for a moment.
        rig.at_start = {name: {what: count for what, count in counts.items() if not what.startswith("_INBOX.")}
                        for name, counts in (await rig.counts()).items()}
        crowd = [SiteConsumer(rig, number, seed, report) for number in range(len(PLACES))]
        for consumer in crowd:
            await consumer.connect()

        for number, order in enumerate(orders, 1):
            if time.monotonic() > until_s:
                raise Problem(f"{number - 1} of {len(orders)} faults were injected in the time limit")
            await strike(rig, crowd, order, report, f"{name} {number}/{len(orders)}")
        await ended_well(rig, crowd, report)
    except Exception as problem:
        # Reported at once, and not only after the end of the other setups.
        report.unexpected(f"{name} ended early: {problem!r}")
    finally:
        await rig.close()


async def strike(rig, crowd, order, report, where):
    """Starts downloads, injects a fault in the middle of the first one, and waits for the end of all."""
    consumer, kind = crowd[order.consumer], KINDS[order.kind]
    try:
        await prepare(rig, consumer, order)
    except (Problem, OSError) as problem:
        return report.unexpected(f"{where} before {order.kind}: {problem}")
    if kind.without_edge:
        await consumer.site.edge.stop()
    recoveries = sum(one.recoveries for one in crowd)
    downloads = [asyncio.create_task(crowd[number].download(key))
                 for number, key in [(order.consumer, order.key), *order.others]]
    # A new download has a new meter once it has started.
    await asyncio.sleep(0)

    try:
        await until("the download is in its middle", lambda: downloads[0].done() or (
            consumer.can_be_hit(order.share) and rig.relay_of(consumer.meter.instance)), MIDDLE_WITHIN_S)
        if downloads[0].done():
            raise Problem("the download ended before its fault")
        await inject(SiteHit(rig, crowd, order), kind.fault, report, where)
    except Problem as problem:
        report.unexpected(f"{where} {order.kind}: {problem}")

    await asyncio.gather(*downloads)
    report.recovered[order.kind] += sum(one.recoveries for one in crowd) - recoveries
    if kind.without_edge and consumer.site.edge.process.poll() is not None:
        await consumer.site.edge.start()
    await rig.settled()
    await fits(rig, crowd, report, f"{where} {order.kind}")
    for site in rig.sites.values():
        await site.edge.count()


async def prepare(rig, consumer, order):
    """Puts objects that are missing, and makes the edge relay keep the order's object, or have none of it."""
    for key in (order.key, *(key for _, key in order.others)):
        if key not in rig.objects:
            await rig.put(key, {**SIZES, **NEW}[key], f"{rig.name} {key}")
    if consumer.site is None:
        return
    if order.key == KEPT:
        await consumer.keep(KEPT)
    elif await consumer.site.edge.kept_share(order.key) > KEPT_SHARE_MAX:
        await rig.put(order.key, NEW[order.key], f"{rig.name} {order}")


def plans(args):
    """The faults of each setup."""
    if args.short:
        kinds = args.kinds or SHORT_KINDS
        return {"short": plan(random.Random(f"{args.seed} short"), args.faults or len(kinds), kinds)}
    share = -(-(args.faults or FAULTS) // len(SETUPS))
    return {name: plan(random.Random(f"{args.seed} {name}"), share, args.kinds) for name in SETUPS}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, help="number of faults")
    parser.add_argument("--kinds", type=lambda text: text.split(";"), help="only these kinds, separated by semicolons")
    parser.add_argument("--short", action="store_true", help="every important kind once, in one setup")
    parser.add_argument("--plan", action="store_true", help="only print the planned faults")
    options(parser)
    parser.set_defaults(within_s=None)
    args = parser.parse_args()
    args.within_s = args.within_s or (SHORT_WITHIN_S if args.short else WITHIN_S)

    if not args.plan:
        with_private_mounts()
        return play(run, args)
    for name, orders in plans(args).items():
        for order in orders:
            say(f"{name}: {order}")


if __name__ == "__main__":
    main()
