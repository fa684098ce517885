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
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hub_topologies import copy, edge, hub, trusting_hub
from nats_rig import KEY, OBJECT, RETURN_S, WITHIN_S, Problem, Topology, at, call, cut, demo, free_port, place, print_table, \
    refuse, relay_killed, routed, servers, until
from proxy import Proxy

THREADS = 32


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
    await until("the routes are up", lambda: routed(nodes, 2), WITHIN_S)
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
    await until("the gateways are up", lambda: gated(nodes), WITHIN_S)
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


TOPOLOGIES = {"server": one_server, "accounts": accounts, "cluster": cluster, "hub": hub, "copy": copy,
              "edge": edge, "trust": trusting_hub, "regions": regions}


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
    # By default there are few threads on a machine with two cores, and all topologies wait for processes in them.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
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
