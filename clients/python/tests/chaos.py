#!/usr/bin/env python3
"""Kills relays, nats-server and clients during downloads. Every finished file must be correct, and none may hang.

    chaos.py [--kills 50] [--seed 1]

GANTRY_BINARY names the relay. Two relays serve one folder. Two clients, each in its own process, download one object
after another to a file. About once a second, one of these processes or nats-server is killed and restarted.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import gantry_client
from harness import Harness, kill, sha256

MIB = 1 << 20
SIZE = 96 * MIB + 12_345
KINDS = ("relay", "nats-server", "client")
BETWEEN_S = (0.4, 1.4)
# Much longer than a download with kills takes on a busy machine.
WITHIN_S = 120.0


class Worker:
    """Downloads repeatedly, in a process that may be killed at any time."""

    def __init__(self, harness: Harness, url: str, name: str, digest: str) -> None:
        self._harness, self._url, self.name, self._digest = harness, url, name, digest
        self._target = harness.folder / f"{name}.bin"
        self._process: Any = None
        self._began_at = 0.0
        self.problems: list[str] = []
        self.finished = 0
        self.resumed = 0

    def start(self) -> None:
        """Starts the process."""
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", self._url, str(self._target)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def begin(self) -> None:
        """Starts the first process of a download."""
        self._began_at = time.monotonic()
        self.start()

    def kill(self) -> None:
        """Kills the process, and starts another one that resumes."""
        kill(self._process)
        self._process.communicate()
        self.start()

    def look(self) -> None:
        """Checks the file once a download has ended, and starts the next download."""
        code = self._process.poll()
        if code is None:
            if time.monotonic() - self._began_at > WITHIN_S:
                self.problems.append(f"{self.name}: no end within {WITHIN_S:.0f} s")
                self._process.kill()
                self._process.communicate()
                self.begin()
            return

        output = self._process.communicate()[0]
        if code != 0:
            self.problems.append(f"{self.name}: exit code {code}: {output[-500:]}")
        elif sha256(self._target) != self._digest:
            self.problems.append(f"{self.name}: the file is wrong")
        else:
            self.finished += 1
            self.resumed += "resumed" in output
        self._target.unlink(missing_ok=True)
        self.begin()

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


async def download(url: str, target: str) -> None:
    """The main loop of a worker's process."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            client = await gantry_client.connect(url)
            break
        except gantry_client.ConnectionFailedError:
            if time.monotonic() > deadline:
                raise
    while True:
        try:
            result = await client.get("files/chaos.bin", to=target)
            break
        except gantry_client.GantryError as error:
            # If all relays were killed at once, there is none for a moment.
            if not error.retryable or time.monotonic() > deadline:
                raise
            print(f"again after {error}")
    print("resumed" if result.resumed_from else "whole", result.recoveries)
    await client.close()


def run(harness: Harness, kills: int, seed: int) -> list[str]:
    """Returns the problems."""
    chance = random.Random(seed)
    digest = harness.object("chaos.bin", SIZE)
    server = harness.nats()
    relays = [harness.relay(server.url, name=f"relay-{index}") for index in range(2)]
    workers = [Worker(harness, server.url, f"client-{index}", digest) for index in range(2)]
    for worker in workers:
        worker.begin()

    done: Counter[str] = Counter()
    began = time.monotonic()
    while sum(done.values()) < kills:
        pause_until = time.monotonic() + chance.uniform(*BETWEEN_S)
        while time.monotonic() < pause_until:
            for worker in workers:
                worker.look()
            time.sleep(0.05)

        kind = KINDS[sum(done.values()) % len(KINDS)]
        done[kind] += 1
        if kind == "relay":
            index = chance.randrange(len(relays))
            kill(relays[index])
            relays[index] = harness.relay(server.url, name=f"relay-{index}")
        elif kind == "nats-server":
            server.kill()
            server.start()
        else:
            chance.choice(workers).kill()

    # After the kills, each worker must still finish one download.
    goals = [worker.finished + 1 for worker in workers]
    give_up_at = time.monotonic() + WITHIN_S
    while any(worker.finished < goal for worker, goal in zip(workers, goals)) and time.monotonic() < give_up_at:
        for worker in workers:
            worker.look()
        time.sleep(0.05)

    problems = [problem for worker in workers for problem in worker.problems]
    problems += [f"{worker.name}: hangs" for worker, goal in zip(workers, goals) if worker.finished < goal]
    for worker in workers:
        worker.stop()
    finished, resumed = sum(worker.finished for worker in workers), sum(worker.resumed for worker in workers)
    print(
        f"{sum(done.values())} kills ({dict(done)}) in {time.monotonic() - began:.0f} s, seed {seed}: "
        f"{finished} files finished and compared, {resumed} of them resumed, {len(problems)} problems"
    )
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worker", nargs=2, metavar=("URL", "TARGET"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        asyncio.run(download(*args.worker))
        return

    harness = Harness()
    try:
        problems = run(harness, args.kills, args.seed)
    finally:
        harness.close()
    for problem in problems:
        print(problem)
    print(f"{int(not problems)} passed, {int(bool(problems))} failed")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
