"""Injects faults into a running cluster during downloads, which must succeed."""

import dataclasses
import re
import threading
import time
import urllib.request

from download import Download
from engine import Failed, docker, health, inspect, say, wait_until

MIB = 1 << 20
# Twenty containers have to start on two cores.
FIRST_LOAD_LIMIT_S = 600
HEALTHY_LIMIT_S = 120
RELAYS = ("relay-1", "relay-2")
CLUSTER_URL = "nats://nats-1:4222,nats://nats-2:4222,nats://nats-3:4222"
LOAD_DOWNLOADS = 20
ROLLS = 10
# The size of a download that is still running at the fault, and at the last of several faults.
PACE_BYTES_PER_S = 100 * MIB
SLOW_PACE_BYTES_PER_S = 25 * MIB


@dataclasses.dataclass
class Row:
    """A row of the table: the fault, and the pause in the download."""

    broken: str
    at_mib: int
    pause_s: float
    took_s: float
    note: str


class Faults:
    """The faults, for one running project."""

    def __init__(self, project, image, nats_url, run_id, digests):
        self.project = project
        self.image = image
        self.nats_url = nats_url
        self.run_id = run_id
        self.digests = digests
        self.rows = []

    def download(self, key="big.bin", pace_bytes_per_s=PACE_BYTES_PER_S):
        return Download(self.image, self.project.network(), self.nats_url, self.run_id, f"demo/{key}", pace_bytes_per_s)

    def baseline(self):
        began = time.monotonic()
        self._end("nothing", self.download(pace_bytes_per_s=None), 0, began, "read as fast as it comes")

    def kill_relay(self):
        def kill(relay):
            docker("kill", relay)
            return "SIGKILL"
        self._break_serving("relay killed", kill, lambda relay: docker("start", relay))

    def stop_relay(self):
        def stop(relay):
            began = time.monotonic()
            docker("stop", "--time", "60", relay, timeout_s=90)
            code = inspect(relay)["State"]["ExitCode"]
            if code != 0:
                raise Failed(f"a relay that was asked to stop exited with {code}")
            return f"SIGTERM, drained in {time.monotonic() - began:.1f} s, exit 0"
        self._break_serving("relay stopped", stop, lambda relay: docker("start", relay))

    def freeze_relay(self):
        def pause(relay):
            docker("pause", relay)
            return "frozen, not dead"
        self._break_serving("relay frozen", pause, lambda relay: docker("unpause", relay))

    def disconnect_relay(self):
        network = self.project.network()
        service = {}

        def disconnect(relay):
            service["name"] = inspect(relay)["Config"]["Labels"]["com.docker.compose.service"]
            docker("network", "disconnect", network, relay)
            return "off its network"

        def connect(relay):
            docker("network", "connect", "--alias", service["name"], network, relay)
        self._break_serving("relay cut off", disconnect, connect)

    def restart_only_nats(self):
        nats = self.project.container("nats")
        running = self.download()
        self._reach_quarter(running)
        at, began = running.received_bytes, time.monotonic()
        docker("restart", "--time", "0", nats)
        self._end("the only nats-server restarted", running, at, began, f"back after {time.monotonic() - began:.1f} s")

    def roll_nats(self):
        """Restarts each nats-server of the cluster during one download."""
        running = self.download(pace_bytes_per_s=SLOW_PACE_BYTES_PER_S)
        self._reach_quarter(running)
        at, began = running.received_bytes, time.monotonic()
        for service in ("nats-1", "nats-2", "nats-3"):
            nats = self.project.container(service)
            docker("restart", "--time", "0", nats)
            wait_until(f"{service} healthy", lambda: health(nats) == "healthy", HEALTHY_LIMIT_S)
            if running.done:
                raise Failed(f"the download ended before {service} was restarted: make big.bin larger")
        self._end("three nats-servers restarted, one by one", running, at, began, "")

    def roll_relays(self):
        """Stops and starts the relays in turn while 20 downloads are always running."""
        load = Load(self)
        load.start()
        began = time.monotonic()
        try:
            for roll in range(ROLLS):
                relay = self.project.container(RELAYS[roll % len(RELAYS)])
                docker("stop", "--time", "60", relay, timeout_s=90)
                code = inspect(relay)["State"]["ExitCode"]
                if code != 0:
                    raise Failed(f"roll {roll + 1}: the relay exited {code}")
                docker("start", relay)
                wait_until("relay healthy", lambda relay=relay: health(relay) == "healthy", HEALTHY_LIMIT_S)
        finally:
            load.finish()
        if load.failures:
            raise Failed(f"{len(load.failures)} downloads failed, {load.done} did not\n{load.failures[0]}")
        note = f"{load.done} downloads, {load.received_bytes // MIB} MiB, 0 failed"
        self.rows.append(Row(f"relays rolled {ROLLS} times under {LOAD_DOWNLOADS} downloads", 0,
                             load.longest_wait_s, time.monotonic() - began, note))
        say(f"  {note}")

    def _break_serving(self, what, fault, mend):
        """Breaks the relay that serves a running download, and repairs it afterwards."""
        # A relay that was disconnected earlier may still hold a transfer that continued elsewhere.
        wait_until("the relays without a transfer", self._idle, HEALTHY_LIMIT_S)
        running = self.download()
        relay = None
        try:
            self._reach_quarter(running)
            relay = self._serving()
            at, began = running.received_bytes, time.monotonic()
            note = fault(relay)
            self._end(what, running, at, began, note)
        finally:
            running.stop()
            if relay:
                mend(relay)
        wait_until("the relay healthy again", lambda: health(relay) == "healthy", HEALTHY_LIMIT_S)

    def _reach_quarter(self, running):
        running.wait_for_bytes(self.digests[running.key.split("/")[-1]].len_bytes // 4)

    def _end(self, what, running, at, began, note):
        running.finish(self.digests[running.key.split("/")[-1]].sha256)
        row = Row(what, at // MIB, running.longest_wait_s(began), running.took_s, note)
        self.rows.append(row)
        say(f"  {what}: no byte for {row.pause_s:.2f} s, whole download {row.took_s:.1f} s, bytes equal; {note}")

    def _idle(self):
        return all(active_transfers(self.project.published(service, 8080)) == 0 for service in RELAYS)

    def _serving(self):
        """The container whose sent bytes grow. A relay with an abandoned transfer is not the serving one."""
        addresses = {service: self.project.published(service, 8080) for service in RELAYS}
        before = {service: sent_bytes(address) for service, address in addresses.items()}
        grown = {}

        def found():
            grown.update({service: sent_bytes(address) - before[service] for service, address in addresses.items()})
            return any(grown.values())

        wait_until("a relay that serves the download", found, HEALTHY_LIMIT_S)
        return self.project.container(max(grown, key=grown.get))


def active_transfers(address):
    return metric(address, "gantry_transfers_active")


def sent_bytes(address):
    return metric(address, "gantry_sent_bytes_total")


def metric(address, name):
    """The sum of a metric's series."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? ([\d.e+]+)$", text, re.M)
    if not found:
        raise Failed(f"{name} is not among the metrics")
    return sum(float(value) for value in found)


class Load:
    """Endless downloads, always LOAD_DOWNLOADS at once. Each is compared."""

    def __init__(self, faults):
        self.faults = faults
        self.done = 0
        self.received_bytes = 0
        self.longest_wait_s = 0.0
        self.failures = []
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._workers = [threading.Thread(target=self._work, daemon=True) for _ in range(LOAD_DOWNLOADS)]

    def start(self):
        for worker in self._workers:
            worker.start()
        wait_until("the load's first download", lambda: self.done or self.failures, FIRST_LOAD_LIMIT_S)

    def _work(self):
        while not self._over.is_set():
            running = None
            try:
                running = self.faults.download("medium.bin", pace_bytes_per_s=None)
                running.finish(self.faults.digests["medium.bin"].sha256)
                with self._lock:
                    self.done += 1
                    self.received_bytes += running.received_bytes
                    self.longest_wait_s = max(self.longest_wait_s, running.longest_wait_s(self._began))
            except Failed as error:
                with self._lock:
                    self.failures.append(str(error))
                return
            finally:
                if running:
                    running.stop()

    def finish(self):
        self._over.set()
        for worker in self._workers:
            worker.join()
