"""The faults: what each breaks, for how long, and how it is repaired."""

import asyncio
import dataclasses
import signal
import time

from demo import Problem
from http_faults import Refuse, Shorten
from rig import ended, until

# Much longer than recovery from any fault takes: a download that is silent for this long hangs.
FLOWS_WITHIN_S = 150
# Bytes in flight still arrive for a moment after a fault; only bytes that arrive later count as recovery.
SETTLED_AFTER_S = 1.0
SILENT_S = 0.5
# SEMANTICS.md: a dead consumer's transfer ends within this time. The check itself takes a moment more.
FREED_WITHIN_S = 15
LOOKS_WITHIN_S = 1
SLOW_BYTES_PER_S = 512 << 10


@dataclasses.dataclass
class Order:
    """One planned fault: its kind, the consumer whose download it affects, its position and its duration."""

    kind: str
    consumer: int
    share: float
    lasts_s: float
    node_of: str


class Hit:
    """A fault in one consumer's download, and in other downloads that depend on the same component."""

    def __init__(self, rig, consumers, order):
        self.rig, self.consumers, self.order = rig, consumers, order
        self.consumer = consumers[order.consumer]
        self.relay = rig.relay_of(self.consumer.meter.instance)
        self.node = self._node()
        self.watched = []
        self.at = None

    def _node(self):
        """The nats-server to which the download's consumer or its relay is connected."""
        proxies = self.consumer.proxies if self.order.node_of == "consumer" or not self.relay else self.relay.nats_proxies
        connected = [number for number, proxy in enumerate(proxies) if proxy.connections]
        return self.rig.nodes[connected[0] if connected else 0]

    def begins(self, others=lambda other: False):
        """Watches the download and all others that are affected."""
        self.at = time.monotonic()
        for other in self.consumers:
            if other is self.consumer or (other.can_be_hit(0) and others(other)):
                other.meter.watch()
                self.watched.append((other, other.meter, other.meter.twice))
                other.note(f"{self.order.kind}, at {other.meter.high}")

    def mended(self, counts):
        """Marks the moment from which bytes can flow. With `counts`, they could not flow before, and the waiting
        time is measured from here."""
        self.at = time.monotonic()
        if counts:
            for consumer, meter, _ in self.watched:
                meter.watch()
                consumer.note(f"mended, at {meter.high}")

    async def flows(self):
        """Waits until every affected download continues or has ended."""
        def settled(consumer, meter):
            if consumer.meter is not meter or meter.high >= consumer.size:
                return True
            now = time.monotonic()
            return now - self.at > SETTLED_AFTER_S and meter.last_new_at and now - meter.last_new_at < SILENT_S

        try:
            await until("bytes flow again", lambda: all(settled(*hit[:2]) for hit in self.watched), FLOWS_WITHIN_S)
        except Problem:
            silent = [f"{consumer.name} at {meter.high} of {consumer.size}, silent for {meter.silent_s():.0f} s"
                      for consumer, meter, _ in self.watched if not settled(consumer, meter)]
            raise Problem(f"no bytes {FLOWS_WITHIN_S} s after {self.order.kind}: {'; '.join(silent)}") from None

    def samples(self):
        """(time until bytes flowed again, bytes fetched twice) for each download that has received bytes since."""
        return [(meter.longest_gap_s, meter.twice - twice) for _, meter, twice in self.watched
                if meter.last_new_at and meter.last_new_at > meter.since]

    async def freed(self):
        """Waits until the relay has ended the transfer of a dead consumer."""
        process = self.relay.process

        async def is_free():
            others = sum(self.same_relay(other) and other.running for other in self.consumers if other is not self.consumer)
            return process.poll() is not None or await self.relay.active() <= others

        await until("a dead consumer's transfer is freed", is_free, FREED_WITHIN_S + LOOKS_WITHIN_S)

    def same_relay(self, other):
        return self.relay is not None and other.meter.instance == self.relay.instance


async def relay_kill(hit):
    hit.begins(hit.same_relay)
    hit.relay.process.kill()
    await ended(hit.relay.process)
    await hit.flows()
    await hit.relay.start()


async def relay_freeze(hit):
    """Longer than any tolerated silence. What the relay sends after it resumes belongs to dead transfers."""
    hit.begins(hit.same_relay)
    hit.relay.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(hit.order.lasts_s)
    finally:
        hit.relay.signal(signal.SIGCONT)
    await hit.flows()


async def relay_drain(hit):
    hit.begins(hit.same_relay)
    code = await hit.relay.stop()
    if code != 0:
        raise Problem(f"a relay that was asked to stop exited with {code}")
    await hit.flows()
    await hit.relay.start()


async def consumer_kill(hit):
    hit.begins()
    hit.consumer.strike(signal.SIGKILL, -9)
    await ended(hit.consumer.process)
    await hit.flows()


async def consumer_interrupt(hit):
    hit.begins()
    hit.consumer.strike(signal.SIGINT, 130)
    await ended(hit.consumer.process)
    await hit.flows()


async def consumer_gone(hit):
    """Kills the consumer and restarts it only later: the relay must end its transfer."""
    hit.begins()
    hit.consumer.may_run.clear()
    try:
        hit.consumer.strike(signal.SIGKILL, -9)
        await ended(hit.consumer.process)
        await hit.freed()
    finally:
        hit.mended(counts=True)
        hit.consumer.may_run.set()
    await hit.flows()


async def consumer_freeze(hit):
    hit.begins()
    process = hit.consumer.process
    process.send_signal(signal.SIGSTOP)
    try:
        thaws = asyncio.create_task(asyncio.sleep(hit.order.lasts_s))
        await hit.freed()
        await thaws
    finally:
        hit.mended(counts=True)
        process.send_signal(signal.SIGCONT)
    await hit.flows()


async def nats_freeze(hit):
    hit.begins(lambda other: True)
    await frozen(hit, hit.node.process)


async def s3_freeze(hit):
    hit.begins(lambda other: True)
    await frozen(hit, hit.rig.s3_process)


async def frozen(hit, process):
    """Freezes a server that all downloads need for a while."""
    process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(hit.order.lasts_s)
    finally:
        process.send_signal(signal.SIGCONT)
        hit.mended(counts=True)
    await hit.flows()


async def nats_restart(hit):
    hit.begins(lambda other: True)
    await hit.node.kill()
    await hit.node.start()
    hit.mended(counts=True)
    await hit.flows()


async def nats_gone(hit):
    hit.begins(lambda other: True)
    await hit.node.kill()
    try:
        await asyncio.sleep(hit.order.lasts_s)
    finally:
        await hit.node.start()
    hit.mended(counts=True)
    await hit.flows()


async def node_kill(hit):
    hit.begins(lambda other: True)
    await hit.node.kill()
    await hit.flows()
    await hit.node.start()


async def node_lame_duck(hit):
    hit.begins(lambda other: True)
    await hit.node.lame_duck()
    await asyncio.sleep(hit.order.lasts_s)
    await hit.flows()
    await hit.node.kill()
    await hit.flows()
    await hit.node.start()


async def s3_kill(hit):
    hit.begins(lambda other: True)
    hit.rig.s3_process.kill()
    await ended(hit.rig.s3_process)
    await asyncio.sleep(1 + hit.order.lasts_s / 4)
    await hit.rig.start_s3()
    hit.mended(counts=True)
    await hit.flows()


def s3_http(make):
    """S3 responds incorrectly for a while, also to requests in flight, which the relay then repeats."""
    async def strike(hit):
        hit.begins(lambda other: True)
        broken = hit.rig.s3_proxies()
        try:
            for proxy in broken:
                proxy.http_fault = make()
                proxy.cut()
            await asyncio.sleep(hit.order.lasts_s)
        finally:
            for proxy in broken:
                proxy.http_fault = None
            hit.mended(counts=True)
        await hit.flows()
    return strike


def link(proxies, who, fault, counts=False):
    """A fault of a link: `fault` breaks the link or repairs it."""
    async def strike(hit):
        hit.begins(who(hit))
        broken = proxies(hit)
        try:
            for proxy in broken:
                fault(proxy, True)
            await asyncio.sleep(0 if fault is cut else hit.order.lasts_s)
        finally:
            for proxy in broken:
                fault(proxy, False)
            hit.mended(counts)
        await hit.flows()
    return strike


def cut(proxy, broken):
    if broken:
        proxy.cut()


def blackhole(proxy, broken):
    proxy.hold(broken)


def throttle(proxy, broken):
    proxy.slow_bytes_per_s = SLOW_BYTES_PER_S if broken else None


def delay(proxy, broken):
    proxy.delay_s = 0.25 if broken else 0.0


def down(proxy, broken):
    proxy.refuse(broken)


def relay_link(fault):
    return link(lambda hit: hit.relay.nats_proxies, lambda hit: hit.same_relay, fault)


def consumer_link(fault):
    # There is no other route. The time without one is not counted, unless the link is only slow.
    return link(lambda hit: hit.consumer.proxies, lambda hit: lambda other: False, fault, fault in (blackhole, down))


def s3_link(fault):
    return link(lambda hit: hit.rig.s3_proxies(), lambda hit: lambda other: True, fault,
                fault in (blackhole, down))


# name: (function, minimum and maximum duration in seconds, number of nats-servers: one, three or either)
KINDS = {
    "relay killed": (relay_kill, 0, 0, None),
    "relay frozen, resumed": (relay_freeze, 5, 9, None),
    "relay drained": (relay_drain, 0, 0, None),
    "relay's NATS link cut": (relay_link(cut), 0, 0, None),
    "relay's NATS link blackholed": (relay_link(blackhole), 5, 9, None),
    "relay's NATS link throttled": (relay_link(throttle), 2, 4, None),
    "relay's NATS link delayed": (relay_link(delay), 2, 4, None),
    "consumer killed": (consumer_kill, 0, 0, None),
    "consumer killed and not restarted": (consumer_gone, 0, 0, None),
    "consumer interrupted": (consumer_interrupt, 0, 0, None),
    "consumer frozen, resumed": (consumer_freeze, 20, 20, None),
    "consumer's NATS link cut": (consumer_link(cut), 0, 0, None),
    "consumer's NATS link down": (consumer_link(down), 2, 4, None),
    "consumer's NATS link blackholed": (consumer_link(blackhole), 4, 9, None),
    "consumer's NATS link throttled": (consumer_link(throttle), 2, 4, None),
    "consumer's NATS link delayed": (consumer_link(delay), 2, 4, None),
    "nats-server frozen, resumed": (nats_freeze, 3, 9, None),
    "nats-server restarted": (nats_restart, 0, 0, 1),
    "nats-server stopped for a while": (nats_gone, 30, 30, 1),
    "nats-server of a cluster killed": (node_kill, 0, 0, 3),
    "nats-server in lame duck mode": (node_lame_duck, 3, 5, 3),
    "S3 link cut": (s3_link(cut), 0, 0, None),
    "S3 link blackholed": (s3_link(blackhole), 3, 18, None),
    "S3 link throttled": (s3_link(throttle), 2, 4, None),
    "S3 link delayed": (s3_link(delay), 2, 4, None),
    "S3 server frozen, resumed": (s3_freeze, 2, 17, None),
    "S3 server killed, restarted": (s3_kill, 0, 12, None),
    "S3 answers 503 SlowDown": (s3_http(lambda: Refuse("503 Slow Down", "SlowDown")), 1, 6, None),
    "S3 answers 500": (s3_http(lambda: Refuse("500 Internal Server Error", "InternalError")), 1, 6, None),
    "S3 bodies cut": (s3_http(lambda: Shorten(300_000, honest=True)), 1, 4, None),
    "S3 bodies short": (s3_http(lambda: Shorten(300_000, honest=False)), 1, 4, None),
}
# Slow faults occur once for this many others.
RARE = {"nats-server stopped for a while": 4, "consumer frozen, resumed": 2, "S3 server killed, restarted": 2,
        "S3 server frozen, resumed": 2}


def plan(random, count, nodes, consumers, kinds=None):
    """Returns this many faults, each kind equally often, in an order that depends on the seed."""
    able = [name for name in kinds or KINDS if KINDS[name][3] in (None, nodes)]
    if not able:
        raise Problem(f"none of these faults applies to a setup with {nodes} nats-server(s): add others")
    return [Order(name, random.randrange(consumers), round(random.uniform(0.02, 0.6), 3),
                  round(random.uniform(*KINDS[name][1:3]), 1), random.choice(["consumer", "relay"]))
            for name in shuffled(random, count, able, RARE)]


def shuffled(random, count, kinds, rare):
    """Returns this many kinds, each equally often except for rare ones."""
    names, round_number = [], 0
    while len(names) < count:
        deck = [name for name in kinds if round_number % rare.get(name, 1) == 0]
        random.shuffle(deck)
        names += deck
        round_number += 1
    return names[:count]
