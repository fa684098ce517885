#!/usr/bin/env python3
"""Kills edge relays, cuts their uplinks, and gives them cache folders that can't be used. Compares every file.

    edge_faults.py                   all cases: about four minutes
    edge_faults.py --case folders    one of them
    edge_faults.py --gantry target/debug/gantry

kills: an edge relay is killed 20 times at random during 60 downloads, and a block of its cache is damaged each time.
cuts: an uplink is cut or falls silent 28 times during downloads: the edge relay's own, and the link of a leaf node.
full: the cache is on a small file system, which becomes full; and in a folder that may no longer be written to.
folders: cache folders that belong to others, are damaged, truncated, of a newer format, and more.
used: a cache folder that two processes use, and one that is removed while it is in use.
reloads: SIGHUP with changed settings of the cache during downloads.
stale: without an uplink, consumers and HTTP clients get what is cached, and a clear error for the rest.

Each download must be right, or end with a message that names the upstream and be right when it is repeated. Each folder
must cause one line in the log. Needs root, for file systems that only this script sees. All processes listen on
127.0.0.1 and stop when this process ends. Exits with 1 if a case fails.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "deploy" / "dev"), str(HERE)]

import demo
import servers
from cache_folders import FOLDERS, NOBODY, damage
from demo import Problem
from edge_rig import STORE, Hub, Site, kill, mount_tmpfs, own_mounts, run_cases, wait_for
from ports import free_port

MIB = 1 << 20
KILLS, CONSUMERS, CUTS = 20, 3, 14
PAUSE_S = 30
SIZE = 5 * MIB + 7
GAVE_UP, FAILED = 5, 1


def kills(stage, gantry, counts):
    hub = Hub(stage, gantry, is_s3=True)
    hub.start_relay()
    site = Site(stage, gantry, hub.url, rate=4_000_000)
    site.start_edge()
    chance, bodies = random.Random(7), {}

    def put(key):
        bodies[key] = os.urandom(chance.randrange(2 * MIB, 6 * MIB))
        hub.put(key, bodies[key])

    put("first")
    counts.right(site.get("first"), bodies["first"])
    site.filled(1)
    for number in range(KILLS):
        # New objects at first, then those on disk, of which some have been replaced.
        key = f"object-{number % 10}"
        if number < 10 or number % 3 == 0:
            put(key)
        # On a busy machine, a relay takes longer to start than a consumer waits for one by default.
        gets = [site.start_get(key, "--limit-rate", "4M", "--await-relay", "60s") for _ in range(CONSUMERS)]
        time.sleep(chance.uniform(0.05, 2))
        site.kill_edge()
        damage(chance.choice(site.blocks()), chance)
        site.start_edge()
        for get in gets:
            counts.right(get.end(), bodies[key])
        counts.add("kills")
        counts.add("damaged blocks")

    for key, body in bodies.items():
        counts.right(site.get(key), body)
    counts.ran(site.cached("verify", "--remove"), 0)
    counts.ran(site.cached("verify"), 0, "files are intact")


def cuts(stage, gantry, counts):
    chance = random.Random(11)
    for is_leaf in (False, True):
        leaf_port = free_port() if is_leaf else None
        hub = Hub(stage, gantry, name=f"hub-{is_leaf}", leaf_port=leaf_port)
        hub.start_relay(*(["--prefix", "origin"] if is_leaf else []))
        site = Site(stage, gantry, hub.url, name=f"site-{is_leaf}", rate=3_000_000, leaf_port=leaf_port)
        site.start_edge()
        for number in range(CUTS):
            key, body = f"object-{number}", os.urandom(chance.randrange(MIB, 4 * MIB))
            hub.put(key, body)
            gets = [site.start_get(key) for _ in range(CONSUMERS)]
            time.sleep(chance.uniform(0.05, 1))
            if number % 2:
                site.link.hold()
            else:
                site.link.cut()
            # One of them is longer than the edge relay waits for a connection.
            time.sleep(7 if number == 6 else chance.uniform(0.2, 1.8))
            site.link.restore()
            counts.add("cuts of a leaf link" if is_leaf else "cuts")
            for get in gets:
                finish(site, get.end(), body, counts)
        counts.ran(site.cached("verify"), 0, "files are intact")
        kill(stage, site.edge)


def finish(site, get, body, counts):
    """Repeats a download that gave up because of the uplink."""
    for _ in range(10):
        if get.code == 0:
            break
        counts.refused(get, (GAVE_UP,), "upstream store")
        get = site.get(get.key)
    counts.right(get, body)


def full(stage, gantry, counts):
    hub = Hub(stage, gantry)
    hub.start_relay()
    body, later = os.urandom(8 * MIB), os.urandom(3 * MIB)
    hub.put("object", body)
    hub.put("later", later)
    # Memory would serve what the disk can't, and what it serves is not written again.
    keys = "shared_reads = false"
    small = Site(stage, gantry, hub.url, name="small", keys=keys)
    stage.folder.chmod(0o755)
    readonly = Site(stage, gantry, hub.url, name="readonly", user=NOBODY, keys=keys)
    mount_tmpfs(small.cache, "4m")
    readonly.cache.mkdir(mode=0o700)
    os.chown(readonly.cache, NOBODY, NOBODY)
    for site in (small, readonly):
        site.start_edge()

    began = time.monotonic()
    counts.right(small.get("object"), body)
    one_line(counts, small, "its file system is full")
    counts.right(readonly.get("later"), later)
    readonly.filled(3)
    readonly.cache.chmod(0o500)
    broken = time.monotonic()
    for _ in range(3):
        counts.right(small.get("object"), body)
        counts.right(readonly.get("object"), body)
        counts.right(readonly.get("later"), later)
    one_line(counts, small, "its file system is full")
    # It is tried again after each pause.
    one_line(counts, readonly, "it is read-only", 1 + int((time.monotonic() - broken) / PAUSE_S))
    for site in (small, readonly):
        counts.ran(site.cached("verify"), 0, "files are intact")
    counts.ran(small.cached("ls"), 0, "partial", f"{STORE}/object")
    counts.ran(small.cached("purge", "--all"), 0, "removed")

    # Both are used again after a while.
    readonly.cache.chmod(0o700)
    time.sleep(max(0, began + PAUSE_S + 5 - time.monotonic()))
    hub.put("object", later)

    def is_used(site):
        counts.right(site.get("object"), later)
        return "again" in site.log()

    for site in (small, readonly):
        wait_for("the folder is used again", lambda site=site: is_used(site))
        site.filled(3)
    counts.add("folders used again", 2)


def one_line(counts, site, words, most=1):
    """Checks that the log has one warning about the cache, or a few, with these words and what to do."""
    lines = site.warnings()
    counts.expect(1 <= len(lines) <= most and all(words in line for line in lines),
                  f"{site.name}: not one line with {words!r}, or at most {most}: {lines}")
    counts.add("single lines")


class Pristine:
    """A filled cache folder, of which each case gets a copy."""

    def __init__(self, stage, gantry, hub, body):
        self.stage, self.gantry, self.hub, self.body = stage, gantry, hub, body
        site = Site(stage, gantry, hub.url, name="pristine")
        site.start_edge()
        if site.get("object").body != body:
            raise Problem("the first download is wrong")
        site.filled(6)
        site.stop()
        self.cache = site.cache

    def site(self, name, user=None):
        # Memory would serve what the disk can't.
        keys = "shared_reads = false"
        site = Site(self.stage, self.gantry, self.hub.url, name=name.replace(" ", "-"), user=user, keys=keys)
        shutil.copytree(self.cache, site.cache)
        site.cache.chmod(0o700)
        return site


def folders(stage, gantry, counts):
    stage.folder.chmod(0o755)
    hub = Hub(stage, gantry)
    hub.start_relay()
    body = os.urandom(SIZE)
    hub.put("object", body)
    pristine = Pristine(stage, gantry, hub, body)

    for name, prepare, words, codes in FOLDERS:
        user = NOBODY if "unreadable" in name else None
        site = pristine.site(name, user)
        prepare(site)
        counts.add("folders")
        verify, verify_later, purge = codes
        counts.ran(site.cached("verify"), verify)
        listed = site.cached("ls")
        counts.expect(listed[0] in (0, FAILED) and listed[1].strip(), f"{name}: gantry cache ls: {listed}")

        sent = hub.sent()
        site.start_edge()
        for _ in range(2):
            counts.right(site.get("object"), body)
        if words:
            one_line(counts, site, words)
        else:
            counts.expect(not site.warnings(), f"{name}: {site.warnings()}")
            counts.expect(hub.sent() == sent, f"{name}: was read from the hub")
        # What is damaged has been replaced by then.
        if verify_later == 0:
            wait_for(f"{name}: intact files", lambda site=site: site.cached("verify")[0] == 0)
        counts.ran(site.cached("verify"), verify_later)
        counts.ran(site.cached("purge", f"{STORE}/obj"), purge)
        counts.right(site.get("object"), body)
        site.kill_edge()


def used(stage, gantry, counts):
    hub = Hub(stage, gantry)
    hub.start_relay()
    body = os.urandom(SIZE)
    hub.put("object", body)
    pristine = Pristine(stage, gantry, hub, body)
    shared(stage, gantry, hub, pristine, counts)
    removed(pristine, counts)


def shared(stage, gantry, hub, pristine, counts):
    """Two processes use one folder: the second one passes through."""
    first, second = pristine.site("shared"), Site(stage, gantry, hub.url, name="second")
    second.cache = first.cache
    first.start_edge()
    second.start_edge()
    counts.add("folders")
    for site in (first, second, second):
        counts.right(site.get("object"), pristine.body)
    one_line(counts, second, "another process uses it")
    counts.expect(not first.warnings(), f"{first.warnings()}")
    counts.ran(first.cached("purge", "--all"), 0, "removed")
    for site in (first, second):
        counts.right(site.get("object"), pristine.body)
        site.kill_edge()


def removed(pristine, counts):
    """The folder is removed while it is in use."""
    site = pristine.site("removed")
    site.start_edge()
    counts.add("folders")
    counts.right(site.get("object"), pristine.body)
    shutil.rmtree(site.cache)
    for _ in range(3):
        counts.right(site.get("object"), pristine.body)
    one_line(counts, site, "it was removed")
    counts.ran(site.cached("verify"), FAILED, "can't be opened")
    site.kill_edge()


def reloads(stage, gantry, counts):
    hub = Hub(stage, gantry)
    hub.start_relay()
    site = Site(stage, gantry, hub.url, rate=4_000_000)
    first = site.cache
    others = stage.folder / "other-cache"
    foreign = stage.folder / "foreign-cache"
    foreign.mkdir()
    os.chown(foreign, NOBODY, NOBODY)
    site.start_edge()
    steps = [
        ("fewer bytes", "cache_bytes = 3145728", first, True),
        ("another folder", "", others, True),
        ("no folder", "", Path("/none"), True),
        ("stale answers", "serve_stale = true", first, True),
        ("fewer files", "cache_files = 2", first, True),
        ("an invalid limit", "cache_bytes = 1", first, False),
        ("another user's folder", "", foreign, True),
        ("the first folder", "", first, True),
    ]
    for number, (name, keys, cache, is_valid) in enumerate(steps):
        key, body = f"object-{number}", os.urandom(4 * MIB)
        hub.put(key, body)
        gets = [site.start_get(key, "--limit-rate", "4M") for _ in range(2)]
        time.sleep(0.4)
        site.configure(keys, cache)
        said = site.reload()
        counts.expect(("ERROR" in said) != is_valid, f"{name}: {said}")
        counts.add("reloads")
        for get in gets:
            counts.right(get.end(), body)
        counts.right(site.get(key), body)
        if "cache_bytes = 3" in keys:
            used = sum(block.stat().st_size for block in site.blocks())
            counts.expect(0 < used <= 3145728, f"{name}: {used} bytes")
        if "cache_files" in keys:
            counts.expect(0 < len(list(first.glob("*.[bc]*"))) <= 2, f"{name}: {list(first.glob('*'))}")
    counts.expect(site.log().count(f"it belongs to user {NOBODY}") == 1, f"{site.warnings()}")
    for folder in (first, others):
        counts.ran(site.run("cache", "verify", "--dir", folder), 0, "files are intact")
    counts.ran(site.cached("purge", f"{STORE}/object-1"), 0, "removed")


def stale(stage, gantry, counts):
    """An HTTP client needs nothing but the gateway: beside the edge relay, or in it."""
    hub = Hub(stage, gantry, is_s3=True)
    hub.start_relay()
    body = os.urandom(SIZE)
    hub.put("object", body)
    site = Site(stage, gantry, hub.url, keys="serve_stale = true")
    inside, beside = (f"127.0.0.1:{free_port()}" for _ in range(2))
    site.start_edge(True, "--gateway", inside)
    stage.start("gateway", [gantry, "gateway", "--listen", beside], site.env)
    stage.wait_for("the gateway does not answer", lambda: curl(beside, "object")[0])
    for address in (inside, beside):
        expect_http(counts, address, body, has_age=False)
    counts.right(site.get("object"), body)
    site.filled(6)

    for fault in (site.link.cut, site.link.hold):
        fault()
        wait_for("the edge relay notices", lambda: "stale" in site.run("stat", f"{STORE}/object")[1])
        ages = []
        for address in (inside, beside):
            ages.append(expect_http(counts, address, body, has_age=True))
            status, _, text, _ = curl(address, "other")
            counts.expect(status == 503 and b"upstream store" in text, f"{address}: {status} {text[:300]}")
            counts.add("responses with 503")
        get = site.get("object")
        counts.right(get, body)
        counts.expect(get.summary and get.summary["stale_s"] is not None, f"not stated as stale: {get.said}")
        time.sleep(2.5)
        counts.expect(expect_http(counts, inside, body, has_age=True) >= ages[0] + 2, f"the age stands still at {ages}")
        counts.refused(site.get("other"), (GAVE_UP,), "upstream store", "nats")
        site.link.restore()
        wait_for("fresh answers", lambda: "stale" not in site.run("stat", f"{STORE}/object")[1])
        expect_http(counts, inside, body, has_age=False)

    # A consumer at a site without an edge relay waits for the uplink if it is told to.
    site.kill_edge()
    get = site.start_get("object", "--await-relay", "30s")
    time.sleep(3)
    site.start_edge(True, "--gateway", inside)
    counts.right(get.end(), body)


def expect_http(counts, address, body, has_age):
    """Downloads with curl and compares. Returns the age that the response states."""
    status, headers, got, said = curl(address, "object")
    counts.add("HTTP downloads")
    counts.wrong += status == 200 and got != body
    age = headers.get("age")
    counts.expect(status == 200 and got == body and (age is not None) == has_age,
                  f"{address}: status {status}, {len(got)} bytes, age {age}, headers {headers}: {said}")
    return int(age or 0)


def curl(address, key):
    """Returns the status, the headers, the body, and curl's own message."""
    if not shutil.which("curl"):
        raise Problem("curl is missing: install it")
    with tempfile.TemporaryDirectory() as folder:
        head, content = Path(folder) / "head", Path(folder) / "content"
        done = subprocess.run(["curl", "--silent", "--show-error", "--max-time", "60", "-D", head, "-o", content,
                               f"http://{address}/{STORE}/{key}"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        lines = head.read_text().splitlines() if head.exists() else []
        headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        status = int(lines[0].split()[1]) if lines and not done.returncode else 0
        return status, headers, content.read_bytes() if content.exists() else b"", done.stderr


CASES = {"kills": kills, "cuts": cuts, "full": full, "folders": folders, "used": used, "reloads": reloads, "stale": stale}


class Given:
    """The binary, and where each case gets its folder."""

    def __init__(self, gantry):
        self.gantry = gantry

    @staticmethod
    def folder():
        return Path(tempfile.mkdtemp(dir=servers.DEV, prefix="field-"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, action="append", help="run only this case; may be repeated")
    parser.add_argument("--gantry", type=lambda path: Path(path).resolve(), help="use this binary, do not build")
    args = parser.parse_args()
    try:
        own_mounts()
        servers.DEV.mkdir(exist_ok=True)
        run_cases("edge_faults", CASES, args, Given(args.gantry or built()))
    except Problem as problem:
        sys.exit(f"edge_faults: {problem}")


def built():
    stage = demo.Stage()
    try:
        return demo.binary(stage)
    finally:
        stage.close()


if __name__ == "__main__":
    main()
