"""The lines of the table, in groups whose lines alternate."""

from collections import namedtuple

import peers
from measure import (FROZEN, LONG_LINK_MS, ask, frozen, gantry, long_link, nats, object_get, object_put_get, object_store,
                     s3, s3_file, tool, tree)
from rig import BUCKET

# The pause before each download whose first byte is timed.
REST_MS = 10

# `run(rig)` returns a sample with a value in `unit`. `sets` are the objects that it needs.
Line = namedtuple("Line", "name what unit run sets", defaults=(("big",),))
# A group has its own relays. The number of repeats is divided by `rarer`. Relays without a store in Google Cloud can be
# of a version that knows none.
Group = namedtuple("Group", "name lines relays rarer with_gcs", defaults=(1, 1, False))


def groups(large, with_peers):
    found = [bulk(), cloud(), files(with_peers), *(trees(name, with_peers) for name in ("tree-4k", "tree-1m"))]
    for name, downloads in (("4k", {1: 1000, 16: 3000, 64: 5000}), ("256k", {1: 500, 16: 1000, 64: 1000})):
        found += [small(name, count, in_flight) for in_flight, count in downloads.items()]
    return [*found, first_byte(), at_once(), two_relays(), far(), memory(large)]


def bulk():
    return Group("bulk", [
        Line("s3", "S3 GET, to nowhere", "MiB/s", s3()),
        Line("nats", "NATS publish and subscribe", "MiB/s", nats()),
        Line("gantry-s3", "Gantry, S3 store, to nowhere", "MiB/s", gantry()),
        Line("gantry-file", "Gantry, file store, to nowhere", "MiB/s", gantry("files")),
        Line("object-get", "Object Store get, to nowhere", "MiB/s", object_get()),
        Line("object-put-get", "S3 to Object Store put, then get", "MiB/s", object_put_get()),
    ])


def cloud():
    """Returns the lines for a store in Google Cloud, whose bound needs a line of its own with NATS."""
    return Group("cloud", [
        Line("object-store", "object_store GET from fake-gcs-server, to nowhere", "MiB/s", object_store()),
        Line("nats-cloud", "NATS publish and subscribe", "MiB/s", nats()),
        Line("gantry-gcs", "Gantry, store in Google Cloud, to nowhere", "MiB/s", gantry("gcs")),
    ], with_gcs=True)


def files(with_peers):
    lines = [Line("s3-to-file", "S3 GET, to a file", "MiB/s", s3_file()),
             Line("gantry-to-file", "gantry get, S3 store, to a file", "MiB/s", tool(
                 lambda rig, file: [rig.gantry, "get", "s3/big/0", "-o", file, "--quiet"]))]
    if with_peers:
        lines += [Line(name, f"{name}, S3 to a file", "MiB/s", tool(
            lambda rig, file, command=command: command(rig.store["endpoint"], f"s3://{BUCKET}/big/0", file),
            peers.ENV)) for name, command in (("s5cmd", peers.s5cmd), ("aws", peers.aws))]
    return Group("files", lines)


def trees(name, with_peers):
    """Returns the lines for many objects in one folder. Gantry makes them durable, s5cmd does not."""
    what = {"tree-4k": "10,000 objects of 4 KiB", "tree-1m": "1000 objects of 1 MiB"}[name]
    run = tree(lambda rig, folder: [rig.gantry, "get", f"s3/{name}/", "-r", "-o", folder, "--quiet"], name)
    lines = [Line(f"gantry-{name}", f"gantry get -r, {what} to a folder", "per s", run, (name,))]
    if with_peers:
        run = tree(lambda rig, folder: peers.s5cmd(rig.store["endpoint"], f"s3://{BUCKET}/{name}/*", f"{folder}/"), name)
        lines.append(Line(f"s5cmd-{name}", f"s5cmd cp, {what} to a folder", "per s", run, (name,)))
    return Group(name, lines)


def small(name, downloads, in_flight):
    load = {"name": name, "downloads": downloads, "in_flight": in_flight, "warm_up": in_flight, "unit": "per s"}
    what = f"objects of {name[:-1]} KiB, {in_flight} in flight"
    return Group(f"{name}-{in_flight}", [
        Line(f"s3-{name}-{in_flight}", f"S3 GET, {what}", "per s", s3(**load), (name,)),
        Line(f"gantry-{name}-{in_flight}", f"Gantry, {what}", "per s", gantry(**load), (name,))])


def first_byte():
    """Returns lines with a pause, as for a user who downloads a single file, and lines back to back."""
    found = []
    for name, what, pause_ms in (("first-byte", f"after {REST_MS} ms of rest", REST_MS), ("busy", "back to back", 0)):
        load = {"name": "1m", "downloads": 200, "unit": "ms", "warm_up": 10, "pause_ms": pause_ms}
        found += [Line(f"{way}-{name}", f"{who}, 1 MiB object, time to first byte, {what}", "ms", run(**load), ("1m",))
                  for way, who, run in (("s3", "S3 GET", s3), ("nats", "NATS request", ask), ("gantry", "Gantry", gantry))]
    return Group("first-byte", found)


def at_once():
    """Each transfer has its own connection, as a device would."""
    def load(count):
        return {"name": "8m", "downloads": max(256, count), "in_flight": count}

    lines = [Line("at-once-1", "Gantry, 1 transfer", "MiB/s", gantry())]
    lines += [Line(f"at-once-{count}", f"Gantry, {count} transfers at once", "MiB/s",
                   gantry(**load(count), connections=count), ("8m",)) for count in (10, 100, 1000)]
    # Shows which of the two sides becomes slower with a thousand transfers.
    lines += [Line("file-at-once-1000", "Gantry, file store, 1000 transfers at once", "MiB/s",
                   gantry("files", **load(1000), connections=1000), ("8m",)),
              Line("s3-at-once-1000", "S3 GET, 1000 at once", "MiB/s", s3(**load(1000)), ("8m",))]
    lines += [Line(f"nats-at-once-{count}", f"NATS requests, {count} at once", "MiB/s",
                   ask(**load(count), connections=count), ("8m",)) for count in (1, 1000)]
    return Group("at-once", lines, rarer=2)


def two_relays():
    run = gantry(name="8m", downloads=256, in_flight=10, connections=10)
    return Group("two-relays", [
        Line("two-relays", "Gantry, 10 transfers at once, two relays", "MiB/s", run, ("8m",))], relays=2, rarer=2)


def far():
    what = f"{2 * LONG_LINK_MS} ms of round trip"
    return Group("long-link", [
        Line("nats-far", f"NATS publish and subscribe, {what}", "MiB/s", long_link(nats())),
        Line("gantry-far", f"Gantry, {what}", "MiB/s", long_link(gantry()))])


def memory(large):
    lines = [Line("frozen", f"relay's peak memory, {FROZEN} frozen consumers", "MiB", frozen())]
    if large:
        lines.insert(0, Line("large", "Gantry, 8 GiB, to nowhere", "MiB/s", gantry(name="large"), ("large",)))
    return Group("memory", lines, rarer=5)
