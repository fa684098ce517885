"""A setup of sites: a hub with two relays over S3, and two sites, each with a leaf node, an edge relay and consumers.

The nats-servers run the files of deploy/nats/hub. Each site has two links to the hub, that of its nats-server and that
of its edge relay, and each has a proxy. An edge relay keeps what it reads on a small disk of its own.
"""

import asyncio
import collections
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

# Imported before nats_rig, whose folder has modules of the same names.
from consumer import Consumer
from play import IDLE_WITHIN_S, at_rest, check_memory
from demo import Problem, clean_env
from ports import free_port
from rig import BUCKET, READY_WITHIN_S, Relay, Rig, answered, ended, fetch, until
from wire import Meter

sys.path.append(str(Path(__file__).resolve().parents[1] / "field"))

from nats_rig import STORE, Server

SITES = ("site1", "site2")
# Where each consumer is.
PLACES = ("site1", "site1", "site2", "site2", "hub")
# Each object is put when it is needed first. Edge relays keep one of them all the time.
KEPT = "kept.bin"
SIZES = {"empty.bin": 0, "one.bin": 1, "small.bin": 3001, "chunk.bin": 520_192, "odd.bin": 3_000_001,
         "large.bin": 24 << 20, "larger.bin": (64 << 20) + 12_345, KEPT: (28 << 20) + 1001}
# S3's rate for each relay at the hub, the rate of each link to the hub, and that of each consumer. S3 is the slowest:
# otherwise the relays read so far ahead that its faults affect nobody.
S3_BYTES_PER_S, LINK_BYTES_PER_S, CONSUMER_RATE = 10 << 20, 11 << 20, "12MiB"
# Room for a few objects, so that the others are evicted before they are needed again. The disk is a bit larger.
CACHE_BYTES, DISK_BYTES = 96 << 20, 128 << 20
# An edge relay that keeps more of an object than this share does not fill its cache with it.
KEPT_SHARE_MAX = 0.1
# A cache folder that has failed is left alone for 30 s (PAUSE in crates/gantry-store/src/cache/folder/mod.rs). Then an
# object must be read twice, on a busy machine.
USED_AGAIN_WITHIN_S = 240
CHANGED = 7
# Edge relays run without the capability by which root may write to any folder.
UNPRIVILEGED = ["setpriv", "--inh-caps=-dac_override,-dac_read_search", "--bounding-set=-dac_override,-dac_read_search"]
SERVING = re.compile(r'serving instance="(\w+)"')
# Ids in subjects: of relays and transfers, and of inboxes.
IDS = re.compile(r"\b([0-9a-f]{32}|[0-9A-Za-z]{22})\b")
COUNTERS = {"served": "gantry_cache_served_bytes_total", "filled": "gantry_cache_filled_bytes_total",
            "damaged": "gantry_cache_damaged_files_total", "evicted": "gantry_cache_evicted_files_total"}


class DirectRelay(Relay):
    """A relay without proxies on its links to nats-server, so that its log is what shows its service id."""

    async def start(self):
        log = self.rig.log(f"relay-{self.number}")
        before = log.stat().st_size if log.exists() else 0
        await super().start()
        # The relay may be ready a moment before it logs this.
        found = await until(f"{self.number} logs its id", lambda: SERVING.search(log.read_text()[before:]), READY_WITHIN_S)
        self.instance = found.group(1)


class HubRelay(DirectRelay):
    """A relay at the hub, which reads S3."""

    def env(self):
        return {"NATS_URL": f"nats://{self.rig.hub.address}", **login("relay"), **self.rig.store_env(self.s3_proxy.port)}


class EdgeRelay(DirectRelay):
    """A relay at a site, which reads the relays at the hub and keeps on disk what it reads."""

    def __init__(self, rig, site):
        super().__init__(rig, f"edge-{site.name}", None)
        self.site = site
        self.cache = site.disk / "cache"
        self.config = rig.folder / f"edge-{site.name}.toml"
        # One site also shares reads in memory, and serves what it can't compare with the hub. The other reads its disk.
        first = str(site.name == SITES[0]).lower()
        self.config.write_text(
            f'[stores.{STORE}]\nurl = "nats:{STORE}"\ncache_dir = "{self.cache}"\ncache_bytes = {CACHE_BYTES}\n'
            f'serve_stale = {first}\nshared_reads = {first}\n'
            f'[stores.{STORE}.nats]\nurl = "nats://127.0.0.1:{site.edge_link.port}"\n'
            f'user = "{site.name}"\npassword = "{site.name}_password"\ninbox_prefix = "_INBOX.{site.name}.edge"\n')
        # The counters of each process.
        self.counters = {}

    def command(self):
        return [*UNPRIVILEGED, self.rig.gantry, "serve", "--config", self.config, "--http", self.http]

    def env(self):
        return {"NATS_URL": f"ws://{self.site.relay_address}", **login("relay"),
                "GANTRY_RELAY__DELIVERY_ALLOW": f"_INBOX.{self.site.name}.,_INBOX.gantry-peers."}

    async def kept_share(self, key):
        """The largest share of an object's versions that is on disk."""
        command = [self.rig.gantry, "cache", "ls", f"{STORE}/{key}", "--dir", self.cache, "--json"]
        done = await asyncio.to_thread(subprocess.run, command, env=clean_env(), stdin=subprocess.DEVNULL,
                                       capture_output=True, text=True, timeout=READY_WITHIN_S)
        # A fault may have made the folder unreadable or removed it.
        kept = map(json.loads, done.stdout.splitlines()) if done.returncode == 0 else ()
        return max((version["kept_bytes"] / version["size"] for version in kept if version["size"]), default=0.0)

    async def keeps(self, key):
        """Whether the cache is used, and has all of an object."""
        text = await fetch(f"http://{self.http}/metrics")
        return await self.kept_share(key) == 1 and f'gantry_cache_usable{{store="{STORE}"}} 1' in text

    async def count(self):
        """Records the counters of the cache, if the relay answers."""
        with contextlib.suppress(OSError):
            text = await fetch(f"http://{self.http}/metrics")
            self.counters[self.process.pid] = {
                name: sum(float(value) for value in re.findall(rf"^{series}\{{.*\}} ([\d.e+]+)$", text, re.M))
                for name, series in COUNTERS.items()}

    def counted(self, name):
        return int(sum(process[name] for process in self.counters.values()))


class Site:
    """A site's nats-server, its edge relay and its links to the hub."""

    def __init__(self, rig, name):
        self.rig, self.name = rig, name
        self.disk = rig.folder / f"disk-{name}"
        self.server = self.edge = self.leaf_link = self.edge_link = None
        self.relay_address = f"127.0.0.1:{free_port()}"

    @property
    def links(self):
        return [self.leaf_link, self.edge_link]

    async def start(self):
        rig, name = self.rig, self.name
        self.leaf_link, self.edge_link = await rig.proxy(rig.leaf_port), await rig.proxy(rig.hub.port)
        for link in self.links:
            link.rate_bytes_per_s = LINK_BYTES_PER_S
        urls = [f"nats-leaf://{name}:{name}_password@127.0.0.1:{self.leaf_link.port}"]
        self.server = Server(rig, name, "hub/site.conf", {"relay_address": self.relay_address},
                             {"HUB_URLS": json.dumps(urls)}, lambda text: text.replace("site1", name))
        await self.server.start()

    async def is_linked(self):
        return bool((await self.server.page("leafz")).get("leafs"))

    def mount(self):
        self.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "gantry", self.disk], check=True)


class SiteRig(Rig):
    """The whole setup."""

    store = STORE

    def __init__(self, name, folder, gantry, alive_fd):
        super().__init__(name, folder, gantry, alive_fd, nodes=0, stores=[f"{STORE}=s3://{BUCKET}"])
        self.leaf_port = free_port()
        # Sites also try the advertised address, where nothing listens: they must not bypass their proxies.
        self.hub = Server(self, "hub", "hub/hub.conf", {
            "cluster_address": f"127.0.0.1:{free_port()}", "leaf_address": f"127.0.0.1:{self.leaf_port}",
            "leaf_advertised": f"127.0.0.1:{free_port()}"}, {"ROUTES": "[]"})
        self.sites = {name: Site(self, name) for name in SITES}
        # The versions of each key: when putting each ended, and its SHA-256.
        self.versions = {}
        self.being_put = set()
        self.at_start = {}

    async def start(self):
        for site in self.sites.values():
            site.mount()
        await asyncio.gather(self.hub.start(), self.start_s3())
        await asyncio.gather(*(site.start() for site in self.sites.values()))
        self.nodes = [self.hub, *(site.server for site in self.sites.values())]
        # A relay is not ready before its bucket exists.
        await self.put("empty.bin", 0, "")

        s3_port = int(self.s3["endpoint"].rsplit(":", 1)[1])
        self.relays = [HubRelay(self, f"hub-{number}", await self.proxy(s3_port)) for number in (1, 2)]
        for proxy in self.s3_proxies():
            proxy.rate_bytes_per_s = S3_BYTES_PER_S
        await asyncio.gather(*(relay.start() for relay in self.relays))
        for site in self.sites.values():
            site.edge = EdgeRelay(self, site)
        edges = [site.edge for site in self.sites.values()]
        await asyncio.gather(*(edge.start() for edge in edges))
        self.relays += edges
        await self.settled()

    async def put(self, key, size, seed):
        self.being_put.add(key)
        await super().put(key, size, seed)
        self.versions.setdefault(key, []).append((time.monotonic(), self.objects[key][1]))
        self.being_put.remove(key)

    def replaced_since(self, key, moment):
        versions = self.versions[key]
        return key in self.being_put or len(versions) > 1 and versions[-1][0] >= moment

    def current_since(self, key, moment):
        """The SHA-256 of each version that was current at this moment or later."""
        versions = self.versions[key]
        ends = [put for put, _ in versions[1:]] + [float("inf")]
        return [digest for (_, digest), end in zip(versions, ends) if end >= moment]

    async def settled(self):
        """Waits until all parts work and are connected."""
        async def works():
            return (all([await site.is_linked() for site in self.sites.values()])
                    and all([await relay._ready() for relay in self.relays]))

        await until("all relays are ready, and all sites linked", answered(works), READY_WITHIN_S)

    async def counts(self):
        """The number of connections at each nats-server, and of its subscriptions to each subject, without their ids."""
        return {node.name: await self._counts(node) for node in self.nodes}

    async def _counts(self, node):
        listed = (await node.page("subsz?subs=1&limit=100000"))["subscriptions_list"]
        # Without the server's own. Leaf nodes detect loops with a subject that only those that connected earlier receive.
        subjects = [IDS.sub("ID", one["subject"]) for one in listed if not one["subject"].startswith(("$SYS.", "$LDS."))]
        return {"connections": (await node.page("connz"))["num_connections"], **collections.Counter(subjects)}

    async def mend(self):
        for site in self.sites.values():
            for link in site.links:
                link.refuse(False)
                link.hold(False)
        await super().mend()

    async def close(self):
        await super().close()
        for site in self.sites.values():
            subprocess.run(["umount", "-l", site.disk], capture_output=True)


class SiteConsumer(Consumer):
    """A consumer at a site or at the hub, at a limited rate."""

    def __init__(self, rig, number, seed, report):
        super().__init__(rig, number, random.Random(f"{seed} {rig.name} {number}"), report)
        self.site = rig.sites.get(PLACES[number])
        self.server = self.site.server if self.site else rig.hub
        self.inbox = f"_INBOX.{self.site.name}.device1" if self.site else "_INBOX.device1"
        self.options = ["--limit-rate", CONSUMER_RATE]
        self.started = None
        self.recoveries = 0

    async def connect(self):
        self.proxies = [await self.rig.proxy(self.server.port, down=lambda: self.meter.reader().feed)]

    def env(self):
        return {**super().env(), **login("device1"), "GANTRY_NATS__INBOX_PREFIX": self.inbox}

    @property
    def name(self):
        return f"{super().name} at {self.site.name if self.site else 'the hub'}"

    async def _get(self, key, target, deadline):
        self.started = time.monotonic()
        return await super()._get(key, target, deadline)

    async def _is_explained(self, key, code, received):
        if code == CHANGED and self.rig.replaced_since(key, self.started):
            self.meter = Meter()
            return True
        return await super()._is_explained(key, code, received)

    def _expected(self, key, digest, summary):
        self.recoveries += summary["recoveries"]
        # Rounded down to a second.
        age_s = summary["stale_s"] + 1 if summary.get("stale_s") is not None else 0
        return self.rig.current_since(key, self.started - age_s)

    async def keep(self, key):
        """Reads an object until the edge relay keeps all of it on disk."""
        edge = self.site.edge
        command = [self.rig.gantry, "get", f"{STORE}/{key}", "-o", "/dev/null", "--progress", "none"]

        async def is_kept():
            if await edge.keeps(key):
                return True
            reading = self.rig.spawn(f"keep-{self.number}", command, {**self.env(), "GANTRY_LOG__LEVEL": "warn"})
            await ended(reading, self.within_s)
            if reading.returncode:
                raise Problem(f"{self.name} can't read {key}: exit {reading.returncode}")

        await until(f"{edge.site.name} keeps {key} on disk", answered(is_kept), USED_AGAIN_WITHIN_S)


def login(user):
    return {"NATS_USER": user, "NATS_PASSWORD": f"{user}_password"}


async def ended_well(rig, crowd, report):
    """Checks at the end that nothing is left over."""
    for consumer in crowd:
        await consumer.stop()
    await at_rest(rig, report)
    check_memory(rig, crowd, report)

    differ = {}

    async def as_at_start():
        differ.clear()
        for name, counts in (await rig.counts()).items():
            before = rig.at_start[name]
            changed = {what: (before.get(what, 0), counts.get(what, 0)) for what in {**before, **counts}
                       if before.get(what, 0) != counts.get(what, 0)}
            differ.update({name: changed} if changed else {})
        return not differ

    try:
        await until("nats-servers have the connections and subscriptions that they had at the start",
                    answered(as_at_start),
                    IDLE_WITHIN_S)
    except Problem as problem:
        report.leak(f"{rig.name}: {problem}: {differ}")
    counts = await rig.counts()
    report.notes.append(f"{rig.name}: at the end, as at the start: " + ", ".join(
        f"{name} {of['connections']} connections and {sum(of.values()) - of['connections']} subscriptions"
        for name, of in counts.items()))

    for site in rig.sites.values():
        await edge_ended_well(rig, site.edge, report)
    for node in rig.nodes:
        for line in rig.log(node.name).read_text().splitlines():
            if "Violation" in line and 'user:relay"' in line:
                report.unexpected(f"{rig.name} {node.name}: {line}")


async def edge_ended_well(rig, edge, report):
    """Checks the cache folder of an edge relay that has stopped."""
    await edge.count()
    if await edge.stop():
        report.unexpected(f"{rig.name} relay {edge.number} exited with {edge.process.returncode}")
    # Without a file in it, the relay has not created the folder again after it was deleted.
    files = list(edge.cache.iterdir()) if edge.cache.exists() else []
    unfinished = [path.name for path in files if path.suffix == ".unfinished"]
    if unfinished:
        report.leak(f"{rig.name} relay {edge.number}: {', '.join(unfinished)} left in its cache")
    kept = sum(path.stat().st_size for path in files)
    if kept > CACHE_BYTES + 1000:
        report.leak(f"{rig.name} relay {edge.number} keeps {kept} bytes, more than {CACHE_BYTES}")
    report.notes.append(
        f"{rig.name} relay {edge.number}: {edge.counted('filled') >> 20} MiB written to disk, "
        f"{edge.counted('served') >> 20} MiB served from there, {edge.counted('damaged')} damaged files found, "
        f"{edge.counted('evicted')} evicted, {kept >> 20} MiB kept")


def with_private_mounts():
    """Starts this script again with mounts of its own, for small disks that nobody else sees."""
    private = "GANTRY_SITES_PRIVATE_MOUNTS"
    if os.environ.get(private):
        return
    unshare = ["unshare", "--mount", "--propagation", "private", *(["--map-root-user"] if os.geteuid() else [])]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        sys.exit("chaos, sites: can't create a mount namespace for small disks: run it as root, or allow user namespaces")
    os.environ[private] = "1"
    os.execvp("unshare", [*unshare, sys.executable, *sys.argv])
