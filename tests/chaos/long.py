#!/usr/bin/env python3
"""Downloads 10 GiB over a link of 50 MiB/s that is cut every 10 s. Fails if it does not finish or if memory grows.

    long.py --gib 10

The object is a sparse file with the offset written at the start of every MiB, so that no two MiB are equal.
"""

import argparse
import asyncio
import hashlib
import time

from play import at_rest, options, place, play
from demo import Problem, say
from rig import STORE, usage
from table import MIB, Report, print_rows

RATE_BYTES_PER_S = 50 * MIB
CUT_EVERY_S = 10
# Memory is flat if the peak of the second half exceeds the peak of the first half by no more than this.
FLAT_WITHIN_BYTES = 16 * MIB


async def run(stage, gantry, args):
    report = Report(say)
    objects = stage.folder / "objects"
    objects.mkdir()
    digest = await asyncio.to_thread(write_sparse, objects / "sparse.bin", args.gib << 10)
    rig, [consumer] = await place("long", stage, gantry, report, args.seed, {}, stores=[f"{STORE}=file://{objects}"])
    rig.objects["sparse.bin"] = (args.gib << 30, digest)
    consumer.within_s = 3 * (args.gib << 30) / RATE_BYTES_PER_S + 60
    for proxy in consumer.proxies:
        proxy.rate_bytes_per_s = RATE_BYTES_PER_S
    memory, began = [], time.monotonic()
    try:
        downloading = asyncio.create_task(consumer.download("sparse.bin"))
        cuts = asyncio.create_task(cut_again_and_again(consumer))
        while not downloading.done():
            await asyncio.sleep(1)
            rig.sample()
            relays = max(usage(relay.process.pid)["rss_bytes"] for relay in rig.relays)
            if consumer.running:
                memory.append((time.monotonic() - began, relays, usage(consumer.process.pid)["rss_bytes"]))
        cuts.cancel()
        await downloading
        took_s = time.monotonic() - began
        await at_rest(rig, report)
    finally:
        await rig.close()
    tell(report, memory, took_s, consumer, args)


async def cut_again_and_again(consumer):
    while True:
        await asyncio.sleep(CUT_EVERY_S)
        for proxy in consumer.proxies:
            proxy.cut()


def tell(report, memory, took_s, consumer, args):
    half = len(memory) // 2
    rows, flat = [("memory, MiB", "after 1 s", "peak of the first half", "peak of the second half", "last")], True
    for name, column in (("relay", 1), ("consumer", 2)):
        values = [sample[column] for sample in memory]
        peaks = max(values[:half]), max(values[half:])
        rows.append((name, *(f"{value / MIB:.1f}" for value in (values[0], *peaks, values[-1]))))
        flat &= peaks[1] <= peaks[0] + FLAT_WITHIN_BYTES
    print_rows(rows, say)
    report.print()
    say(f"long: {args.gib} GiB in {took_s:.0f} s, SHA-256 equal, {report.recoveries} recoveries, "
        f"{consumer.meter.twice / MIB:.1f} MiB fetched twice")
    if report.problems or report.downloads != 1:
        raise Problem("some checks failed")
    if not flat:
        raise Problem("memory is not flat")


def write_sparse(path, mib):
    """Writes the object and returns its SHA-256."""
    digest, rest = hashlib.sha256(), bytes(MIB - 16)
    with open(path, "wb") as file:
        for number in range(mib):
            stamp = number.to_bytes(16, "big")
            file.seek(number * MIB)
            file.write(stamp)
            digest.update(stamp)
            digest.update(rest)
        file.truncate(mib * MIB)
    return digest.hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=int, default=10, help="size of the object")
    options(parser)
    play(run, parser.parse_args())


if __name__ == "__main__":
    main()
