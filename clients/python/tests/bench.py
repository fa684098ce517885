#!/usr/bin/env python3
"""Measures downloads to a file with this package and with `gantry get`, in turn, from one relay.

    bench.py [--mib 512] [--rounds 3]

GANTRY_BINARY names the relay and the Rust client. Use a release build to get meaningful figures.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import sys
import time

import gantry_client
from gantry_client import crc
from harness import Harness, clean_env, serving, sha256

MIB = 1 << 20


async def measure(harness: Harness, mib: int, rounds: int) -> dict[str, list[float]]:
    """Returns the MiB/s of each program in each round."""
    url = harness.nats().url
    harness.relay(url)
    digest = harness.object("bench.bin", mib * MIB)
    target = harness.folder / "bench.bin"
    rates: dict[str, list[float]] = {"gantry get": [], "client.get": [], "client.stream": []}
    async with await gantry_client.connect(url) as client:
        await serving(client, "files/bench.bin")

        async def rust() -> None:
            command = [harness.gantry, "get", "files/bench.bin", "-o", target, "-q", "--no-context", "-s", url]
            process = await asyncio.create_subprocess_exec(*command, env=clean_env(), stdin=subprocess.DEVNULL)
            assert await process.wait() == 0

        async def get() -> None:
            await client.get("files/bench.bin", to=target)

        async def stream() -> None:
            async for _ in client.stream("files/bench.bin"):
                pass

        for _ in range(rounds):
            for name, way in (("gantry get", rust), ("client.get", get), ("client.stream", stream)):
                target.unlink(missing_ok=True)
                began = time.monotonic()
                await way()
                rates[name].append(mib / (time.monotonic() - began))
                assert way is stream or sha256(target) == digest
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    harness = Harness()
    try:
        rates = asyncio.run(measure(harness, args.mib, args.rounds))
    finally:
        harness.close()

    rust = statistics.median(rates["gantry get"])
    python = f"Python {sys.version.split()[0]}, CRC by {crc.IMPLEMENTATION}"
    print(f"{args.mib} MiB, {args.rounds} rounds, {python}, {os.cpu_count()} cores")
    for name, values in rates.items():
        each = " ".join(f"{value:.0f}" for value in values)
        median = statistics.median(values)
        print(f"{name:14} {median:6.0f} MiB/s ({each}), {median / rust:.2f} of gantry get")
    print(f"largest resident size of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
