"""The faults of setups with sites: what each breaks, in which download, and how it is repaired."""

import asyncio
import contextlib
import dataclasses
import itertools
import os
import random
import shutil

import resume
from faults import (Hit, Order, blackhole, consumer_gone, consumer_interrupt, consumer_kill, consumer_link, cut, delay, down,
                    frozen, link, nats_restart, relay_drain, relay_freeze, relay_kill, s3_http, s3_kill, s3_link, shuffled,
                    throttle)
from http_faults import Refuse, Shorten
from rig import ended
from site_rig import KEPT, PLACES, SIZES

# Objects that an edge relay reads and forgets in turn. They are large enough for a fault in the middle of a download.
NEW = {f"new-{number}.bin": size for number, size in enumerate((24 << 20, 36 << 20, (28 << 20) + 1, (32 << 20) - 1))}
OTHERS = (0, 1, 1, 2)


@dataclasses.dataclass
class Kind:
    """What a fault does, and to what kind of download."""

    fault: object
    lasts_s: tuple = (0, 0)
    # Where the consumer is: at a `site`, or `anywhere`.
    at: str = "site"
    # Whether the edge relay keeps the object (`kept`), or not (`new`), or `either`.
    objects: str = "new"
    # Without the edge relay, the leaf link carries the object.
    without_edge: bool = False
    # Occurs once for this many others.
    rare: int = 1


@dataclasses.dataclass
class SiteOrder(Order):
    """One planned fault: also the object that is downloaded, and further downloads (consumer, key) at that time."""

    key: str = ""
    others: tuple = ()


class SiteHit(Hit):
    """A fault in a download at a site or at the hub."""

    def __init__(self, rig, crowd, order):
        super().__init__(rig, crowd, order)
        self.site = self.consumer.site

    def _node(self):
        return self.consumer.server

    def same_site(self, other):
        return other.site is self.site

    def all(self, other):
        return True

    async def sending_hub_relay(self):
        """The relay at the hub from which the bytes come."""
        relays = [relay for relay in self.rig.relays if relay.s3_proxy]
        if self.relay in relays:
            return self.relay
        for relay in relays:
            if await relay.active():
                return relay
        return relays[0]


def of_edge(fault):
    async def strike(hit):
        hit.relay = hit.site.edge
        await fault(hit)
    return strike


def of_hub(fault):
    async def strike(hit):
        hit.node, hit.relay = hit.rig.hub, await hit.sending_hub_relay()
        await fault(hit)
    return strike


async def edge_restart(hit):
    """Kills the relay and starts it again at once."""
    hit.begins(hit.same_relay)
    hit.relay.process.kill()
    await ended(hit.relay.process)
    await hit.relay.start()
    await hit.flows()


def site_link(proxies, fault, counts=None):
    """A fault of links between a site and the hub. Unless `counts` is given, there is no other route."""
    counts = fault in (blackhole, down) if counts is None else counts
    return link(proxies, lambda hit: hit.same_site, fault, counts)


def leaf_link(fault):
    return site_link(lambda hit: [hit.site.leaf_link], fault)


def edge_link(fault):
    return site_link(lambda hit: [hit.site.edge_link], fault)


def uplink(fault, counts=None):
    return site_link(lambda hit: hit.site.links, fault, counts)


async def nats_freeze(hit):
    hit.begins(hit.all)
    await frozen(hit, hit.node.process)


def blocks(hurt):
    """Hurts half of the files in the cache, while they are served."""
    async def strike(hit):
        hit.begins(hit.same_site)
        chance = random.Random(str(hit.order))
        files = sorted(hit.site.edge.cache.glob("*.block"))
        for file in chance.sample(files, len(files) // 2):
            # It may have been evicted.
            with contextlib.suppress(FileNotFoundError):
                hurt(file, chance)
        await hit.flows()
    return strike


async def cache_unwritable(hit):
    await broken_for_a_while(hit, lambda cache: cache.chmod(0o500), lambda cache: cache.chmod(0o700))


async def cache_full(hit):
    await broken_for_a_while(hit, occupy, lambda cache: filler(cache).unlink())


async def broken_for_a_while(hit, break_it, mend):
    cache = hit.site.edge.cache
    hit.begins(hit.same_site)
    try:
        break_it(cache)
        await asyncio.sleep(hit.order.lasts_s)
    finally:
        mend(cache)
    await hit.flows()


def filler(cache):
    return cache.parent / "filler"


def occupy(cache):
    """Occupies what is free of the disk."""
    with open(filler(cache), "wb") as file:
        disk = os.statvfs(cache)
        if disk.f_bavail:
            os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize)


async def cache_deleted(hit):
    hit.begins(hit.same_site)
    await asyncio.to_thread(shutil.rmtree, hit.site.edge.cache, ignore_errors=True)
    await hit.flows()


async def object_replaced(hit):
    hit.begins(lambda other: False)
    await hit.rig.put(hit.order.key, hit.consumer.size, str(hit.order))
    await hit.flows()


KINDS = {
    "edge relay killed during a fill": Kind(of_edge(relay_kill)),
    "edge relay killed during hits": Kind(of_edge(relay_kill), objects="kept"),
    "edge relay frozen during a fill": Kind(of_edge(relay_freeze), (5, 9)),
    "edge relay frozen during hits": Kind(of_edge(relay_freeze), (5, 9), objects="kept"),
    "edge relay drained during a fill": Kind(of_edge(relay_drain)),
    "edge relay drained during hits": Kind(of_edge(relay_drain), objects="kept"),
    "edge relay restarted during a fill": Kind(of_edge(edge_restart)),
    "edge relay restarted during hits": Kind(of_edge(edge_restart), objects="kept"),
    "hub's relay killed": Kind(of_hub(relay_kill), at="anywhere"),
    "hub's relay frozen": Kind(of_hub(relay_freeze), (5, 9), at="anywhere"),
    "hub's relay drained": Kind(of_hub(relay_drain), at="anywhere"),
    "hub's nats-server restarted": Kind(of_hub(nats_restart), at="anywhere", objects="either"),
    "hub's nats-server frozen": Kind(of_hub(nats_freeze), (3, 9), at="anywhere", objects="either"),
    "leaf link cut": Kind(leaf_link(cut), without_edge=True),
    "leaf link blackholed": Kind(leaf_link(blackhole), (4, 9), without_edge=True),
    "leaf link throttled": Kind(leaf_link(throttle), (2, 4), without_edge=True),
    "leaf link delayed": Kind(leaf_link(delay), (2, 4), without_edge=True),
    "edge relay's link cut": Kind(edge_link(cut)),
    "edge relay's link blackholed": Kind(edge_link(blackhole), (4, 9)),
    "both links cut": Kind(uplink(cut)),
    "both links down": Kind(uplink(down), (2, 6)),
    "both links down during hits": Kind(uplink(down, counts=False), (2, 6), objects="kept"),
    "both links blackholed": Kind(uplink(blackhole), (4, 9)),
    "both links blackholed during hits": Kind(uplink(blackhole, counts=False), (4, 9), objects="kept"),
    "both links throttled": Kind(uplink(throttle), (2, 4)),
    "both links delayed": Kind(uplink(delay), (2, 4)),
    "site's nats-server restarted": Kind(nats_restart, objects="either"),
    "site's nats-server frozen": Kind(nats_freeze, (3, 9), objects="either"),
    "S3 server killed, restarted": Kind(s3_kill, (0, 12), at="anywhere", rare=2),
    "S3 link cut": Kind(s3_link(cut), at="anywhere"),
    "S3 answers 503 SlowDown": Kind(s3_http(lambda: Refuse("503 Slow Down", "SlowDown")), (1, 6), at="anywhere"),
    "S3 bodies short": Kind(s3_http(lambda: Shorten(300_000, honest=False)), (1, 4), at="anywhere"),
    "cache blocks damaged": Kind(blocks(resume.flip), objects="kept"),
    "cache blocks truncated": Kind(blocks(resume.cut), objects="kept"),
    "cache blocks deleted": Kind(blocks(resume.gone), objects="kept"),
    "cache folder unwritable": Kind(cache_unwritable, (2, 4)),
    "cache folder deleted": Kind(cache_deleted, objects="kept"),
    "cache disk full": Kind(cache_full, (2, 4)),
    "object replaced": Kind(object_replaced),
    "consumer killed": Kind(consumer_kill, at="anywhere", objects="either"),
    "consumer killed and not restarted": Kind(consumer_gone, at="anywhere", objects="either"),
    "consumer interrupted": Kind(consumer_interrupt, at="anywhere", objects="either"),
    "consumer's link throttled": Kind(consumer_link(throttle), (2, 4), at="anywhere", objects="either"),
}


def plan(random, count, kinds=None):
    """Returns this many faults, each kind about equally often, in an order that depends on the seed."""
    names = shuffled(random, count, kinds or list(KINDS), {name: kind.rare for name, kind in KINDS.items()})
    turns = itertools.cycle(NEW)
    return [order(random, name, KINDS[name], turns) for name in names]


def order(random, name, kind, turns):
    consumer = random.choice([number for number, place in enumerate(PLACES) if place != "hub" or kind.at == "anywhere"])
    place = PLACES[consumer]
    objects = random.choice(["new", "kept"]) if kind.objects == "either" else kind.objects
    key = KEPT if objects == "kept" else next(turns)

    others = []
    for other in random.sample([number for number in range(len(PLACES)) if number != consumer], random.choice(OTHERS)):
        joins = PLACES[other] == place and random.random() < 0.5
        others.append((other, key if joins else random.choice(list(SIZES))))
    share, lasts_s = round(random.uniform(0.02, 0.45), 3), round(random.uniform(*kind.lasts_s), 1)
    return SiteOrder(name, consumer, share, lasts_s, "consumer", key, tuple(others))
