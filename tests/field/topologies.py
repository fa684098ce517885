#!/usr/bin/env python3
"""Runs the topologies of docs/TOPOLOGIES.md with the files of deploy/nats, and prints what took over from what.

    topologies.py                       all topologies, at the same time
    topologies.py --only hub            one of them; may be repeated
    topologies.py --gantry target/debug/gantry

Each topology is started from these very files: addresses come from the files `…addresses.conf`, which are replaced by
ones with free ports, and passwords from the environment. A file is downloaded from each place where a consumer may be,
its bytes are compared, and nats-server's own counters show which link carried it. Then each part is stopped in turn
during a download, and what permissions deny is tried.

All processes listen on 127.0.0.1 and stop when this process ends. Exits with 1 if something does not hold.
"""

import argparse
import asyncio
import json
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from nats_rig import KEY, STORE, Problem, Topology, call, cut, demo, free_port, place, print_table, refuse, servers, until
from proxy import Proxy
from wire import Connection

OBJECT = f"{STORE}/{KEY}"
# How long a part that comes back, or a link, may take.
RETURN_S = 30
# How long a frozen relay may hold up a download. nats-server's pings take 2 to 3 s, with 10 s in place of 1 s they take 30.
FROZEN_S = 8


# --- one server, and accounts with imports

async def one_server(topology):
    """One nats-server with two relays: server.conf."""
    await certified(topology, "server.conf")
    [server], ca = topology.servers, {"NATS_CA": str(topology.folder / "ca.crt")}
    url = f"tls://{server.address}"
    for number in (1, 2):
        await topology.relay(f"relay {number}", url, env=ca)
    device1, device2 = (place(url, user, f"_INBOX.{user}", **ca) for user in ("device1", "device2"))

    topology.row("consumer", "served", await topology.get(device1))
    topology.row("device2 requests firmware", await topology.refused(
        device2, 8, ["denies", "gantry.v1.get.firmware"], "get", OBJECT, "-o", "-"))
    monitor = place(url, "monitor", "_INBOX.monitor", **ca)
    topology.row("monitor requests firmware", await topology.refused(
        monitor, 8, ["denies", "gantry.v1.get.firmware"], "get", OBJECT, "-o", "-"))

    await relay_killed(topology, device1)
    await server_killed(topology, device1, server)


async def accounts(topology):
    """Relays in one account, consumers in another that imports from it: import.conf."""
    await certified(topology, "import.conf")
    [server], ca = topology.servers, {"NATS_CA": str(topology.folder / "ca.crt")}
    url = f"tls://{server.address}"
    for number in (1, 2):
        await topology.relay(f"relay {number}", url, env=ca)
    line1, line2 = (place(url, user, f"_INBOX.{user}", **ca) for user in ("line1", "line2"))

    topology.row("consumer in the importing account", "served", await topology.get(line1))
    topology.row("line2 requests firmware", await topology.refused(
        line2, 8, ["denies", "gantry.v1.get.firmware"], "get", OBJECT, "-o", "-"))
    topology.row("line2 requests a store that is not imported", await topology.refused(
        line2, 4, ["models"], "get", f"models/{KEY}", "-o", "-"))

    await relay_killed(topology, line1)
    await server_killed(topology, line1, server)


async def certified(topology, file):
    """Starts a server whose file has TLS, with a certificate for 127.0.0.1."""
    if not shutil.which("openssl"):
        raise Problem(f"{topology.name}: openssl is missing: install it")
    server = topology.server("server", file)
    tls = server.folder / "tls"
    tls.mkdir()
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    call(*new, "-keyout", topology.folder / "ca.key", "-out", topology.folder / "ca.crt", "-subj", "/CN=authority")
    call(*new, "-keyout", tls / "tls.key", "-out", tls / "tls.crt", "-subj", "/CN=server", "-CA", topology.folder / "ca.crt",
         "-CAkey", topology.folder / "ca.key", "-addext", "subjectAltName=IP:127.0.0.1",
         "-addext", "basicConstraints=critical,CA:FALSE")
    await server.start()


# --- a cluster

async def cluster(topology):
    """Three servers with two relays."""
    ports = [free_port() for _ in range(3)]
    routes = json.dumps([f"nats-route://cluster:cluster_password@127.0.0.1:{port}" for port in ports])
    nodes = [topology.server(f"n{number + 1}", "cluster/server.conf", {"cluster_address": f"127.0.0.1:{port}"},
                             {"ROUTES": routes}) for number, port in enumerate(ports)]
    await asyncio.gather(*(node.start() for node in nodes))
    await until("the routes are up", lambda: routed(nodes, 2), RETURN_S)
    for number in (1, 2):
        await topology.relay(f"relay at n{number}", f"nats://{nodes[number - 1].address}")

    for node in nodes[:2]:
        got = await topology.get(at(node))
        topology.row(f"consumer at {node.name}", f"served by {got.relay}", got)
    got = await topology.get(at(nodes[2]), links=["route"])
    topology.check(got.links == {"route"}, "no route carried the object")
    topology.row("consumer at n3", f"served by {got.relay}", got)
    await relay_killed(topology, at(nodes[2]))

    # Each member dies while something is connected to it. Consumers and relays know the others by gossip.
    for node, what in ((nodes[2], "the consumer's"), (nodes[0], "a relay's")):
        got = await topology.get_during(at(nodes[2]), lambda _, node=node: node.kill())
        topology.row(f"{what} server {node.name} killed during a download", f"continued, {got.relay}", got)
        await node.start()
        await until("the routes are up", lambda: routed(nodes, 2), RETURN_S)
    for relay in topology.relays:
        await until(f"{relay.name} is ready", relay.is_ready, RETURN_S)
    topology.row("afterwards", "served", await topology.get(at(nodes[0])))

    topology.row("device1 requests another store", await topology.refused(
        at(nodes[2]), 8, ["denies", "gantry.v1.get.models"], "get", f"models/{KEY}", "-o", "-"))
    foreign = place(f"nats://{nodes[2].address}", "device1", "_INBOX.device2")
    topology.row("device1 with another user's inbox", await topology.refused(
        foreign, 8, ["_INBOX.device2"], "get", OBJECT, "-o", "-"))


def at(server, user="device1", inbox="_INBOX.device1"):
    return place(f"nats://{server.address}", user, inbox)


async def routed(nodes, others):
    """Whether each node has routes to this number of others."""
    for node in nodes:
        routes = (await node.page("routez"))["routes"] or []
        if len({route["remote_name"] for route in routes}) < others:
            return False
    return True


# --- a hub with sites

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


async def edge(topology):
    """The same with a relay at site1, over a copy of the folder. site2 is misconfigured: see `rogue_site`."""
    hubs, links = await start_hub(topology)
    site1 = await site(topology, "site1", links)
    copy = topology.folder / "copy"
    shutil.copytree(topology.files, copy)
    socket = json_value(site1.config.parent / "site_addresses.conf", "relay_address")
    inboxes = {"GANTRY_RELAY__DELIVERY_ALLOW": "_INBOX.site1.,_INBOX.gantry-peers."}
    relay = await topology.relay("relay at site1", f"ws://{socket}", stores={STORE: copy}, env=inboxes)
    device1 = at_site(site1)

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

    refuse(links, True)
    got = await topology.get(device1)
    topology.check(got.relay == relay.name, f"without a link, a consumer at site1 is served by {got.relay}")
    topology.row("leaf link of site1 is down", f"served by {got.relay}", got)
    refuse(links, False)
    await until("the hub is heard at site1", lambda: hears(device1, 3), RETURN_S)

    await frozen(topology, device1, relay)
    await rogue_site(topology, hubs, site1, links)


async def frozen(topology, device1, relay):
    """A frozen relay at a site: the download that it serves, and one that begins afterwards."""
    async def freeze(sending):
        sending.signal(signal.SIGSTOP)

    got = await topology.get_during(device1, freeze, [relay])
    topology.check(got.gap_s < FROZEN_S, f"a frozen relay held up a download for {got.gap_s:.1f} s")
    topology.row("relay at site1 frozen during a download", f"continued, {got.relay}", got)
    relay.signal(signal.SIGCONT)
    await until("the relay at site1 is back", lambda: hears(device1, 3), RETURN_S)
    await until("the relay at site1 is ready", relay.is_ready, RETURN_S)

    relay.signal(signal.SIGSTOP)
    got = await topology.get(device1)
    topology.check(got.gap_s < FROZEN_S, f"a frozen relay held up a new download for {got.gap_s:.1f} s")
    topology.row("download begins right after the relay froze", f"served by {got.relay}", got)
    got = await topology.get(device1)
    topology.row("next download", f"served by {got.relay}", got)
    relay.signal(signal.SIGCONT)
    await until("the relay at site1 is back", lambda: hears(device1, 3), RETURN_S)
    got = await topology.get(device1, links=[])
    topology.row("the relay at site1 continues", f"served by {got.relay}", got)


async def rogue_site(topology, hubs, site1, links):
    """A site that does not deny imports, whose users may do anything, and with a relay. The hub's permissions remain."""
    def misconfigured(text):
        return permit_all(re.sub(r"\n *deny_imports:.*", "", text), "relay", "device1")

    rogue = await site(topology, "site2", links, misconfigured)
    await topology.relay("relay at site2", f"nats://{rogue.address}", stores={STORE: topology.files})
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
    relay = await topology.relay("relay at site1", f"nats://{site1.address}", env=inboxes)

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


async def start_hub(topology, edit=None):
    """Starts the servers of the hub, each with a relay. Returns the servers, and the links by which sites reach them."""
    ports, leaf_ports = [free_port() for _ in range(2)], [free_port() for _ in range(2)]
    routes = json.dumps([f"nats-route://cluster:cluster_password@127.0.0.1:{port}" for port in ports])
    links = [await Proxy(port).start() for port in leaf_ports]
    topology.proxies += links
    hubs = [topology.server(f"hub-{number + 1}", "hub/hub.conf", {
        "cluster_address": f"127.0.0.1:{ports[number]}", "leaf_address": f"127.0.0.1:{leaf_ports[number]}",
        "leaf_advertised": f"127.0.0.1:{links[number].port}"}, {"ROUTES": routes}, edit) for number in range(2)]
    await asyncio.gather(*(server.start() for server in hubs))
    await until("the routes are up", lambda: routed(hubs, 1), RETURN_S)
    for number in (1, 2):
        await topology.relay(f"relay at hub-{number}", f"nats://{hubs[number - 1].address}")
    return hubs, links


async def site(topology, name, links, edit=lambda text: text):
    """Starts the server of a site."""
    urls = json.dumps([f"nats-leaf://{name}:{name}_password@127.0.0.1:{link.port}" for link in links])
    server = topology.server(name, "hub/site.conf", {"relay_address": f"127.0.0.1:{free_port()}"},
                             {"HUB_URLS": urls}, lambda text: edit(text.replace("site1", name)))
    await server.start()
    await until(f"{server.name} is linked", lambda: leaf_count(server), RETURN_S)
    await until(f"the hub is heard at {server.name}", lambda: hears(at_site(server), 2), RETURN_S)
    return server


def at_site(server):
    return place(f"nats://{server.address}", "device1", f"_INBOX.{server.name}.device1")


async def leaf_count(server):
    return len((await server.page("leafz")).get("leafs") or [])


async def hears(consumer, count):
    """Whether this number of relays answers a consumer."""
    url, user, inbox, _ = consumer

    def ask():
        connection = Connection(url, user, f"{user}_password", inbox)
        connection.ask("$SRV.PING.gantry", {})
        time.sleep(0.2)
        answers = [line for line in connection.waiting() if inbox.encode() in line]
        connection.close()
        return len(answers) >= count

    return await asyncio.to_thread(ask)


def json_value(file, key):
    return json.loads(re.search(rf"^{key}: (.*)$", file.read_text(), re.M).group(1))


# --- regions

async def regions(topology):
    """Two regions with a server and a relay each."""
    ports = {name: free_port() for name in ("east", "west")}
    links = {name: await Proxy(port).start() for name, port in ports.items()}
    topology.proxies += links.values()
    gateways = [{"name": name, "urls": [f"nats://127.0.0.1:{link.port}"]} for name, link in links.items()]
    nodes = {name: topology.server(f"{name}-1", "regions/server.conf", {
        "cluster_address": f"127.0.0.1:{free_port()}", "gateway_address": f"127.0.0.1:{ports[name]}",
        "gateway_advertised": f"127.0.0.1:{links[name].port}", "gateways": gateways},
        {"REGION": name, "ROUTES": "[]"}) for name in ports}
    await asyncio.gather(*(node.start() for node in nodes.values()))
    await until("the gateways are up", lambda: gated(nodes), RETURN_S)
    relays = {name: await topology.relay(f"relay in {name}", f"nats://{node.address}") for name, node in nodes.items()}
    consumers = {name: at(node) for name, node in nodes.items()}

    for name in nodes:
        got = await topology.get(consumers[name], links=[])
        topology.check(got.relay == relays[name].name, f"a consumer in {name} is served by {got.relay}")
        topology.row(f"consumer in {name}", f"served by {got.relay}", got)

    got = await topology.get_during(consumers["west"], lambda sending: sending.kill())
    topology.check(got.relay == relays["east"].name, f"it was continued by {got.relay}")
    topology.row("relay in west killed during a download there", f"continued, {got.relay}", got)
    got = await topology.get(consumers["west"], links=["gateway"])
    topology.row("next download in west", f"served by {got.relay}", got)

    got = await topology.get_during(consumers["west"], lambda _: cut(links.values()))
    topology.row("gateway cut for 2 s during a download across it", f"continued, {got.relay}", got)
    await relays["west"].start()
    got = await topology.get(consumers["west"], links=[])
    topology.row("relay in west is back", f"served by {got.relay}", got)

    refuse(links.values(), True)
    for name in nodes:
        got = await topology.get(consumers[name])
        topology.check(got.relay == relays[name].name, f"a consumer in {name} is served by {got.relay}")
    topology.row("gateway is down", "both regions serve themselves", got)
    refuse(links.values(), False)
    await until("the gateways are up", lambda: gated(nodes), RETURN_S)

    got = await topology.get_during(consumers["west"], lambda _: nodes["east"].kill())
    topology.row("east's server killed during a download in west", f"continued, {got.relay}", got)
    topology.row("device1 in west requests another store", await topology.refused(
        consumers["west"], 8, ["denies", "gantry.v1.get.models"], "get", f"models/{KEY}", "-o", "-"))


async def gated(nodes):
    """Whether each region has a gateway to and from the other."""
    pages = [await node.page("gatewayz") for node in nodes.values()]
    return all(page.get("outbound_gateways") and page.get("inbound_gateways") for page in pages)


# --- shared

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


async def server_killed(topology, consumer, server):
    """Kills the only server, and starts it again after a second."""
    async def restart(_):
        await server.kill()
        await asyncio.sleep(1)
        await server.start()

    got = await topology.get_during(consumer, restart)
    topology.row("nats-server killed, started again after 1 s", f"continued, {got.relay}", got)
    for relay in topology.relays:
        await until(f"{relay.name} is ready", relay.is_ready, RETURN_S)


TOPOLOGIES = {"server": one_server, "accounts": accounts, "cluster": cluster, "hub": hub, "edge": edge,
              "trust": trusting_hub, "regions": regions}


async def run(name, folder, gantry, alive_fd):
    """Runs one topology. Returns its rows, and what did not hold."""
    topology = Topology(name, folder / name, gantry, alive_fd)
    began = time.monotonic()
    try:
        await TOPOLOGIES[name](topology)
        topology.check_violations()
        problem = None
    except Problem as error:
        problem = str(error)
    finally:
        await topology.close()
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    return topology.rows, problem


async def run_all(names, folder, gantry, alive_fd):
    return await asyncio.gather(*(run(name, folder, gantry, alive_fd) for name in names))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=TOPOLOGIES, action="append", help="run only this topology; may be repeated")
    parser.add_argument("--gantry", type=lambda path: Path(path).resolve(), help="use this binary, do not build")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs")
    args = parser.parse_args()

    stage = demo.Stage()
    try:
        servers.DEV.mkdir(exist_ok=True)
        gantry = args.gantry or demo.build(stage)
        folder = Path(tempfile.mkdtemp(dir=servers.DEV, prefix="topologies-"))
        stage.folder = None if args.keep else folder
        results = asyncio.run(run_all(args.only or list(TOPOLOGIES), folder, gantry, stage.alive_fd))
    except Problem as problem:
        sys.exit(f"topologies: {problem}")
    finally:
        stage.close()

    print_table([row for rows, _ in results for row in rows])
    problems = [problem for _, problem in results if problem]
    sys.exit("\n".join(f"FAILED: {problem}" for problem in problems) if problems else 0)


if __name__ == "__main__":
    main()
