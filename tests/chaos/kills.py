#!/usr/bin/env python3
"""Kills the consumer of 1 GiB at a random point, 20 times, and measures how much the next run fetches again.

    kills.py --times 20

Fails if that is more than one window plus one chunk, or if a file is wrong.
"""

import argparse
import asyncio
import random
import signal
import time

from play import at_rest, options, place, play
from demo import Problem, say
from rig import until
from table import MIB, Report, print_rows

SIZE = 1 << 30
# The consumer's largest window (gantry_client::Options::window_max_bytes) and the relay's largest chunk
# (relay.chunk_max_bytes).
BOUND_BYTES = (24 << 20) + 520_192
WITHIN_S = 300


async def run(stage, gantry, args):
    report = Report(say)
    rig, [consumer] = await place("kills", stage, gantry, report, args.seed, {"gib.bin": SIZE})
    chance = random.Random(args.seed)
    rows = [("killed at MiB", "fetched again, MiB", "seconds of both runs")]
    worst = 0
    try:
        for number in range(args.times):
            share, began = chance.uniform(0.01, 0.97), time.monotonic()
            downloading = asyncio.create_task(consumer.download("gib.bin"))
            # The new download has a new meter once it has started.
            await asyncio.sleep(0)
            meter = consumer.meter
            await until("the point to kill at", lambda: meter.high >= share * SIZE or downloading.done(), WITHIN_S)
            at = meter.high
            consumer.strike(signal.SIGKILL, -signal.SIGKILL)
            await downloading
            rig.sample()
            worst = max(worst, meter.twice)
            rows.append((f"{at / MIB:.1f}", f"{meter.twice / MIB:.2f}", f"{time.monotonic() - began:.1f}"))
            say(f"  {number + 1}/{args.times}: " + ", ".join(f"{name} {cell}" for name, cell in zip(rows[0], rows[-1])))
        await at_rest(rig, report)
    finally:
        await rig.close()
    print_rows(rows, say)
    report.print()
    say(f"kills: at most {worst / MIB:.2f} MiB fetched again, {BOUND_BYTES / MIB:.2f} MiB allowed")
    if report.problems or report.resumed != args.times:
        raise Problem(f"some checks failed: {report.resumed} of {args.times} downloads were resumed")
    if worst > BOUND_BYTES:
        raise Problem("more than one window and one chunk were fetched again")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20, help="number of kills")
    options(parser)
    play(run, parser.parse_args())


if __name__ == "__main__":
    main()
