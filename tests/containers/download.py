"""Runs one `gantry get` in its own container and watches its output byte by byte."""

import hashlib
import itertools
import os
import subprocess
import tempfile
import threading
import time

from engine import LABEL, Failed, docker

READ_BYTES = 1 << 20
# Much longer than any pause that the faults can cause.
SILENCE_LIMIT_S = 90
NUMBERS = itertools.count(1)


class Download:
    """Runs `get KEY -o -`, hashes its output, and records each wait for bytes.

    pace_bytes_per_s, if given, limits the reading rate, for a transfer that has to
    outlast several faults.
    """

    def __init__(self, image, network, nats_url, run_id, key, pace_bytes_per_s=None):
        self.key = key
        self.container = f"{run_id}-get-{next(NUMBERS)}"
        self.pace_bytes_per_s = pace_bytes_per_s
        self.received_bytes = 0
        self.first_byte_s = None
        self.took_s = None
        self.digest = None
        self.exit_code = None
        self._waits = []
        self._reached = threading.Condition()
        self._errors = tempfile.TemporaryFile()
        self._started = self._last_byte = time.monotonic()
        # No log driver: otherwise the engine would also log every byte.
        self._process = subprocess.Popen(
            ["docker", "run", "--rm", "--name", self.container, "--label", f"{LABEL}={run_id}", "--log-driver", "none",
             "--network", network, "--env", f"NATS_URL={nats_url}",
             "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
             "--no-healthcheck", image, "get", key, "-o", "-"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        digest = hashlib.sha256()
        pipe = self._process.stdout.fileno()
        while True:
            before = time.monotonic()
            piece = os.read(pipe, READ_BYTES)
            now = time.monotonic()
            if not piece:
                break
            digest.update(piece)
            self._note(before, now, len(piece))
            self._hold_back(now)
        exit_code = self._process.wait()
        with self._reached:
            self.took_s = time.monotonic() - self._started
            self.digest = digest.hexdigest()
            self.exit_code = exit_code
            self._reached.notify_all()

    def _note(self, before, now, len_bytes):
        with self._reached:
            if self.first_byte_s is None:
                self.first_byte_s = now - self._started
            else:
                self._waits.append((before, now))
            self.received_bytes += len_bytes
            self._last_byte = now
            self._reached.notify_all()

    def _hold_back(self, now):
        if self.pace_bytes_per_s:
            due = self._started + self.first_byte_s + self.received_bytes / self.pace_bytes_per_s
            # A download that fell behind may catch up without pauses.
            time.sleep(max(0.0, min(due - now, 0.5)))

    @property
    def done(self):
        return self.exit_code is not None

    def wait_for_bytes(self, count):
        self._wait(lambda: self.received_bytes >= count or self.done)
        if self.received_bytes < count:
            raise Failed(f"{self.key}: ended early, exit {self.exit_code}\n{self.errors()}")

    def finish(self, expected_digest):
        """Waits for the end. Fails unless the download succeeded with the expected bytes."""
        self._wait(lambda: self.done)
        if self.exit_code != 0:
            raise Failed(f"{self.key}: exit {self.exit_code} after {self.received_bytes} bytes\n{self.errors()}")
        if self.digest != expected_digest:
            raise Failed(f"{self.key}: exit 0 but {self.received_bytes} bytes have SHA-256 {self.digest}, "
                         f"not {expected_digest}")

    def _wait(self, reached):
        """Waits as long as bytes arrive, however slowly: a busy machine is not a failure."""
        with self._reached:
            while not self._reached.wait_for(reached, timeout=1):
                silent_s = time.monotonic() - self._last_byte
                if silent_s > SILENCE_LIMIT_S:
                    raise Failed(f"{self.key}: no byte for {silent_s:.0f} s after {self.received_bytes} bytes, "
                                 f"its container is {self._state()}\n{self.errors()}")

    def longest_wait_s(self, since):
        """The longest wait for bytes that ended after `since` (monotonic)."""
        return max((now - before for before, now in self._waits if now >= since), default=0.0)

    def _state(self):
        done = docker("inspect", "--format", "{{.State.Status}}, exit {{.State.ExitCode}}", self.container, check=False)
        return done.stdout.strip() or "gone"

    def errors(self):
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-3000:]

    def stop(self):
        if self._process.poll() is None:
            self._process.kill()
        self._reader.join(timeout=10)
