"""A consumer that downloads one object after another with `gantry get`, and compares each."""

import asyncio
import datetime
import hashlib
import json
import subprocess
import time

import demo
from rig import ended, urls, usage
from wire import Meter

# Much longer than the faults can delay a download.
DOWNLOAD_WITHIN_S = 400
GAVE_UP = 5
LOOKS_EVERY_S = 0.2
# The file with the command's output, in the folder of its files.
OURS = "said"


class Consumer:
    """Runs downloads until stopped. A command that was ended by a fault is run again."""

    def __init__(self, rig, number, random, report):
        self.rig, self.number, self.random, self.report = rig, number, random, report
        self.folder = rig.folder / f"consumer-{number}"
        self.folder.mkdir()
        self.log = rig.log(f"consumer-{number}")
        self.proxies = []
        # Further options of `gantry get`.
        self.options = []
        self.meter = Meter()
        self.process = None
        self.size = 0
        # What the current fault does to the process, so that its end is expected.
        self.struck = None
        self.may_run = asyncio.Event()
        self.may_run.set()
        self.stopping = False
        self.within_s = DOWNLOAD_WITHIN_S
        self.rss_peak_bytes = 0
        self.task = None

    async def connect(self):
        self.proxies = await self.rig.nats_proxies(down=lambda: self.meter.reader().feed)

    def start(self):
        self.task = asyncio.create_task(self._run())

    async def _run(self):
        keys = sorted(self.rig.objects)
        large = [key for key in keys if self.rig.objects[key][0] > 16 << 20]
        while not self.stopping:
            # Every fault waits for a download that is long enough to be affected.
            await self.download(self.random.choice(large if self.random.random() < 0.75 else keys))

    async def download(self, key):
        self.meter = Meter()
        self.size, digest = self.rig.objects[key]
        self.struck = None
        target = self.folder / "copy"
        deadline = time.monotonic() + self.within_s
        while True:
            await self.may_run.wait()
            received = self.meter.received
            code, said = await self._get(key, target, deadline)
            if code is None:
                return self.report.hang(f"{self.name} had {self.meter.high} of {self.size} bytes of {key} after "
                                        f"{self.within_s:.0f} s, silent for {self.meter.silent_s():.0f} s")
            if code == 0:
                break
            if not await self._is_explained(key, code, received):
                return self.report.broke(f"{self.name}: exit {code} at {self.meter.high} of {self.size}: {said}")
        await self._compare(key, target, digest, json.loads(said))

    async def _is_explained(self, key, code, received):
        """Returns whether a fault explains the exit code, so that the command is run again."""
        if self.struck == code:
            self.struck = None
            return True
        if code == GAVE_UP and self.meter.received == received:
            # The command reports if it finds no relay or no nats-server at its start.
            self.report.gave_up += 1
            await asyncio.sleep(0.5)
            return True
        return False

    @property
    def name(self):
        return f"{self.rig.name} consumer {self.number}"

    def env(self):
        return {**demo.clean_env(), "NATS_URL": urls(self.proxies), "GANTRY_LOG__LEVEL": "info"}

    async def _get(self, key, target, deadline):
        """Runs the command. Returns its exit code and output, or no code if it hangs."""
        with open(self.folder / OURS, "w+b") as said, open(self.log, "ab") as errors:
            self.process = subprocess.Popen(
                demo.supervised([self.rig.gantry, "get", f"{self.rig.store}/{key}", "-o", target, "--json", *self.options]),
                stdin=self.rig.alive_fd, stdout=said, stderr=errors, env=self.env())
            looked_at = 0.0
            while self.process.poll() is None and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
                if time.monotonic() - looked_at > LOOKS_EVERY_S:
                    looked_at = time.monotonic()
                    self.rss_peak_bytes = max(self.rss_peak_bytes, usage(self.process.pid)["rss_peak_bytes"])
            code = self.process.poll()
            if code is None:
                self.process.kill()
                await ended(self.process)
            said.seek(0)
            return code, said.read().decode() if code == 0 else self.log.read_text(errors="replace")[-400:]

    async def _compare(self, key, target, digest, summary):
        actual = await asyncio.to_thread(sha256, target)
        left = sorted(path.name for path in self.folder.iterdir() if path.name not in ("copy", OURS))
        expected = self._expected(key, digest, summary)
        if actual not in expected:
            self.report.wrong(f"{self.name}: {key} has SHA-256 {actual}, not {' or '.join(expected) or 'any'}")
        if left:
            self.report.leak(f"{self.name}: {', '.join(left)} beside a finished {key}")
        target.unlink()
        self.report.done(self.size, self.meter, summary)

    def _expected(self, key, digest, summary):
        """The SHA-256 of each version of the object that may be the result."""
        return [digest]

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    def can_be_hit(self, share):
        """Returns whether this share of a large object has arrived while much is still to come."""
        left = self.size - self.meter.high
        return self.running and self.size > 16 << 20 and self.meter.high >= share * self.size and left > 8 << 20

    def note(self, text):
        """Adds a line to the command's log."""
        with open(self.log, "a") as log:
            log.write(f"--- {datetime.datetime.now(datetime.timezone.utc).time()} {text}\n")

    def strike(self, signal, code):
        self.struck = code
        self.process.send_signal(signal)

    async def stop(self):
        """Waits until the current download has finished."""
        self.stopping = True
        if self.task:
            await self.task
        for path in self.folder.iterdir():
            if path.name != OURS:
                self.report.leak(f"{self.name}: {path.name} is left over")


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
