#!/usr/bin/env python3
"""Kills downloads, fills their disks and damages part files. Checks that every file is correct and resumes where it
can.

    resume.py --times 50

Each of the three is done `--times` times, alternately with an object that has a checksum in S3 and with a file without
one. Every finished file is compared with the original. The script fails if a file is wrong, if a download does not exit
with 0 once the fault is removed, or if recorded bytes are fetched again.

After damage, the script computes what must be kept from the part file, the original and the marks in the record: all
bytes up to the last undamaged mark before the first damaged byte.
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
# Slow enough to stop a download at a chosen position.
RATE = "80MiB"
# What a full disk may lose: the chunk that did not fit (relay.chunk_max_bytes).
CHUNK_BYTES = 520_192
# What a kill may lose. A note is due every MiB (Policy in crates/gantry-client/src/part/policy.rs) and is written after
# the chunk that completes the MiB. Another chunk may be in progress.
LATE_BYTES = MIB + 2 * CHUNK_BYTES
# The maximum distance of a record's marks. A mark is due every 256 KiB and is written after the chunk that completes
# the distance.
MARKS_BYTES = MIB // 4 + CHUNK_BYTES
WITHIN_S = 60
KEY = "object.bin"
PART, RECORD = ".copy.gantry-part", ".copy.gantry-part.json"
# The length of a record's lines, and of its first three blocks (crates/gantry-client/src/part/record.rs).
LINE_BYTES, BLOCK_BYTES = 128, 4096
PRIVATE = "GANTRY_RESUME_PRIVATE_MOUNTS"


class Run:
    """Downloads from one store to one folder, again and again, until the file is complete."""

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
        """Runs the command. Returns its exit code and output, or no code if it hangs."""
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
        """Returns the length of the part file."""
        try:
            return (self.folder / PART).stat().st_size
        except FileNotFoundError:
            return 0

    async def interrupt(self, share):
        """Kills the command once this many bytes have arrived. Returns the length of the part file."""
        process = self.start()
        await until("the point to kill at",
                    lambda: self.length >= share * SIZE or process.poll() is not None, WITHIN_S)
        process.send_signal(signal.SIGKILL)
        code, _, err = await self.end(process)
        if code != -signal.SIGKILL:
            raise Problem(f"{self.label}: ended with {code} before it was killed: {err}")
        return self.length

    async def finish(self, recorded, intact=SIZE):
        """Runs the command to its end. It must keep at least `recorded` bytes, and no more than `intact`."""
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
            self.tally.problem(f"{self.label}: {', '.join(left)} is left over")
        (self.folder / "copy").unlink()
        kept = summary.get("resumed_from", 0)
        if kept < recorded:
            self.tally.problem(f"{self.label}: resumed at {kept}, {recorded} were recorded")
        if kept > intact:
            self.tally.problem(f"{self.label}: resumed at {kept}, only {intact} were undamaged")
        self.tally.done(kept, summary)


class Tally:
    """The results for one kind of fault."""

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
    """Sends SIGKILL at a random position, sometimes twice."""
    there = 0
    for _ in range(chance.choice([1, 1, 2])):
        there = await run.interrupt(max(chance.uniform(0.0, 0.85), there / SIZE))
    run.tally.there += there
    await run.finish(max(0, there - LATE_BYTES))


async def fill(run, chance):
    """Fills the disk at a random position, and then frees space."""
    room = int(chance.uniform(0.05, 0.95) * SIZE)
    wrapper, grow = disk(run.folder, room)
    try:
        code, _, err = await run.end(run.start(wrapper))
        # A warning that the disk has too little space comes first.
        lines = [line for line in err.splitlines() if "the disk probably has too little space" not in line]
        if code != 1 or len(lines) != 1:
            run.tally.problem(f"{run.label}: exit {code} on a full disk: {err}")
        there = run.length
        run.tally.there += there
        grow()
        await run.finish(max(0, there - CHUNK_BYTES))
    finally:
        if not wrapper:
            subprocess.run(["umount", "-l", run.folder], check=True)


def disk(folder, room):
    """Limits the space in the folder. Returns the command's prefix, and a function that frees space."""
    if os.environ.get(PRIVATE):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room},mode=700", "gantry", folder], check=True)
        grown = ["mount", "-o", f"remount,size={3 * SIZE}", folder]
        return (), lambda: subprocess.run(grown, check=True)
    # Without root, the limit is RLIMIT_FSIZE instead of a small file system.
    script = f"trap '' XFSZ; ulimit -f {room // 512}; exec \"$@\""
    return ("sh", "-c", script, "sh"), lambda: None


async def damage(run, chance):
    """Damages the part file or its record."""
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
    """Returns the number of bytes at the start of the part file that match the original."""
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
    """Returns the position of each mark of a record, and the number of bytes that it covers. Checks are not
    verified."""
    start, end = head_size(record), len(record) - head_size(record)
    places = [*range(start, start + 3 * BLOCK_BYTES, BLOCK_BYTES), *range(start + 3 * BLOCK_BYTES, end, LINE_BYTES)]
    lines = {place: record[place:place + LINE_BYTES] for place in places}
    return {place: json.loads(line)["len"] for place, line in lines.items() if line.strip()}


def provable(before, after, intact):
    """Returns the longest length up to `intact` that has an undamaged mark, if a head is undamaged."""
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
    """Starts this script again in a private mount namespace, if permitted, so that its small disks stay invisible."""
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
