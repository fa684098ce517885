"""nats-servers with the files of deploy/nats, relays at them, and downloads of which each link's bytes are known."""

import asyncio
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "deploy" / "dev"), str(ROOT / "tests" / "chaos")]

import demo
import gcs
import servers
from demo import Problem
from rig import answers, fetch, free_port, until

SHIPPED = ROOT / "deploy" / "nats"
USERS = ("relay", "device1", "device2", "monitor", "line1", "line2", "site1", "site2", "edge1", "cluster", "gateway", "sys")
# Each password is its variable's name in lower case.
PASSWORDS = {f"{user.upper()}_PASSWORD": f"{user}_password" for user in USERS}
STORE, KEY, SIZE = "firmware", "image.bin", 4 << 20
OBJECT = f"{STORE}/{KEY}"
SLOW_RATE = "2MiB"
# How much of a slow download is read before something is done to it.
HELD_BYTES = SIZE // 4
# A link that carries only requests, credit and interest stays below this.
CHATTER_BYTES = 128 << 10
WITHIN_S = 60
# How long a part that comes back, or a link, may take.
RETURN_S = 30
# Source: linux/prctl.h.
PR_SET_PDEATHSIG = 1
PRCTL = ctypes.CDLL(None).prctl


class Server:
    """A nats-server that runs a file of deploy/nats. Its addresses are in an included file, which is replaced."""

    def __init__(self, topology, name, file, addresses, env, edit=None):
        self.topology, self.name = topology, name
        self.folder = topology.folder / name
        shutil.copytree(SHIPPED, self.folder / "nats")
        self.config = self.folder / "nats" / file
        if edit:
            self.config.write_text(edit(self.config.read_text()))
        self.port, self.monitor_port = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.options = []
        if addresses is None:
            # A file without an include: these options have priority over it.
            self.options = ["-a", "127.0.0.1", "-p", self.port, "-m", self.monitor_port]
        else:
            included = re.search(r'^include "(\w*addresses\.conf)"', self.config.read_text(), re.M).group(1)
            values = {"client_address": self.address, "monitor_address": f"127.0.0.1:{self.monitor_port}", **addresses}
            text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())
            (self.config.parent / included).write_text(text)
        self.env = {**demo.clean_env(), **PASSWORDS, "SERVER_NAME": name, **env}
        self.process = None

    async def start(self):
        command = [servers.path_of("nats-server"), *self.options, "--config", self.config]
        self.process = self.topology.spawn(self.name, command, self.env, cwd=self.folder)
        await until(f"{self.name} answers", lambda: self.alive() and answers(self.port), WITHIN_S)

    def alive(self):
        if self.process.poll() is not None:
            raise Problem(f"{self.name} stopped: {self.topology.log(self.name).read_text()[-500:]}")
        return True

    async def kill(self):
        self.process.kill()
        await asyncio.to_thread(self.process.wait)

    async def page(self, name):
        return json.loads(await fetch(f"http://127.0.0.1:{self.monitor_port}/{name}"))

    async def carried(self):
        """The bytes that this server has sent over each of its links."""
        sent = {}

        def add(link, connection):
            sent[link] = sent.get(link, 0) + connection["out_bytes"]

        for route in (await self.page("routez"))["routes"] or []:
            add("route", route)
        for leaf in (await self.page("leafz")).get("leafs") or []:
            # Both ends of a link count: the site is the one that is not at the hub.
            site = self.name if self.name.startswith("site") else leaf["name"]
            add(f"leaf link of {site}", leaf)
        gateways = await self.page("gatewayz")
        for gateway in (gateways.get("outbound_gateways") or {}).values():
            add("gateway", gateway["connection"])
        return sent


class Relay:
    """A `gantry serve` of some stores, or with a file of deploy/nats, as the user `relay` of a server."""

    def __init__(self, topology, name, url, stores, env=None, config=None):
        self.topology, self.name, self.stores, self.config = topology, name, stores, config
        self.http = f"127.0.0.1:{free_port()}"
        # The first variable has priority over a file. With keys in the log, /transfers shows correlations.
        self.env = {**demo.clean_env(), "GANTRY_NATS__URL": url, "NATS_USER": "relay", "NATS_PASSWORD": "relay_password",
                    "GANTRY_LOG__KEYS": "true", **(env or {})}
        self.process = self.instance = None

    def command(self):
        stores = [f"--store={store}={place}" for store, place in self.stores.items()]
        if self.config:
            stores = ["--config", SHIPPED / self.config]
        return [self.topology.gantry, "serve", *stores, "--http", self.http]

    async def start(self):
        log = self.topology.log(self.name)
        before = len(log.read_text()) if log.exists() else 0
        self.process = self.topology.spawn(self.name, self.command(), self.env)

        def serves():
            if self.process.poll() is not None:
                raise Problem(f"{self.name} stopped: {log.read_text()[-500:]}")
            return re.search(r'serving instance="(\w+)"', log.read_text()[before:])

        self.instance = (await until(f"{self.name} serves", serves, WITHIN_S)).group(1)
        self.topology.instances[self.instance] = self.name
        await until(f"{self.name} is ready", self.is_ready, WITHIN_S)
        return self

    async def is_ready(self):
        try:
            return await fetch(f"http://{self.http}/readyz")
        except OSError:
            return False

    def signal(self, number):
        os.kill(self.process.pid, number)

    async def kill(self):
        self.process.kill()
        await asyncio.to_thread(self.process.wait)

    async def requests(self):
        """The number of requests for bytes that were answered."""
        text = await fetch(f"http://{self.http}/metrics")
        return sum(map(float, re.findall(r'^gantry_requests_total\{[^}]*operation="get"[^}]*\} (\S+)$', text, re.M)))

    async def is_sending(self, correlation):
        """Whether this download is in progress here. Transfers of consumers that have ended may still be listed."""
        try:
            text = await asyncio.wait_for(fetch(f"http://{self.http}/transfers"), 2)
        except (OSError, TimeoutError):
            return False
        transfers = map(json.loads, text.splitlines())
        return any(each["sent_bytes"] >= HELD_BYTES and each.get("correlation") == correlation for each in transfers)


class Got:
    """A completed download: its time, its longest time without a byte, and the relay that ended it."""

    def __init__(self, took_s, gap_s, relay, stale_s):
        self.took_s, self.gap_s, self.relay, self.stale_s = took_s, gap_s, relay, stale_s
        # The links that carried the object, and the bytes on each link.
        self.links = self.carried = None


class Hold:
    """Stops the reading of a download at HELD_BYTES, until it is released."""

    def __init__(self):
        self.reached, self.released = asyncio.Event(), asyncio.Event()

    async def stop(self, count):
        """Returns whether the reading was stopped."""
        if count < HELD_BYTES or self.released.is_set():
            return False
        self.reached.set()
        await self.released.wait()
        return True


class Topology:
    """The processes of one topology, and the rows of its table."""

    def __init__(self, name, folder, gantry, alive_fd):
        self.name, self.folder, self.gantry, self.alive_fd = name, folder, gantry, alive_fd
        self.servers, self.relays, self.instances = [], [], {}
        self.rows, self.processes, self.proxies = [], [], []
        # Proxies whose bytes count as a link's, for links that are connections of clients.
        self.uplinks = {}
        self.files = folder / STORE
        self.files.mkdir(parents=True)
        self.original = os.urandom(SIZE)
        (self.files / KEY).write_bytes(self.original)
        (folder / "models").mkdir()
        (folder / "models" / KEY).write_bytes(b"secret")
        self.stores = {STORE: f"file://{self.files}", "models": f"file://{folder / 'models'}"}

    def log(self, name):
        return self.folder / f"{name}.log"

    def spawn(self, name, command, env, cwd=None):
        with open(self.log(name), "ab") as log:
            process = subprocess.Popen(demo.supervised(command), stdin=self.alive_fd, stdout=log, stderr=log, env=env,
                                       cwd=cwd or self.folder)
        self.processes.append(process)
        return process

    def server(self, name, file, addresses=None, env=None, edit=None):
        self.servers.append(Server(self, name, file, addresses, env or {}, edit))
        return self.servers[-1]

    async def relay(self, name, url, **options):
        """Starts a relay, after `gantry serve --check` with its settings."""
        relay = Relay(self, name, url, options.pop("stores", self.stores), **options)
        self.relays.append(relay)
        done = await asyncio.to_thread(subprocess.run, [*relay.command(), "--check"], env=relay.env, capture_output=True,
                                       text=True, stdin=subprocess.DEVNULL, timeout=WITHIN_S)
        self.check(done.returncode == 0 and "all rights" in done.stdout,
                   f"gantry serve --check of {name}: exit code {done.returncode}: {done.stdout}{done.stderr}")
        return await relay.start()

    def row(self, event, result, got=None):
        self.rows.append((self.name, event, result, got))

    def check(self, holds, what):
        if not holds:
            raise Problem(f"{self.name}: {what}")

    async def run(self, place, *args, hold=None):
        """Runs `gantry ARGS…` at a place. Returns the exit code, stdout, stderr, the longest silence and the time."""
        url, user, inbox, env = place
        env = {**demo.clean_env(), "NATS_URL": url, "NATS_USER": user, "NATS_PASSWORD": f"{user}_password",
               "GANTRY_NATS__INBOX_PREFIX": inbox, **env}
        process = await asyncio.create_subprocess_exec(
            self.gantry, *args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
            cwd=self.folder, preexec_fn=end_with_parent)
        error = asyncio.ensure_future(process.stderr.read())
        began = last = time.monotonic()
        out, gap = bytearray(), 0.0
        try:
            async with asyncio.timeout(150):
                while piece := await process.stdout.read(1 << 20):
                    gap, last = max(gap, time.monotonic() - last), time.monotonic()
                    out += piece
                    if hold and await hold.stop(len(out)):
                        last = time.monotonic()
                code = await process.wait()
        except TimeoutError:
            process.kill()
            raise Problem(f"{self.name}: gantry {' '.join(args)} did not end within 150 s") from None
        return code, bytes(out), (await error).decode(), gap, time.monotonic() - began

    async def carried(self):
        total = {}
        for server in self.servers:
            if server.process and server.process.poll() is None:
                for link, count in (await server.carried()).items():
                    total[link] = total.get(link, 0) + count
        for link, proxies in self.uplinks.items():
            total[link] = sum(proxy.bytes_up + proxy.bytes_down for proxy in proxies)
        return total

    async def get(self, place, *args, links=None, hold=None):
        """Downloads and compares. With `links`, exactly these must have carried the object, apart from routes."""
        before = await self.carried() if links is not None else {}
        code, out, said, gap_s, took_s = await self.run(
            place, "get", OBJECT, "-o", "-", "--json", "--progress", "none", *args, hold=hold)
        self.check(code == 0, f"exit code {code}: {said.strip()}")
        self.check(out == self.original, "the bytes differ")

        summary = json.loads(said.strip().splitlines()[-1])
        relay = self.instances.get(summary["relay"]["id"], "?")
        got = Got(took_s, gap_s, relay, summary.get("stale_s"))
        if links is not None:
            await asyncio.sleep(0.1)
            now = await self.carried()
            got.carried = deltas = {link: now[link] - before.get(link, 0) for link in now}
            got.links = {link for link, count in deltas.items() if count >= SIZE}
            # Which server of a cluster a relay is connected to, and so whether a route is used, does not matter here.
            self.check(got.links - {"route"} == set(links) - {"route"}, f"not carried by {sorted(links)}, but: {deltas}")
            idle = {link: count for link, count in deltas.items() if link not in {*links, "route"}}
            self.check(all(count < CHATTER_BYTES for count in idle.values()), f"another link carried data: {deltas}")
        return got

    async def get_during(self, place, action, relays=None):
        """Downloads slowly, calls `action` with the relay that sends once bytes have arrived, and compares.

        However slow this machine is, the transfer is still in progress then: a consumer with this rate limit has requested
        at most the bytes of a second beyond those that are read from it.
        """
        hold, correlation, found = Hold(), uuid.uuid4().hex, []
        options = ("--limit-rate", SLOW_RATE, "--correlation", correlation)
        get = asyncio.ensure_future(self.get(place, *options, hold=hold))

        async def sending():
            if get.done():
                get.result()
                raise Problem(f"{self.name}: the download ended too early")
            if not hold.reached.is_set():
                return False
            for relay in relays or self.relays:
                if relay.process.poll() is None and await relay.is_sending(correlation):
                    return found.append(relay) or True
            return False

        try:
            await until("a relay sends", sending, WITHIN_S)
            hold.released.set()
            await action(found[0])
            return await get
        finally:
            get.cancel()

    async def refused(self, place, code, words, *args):
        """Runs a command that must fail with this code, at once, and name these words. Returns its message."""
        got, _, said, _, took_s = await self.run(place, *args)
        self.check(got == code and all(word in said for word in words),
                   f"gantry {' '.join(args)}: exit code {got} instead of {code}, or not {words}: {said.strip()}")
        self.check(took_s < 15, f"gantry {' '.join(args)} took {took_s:.0f} s to fail")
        return said.strip().splitlines()[-1]

    async def kill_relays(self, *names):
        for relay in self.relays:
            if relay.name in names:
                await relay.kill()

    def check_violations(self, user="relay"):
        """Checks that relays did nothing that the shipped permissions deny."""
        for server in self.servers:
            for line in self.log(server.name).read_text().splitlines():
                self.check("Violation" not in line or f'user:{user}"' not in line, f"{server.name}: {line}")

    async def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for process in self.processes:
            await asyncio.to_thread(process.wait)
        for proxy in self.proxies:
            await proxy.close()


def end_with_parent():
    """Ends this process when its parent ends. A consumer needs no watchdog, whose start would count as its own time."""
    PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL)


def place(url, user, inbox, **env):
    """Where a consumer is: the addresses of its nats-server, its user, its inbox prefix."""
    return url, user, inbox, env


def at(server, user="device1", inbox="_INBOX.device1"):
    return place(f"nats://{server.address}", user, inbox)


async def routed(nodes, others):
    """Whether each node has routes to this number of others."""
    for node in nodes:
        routes = (await node.page("routez"))["routes"] or []
        if len({route["remote_name"] for route in routes}) < others:
            return False
    return True


async def relay_killed(topology, consumer):
    """Kills the relay that sends, and starts it again afterwards."""
    killed = []

    async def kill(sending):
        killed.append(sending)
        await sending.kill()

    got = await topology.get_during(consumer, kill)
    topology.check(got.relay not in (killed[0].name, "?"), f"{got.relay} served a download after it was killed")
    topology.row(f"{killed[0].name} killed during a download", f"continued, {got.relay}", got)
    await killed[0].start()


def call(*command):
    done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise Problem(f"{command[0]} failed: {done.stderr.strip()}")


def print_table(rows):
    lines = [("topology", "event", "result", "seconds", "longest gap", "links that carried the object")]
    for name, event, result, got in rows:
        links = "" if not got or got.links is None else ", ".join(sorted(got.links)) or "none"
        lines.append((name, event, result, *((f"{got.took_s:.1f}", f"{got.gap_s:.1f}") if got else ("", "")), links))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip(), flush=True)


def refuse(links, refusing):
    for link in links:
        link.refuse(refusing)


async def cut(links):
    """Cuts the links for 2 s."""
    refuse(links, True)
    await asyncio.sleep(2)
    refuse(links, False)
