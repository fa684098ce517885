#!/usr/bin/env python3
"""Kills downloads, fills their disks and damages what they leave: is every file right, and what can be resumed resumed?

    resume.py --times 50

Each of the three is done so many times, in turn with an object that S3 keeps a checksum of and with a file that has
none. Every finished file is compared with the original. It fails for a wrong file, for a download that does not end
with 0 once nothing is in its way, and for bytes that were recorded and fetched again all the same.

What damage leaves is computed here, from the part file, the original and the marks in the record: all up to the last
undamaged mark before the first damaged byte must be kept.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from play import options, play
import demo
from consumer import sha256
from demo import Problem, say
from rig import BUCKET, STORE, Rig, until, urls
from table import MIB, print_rows

SIZE = 40 * MIB
# Slow enough to be hit at a chosen place.
RATE = "80MiB"
# What a full disk may lose: the chunk that did not fit (relay.chunk_max_bytes).
CHUNK_BYTES = 520_192
# What a kill may lose: a note is due every MiB (Policy in crates/gantry-client/src/part/policy.rs), after the chunk that
# completes it, and another chunk was being written.
LATE_BYTES = MIB + 2 * CHUNK_BYTES
# How far the marks of a record are apart: they are due every 256 KiB, after the chunk that completes them.
MARKS_BYTES = MIB // 4 + CHUNK_BYTES
WITHIN_S = 60
KEY = "object.bin"
PART, RECORD = ".copy.gantry-part", ".copy.gantry-part.json"
# Of the record (crates/gantry-client/src/part/record.rs): its lines, and the blocks of the first three.
LINE_BYTES, BLOCK_BYTES = 128, 4096
PRIVATE = "GANTRY_RESUME_PRIVATE_MOUNTS"


class Run:
    """Downloads to one folder, from one of the stores, until all is there."""

    def __init__(self, rig, tally, folder, store, label, original):
        self.rig, self.tally, self.folder, self.store, self.label = rig, tally, folder, store, label
        self.original = original
        folder.mkdir(exist_ok=True)

    def start(self, wrapper=()):
        env = {**demo.clean_env(), "NATS_URL": urls(self.rig.relays[0].nats_proxies)}
        command = [*wrapper, self.rig.gantry, "get", f"{self.store}/{KEY}", "-o", self.folder / "copy", "--json",
                   "--limit-rate", RATE]
        return subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, env=env)

    async def end(self, process):
        """Returns its exit code and what it printed; none when it hangs."""
        try:
            out, err = await asyncio.to_thread(process.communicate, timeout=WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self.tally.problem(f"{self.label}: hangs")
            return None, "", ""
        return process.returncode, out.decode(), err.decode().strip()

    @property
    def length(self):
        """How long the part file is."""
        try:
            return (self.folder / PART).stat().st_size
        except FileNotFoundError:
            return 0

    async def interrupt(self, share):
        """Kills it once so much has come; returns how much there is."""
        process = self.start()
        await until("the point to kill at",
                    lambda: self.length >= share * SIZE or process.poll() is not None, WITHIN_S)
        process.send_signal(signal.SIGKILL)
        code, _, err = await self.end(process)
        if code != -signal.SIGKILL:
            raise Problem(f"{self.label}: ended with {code} before it was killed: {err}")
        return self.length

    async def finish(self, recorded, intact=SIZE):
        """Runs it to its end: at least `recorded` bytes must not come again, and those past `intact` must."""
        self.tally.recorded += recorded
        code, out, err = await self.end(self.start())
        if code != 0:
            return self.tally.problem(f"{self.label}: exit {code}: {err}")
        summary = json.loads(out)
        actual = await asyncio.to_thread(sha256, self.folder / "copy")
        if actual != self.rig.objects[KEY][1]:
            self.tally.wrong(f"{self.label}: SHA-256 is {actual}")
        left = sorted(path.name for path in self.folder.iterdir() if path.name != "copy")
        if left:
            self.tally.problem(f"{self.label}: {', '.join(left)} is left")
        (self.folder / "copy").unlink()
        kept = summary.get("resumed_from", 0)
        if kept < recorded:
            self.tally.problem(f"{self.label}: resumed at {kept}, {recorded} were recorded")
        if kept > intact:
            self.tally.problem(f"{self.label}: resumed at {kept}, only {intact} were undamaged")
        self.tally.done(kept, summary)


class Tally:
    """What one kind of trouble came to."""

    def __init__(self, name):
        self.name = name
        self.runs = self.wrong_files = self.problems = self.resumed = self.restarted = 0
        self.kept = self.there = self.recorded = 0
        self.proofs = {}

    def done(self, kept, summary):
        self.runs += 1
        self.resumed += kept > 0
        self.restarted += "restarted" in summary
        self.kept += kept
        kind = summary["proof"]["kind"]
        self.proofs[kind] = self.proofs.get(kind, 0) + 1

    def wrong(self, text):
        self.wrong_files += 1
        say(f"WRONG FILE: {text}")

    def problem(self, text):
        self.problems += 1
        say(f"NOT AS PROMISED: {text}")

    def row(self):
        proofs = ", ".join(f"{count} {kind}" for kind, count in sorted(self.proofs.items()))
        return (self.name, str(self.runs), str(self.wrong_files), str(self.problems), str(self.resumed),
                f"{self.kept / MIB:.0f} of {self.there / MIB:.0f}", f"{self.recorded / MIB:.0f}", proofs)


async def kill(run, chance):
    """SIGKILL at a random place, now and then twice."""
    there = 0
    for _ in range(chance.choice([1, 1, 2])):
        there = await run.interrupt(max(chance.uniform(0.0, 0.85), there / SIZE))
    run.tally.there += there
    await run.finish(max(0, there - LATE_BYTES))


async def fill(run, chance):
    """A disk that is full at a random place; then there is room."""
    room = int(chance.uniform(0.05, 0.95) * SIZE)
    wrapper, grow = disk(run.folder, room)
    try:
        code, _, err = await run.end(run.start(wrapper))
        if code != 1 or len(err.splitlines()) != 1:
            run.tally.problem(f"{run.label}: exit {code} on a full disk: {err}")
        there = run.length
        run.tally.there += there
        grow()
        await run.finish(max(0, there - CHUNK_BYTES))
    finally:
        if not wrapper:
            subprocess.run(["umount", "-l", run.folder], check=True)


def disk(folder, room):
    """Makes the folder a small disk; returns what to start the command with, and how to give it more room."""
    if os.environ.get(PRIVATE):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room},mode=700", "gantry", folder], check=True)
        grown = ["mount", "-o", f"remount,size={3 * SIZE}", folder]
        return (), lambda: subprocess.run(grown, check=True)
    # Without root: a file that may grow no further.
    script = f"trap '' XFSZ; ulimit -f {room // 512}; exec \"$@\""
    return ("sh", "-c", script, "sh"), lambda: None


async def damage(run, chance):
    """A part file or record that is not what it was."""
    there = await run.interrupt(chance.uniform(0.1, 0.85))
    run.tally.there += there
    before = (run.folder / RECORD).read_bytes()
    lengths = sorted({0, *marks(before).values()})
    widest = max((above - below for below, above in zip(lengths, lengths[1:])), default=0)
    if widest > MARKS_BYTES or there - lengths[-1] > LATE_BYTES:
        run.tally.problem(f"{run.label}: the marks of {there} bytes are up to {widest} apart, the last is {lengths[-1]}")
    target = run.folder / (PART if chance.random() < 0.6 else RECORD)
    kind, hurt = chance.choice(DAMAGES)
    run.label = f"{run.label}, {target.name} {kind}"
    hurt(target, chance)
    intact = undamaged(run.folder / PART, run.original)
    after = (run.folder / RECORD).read_bytes() if (run.folder / RECORD).exists() else b""
    await run.finish(provable(before, after, intact), intact)


def undamaged(part, original):
    """Returns how many bytes of the part file, from its start, are the original's."""
    if not part.exists():
        return 0
    same = 0
    with open(part, "rb") as ours, open(original, "rb") as theirs:
        while True:
            one, other = ours.read(MIB), theirs.read(MIB)
            if one != other or not one:
                return same + len(os.path.commonprefix([one, other]))
            same += len(one)


def head_size(record):
    return json.loads(record[:LINE_BYTES])["head_bytes"]


def marks(record):
    """Returns where the marks of a record are, and how many bytes each covers. Their checks are not looked at."""
    start, end = head_size(record), len(record) - head_size(record)
    places = [*range(start, start + 3 * BLOCK_BYTES, BLOCK_BYTES), *range(start + 3 * BLOCK_BYTES, end, LINE_BYTES)]
    lines = {place: record[place:place + LINE_BYTES] for place in places}
    return {place: json.loads(line)["len"] for place, line in lines.items() if line.strip()}


def provable(before, after, intact):
    """Returns the longest length up to `intact` whose mark is still there, if one of the heads is."""
    head = before[:head_size(before)]
    if head not in (after[:len(head)], after[len(before) - len(head):len(before)]):
        return 0
    left = [length for place, length in marks(before).items()
            if length <= intact and after[place:place + LINE_BYTES] == before[place:place + LINE_BYTES]]
    return max(left, default=0)


def flip(path, chance):
    with open(path, "r+b") as file:
        at = chance.randrange(max(1, path.stat().st_size))
        file.seek(at)
        byte = file.read(1) or b"\0"
        file.seek(at)
        file.write(bytes([byte[0] ^ (1 << chance.randrange(8))]))


def zero(path, chance):
    with open(path, "r+b") as file:
        size = path.stat().st_size
        file.seek(chance.randrange(max(1, size)))
        file.write(bytes(min(chance.choice([1, 4096, 1 << 20]), size)))


def cut(path, chance):
    os.truncate(path, chance.randrange(path.stat().st_size + 1))


def grow(path, chance):
    with open(path, "ab") as file:
        file.write(chance.randbytes(chance.choice([1, 4096, SIZE])))


def garbage(path, chance):
    path.write_bytes(chance.randbytes(min(path.stat().st_size, 1 << 20)))


def gone(path, _):
    path.unlink()


DAMAGES = [("with a flipped bit", flip), ("with a flipped bit", flip), ("with zeros", zero), ("cut short", cut),
           ("with more at its end", grow), ("of garbage", garbage), ("gone", gone)]


async def run(stage, gantry, args):
    files = stage.folder / "files"
    files.mkdir()
    rig = Rig("resume", stage.folder / "resume", gantry, stage.alive_fd,
              stores=[f"{STORE}=s3://{BUCKET}", f"plain=file://{files}"], direct=True)
    chance, began = random.Random(args.seed), time.monotonic()
    kinds = [("kills", kill), ("full disks", fill), ("damaged part files", damage)]
    tallies = []
    try:
        await rig.start_servers()
        await rig.put(KEY, SIZE, args.seed)
        source = random.Random(args.seed)
        (files / KEY).write_bytes(b"".join(source.randbytes(16 * MIB) for _ in range(SIZE // (16 * MIB)))
                                  + source.randbytes(SIZE % (16 * MIB)))
        if sha256(files / KEY) != rig.objects[KEY][1]:
            raise Problem("the two originals differ")
        await rig.start_relays(1)
        for name, act in kinds:
            tally = Tally(name)
            tallies.append(tally)
            for number in range(args.times):
                store = (STORE, "plain")[number % 2]
                folder = rig.folder / f"{act.__name__}-{number}"
                await act(Run(rig, tally, folder, store, f"{name} {number + 1}, from {store}",
                              files / KEY), chance)
                shutil.rmtree(folder)
            say(f"  {name}: done after {time.monotonic() - began:.0f} s")
    finally:
        await rig.close()
    rows = [("trouble", "times", "wrong files", "not as promised", "resumed", "MiB kept", "MiB recorded", "proved by")]
    print_rows(rows + [tally.row() for tally in tallies], say)
    if any(tally.wrong_files or tally.problems or tally.runs != args.times for tally in tallies):
        raise Problem("not all was as promised")
    for tally in tallies[:2]:
        if not tally.resumed:
            raise Problem(f"{tally.name}: nothing was resumed")


def with_private_mounts():
    """Starts this script again where its small disks are seen by nobody else, if we may."""
    unshare = ["unshare", "--mount", "--propagation", "private"]
    if os.environ.get(PRIVATE) or os.geteuid() != 0:
        return
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        return say("no mounts of our own here: the disk is full at RLIMIT_FSIZE")
    os.environ[PRIVATE] = "1"
    os.execvp("unshare", [*unshare, sys.executable, *sys.argv])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=50, help="how often each")
    options(parser)
    args = parser.parse_args()
    with_private_mounts()
    play(run, args)


if __name__ == "__main__":
    main()
