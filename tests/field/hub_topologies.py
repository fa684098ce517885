"""The topologies of topologies.py with a hub and sites: deploy/nats/hub."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import time

from nats_rig import KEY, OBJECT, RETURN_S, SIZE, STORE, WITHIN_S, Problem, answers, at, cut, demo, free_port, gcs, place, \
    refuse, relay_killed, routed, until
from proxy import Proxy
from wire import Connection

# What the second download through an edge relay may cost its uplink, and how often the first may carry the object: as in
# edge.py, which measures this with 50 consumers.
REQUESTS_MAX_BYTES, ONCE_MAX = 4096, 1.02
MEASURED_MAX = 3
UPLINK = "uplink of the edge relay"
# How long to wait for the answers of all relays before they are asked again.
ANSWERS_S = 3
# How long a frozen relay may hold up a download. nats-server's pings take 2 to 3 s, with 10 s in place of 1 s they take 30.
FROZEN_S = 8


async def hub(topology):
    """A hub of two servers with two relays, and two sites without."""
    hubs, links = await start_hub(topology)
    site1, site2 = await site(topology, "site1", links), await site(topology, "site2", links)
    device1 = at_site(site1)

    topology.row("consumer at the hub", "served", await topology.get(at(hubs[0])))
    for server in (site1, site2):
        got = await topology.get(at_site(server), links=[f"leaf link of {server.name}"])
        topology.row(f"consumer at {server.name}", f"served by {got.relay}", got)
    # A program at the site that reaches the hub directly needs no user of its own.
    direct = at(hubs[0], "site1", "_INBOX.site1.direct")
    topology.row("site1's user as a client of the hub", "served", await topology.get(direct, links=[]))
    await relay_killed(topology, device1)

    # The leaf link moves to the other server of the hub, and the relay of the killed one reconnects there.
    [leaf] = (await site1.page("leafz"))["leafs"]
    serving = next(server for server in hubs if server.name == leaf["name"])
    got = await topology.get_during(device1, lambda _: serving.kill())
    topology.row(f"{serving.name} killed during a download at site1", f"continued, {got.relay}", got)
    await serving.start()
    await until("the routes are up", lambda: routed(hubs, 1), RETURN_S)

    got = await topology.get_during(device1, lambda _: cut(links))
    topology.row("leaf link cut for 2 s during a download", f"continued, {got.relay}", got)
    await until("site1 is linked", lambda: leaf_count(site1), RETURN_S)
    refuse(links, True)
    topology.row("download begins while the leaf link is down", await topology.refused(
        device1, 5, ["no relay is listening"], "get", OBJECT, "-o", "-"))
    refuse(links, False)
    await until("site1 is linked", lambda: leaf_count(site1), RETURN_S)

    topology.row("device1 at site1 requests another store", await topology.refused(
        device1, 8, ["denies", "gantry.v1.get.models"], "get", f"models/{KEY}", "-o", "-"))
    # Nothing is delivered to another inbox prefix, so it is important that this fails at once.
    foreign = place(f"nats://{site1.address}", "device1", "_INBOX.device1")
    topology.row("device1 at site1 with the inbox prefix of the hub", await topology.refused(
        foreign, 8, ["_INBOX.device1"], "get", OBJECT, "-o", "-"))


async def copy(topology):
    """The same with a relay at site1, over a copy of the folder. site2 is misconfigured: see `rogue_site`."""
    hubs, links = await start_hub(topology)
    site1 = await site(topology, "site1", links)
    files = topology.folder / "copy"
    shutil.copytree(topology.files, files)
    inboxes = {"GANTRY_RELAY__DELIVERY_ALLOW": "_INBOX.site1.,_INBOX.gantry-peers."}
    relay = await topology.relay("relay at site1", relay_url(site1), stores={STORE: f"file://{files}"}, env=inboxes)
    device1 = at_site(site1)
    await is_heard(relay, device1)

    got = await topology.get(device1, links=[])
    topology.check(got.relay == relay.name, f"a consumer at site1 is served by {got.relay}")
    topology.row("consumer at site1", f"served by {got.relay}", got)
    got = await topology.get(at(hubs[0]), links=[])
    topology.check(got.relay != relay.name, "a consumer at the hub is served by a relay at site1")
    topology.row("consumer at the hub", f"served by {got.relay}", got)

    got = await topology.get_during(device1, lambda sending: sending.kill(), [relay])
    topology.row("relay at site1 killed during a download", f"continued, {got.relay}", got)
    got = await topology.get(device1, links=["leaf link of site1"])
    topology.row("next download at site1", f"served by {got.relay}", got)
    await relay.start()
    await is_heard(relay, device1)

    refuse(links, True)
    got = await topology.get(device1)
    topology.check(got.relay == relay.name, f"without a link, a consumer at site1 is served by {got.relay}")
    topology.row("leaf link of site1 is down", f"served by {got.relay}", got)
    refuse(links, False)
    await until("the hub is heard at site1", lambda: hears(device1, 3), RETURN_S)

    await frozen(topology, device1, relay)
    await rogue_site(topology, hubs, site1, links)


async def edge(topology):
    """An edge relay at site1, with edge.toml, and relays at the hub that read Google Cloud, which stores checksums."""
    cloud = await Cloud(topology).start()
    hubs, links = await start_hub(topology, stores={STORE: f"gs://{cloud.bucket}"}, env=cloud.env)
    site1 = await site(topology, "site1", links)
    uplinks = [await Proxy(server.port).start() for server in hubs]
    topology.proxies += uplinks
    topology.uplinks[UPLINK] = uplinks
    relay = await edge_relay(topology, site1, uplinks)
    device1 = at_site(site1)
    await is_heard(relay, device1)

    await crosses_once(topology, cloud, relay, device1)
    await requests_only(topology, device1, relay, "second download at site1")
    got = await topology.get(at(hubs[0]), links=[])
    topology.check(got.relay != relay.name, "a consumer at the hub is served by an edge relay")
    topology.row("consumer at the hub", f"served by {got.relay}", got)
    await edge_killed(topology, cloud, relay, device1)
    await frozen(topology, device1, relay)
    await uplink_cut(topology, cloud, relay, device1, links + uplinks)
    topology.check_violations("edge1")
    await edge_permissions(topology, hubs[0])

    await topology.kill_relays("relay at hub-1", "relay at hub-2")
    topology.row("no relay at the hub, consumer at the hub", await topology.refused(
        at(hubs[0]), 5, ["no relay is listening"], "get", OBJECT, "-o", "-"))
    got = await topology.get(device1)
    topology.check(got.relay == relay.name and got.stale_s is not None, f"{got.relay} served, stale for {got.stale_s} s")
    topology.row("the same, consumer at site1", f"served by {got.relay}, stale", got)


class Cloud:
    """fake-gcs-server with a bucket that has the object."""

    bucket = "firmware"

    def __init__(self, topology):
        self.topology, self.port, self.versions = topology, free_port(), 1
        self.env = {"STORAGE_EMULATOR_HOST": f"127.0.0.1:{self.port}"}

    async def start(self):
        folder = self.topology.folder / "cloud"
        folder.mkdir()
        self.topology.spawn("cloud", gcs.command(folder, self.port), demo.clean_env())
        await until("fake-gcs-server answers", lambda: answers(self.port), RETURN_S)
        await asyncio.to_thread(gcs.create_bucket, self.port, self.bucket)
        await self.put(KEY, self.topology.original)
        return self

    async def put(self, key, body):
        await asyncio.to_thread(gcs.put, self.port, self.bucket, key, body, len(body))

    async def replace(self):
        """Replaces the object."""
        self.topology.original = os.urandom(SIZE)
        self.versions += 1
        await self.put(KEY, self.topology.original)


async def edge_relay(topology, site, uplinks):
    urls = ",".join(f"nats://127.0.0.1:{uplink.port}" for uplink in uplinks)
    store = {"NATS__URL": urls, "NATS__PASSWORD": "edge1_password", "CACHE_DIR": str(topology.folder / "cache")}
    env = {f"GANTRY_STORES__FIRMWARE__{key}": value for key, value in store.items()}
    return await topology.relay(f"edge relay at {site.name}", relay_url(site), config="hub/edge.toml", env=env)


async def crosses_once(topology, cloud, relay, device1):
    """The first download. If this machine is so slow that it was requested twice, another version is downloaded."""
    at_hub = [other for other in topology.relays if other is not relay]
    for _ in range(MEASURED_MAX):
        before = [await other.requests() for other in at_hub]
        got = await topology.get(device1, links=[UPLINK])
        topology.check(got.relay == relay.name, f"a consumer at site1 is served by {got.relay}")
        await until("the object is on disk", lambda: on_disk(topology, cloud), RETURN_S)
        requests = sum([await other.requests() for other in at_hub]) - sum(before)
        if requests <= 1 or got.carried[UPLINK] <= ONCE_MAX * SIZE:
            break
        await cloud.replace()

    topology.check(got.carried[UPLINK] <= ONCE_MAX * SIZE,
                   f"the uplink carried {got.carried[UPLINK]} B, after {requests} requests")
    topology.row("first download at site1", f"served by {got.relay}; its uplink carried {got.carried[UPLINK]} B", got)


async def requests_only(topology, device1, relay, event):
    """A download of which no link carries more than the request for the current version."""
    got = await topology.get(device1, links=[])
    topology.check(got.relay == relay.name and got.stale_s is None, f"{got.relay} served, stale for {got.stale_s} s")
    topology.check(got.carried[UPLINK] <= REQUESTS_MAX_BYTES, f"the uplink carried {got.carried[UPLINK]} B")
    topology.row(event, f"served by {got.relay}; its uplink carried {got.carried[UPLINK]} B", got)


async def edge_killed(topology, cloud, relay, device1):
    """An edge relay is killed while it reads an object that was replaced. What it has on disk is not read again."""
    await cloud.replace()
    got = await topology.get_during(device1, lambda sending: sending.kill(), [relay])
    topology.check(got.relay != relay.name, "a killed relay served a download to its end")
    topology.row(f"{relay.name} killed during a download", f"continued, {got.relay}", got)
    got = await topology.get(device1, links=["leaf link of site1"])
    topology.row("next download at site1", f"served by {got.relay}", got)

    await relay.start()
    await is_heard(relay, device1)

    async def are_on_disk():
        # A relay does not wait for a busy disk. What it left out is read again.
        await topology.get(device1)
        return await on_disk(topology, cloud)

    await until("all versions are on disk", are_on_disk, RETURN_S)
    # Nothing is in memory any more.
    await relay.kill()
    await relay.start()
    await is_heard(relay, device1)
    await requests_only(topology, device1, relay, f"{relay.name} started again")


async def on_disk(topology, cloud):
    """Whether all versions of the object are on disk as a whole."""
    command = [topology.gantry, "cache", "ls", "--dir", topology.folder / "cache", "--json"]
    done = await asyncio.to_thread(subprocess.run, command, env=demo.clean_env(), capture_output=True, text=True,
                                   stdin=subprocess.DEVNULL, timeout=RETURN_S)
    topology.check(done.returncode == 0, f"gantry cache ls: {done.stderr}")
    return sum(json.loads(line)["is_complete"] for line in done.stdout.splitlines()) == cloud.versions


async def uplink_cut(topology, cloud, relay, device1, links):
    """The only way from a site to the hub is cut, and comes back after the object was replaced."""
    refuse(links, True)
    got = await topology.get(device1)
    topology.check(got.relay == relay.name and got.stale_s is not None, f"{got.relay} served, stale for {got.stale_s} s")
    topology.row("site1 is cut off", f"served by {got.relay}, stale", got)
    topology.row("next download", "served", await topology.get(device1))
    await cloud.put("other.bin", b"other")
    topology.row("site1 is cut off, an object that is not in the cache", await topology.refused(
        device1, 5, ["no connection to"], "get", f"{STORE}/other.bin", "-o", "-"))
    await cloud.replace()
    refuse(links, False)

    async def asks():
        code, out, _, _, _ = await topology.run(device1, "stat", OBJECT, "--json")
        return code == 0 and "stale_s" not in json.loads(out)

    await until(f"{relay.name} asks the hub", asks, RETURN_S)
    got = await topology.get(device1, links=[UPLINK])
    topology.check(got.stale_s is None, f"stale for {got.stale_s} s")
    topology.row("uplink is back, the object was replaced", f"served by {got.relay}", got)


async def edge_permissions(topology, hub):
    """What the user of an edge relay may not do at the hub."""
    edge1 = at(hub, "edge1", "_INBOX.edge1")
    topology.row("edge1 requests another store", await topology.refused(
        edge1, 8, ["denies", "gantry.v1.get.models"], "get", f"models/{KEY}", "-o", "-"))
    for subject in ("gantry.v1.get.firmware gantry", "gantry.v1.ctl.*.*", "_INBOX.>"):
        connection = Connection(f"nats://{hub.address}", "edge1", "edge1_password")
        connection.subscribe(subject)
        try:
            connection.waiting()
            raise Problem(f"{topology.name}: edge1 may subscribe to {subject}")
        except OSError as error:
            topology.check("Permissions Violation for Subscription" in str(error), f"{subject}: {error}")
        finally:
            connection.close()
    topology.row("edge1 serves, or listens to others", "denied")


async def frozen(topology, device1, relay):
    """A frozen relay at a site: the download that it serves, and one that begins afterwards."""
    async def freeze(sending):
        sending.signal(signal.SIGSTOP)

    got = await topology.get_during(device1, freeze, [relay])
    topology.check(got.relay != relay.name, "a frozen relay served a download to its end")
    topology.check(got.gap_s < FROZEN_S, f"a frozen relay held up a download for {got.gap_s:.1f} s")
    topology.row(f"{relay.name} frozen during a download", f"continued, {got.relay}", got)
    await thaw(device1, relay)

    relay.signal(signal.SIGSTOP)
    got = await topology.get(device1)
    topology.check(got.gap_s < FROZEN_S, f"a frozen relay held up a new download for {got.gap_s:.1f} s")
    topology.row(f"download begins right after {relay.name} froze", f"served by {got.relay}", got)
    got = await topology.get(device1)
    topology.row("next download", f"served by {got.relay}", got)
    await thaw(device1, relay)
    got = await topology.get(device1, links=[])
    topology.row(f"{relay.name} continues", f"served by {got.relay}", got)


async def thaw(device1, relay):
    relay.signal(signal.SIGCONT)
    await until(f"{relay.name} is back", lambda: hears(device1, 3), RETURN_S)
    await until(f"{relay.name} is ready", relay.is_ready, RETURN_S)


async def rogue_site(topology, hubs, site1, links):
    """A site that does not deny imports, whose users may do anything, and with a relay. The hub's permissions remain."""
    def misconfigured(text):
        return permit_all(re.sub(r"\n *deny_imports:.*", "", text), "relay", "device1")

    rogue = await site(topology, "site2", links, misconfigured)
    await topology.relay("relay at site2", f"nats://{rogue.address}", stores={STORE: f"file://{topology.files}"})
    spy = Connection(f"nats://{rogue.address}", "device1", "device1_password")
    for subject in ("_INBOX.>", "gantry.>", "$SRV.>"):
        spy.subscribe(subject)
    spy.waiting()
    for consumer in (at(hubs[1]), at_site(site1)):
        await topology.get(consumer)
    heard = spy.waiting()
    spy.close()
    topology.check(not any(b"site1" in line or b"device1" in line for line in heard), f"a site overhears: {heard[:3]}")
    topology.row("site2 without deny_imports, all permissions", "overhears nobody")
    topology.row("site2 requests a store that its link may not", await topology.refused(
        place(f"nats://{rogue.address}", "device1", "_INBOX.site2"), 4, ["models"], "get", f"models/{KEY}", "-o", "-"))

    await topology.kill_relays("relay at hub-1", "relay at hub-2", "relay at site1")
    for name, consumer in (("the hub", at(hubs[0])), ("site1", at_site(site1))):
        topology.row(f"the same with the only relay, consumer at {name}", await topology.refused(
            consumer, 5, ["no relay is listening"], "get", OBJECT, "-o", "-"))


async def trusting_hub(topology):
    """A hub whose sites may do anything: what `deny_imports` prevents on its own."""
    hubs, links = await start_hub(topology, lambda text: permit_all(text, "site1", "site2"))
    site1, site2 = await site(topology, "site1", links), await site(topology, "site2", links)
    inboxes = {"GANTRY_RELAY__DELIVERY_ALLOW": "_INBOX.site1.,_INBOX.gantry-peers."}
    await topology.relay("relay at site1", f"nats://{site1.address}", env=inboxes)

    got = await topology.get(at_site(site1), links=[])
    topology.row("consumer at site1", f"served by {got.relay}", got)
    # With relays at the hub, nats-server would prefer them anyway.
    await topology.kill_relays("relay at hub-1", "relay at hub-2")
    for name, consumer in (("the hub", at(hubs[0])), ("site2", at_site(site2))):
        topology.row(f"no relay at the hub, consumer at {name}", await topology.refused(
            consumer, 5, ["no relay is listening"], "get", OBJECT, "-o", "-"))


def permit_all(text, *users):
    """Removes users' permissions from a configuration."""
    for user in users:
        text = re.sub(rf"(?ms)^{user}_may \{{.*?^\}}", "", text).replace(f", permissions: ${user}_may", "")
    return text


async def start_hub(topology, edit=None, **relay_options):
    """Starts the servers of the hub, each with a relay. Returns the servers, and the links by which sites reach them."""
    ports, leaf_ports = [free_port() for _ in range(2)], [free_port() for _ in range(2)]
    routes = json.dumps([f"nats-route://cluster:cluster_password@127.0.0.1:{port}" for port in ports])
    links = [await Proxy(port).start() for port in leaf_ports]
    topology.proxies += links
    hubs = [topology.server(f"hub-{number + 1}", "hub/hub.conf", {
        "cluster_address": f"127.0.0.1:{ports[number]}", "leaf_address": f"127.0.0.1:{leaf_ports[number]}",
        "leaf_advertised": f"127.0.0.1:{links[number].port}"}, {"ROUTES": routes}, edit) for number in range(2)]
    await asyncio.gather(*(server.start() for server in hubs))
    await until("the routes are up", lambda: routed(hubs, 1), WITHIN_S)
    for number in (1, 2):
        await topology.relay(f"relay at hub-{number}", f"nats://{hubs[number - 1].address}", **relay_options)
    return hubs, links


async def site(topology, name, links, edit=lambda text: text):
    """Starts the server of a site."""
    urls = json.dumps([f"nats-leaf://{name}:{name}_password@127.0.0.1:{link.port}" for link in links])
    server = topology.server(name, "hub/site.conf", {"relay_address": f"127.0.0.1:{free_port()}"},
                             {"HUB_URLS": urls}, lambda text: edit(text.replace("site1", name)))
    await server.start()
    await until(f"{server.name} is linked", lambda: leaf_count(server), WITHIN_S)
    await until(f"the hub is heard at {server.name}", lambda: hears(at_site(server), 2), WITHIN_S)
    return server


def at_site(server):
    return place(f"nats://{server.address}", "device1", f"_INBOX.{server.name}.device1")


async def leaf_count(server):
    return len((await server.page("leafz")).get("leafs") or [])


async def is_heard(relay, consumer):
    """Waits until a site's server has the subscriptions of its relay, besides two relays at the hub.

    The relay has sent them when it is ready. Over WebSocket they may take 40 ms more: the kernel holds back a short packet
    until the one before it is acknowledged.
    """
    await until(f"{relay.name} is heard", lambda: hears(consumer, 3), RETURN_S)


async def hears(consumer, count):
    """Whether this number of relays answers a consumer."""
    url, user, inbox, _ = consumer

    def ask():
        connection = Connection(url, user, f"{user}_password", inbox)
        connection.ask("$SRV.PING.gantry", {})
        answers, ends = 0, time.monotonic() + ANSWERS_S
        while answers < count and time.monotonic() < ends:
            time.sleep(0.02)
            answers += sum(inbox.encode() in line for line in connection.waiting())
        connection.close()
        return answers >= count

    return await asyncio.to_thread(ask)


def relay_url(site):
    """The address at a site's server that is for relays."""
    addresses = (site.config.parent / "site_addresses.conf").read_text()
    return "ws://" + json.loads(re.search(r"^relay_address: (.*)$", addresses, re.M).group(1))
