#!/usr/bin/env python3
"""Gives edge relays upstreams that demand logins, die, change, lie and ask back. Compares every file.

    edge_upstreams.py                   all cases: about four minutes
    edge_upstreams.py --case lies       one of them
    edge_upstreams.py --gantry target/debug/gantry

logins: the edge relay's login at the hub by password, credentials file, token and TLS; wrong ones, and denied subjects.
deaths: the upstream relay dies 12 times, three times at each stage of a fill.
changes: the object is replaced during fills.
lies: the upstream states wrong sizes, checksums and versions, and sends wrong bytes.
final: refusals that are final at the hub are final at the site.
loops: edge relays that ask each other.

No wrong file may appear. Each failure must name the upstream and the cause. All processes listen on 127.0.0.1 and stop
when this process ends. Exits with 1 if a case fails.
"""

import argparse
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "deploy" / "dev"), str(HERE)]

import servers
from demo import Problem
from edge_faults import Given, built
from edge_rig import STORE, Hub, Site, plain, run_cases, start_nats, wait_for
from front import make_certificate
from liar import CHUNK_BYTES, STAGES, Content, Liar
from nkeys import Operator

MIB = 1 << 20
FAILED, NOT_FOUND, GAVE_UP, INTEGRITY, CHANGED, DENIED = 1, 4, 5, 6, 7, 8
UPSTREAM = f"upstream store {STORE}"


def logins(stage, gantry, counts):
    body = os.urandom(2 * MIB)
    operator = Operator()
    key, certificate = make_certificate(stage.folder, stage.folder / "ca.pem")
    other = stage.folder / "other"
    other.mkdir()
    make_certificate(other, other / "ca.pem")
    creds = {name: operator.credentials(stage.folder / f"{name}.creds", **permissions) for name, permissions in (
        ("relay", {}), ("edge", {}), ("denied", {"pub": {"deny": [f"gantry.v1.*.{STORE}"]}}))}
    stranger = Operator().credentials(stage.folder / "stranger.creds")
    folder = stage.folder
    hubs = {
        "password": ('authorization { users: [{ user: relay, password: r }, { user: edge, password: e }] }',
                     {"NATS_USER": "relay", "NATS_PASSWORD": "r"}),
        "token": ('authorization { token: secret }', {"NATS_TOKEN": "secret"}),
        "creds": (operator.config(), {"NATS_CREDS": str(creds["relay"])}),
        "tls": (f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}', {"NATS_CA": str(folder / "ca.pem")}),
    }
    # For each hub, the keys of a wrong login, what is printed, the exit code, and those of a right one.
    unauthorized = "authorization"
    edges = {
        "password": ('user = "edge"\npassword = "wrong"', unauthorized, GAVE_UP, 'user = "edge"\npassword = "e"'),
        "token": ('token = "wrong"', unauthorized, GAVE_UP, 'token = "secret"'),
        "creds": (f'creds_file = "{stranger}"', unauthorized, GAVE_UP, f'creds_file = "{creds["edge"]}"'),
        "denied": (f'creds_file = "{creds["denied"]}"', "denies publishing", DENIED, f'creds_file = "{creds["edge"]}"'),
        "tls": (f'tls_ca_file = "{other / "ca.pem"}"', "certificate", GAVE_UP, f'tls_ca_file = "{folder / "ca.pem"}"'),
    }

    running = {}
    for name, (wrong, words, code, right) in edges.items():
        kind = "creds" if name == "denied" else name
        if kind not in running:
            text, env = hubs[kind]
            running[kind] = Hub(stage, gantry, name=f"hub-{kind}", nats=text, env=env)
            running[kind].start_relay()
            running[kind].put("object", body)
        hub = running[kind]
        site = Site(stage, gantry, hub.url, name=f"site-{name}")
        scheme = "tls" if kind == "tls" else "nats"
        address = f'url = "{scheme}://127.0.0.1:{site.link.port}"\n'
        site.uplink = address + wrong
        site.start_edge(is_connected=name == "denied")
        wait_for("a clear error", lambda site=site, words=words: words in site.run("stat", f"{STORE}/object")[1].lower(), 30)
        get = site.get("object")
        counts.refused(get, (code,), UPSTREAM)
        counts.expect("127.0.0.1" not in get.said or "nats-server" in get.said, f"{name}: {get.said}")
        counts.expect(words in get.said.lower(), f"{name}: {get.said}")

        site.uplink = address + right
        site.configure()
        site.reload()
        wait_for("the right login works", lambda site=site: site.run("stat", f"{STORE}/object")[0] == 0)
        counts.right(site.get("object"), body)
        counts.right(site.get("object"), body)
        counts.add("logins")
        site.kill_edge()


def edge_of_liar(stage, gantry, name="liar", keys=""):
    """Starts a nats-server with a relay in Python, and an edge relay that reads it."""
    url = start_nats(stage, name, "")
    liar = Liar(url, STORE)
    if not liar.started.wait(30):
        raise Problem("the relay in Python does not start")
    site = Site(stage, gantry, url, name=f"{name}-site", keys=keys)
    site.start_edge()
    return liar, site


def deaths(stage, gantry, counts):
    liar, site = edge_of_liar(stage, gantry)
    for number in range(3):
        for stage_name in STAGES:
            key = f"{stage_name.replace(' ', '-')}-{number}"
            # The last ones are more than a consumer's first window.
            liar.contents[key] = Content(os.urandom(600_000 + number * MIB))
            liar.dies_at = stage_name
            gets = [site.start_get(key) for _ in range(2)]
            for get in gets:
                counts.right(get.end(), liar.contents[key].body)
            counts.right(site.get(key), liar.contents[key].body)
            counts.expect(liar.dies_at is None, f"it did not die {stage_name}")
    counts.add("deaths", liar.deaths)
    counts.ran(site.cached("verify"), 0, "files are intact")

    # One that is silent, and one that does not return.
    liar.contents["late"] = Content(os.urandom(MIB))
    liar.is_silent = True
    get = site.start_get("late")
    time.sleep(4)
    liar.is_silent = False
    counts.right(get.end(), liar.contents["late"].body)
    liar.end()
    counts.refused(site.get("late"), (GAVE_UP,), UPSTREAM)
    counts.refused(site.get("other"), (GAVE_UP,), UPSTREAM)


def changes(stage, gantry, counts):
    hub = Hub(stage, gantry)
    hub.start_relay()
    site = Site(stage, gantry, hub.url, rate=3_000_000, keys="serve_stale = true")
    site.start_edge()
    for number in range(8):
        # The same size, so that only the version shows the difference.
        old, new = os.urandom(3 * MIB), os.urandom(3 * MIB)
        key = f"object-{number % 4}"
        hub.put(key, old)
        gets = [site.start_get(key, *(["--limit-rate", "2M"] if index else [])) for index in range(3)]
        time.sleep(0.2 + 0.15 * number)
        hub.put(key, new)
        gets.append(site.start_get(key))
        for index, get in enumerate(gets):
            get.end()
            if get.code == 0:
                counts.right(get, *([new] if index == 3 else [old, new]))
            else:
                counts.refused(get, (CHANGED,), "changed" if "changed" in get.said else "replaced")
        counts.right(site.get(key), new)
        counts.add("changes")
    counts.ran(site.cached("verify"), 0, "files are intact")


# What each lie leads to: the exit codes, and words of the message. A lie that shows before the first byte is reported by
# the edge relay, later ones by the consumer.
REFUSED = ((GAVE_UP, CHANGED), (UPSTREAM,))
BROKEN_OFF = ((GAVE_UP, CHANGED, INTEGRITY), ())
WRONG = ((INTEGRITY,), ("of the bytes is",))
LIES = {
    "too large": BROKEN_OFF,
    "too large in accepted": BROKEN_OFF,
    "too small": BROKEN_OFF,
    "checksum": WRONG,
    "wrong bytes": WRONG,
    "wrong CRCs": BROKEN_OFF,
    "wrong offsets": BROKEN_OFF,
    "another key": REFUSED,
    "another range": REFUSED,
    "another control subject": REFUSED,
    "no JSON": REFUSED,
    "another version each time": ((0, CHANGED, GAVE_UP), ()),
}


def lies(stage, gantry, counts):
    liar, site = edge_of_liar(stage, gantry)
    # Less than a block, and more than one: the first bytes are sent before the lie shows.
    for size in (100_000, MIB + 50_000):
        for lie in LIES:
            # Equal chunks, of which only one CRC must be computed.
            body = (os.urandom(CHUNK_BYTES) * 20)[:size]
            liar.contents[f"{lie.replace(' ', '-')}-{size}"] = Content(body, lie)
    # At the same time, since consumers retry for two minutes.
    gets = {key: site.start_get(key) for key in liar.contents}
    for key, get in gets.items():
        codes, words = LIES[liar.contents[key].lie]
        if get.end(200).code == 0 and 0 in codes:
            counts.right(get, liar.contents[key].body)
        else:
            counts.refused(get, codes, *words)
    counts.add("lies", len(liar.contents))

    # What was believed does not stay.
    for content in liar.contents.values():
        content.lie = None
    wrong = []
    for key, content in liar.contents.items():
        get = site.get(key)
        if get.code == INTEGRITY:
            wrong.append(key)
        else:
            counts.right(get, content.body)
    # The cache has discarded them by now, and memory keeps bytes for 10 s after their last use.
    time.sleep(11)
    for key in wrong:
        counts.right(site.get(key), liar.contents[key].body)

    # Other bytes under the same version.
    liar.contents["twin"] = Content(os.urandom(2 * MIB))
    counts.right(site.get("twin"), liar.contents["twin"].body)
    twin = Content(os.urandom(2 * MIB))
    twin.etag = liar.contents["twin"].etag
    liar.contents["twin"] = twin
    get = site.get("twin")
    if get.code == 0:
        counts.right(get, twin.body)
    else:
        counts.refused(get, (INTEGRITY, CHANGED))
    wait_for("the right bytes of the twin", lambda: site.get("twin").body == twin.body, 30)
    liar.end()


def final(stage, gantry, counts):
    """Each of these is an error that a retry can't cure, so the answer must come at once."""
    hub = Hub(stage, gantry)
    hub.start_relay()
    site = Site(stage, gantry, hub.url)
    site.start_edge()
    hub.put("object", os.urandom(MIB))
    (hub.files / "secret").symlink_to("/etc/passwd")
    began = time.monotonic()
    counts.refused(site.get("missing"), (NOT_FOUND,), UPSTREAM, "missing")
    counts.refused(site.get("secret"), (DENIED,), UPSTREAM)
    counts.refused(site.get("object", "--if-match", '"other"'), (CHANGED,), UPSTREAM)
    counts.ran(site.run("stat", f"{STORE}/missing"), NOT_FOUND, UPSTREAM)
    counts.expect(time.monotonic() - began < 10, f"they took {time.monotonic() - began:.1f} s")

    other = Site(stage, gantry, hub.url, name="other")
    other.start_edge(True)
    other.configure(stores=f'[stores.{STORE}]\nurl = "nats:unknown"\n[stores.{STORE}.nats]\n{other.uplink}\n')
    other.reload()
    get = other.get("object")
    counts.refused(get, (NOT_FOUND,), "upstream store unknown", "no relay serves store unknown")

    # Without any relay at the hub, waiting may help.
    hub.kill_relay()
    counts.refused(other.get("object"), (GAVE_UP,), "upstream store unknown", "no relay is listening")


def loops(stage, gantry, counts):
    for length in (2, 3):
        urls = [start_nats(stage, f"loop-{length}-{number}", "") for number in range(length)]
        sites = []
        for number, url in enumerate(urls):
            site = Site(stage, gantry, urls[(number + 1) % length], name=f"loop-{length}-site-{number}")
            # A relay at the nats-server of the loop instead of one of its own.
            site.url, site.env = url, {**site.env, "NATS_URL": url}
            site.start_edge()
            sites.append(site)
        for site in sites:
            get = site.get("object")
            counts.refused(get, (FAILED,), "in a circle: ", UPSTREAM)
            for args in (("stat", f"{STORE}/object"), ("ls", STORE)):
                counts.ran(site.run(*args), FAILED, "in a circle: ")
            ids = plain(get.said).split("in a circle: ")[-1].split(" (")[0].strip()
            counts.expect(ids.count(" -> ") == length, f"{length} relays: {ids}")
        counts.add("loops")
        for site in sites:
            site.kill_edge()


CASES = {"logins": logins, "deaths": deaths, "changes": changes, "lies": lies, "final": final, "loops": loops}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, action="append", help="run only this case; may be repeated")
    parser.add_argument("--gantry", type=lambda path: Path(path).resolve(), help="use this binary, do not build")
    args = parser.parse_args()
    try:
        servers.DEV.mkdir(exist_ok=True)
        run_cases("edge_upstreams", CASES, args, Given(args.gantry or built()))
    except Problem as problem:
        sys.exit(f"edge_upstreams: {problem}")


if __name__ == "__main__":
    main()
