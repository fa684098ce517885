#!/usr/bin/env python3
"""Injects faults during downloads between real processes, and compares every file.

    run.py                    212 faults of all kinds, in four setups at once: six to seven minutes
    run.py --short            every important kind once: one to two minutes, part of `make test`
    run.py --store gcs        the same with fake-gcs-server, a store in Google Cloud, in place of the S3 server
    run.py --seed 7 --plan    print the faults for this seed without injecting them

Each setup has nats-server (one, or a cluster of three), an S3 server, two relays, and consumers that download one
object after another with `gantry get`. Every link has a proxy. A table shows for each kind of fault how long no new
byte arrived and how many bytes were fetched twice. The run fails on wrong bytes, hangs and leaked resources, but
never on slowness. All processes listen on 127.0.0.1 and stop when this process ends, even if it is killed.
"""

import argparse
import asyncio
import random
import sys
import time

from play import at_rest, check_memory, fits, inject, options, place, play
from demo import Problem, say
from faults import KINDS, Hit, plan
from rig import until
from table import Report

# Large enough for a fault in the middle, small enough for many downloads.
SIZES = {"empty.bin": 0, "one.bin": 1, "chunk.bin": 520_192, "odd.bin": 3_000_001, "large.bin": 48 << 20,
         "larger.bin": (64 << 20) + 12_345}
# Slow enough that a download is still running when its fault occurs, and that two cores suffice.
PACE_BYTES_PER_S = 12 << 20
CONSUMERS = 2
# name: number of nats-servers
PLACES = {"one-nats-a": 1, "one-nats-b": 1, "three-nats-a": 3, "three-nats-b": 3}
FAULTS = 212
SHORT_KINDS = ("relay killed", "relay frozen, resumed", "relay drained", "relay's NATS link cut",
               "relay's NATS link blackholed", "consumer killed", "consumer killed and not restarted", "consumer interrupted",
               "consumer's NATS link blackholed", "nats-server restarted", "S3 link cut", "S3 link blackholed",
               "S3 server killed, restarted", "nats-server frozen, resumed", "S3 answers 503 SlowDown", "S3 bodies short")
# Much longer than the run takes on a busy machine, so that a caller never waits forever.
SHORT_WITHIN_S, WITHIN_S = 600, 1800
# From the end of one download to the middle of the next, on a busy machine.
NEXT_WITHIN_S = 180


async def run(stage, gantry, args):
    report = Report(say)
    await strike_all(stage, gantry, places(args), report, args.seed, args.store)
    report.print()
    if report.problems:
        raise Problem("some checks failed")


async def strike_all(stage, gantry, places, report, seed, cloud="s3"):
    """Injects the faults of all setups in parallel."""
    began = time.monotonic()
    say(f"chaos: seed {seed}, {sum(len(orders) for *_, orders in places)} faults")
    ended = await asyncio.gather(*(strike_one(name, stage, gantry, nodes, orders, report, seed, cloud)
                                   for name, nodes, orders in places), return_exceptions=True)
    for error in filter(None, ended):
        raise error
    report.notes.append(f"seed {seed}, {time.monotonic() - began:.0f} s")


async def strike_one(name, stage, gantry, nodes, orders, report, seed, cloud):
    """Injects the faults of one setup one after the other."""
    rig, crowd = await place(name, stage, gantry, report, seed, SIZES, nodes, CONSUMERS,
                             pace_bytes_per_s=PACE_BYTES_PER_S, cloud=cloud)
    try:
        for consumer in crowd:
            consumer.start()
        for number, order in enumerate(orders, 1):
            await strike(rig, crowd, order, report, f"{name} {number}/{len(orders)}")
        for consumer in crowd:
            await consumer.stop()
        await at_rest(rig, report)
        check_memory(rig, crowd, report)
    finally:
        await rig.close()


async def strike(rig, crowd, order, report, where):
    """Injects one fault in the middle of a download. A failure does not end the run."""
    consumer = crowd[order.consumer]
    try:
        await until(f"{consumer.name} is in the middle of a download", lambda: consumer.can_be_hit(order.share) and
                    rig.relay_of(consumer.meter.instance), NEXT_WITHIN_S)
    except Problem as problem:
        return report.hang(f"{where}: {problem}")
    await inject(Hit(rig, crowd, order), KINDS[order.kind][0], report, where)
    await fits(rig, crowd, report, f"{where} {order.kind}")


def places(args):
    """(name, nats-servers, faults) of each setup."""
    if args.short:
        kinds = args.kinds or SHORT_KINDS
        return [("one-nats", 1, plan(random.Random(f"{args.seed} short"), args.faults or len(kinds), 1, CONSUMERS, kinds))]
    share = -(-(args.faults or FAULTS) // len(PLACES))
    return [(name, nodes, plan(random.Random(f"{args.seed} {name}"), share, nodes, CONSUMERS, args.kinds))
            for name, nodes in PLACES.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, help="number of faults")
    parser.add_argument("--kinds", type=lambda text: text.split(";"), help="only these kinds, separated by semicolons")
    parser.add_argument("--short", action="store_true", help="every important kind once, in one setup")
    parser.add_argument("--plan", action="store_true", help="only print the planned faults")
    parser.add_argument("--store", choices=("s3", "gcs"), default="s3", help="the kind of store")
    options(parser)
    parser.set_defaults(within_s=None)
    args = parser.parse_args()
    args.within_s = args.within_s or (SHORT_WITHIN_S if args.short else WITHIN_S)
    if not args.plan:
        return play(run, args)
    try:
        for name, _, orders in places(args):
            for order in orders:
                say(f"{name}: {order}")
    except Problem as problem:
        sys.exit(f"chaos, run: {problem}")


if __name__ == "__main__":
    main()
