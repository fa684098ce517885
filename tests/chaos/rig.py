"""A setup for faults: nats-servers, an S3 server or fake-gcs-server, and two relays, with a proxy on every link."""

import asyncio
import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import tempfile
import time
import types
import urllib.request
from pathlib import Path

import demo
import gcs
import s3
import servers
from demo import Problem
from ports import free_port
from proxy import Proxy

STORE, BUCKET = "chaos", "chaos"
READY_WITHIN_S = 120
DRAIN_GRACE_MS = 2000
BLOCK_BYTES = 16 << 20
CONTROL = re.compile(rb"\.ctl\.([0-9a-f]{32})\.")


class Node:
    """A nats-server that uses the same ports each time it is started."""

    def __init__(self, rig, number, ports, cluster_ports):
        self.rig, self.number, self.port = rig, number, ports[number]
        self.config = rig.folder / f"nats-{number}.conf"
        settings = {"server_name": f"nats-{number}", "listen": f"127.0.0.1:{self.port}",
                    "http": f"127.0.0.1:{free_port()}", "lame_duck_duration": "30s", "lame_duck_grace_period": "1s"}
        if len(ports) > 1:
            # Other servers are not advertised to clients, because clients would bypass their proxies.
            settings["cluster"] = {"name": "chaos", "listen": f"127.0.0.1:{cluster_ports[number]}", "no_advertise": True,
                                   "routes": [f"nats-route://127.0.0.1:{port}" for port in cluster_ports]}
        self.http = settings["http"]
        # nats-server also reads JSON.
        self.config.write_text(json.dumps(settings))
        self.process = None

    async def start(self):
        self.process = self.rig.spawn(f"nats-{self.number}", [servers.path_of("nats-server"), "-c", self.config])
        await until("nats-server answers", lambda: answers(self.port), READY_WITHIN_S)

    async def kill(self):
        self.process.kill()
        await ended(self.process)

    async def lame_duck(self):
        done = await asyncio.to_thread(subprocess.run, [
            servers.path_of("nats-server"), "--signal", f"ldm={self.process.pid}"], capture_output=True, text=True)
        if done.returncode:
            raise Problem(f"nats-server --signal ldm: {done.stderr}")

    async def monitor(self, page):
        return json.loads(await fetch(f"http://{self.http}/{page}"))


class Relay:
    """A `gantry serve` with its own links to every nats-server and to S3."""

    def __init__(self, rig, number, s3_proxy):
        self.rig, self.number, self.s3_proxy = rig, number, s3_proxy
        self.nats_proxies = []
        self.http = f"127.0.0.1:{free_port()}"
        self.process = self.instance = self.idle = None
        self.rss_peak_bytes = 0

    def learn(self, piece):
        """Records the relay's service id, which is part of the control subject that it subscribes to."""
        found = CONTROL.search(piece[:4096])
        if found:
            self.instance = found.group(1).decode()

    def command(self):
        return [self.rig.gantry, "serve", *self.rig.stores, "--http", self.http]

    def env(self):
        return {"NATS_URL": urls(self.nats_proxies), **self.rig.store_env(self.s3_proxy.port)}

    async def start(self):
        env = {**demo.clean_env(), "GANTRY_RELAY__DRAIN_GRACE_MS": str(DRAIN_GRACE_MS), **self.env()}
        self.process = self.rig.spawn(f"relay-{self.number}", self.command(), env)
        await until(f"relay {self.number} is ready", self._ready, READY_WITHIN_S)
        self.idle = usage(self.process.pid)

    async def _ready(self):
        if self.process.poll() is not None:
            raise Problem(f"relay {self.number} stopped at once, {s3.tail(self.rig.log(f'relay-{self.number}'))}")
        try:
            return await fetch(f"http://{self.http}/readyz")
        except OSError:
            return False

    @property
    def s3_connections(self):
        return self.s3_proxy.connections if self.s3_proxy else 0

    def signal(self, number):
        os.kill(self.process.pid, number)

    async def stop(self):
        """Stops the relay as an operator would; returns the exit code."""
        self.signal(signal.SIGTERM)
        await ended(self.process)
        return self.process.returncode

    async def active(self):
        """The number of active transfers that the relay reports."""
        text = await fetch(f"http://{self.http}/metrics")
        return int(float(re.search(r"^gantry_transfers_active ([\d.e+]+)$", text, re.M).group(1)))


class Rig:
    """The whole setup. `pace_bytes_per_s` limits S3's rate for each relay: the only bottleneck without faults."""

    # The name under which the relays serve the bucket.
    store = STORE

    def __init__(self, name, folder, gantry, alive_fd, nodes=1, pace_bytes_per_s=None,
                 stores=None, direct=False, cloud="s3"):
        self.name, self.folder, self.gantry, self.alive_fd = name, folder, gantry, alive_fd
        self.pace_bytes_per_s = pace_bytes_per_s
        # No proxies where speed is measured.
        self.direct = direct
        # `gcs` for fake-gcs-server in place of the S3 server.
        self.cloud = cloud
        address = {"s3": "s3://", "gcs": "gs://"}[cloud] + BUCKET
        self.stores = [f"--store={store}" for store in stores or [f"{STORE}={address}"]]
        self.processes, self.proxies, self.objects = [], [], {}
        self.s3 = self.s3_process = None
        self.relays = []
        folder.mkdir()
        ports = [free_port() for _ in range(2 * nodes)]
        self.nodes = [Node(self, number, ports[:nodes], ports[nodes:]) for number in range(nodes)]

    async def start_servers(self):
        await asyncio.gather(*(node.start() for node in self.nodes), self.start_s3())

    async def start_relays(self, relays=2):
        for number in range(relays):
            s3_proxy = await self.proxy(int(self.s3["endpoint"].rsplit(":", 1)[1]))
            s3_proxy.rate_bytes_per_s = self.pace_bytes_per_s
            relay = Relay(self, number, s3_proxy)
            relay.nats_proxies = await self.nats_proxies(up=lambda relay=relay: relay.learn)
            self.relays.append(relay)
        await asyncio.gather(*(relay.start() for relay in self.relays))

    def store_env(self, port):
        """The environment of a relay that reads from the store through a proxy."""
        if self.cloud == "gcs":
            return {"STORAGE_EMULATOR_HOST": f"127.0.0.1:{port}"}
        keys = self.s3["users"]["admin"]
        return {"AWS_REGION": self.s3["region"], "AWS_ACCESS_KEY_ID": keys["access_key_id"],
                "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"], "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}

    async def start_s3(self):
        if self.cloud == "gcs":
            return await self.start_gcs()
        # The folder outlives the server, which restarts with its data.
        self.s3, self.s3_process = await asyncio.to_thread(
            s3.start, self.folder / "s3", stdin=self.alive_fd, remove=[])
        self.processes.append(self.s3_process)

    async def start_gcs(self):
        port = int(self.s3["endpoint"].rsplit(":", 1)[1]) if self.s3 else free_port()
        folder = self.folder / "gcs"
        folder.mkdir(exist_ok=True)
        self.s3 = {"endpoint": f"http://127.0.0.1:{port}"}
        self.s3_process = self.spawn("gcs", gcs.command(folder, port))
        await until("fake-gcs-server answers", lambda: answers(port), READY_WITHIN_S)
        await asyncio.to_thread(gcs.create_bucket, port, BUCKET)

    async def put(self, key, size, seed):
        """Puts an object of random bytes that depend on the seed only."""
        def make():
            chance, digest = random.Random(seed), hashlib.sha256()
            with tempfile.TemporaryFile(dir=self.folder) as file:
                for begin in range(0, size, BLOCK_BYTES):
                    block = chance.randbytes(min(BLOCK_BYTES, size - begin))
                    digest.update(block)
                    file.write(block)
                file.seek(0)
                if self.cloud == "gcs":
                    gcs.put(int(self.s3["endpoint"].rsplit(":", 1)[1]), BUCKET, key, file, size)
                else:
                    s3.put(self.s3, BUCKET, key, file, sha256=digest.digest())
            return digest.hexdigest()

        self.objects[key] = (size, await asyncio.to_thread(make))

    async def proxy(self, port, **hooks):
        if self.direct:
            return types.SimpleNamespace(port=port)
        proxy = await Proxy(port, **hooks).start()
        self.proxies.append(proxy)
        return proxy

    async def nats_proxies(self, **hooks):
        """A link to each nats-server, for one client."""
        return [await self.proxy(node.port, **hooks) for node in self.nodes]

    def s3_proxies(self):
        return [relay.s3_proxy for relay in self.relays if relay.s3_proxy]

    def relay_of(self, instance):
        return next((relay for relay in self.relays if relay.instance == instance), None)

    def log(self, name):
        return self.folder / f"{name}.log"

    def spawn(self, name, command, env=None, stdout=None, cwd=None):
        """Starts a command that can't outlive this process, and logs its output."""
        with open(self.log(name), "ab") as log:
            process = subprocess.Popen(demo.supervised(command), stdin=self.alive_fd, stdout=stdout or log, stderr=log,
                                       env=env, cwd=cwd or self.folder)
        self.processes = [other for other in self.processes if other.poll() is None] + [process]
        return process

    async def mend(self):
        """Restarts processes that a failed fault has left dead."""
        if self.s3_process.poll() is not None:
            await self.start_s3()
        for part in (*self.nodes, *self.relays):
            if part.process.poll() is not None:
                await part.start()

    def sample(self):
        """Records the relays' memory."""
        for relay in self.relays:
            if relay.process and relay.process.poll() is None:
                relay.rss_peak_bytes = max(relay.rss_peak_bytes, usage(relay.process.pid)["rss_peak_bytes"])

    async def close(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            await ended(process)
        for proxy in self.proxies:
            await proxy.close()


def urls(proxies):
    return ",".join(f"nats://127.0.0.1:{proxy.port}" for proxy in proxies)


def usage(pid):
    """Current and peak open files, threads and memory of a process; zeros if it has ended."""
    proc = Path("/proc") / str(pid)
    try:
        status = (proc / "status").read_text()
        return {"fds": len(os.listdir(proc / "fd")), "threads": int(re.search(r"Threads:\s+(\d+)", status).group(1)),
                "rss_bytes": int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) << 10,
                "rss_peak_bytes": int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) << 10}
    except (OSError, AttributeError):
        return {"fds": 0, "threads": 0, "rss_bytes": 0, "rss_peak_bytes": 0}


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


async def fetch(url):
    def get():
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()
    return await asyncio.to_thread(get)


async def ended(process, within_s=READY_WITHIN_S):
    await until(f"process {process.pid} ended", lambda: process.poll() is not None, within_s)


def answered(holds):
    """Turns a condition, a coroutine function, into one that does not hold while a server does not answer."""
    async def answers_and_holds():
        try:
            return await holds()
        except OSError:
            return False
    return answers_and_holds


async def until(what, holds, within_s):
    """Waits until a condition holds, which may be a coroutine function."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = holds()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        await asyncio.sleep(0.02)
    raise Problem(f"not within {within_s} s: {what}")
