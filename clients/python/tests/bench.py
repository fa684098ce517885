#!/usr/bin/env python3
"""Measures downloads to a file with this package and with `gantry get`, in turn, from one relay.

    bench.py [--mib 1024] [--rounds 5]

Each download is a process of its own, and its start counts. Every file is compared. GANTRY_BINARY names the relay and the
Rust client. Use a release build to get meaningful figures.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional

from gantry_client import crc
from harness import Harness, clean_env, sha256, wait_until

MIB = 1 << 20
CONSUME = Path(__file__).with_name("consume.py")
RUST, PYTHON = "gantry get", "client.get"


def measure(harness: Harness, mib: int, rounds: int) -> dict[str, list[tuple[float, float, float]]]:
    """Returns the MiB/s, the CPU seconds per GiB and the peak memory in MiB of each program in each round."""
    url = harness.nats().url
    harness.relay(url)
    harness.object("ready", 1)
    digest = harness.object("bench.bin", mib * MIB)
    target = harness.folder / "bench.bin"
    rust: list[object] = [harness.gantry, "get", "-q", "--no-context", "-s", url, "-o", target]
    wait_until(lambda: run([*rust, "files/ready"]) is not None, "the relay")

    commands: dict[str, list[object]] = {
        RUST: [*rust, "files/bench.bin"],
        PYTHON: [sys.executable, CONSUME, url, "files", "bench.bin", target],
    }
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            target.unlink(missing_ok=True)
            began = time.monotonic()
            usage = run(command)
            rate = mib / (time.monotonic() - began)
            assert usage is not None and sha256(target) == digest, f"{name} failed"
            cpu_s = usage.ru_utime + usage.ru_stime
            results[name].append((rate, cpu_s * 1024 / mib, usage.ru_maxrss / 1024))
    return results


def run(command: list[object]) -> Optional[resource.struct_rusage]:
    """Runs a command. Returns what it used, or `None` if it failed."""
    environment = {**clean_env(), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    process = subprocess.Popen(list(map(str, command)), env=environment, stdin=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage if process.returncode == 0 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    harness = Harness()
    try:
        results = measure(harness, args.mib, args.rounds)
    finally:
        harness.close()

    python = f"Python {sys.version.split()[0]}, CRC by {crc.IMPLEMENTATION}"
    print(f"{args.mib} MiB, {args.rounds} rounds, {python}, {os.cpu_count()} cores")
    medians = {name: [statistics.median(column) for column in zip(*rounds)] for name, rounds in results.items()}
    for name, rounds in results.items():
        rate, cpu_s, _ = medians[name]
        each = " ".join(f"{rate:.0f}" for rate, _, _ in rounds)
        ratio, peak_mib = rate / medians[RUST][0], max(peak for _, _, peak in rounds)
        print(f"{name:11} {rate:5.0f} MiB/s ({each}), {ratio:.2f} of {RUST}", end="")
        print(f", {cpu_s:.2f} s of CPU per GiB, at most {peak_mib:.0f} MiB")


if __name__ == "__main__":
    main()
