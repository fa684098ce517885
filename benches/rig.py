"""The measured servers, relays and objects, and the resources that they use.

All servers listen on 127.0.0.1 and stop when this process ends.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import tempfile
from pathlib import Path

import demo
import gcs
import s3
from demo import say
from ports import free_port
from servers import DEV, Problem

BUCKET = "bench"
MIB = 1 << 20
# The number of different objects by size in bytes.
SETS = {"big": (1, 1024 * MIB), "8m": (128, 8 * MIB), "1m": (128, MIB), "256k": (256, 256 << 10), "4k": (512, 4 << 10),
        "large": (1, 8192 * MIB), "tree-4k": (10_000, 4 << 10), "tree-1m": (1000, MIB)}
QUICK = {"big": (1, 64 * MIB), "8m": (128, MIB), "large": (1, 128 * MIB), "tree-4k": (500, 4 << 10),
         "tree-1m": (50, MIB)}
STALLED_AFTER_S = 300
TICKS = os.sysconf("SC_CLK_TCK")


class Rig:
    """Servers with objects, and the measuring programs."""

    def __init__(self, stage, gantry, programs, quick):
        self.stage, self.gantry, self.programs, self.quick = stage, gantry, programs, quick
        self.sets = {**SETS, **(QUICK if quick else {})}
        self.crcs = {}
        self.in_object_store = False
        self.in_gcs = set()
        self.relays, self.relays_started = [], 0
        stage.folder = Path(tempfile.mkdtemp(dir=DEV, prefix="bench-"))
        self.objects = stage.folder / "objects"
        self.nats = demo.start_nats(stage, "-js", "-sd", stage.folder / "jetstream")
        self.store, process = s3.start(stage.folder / "s3", stdin=stage.alive_fd, remove=[stage.folder])
        stage.processes.append(("s3/weed", process))
        self.pids = {"nats-server": stage.processes[0][1].pid, "s3": process.pid}
        self.gcs_port = None
        keys = self.store["users"]["admin"]
        self.env = {**demo.clean_env(), "NATS_URL": self.nats}
        self.s3_env = {"AWS_ACCESS_KEY_ID": keys["access_key_id"], "AWS_REGION": self.store["region"],
                       "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"], "AWS_ENDPOINT_URL": self.store["endpoint"],
                       "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}

    def start_gcs(self):
        """Starts fake-gcs-server, which keeps its objects on disk, like SeaweedFS, unless it runs."""
        if self.gcs_port:
            return
        self.gcs_port = free_port()
        folder = self.stage.folder / "gcs"
        folder.mkdir()
        process = self.stage.start("gcs", gcs.command(folder, self.gcs_port))
        self.pids["gcs"] = process.pid

        def answers():
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", self.gcs_port), timeout=1).close() is None

        self.stage.wait_for("fake-gcs-server did not answer", answers)
        gcs.create_bucket(self.gcs_port, BUCKET)

    def fill_gcs(self, name):
        """Puts the objects of a set into fake-gcs-server, unless they are there."""
        if name in self.in_gcs:
            return
        for file in (self.objects / name).iterdir():
            with open(file, "rb") as body:
                gcs.put(self.gcs_port, BUCKET, f"{name}/{file.name}", body, file.stat().st_size)
        self.in_gcs.add(name)

    def fill(self, name):
        """Puts random objects into S3, and the same objects into a directory, unless they exist."""
        if name in self.crcs:
            return
        count, size = self.sets[name]
        say(f"creating {count} objects of {size >> 10} KiB")
        folder = self.objects / name
        folder.mkdir(parents=True)
        files = [folder / str(number) for number in range(count)]
        for file in files:
            with open(file, "wb") as output:
                for start in range(0, size, MIB):
                    output.write(os.urandom(min(MIB, size - start)))
        crcs = self.call("crc", *files)
        for file, (_, crc) in zip(files, crcs):
            with open(file, "rb") as body:
                s3.put(self.store, BUCKET, f"{name}/{file.name}", body, crc64nvme=bytes.fromhex(crc))
        self.crcs[name] = [crc for _, crc in crcs]

    @contextlib.contextmanager
    def relay(self, count=1, with_gcs=False):
        """Runs new relays, so that memory from earlier measurements does not count."""
        serve = [self.gantry, "serve", "--store", f"s3=s3://{BUCKET}", "--store", f"files=file://{self.objects}",
                 "--http", "off"]
        env = {**self.env, **self.s3_env}
        if with_gcs:
            self.start_gcs()
            serve += ["--store", f"gcs=gs://{BUCKET}"]
            env["STORAGE_EMULATOR_HOST"] = f"127.0.0.1:{self.gcs_port}"
        names = [f"relay-{self.relays_started + number}" for number in range(count)]
        self.relays_started += count
        started = [self.stage.start(name, serve, env) for name in names]
        self.stage.wait_for("a relay did not report that it serves", lambda: all(
            " serving " in self.stage.log(name).read_text(errors="replace") for name in names))
        self.relays = [process.pid for process in started]
        try:
            yield
        finally:
            self.relays = []
            self.stage.processes = [entry for entry in self.stage.processes if entry[1] not in started]
            for process in started:
                process.terminate()
            for process in started:
                process.wait(demo.READY_WITHIN_S)

    @contextlib.contextmanager
    def watch(self):
        """Yields a sample. Afterwards adds the resources that servers and relays used meanwhile."""
        watched = {**{name: [pid] for name, pid in self.pids.items()}, "relay": self.relays}
        watched = {name: pids for name, pids in watched.items() if pids}
        for pid in sum(watched.values(), []):
            # 5 resets the peak to the current value (proc_pid_clear_refs(5)).
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        before = {name: sum(map(cpu_s, pids)) for name, pids in watched.items()}
        sample = {"cpu_s": {}, "rss_mib": {}}
        yield sample
        for name, pids in watched.items():
            sample["cpu_s"][name] = sum(map(cpu_s, pids)) - before[name]
            sample["rss_mib"][name] = max(map(rss_peak_mib, pids))

    def start(self, *command, env=None, program="gantry-bench"):
        """Starts a program that prints a line of JSON, which `result` returns."""
        with open(self.stage.log("clients"), "ab") as log:
            return subprocess.Popen(demo.supervised([self.programs / program, *command]), stdin=self.stage.alive_fd,
                                    stdout=subprocess.PIPE, stderr=log, text=True,
                                    env={**self.env, **self.s3_env, **(env or {})})

    def result(self, process):
        try:
            output, _ = process.communicate(timeout=STALLED_AFTER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Problem(f"{process.args[-1]} was not done within {STALLED_AFTER_S} s") from None
        if process.returncode != 0:
            raise Problem(f"exit code {process.returncode}, {self.last_words()}")
        return json.loads(output) if output else None

    def last_words(self):
        return s3.tail(self.stage.log("clients"))

    def fewer(self, downloads):
        return -(-downloads // 8) if self.quick else downloads

    def call(self, *command, **options):
        return self.result(self.start(*command, **options))

    def compare(self, name, downloads, count):
        """Fails unless there is the expected number of downloads, each with the bytes of its object."""
        crcs, size = self.crcs[name], self.sets[name][1]
        if len(downloads) != count:
            raise Problem(f"{len(downloads)} downloads instead of {count}")
        for number, (length, crc, _) in enumerate(downloads):
            if (length, crc) != (size, crcs[number % len(crcs)]):
                raise Problem(f"download {number} differs from its object")

    def sums(self, *files):
        """Returns the data about downloaded files that `compare` needs."""
        return [(*entry, None) for entry in self.call("crc", *files)]


def cpu_s(pid):
    """Returns the CPU seconds used by a process (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_peak_mib(pid):
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()).group(1)) / 1024
