#!/usr/bin/env python3
"""Measures whether one consumer that reads 1 MiB/s slows down fast consumers of the same relays.

    slow.py --rounds 4

Rounds with and without the slow consumer alternate, so that other load on the machine affects both. Fails if
nats-server disconnects a client, if the slow consumer has to recover or receives wrong bytes, or if a relay's memory
exceeds its limit. The speeds are reported but not checked.
"""

import argparse
import asyncio
import hashlib
import json
import statistics
import subprocess
import time

from play import RSS_MAX_BYTES, options, place, play
from demo import Problem, clean_env, say, supervised
from rig import STORE, urls
from table import MIB, Report, print_rows

FAST, FAST_BYTES = 2, 256 * MIB
SLOW_BYTES, SLOW_BYTES_PER_S = 20 * MIB, MIB
ALONE_S = 20
SLOW_WITHIN_S = 120


async def run(stage, gantry, args):
    report = Report(say)
    rig, _ = await place("slow", stage, gantry, report, args.seed, {"fast.bin": FAST_BYTES, "slow.bin": SLOW_BYTES},
                         direct=True)
    speeds, seen, slows = {"by themselves": [], "beside the slow one": []}, {"pending": 0}, []
    try:
        for number in range(1, args.rounds + 1):
            alone = await fast_while(rig, asyncio.sleep(ALONE_S), seen)
            slow = asyncio.create_task(slow_one(rig))
            beside = await fast_while(rig, slow, seen)
            slows.append(slow.result())
            for found, name in zip((alone, beside), speeds):
                speeds[name] += found
                say(f"  {number}/{args.rounds} {name}: {len(found)} downloads, median {statistics.median(found):.0f} MiB/s")
        dropped = (await rig.nodes[0].monitor("varz"))["slow_consumers"]
    finally:
        await rig.close()
    tell(rig, speeds, seen, slows, dropped)


async def fast_while(rig, task, seen):
    """Runs fast downloads until the task ends; returns their speeds."""
    speeds = []
    over = asyncio.ensure_future(task)

    async def fast():
        while not over.done():
            summary = json.loads(await get(rig, "fast.bin", "/dev/null"))
            speeds.append(FAST_BYTES / MIB / (summary["elapsed_ms"] / 1000))

    async def look():
        while not over.done():
            rig.sample()
            connections = (await rig.nodes[0].monitor("connz"))["connections"]
            seen["pending"] = max([seen["pending"], *(connection["pending_bytes"] for connection in connections)])
            await asyncio.sleep(0.5)

    await asyncio.gather(over, look(), *(fast() for _ in range(FAST)))
    return speeds


def start(rig, key, target):
    return subprocess.Popen(supervised([rig.gantry, "get", f"{STORE}/{key}", "-o", target, "--json"]),
                            stdin=rig.alive_fd, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**clean_env(), "NATS_URL": urls(rig.nodes)})


async def get(rig, key, target):
    said, errors = await asyncio.to_thread(start(rig, key, target).communicate, timeout=SLOW_WITHIN_S)
    return said or errors


async def slow_one(rig):
    """Reads to the end at the given rate. Returns whether the bytes are correct, the summary, and the duration."""
    process = start(rig, "slow.bin", "-")
    digest, began, count = hashlib.sha256(), time.monotonic(), 0
    while piece := await asyncio.to_thread(process.stdout.read1, 64 << 10):
        digest.update(piece)
        count += len(piece)
        await asyncio.sleep(max(0.0, began + count / SLOW_BYTES_PER_S - time.monotonic()))
    summary = json.loads(await asyncio.to_thread(process.stderr.read))
    process.wait()
    return digest.hexdigest() == rig.objects["slow.bin"][1], summary, time.monotonic() - began


def tell(rig, speeds, seen, slows, dropped):
    rows = [("fast consumers", "downloads", "median MiB/s", "slowest", "fastest")]
    for name, values in speeds.items():
        rows.append((name, len(values), *(f"{of(values):.0f}" for of in (statistics.median, min, max))))
    print_rows(rows, say)
    recoveries = sum(summary["recoveries"] for _, summary, _ in slows)
    took = ", ".join(f"{took_s:.0f} s" for *_, took_s in slows)
    peak = max(relay.rss_peak_bytes for relay in rig.relays)
    say(f"slow: {len(slows)} times {SLOW_BYTES // MIB} MiB at 1 MiB/s in {took}; {recoveries} recoveries, {dropped} slow "
        f"consumers dropped by nats-server, at most {seen['pending'] / MIB:.1f} MiB pending for one connection, a relay's "
        f"memory at most {peak / MIB:.0f} MiB")
    if dropped or recoveries or not all(right for right, *_ in slows) or peak > RSS_MAX_BYTES:
        raise Problem("some checks failed")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4, help="number of rounds with and without the slow consumer")
    options(parser)
    play(run, parser.parse_args())


if __name__ == "__main__":
    main()
