#!/usr/bin/env python3
"""Kills, freezes and drains the serving relay in turn, and measures the time until bytes flow again.

    failover.py --faults 60 --limit 5

Fails if the 99th percentile over all faults exceeds the limit, in seconds.
"""

import argparse
import random

from play import options, play
from demo import Problem, say
from faults import plan
from run import CONSUMERS, strike_all
from table import Report, maximum, median, p99

KINDS = ("relay killed", "relay frozen, resumed", "relay drained")


async def run(stage, gantry, args):
    report = Report(say)
    share = -(-args.faults // 2)
    places = [(name, nodes, plan(random.Random(f"{args.seed} {name}"), share, nodes, CONSUMERS, KINDS))
              for name, nodes in (("one-nats", 1), ("three-nats", 3))]
    await strike_all(stage, gantry, places, report, args.seed)
    report.print()
    gaps = [gap for samples in report.samples.values() for gap, _ in samples]
    say(f"{len(gaps)} downloads lost their relay: bytes flowed again after {median(gaps):.2f} s (median), {p99(gaps):.2f} s "
        f"(99th percentile), {maximum(gaps):.2f} s (longest)")
    if report.problems:
        raise Problem("some checks failed")
    if p99(gaps) > args.limit:
        raise Problem(f"the 99th percentile is above {args.limit} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=60, help="number of faults")
    parser.add_argument("--limit", type=float, default=5.0, help="limit of the 99th percentile, in seconds")
    options(parser)
    play(run, parser.parse_args())


if __name__ == "__main__":
    main()
