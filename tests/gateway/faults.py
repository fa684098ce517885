#!/usr/bin/env python3
"""Injects faults while clients download through the gateway, and compares every file.

    faults.py                           108 faults
    faults.py --rounds 1                one fault of each kind for each client
    faults.py --gantry target/debug/gantry --seed 7

A fault hits a response in progress: a relay is killed, nats-server restarts, the object is replaced, a byte is flipped on
the way to the gateway, or a byte of S3's answer is flipped. Each client must end with the right file, or with an error.
Exits with 1 if a client ends without an error and has another file.
"""

import argparse
import asyncio
import random
import socket
import subprocess
import sys
import threading
import time

import cases
import clients
import place as places
from place import ANY_KEY, OBJECTS, Place, binary, random_bytes

sys.path.insert(0, str(places.ROOT / "tests" / "chaos"))

import servers
from proxy import Proxy

MIB = 1 << 20
SIZE = 24 * MIB
# A download takes more than a second, so that a fault finds it in progress.
RATE_BYTES_PER_S = 12 * MIB
KEY = "fault.bin"
# Longer than any recovery takes.
LIMIT_S = 150

BOTO3 = """
import sys, boto3
from boto3.s3.transfer import TransferConfig
s3 = boto3.client("s3", endpoint_url=sys.argv[1])
s3.download_file(sys.argv[2], sys.argv[3], sys.argv[4],
                 Config=TransferConfig(multipart_threshold=1 << 20, multipart_chunksize=4 << 20))
"""


class Links:
    """Proxies, in a thread with an event loop of its own."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def to(self, port):
        return asyncio.run_coroutine_threadsafe(Proxy(port).start(), self.loop).result()


class Flip:
    """Flips one byte of the next large piece of an answer, once."""

    def __init__(self):
        self.done = False

    def begin(self):
        return self

    def request(self, _):
        return None

    def response(self, piece):
        # A large piece consists of object bytes, apart from the headers of a message, which are at its start.
        if not self.done and len(piece) > 32 << 10 and not piece.startswith(b"HTTP/"):
            self.done = True
            middle = len(piece) * 3 // 4
            piece = piece[:middle] + bytes([piece[middle] ^ 1]) + piece[middle + 1:]
        return piece, False


class Rig:
    """A gateway behind a proxy to nats-server, and two relays behind proxies to S3."""

    def __init__(self, gantry):
        self.place = Place(gantry)
        self.links = Links()
        self.port = places.free_port()
        self.versions = [random_bytes(SIZE, number) for number in range(2)]
        self.current = 0

    def start(self):
        place = self.place
        self.start_nats()
        place.url = f"nats://127.0.0.1:{self.port}"
        place.server, process = places.s3.start(place.folder / "s3", stdin=place.stage.alive_fd, remove=[place.folder])
        self.put(0)
        self.to_s3 = self.links.to(int(place.server["endpoint"].rsplit(":", 1)[1]))
        self.to_nats = self.links.to(self.port)
        self.relays = [self.start_relay(number) for number in range(2)]
        place.start_gateway(nats=f"nats://127.0.0.1:{self.to_nats.port}")
        self.s3_process = process

    def start_nats(self):
        stage = self.place.stage
        self.nats = stage.start("nats-server", [servers.path_of("nats-server"), "-a", "127.0.0.1", "-p", self.port])
        stage.wait_for("nats-server does not answer", lambda: answers(self.port))

    def start_relay(self, number):
        env = {"GANTRY_RELAY__RATE_MAX_BYTES_PER_S": str(RATE_BYTES_PER_S)}
        endpoint = f"http://127.0.0.1:{self.to_s3.port}"
        return self.place.start_relay(f"relay-{number}", endpoint=endpoint, env=env)

    def put(self, version):
        self.current = version
        self.place.put(KEY, self.versions[version])

    def close(self):
        self.place.close()
        if getattr(self, "s3_process", None):
            self.s3_process.kill()
            self.s3_process.wait()


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def kill_relay(rig, chance):
    number = chance.randrange(2)
    process = rig.relays[number]
    process.kill()
    process.wait()
    rig.place.forget(process)
    return lambda: rig.relays.__setitem__(number, rig.start_relay(number))


def restart_nats(rig, _):
    rig.nats.kill()
    rig.nats.wait()
    rig.place.forget(rig.nats)
    time.sleep(0.2)
    rig.start_nats()
    return lambda: None


def replace(rig, _):
    rig.put(1 - rig.current)
    return lambda: None


def flip(link):
    def inject(rig, _):
        fault = getattr(rig, link).http_fault = Flip()

        def repair():
            getattr(rig, link).http_fault = None
            return fault.done
        return repair
    return inject


FAULTS = {"a relay is killed": kill_relay, "nats-server restarts": restart_nats, "the object is replaced": replace,
          "a byte is flipped on the way to the gateway": flip("to_nats"), "a byte of S3's answer is flipped": flip("to_s3")}

# Clients that download ranges of their own accord, without If-Match or If-Range. No server can keep them from joining two
# versions, or from taking a range whose bytes no checksum of the store covers.
UNPINNED = {"aria2", "s5cmd"}
RANGED = {"aria2", "s5cmd", "aws", "boto3"}


def commands(rig):
    """The command of each client. Those that repeat a request without a validator get one try."""
    http, out = rig.place.http, rig.place.out
    url = f"{http}/{OBJECTS}/{KEY}"
    boto = {**ANY_KEY, "PYTHONPATH": str(servers.path_of("moto"))}
    rclone = {**ANY_KEY, "RCLONE_CONFIG": "/dev/null", "RCLONE_CONFIG_GW_TYPE": "s3", "RCLONE_CONFIG_GW_PROVIDER": "Other",
              "RCLONE_CONFIG_GW_ENDPOINT": http, "RCLONE_CONFIG_GW_ENV_AUTH": "true"}
    return {
        "curl": ([clients.path_of("curl"), "-sSf", "-o", out / "curl", url], {}),
        "wget": ([clients.path_of("wget"), "--no-config", "-q", "--tries=1", "-O", out / "wget", url], {}),
        "aria2": ([clients.path_of("aria2c"), "--no-conf", "-q", "-x", "8", "-s", "8", "-k", "1M", "--allow-overwrite",
                   "--file-allocation=none", "-d", out, "-o", "aria2", url], {}),
        "aws": ([*cases.aws_command(), "--endpoint-url", http, "s3", "cp", "--only-show-errors", f"s3://{OBJECTS}/{KEY}",
                 out / "aws"], {**ANY_KEY, **cases.peers_env()}),
        "s5cmd": ([clients.path_of("s5cmd"), "--endpoint-url", http, "cp", f"s3://{OBJECTS}/{KEY}", out / "s5cmd"],
                  ANY_KEY),
        "rclone": ([clients.path_of("rclone"), "copyto", f"gw:{OBJECTS}/{KEY}", out / "rclone"], rclone),
        "boto3": ([sys.executable, "-c", BOTO3, http, OBJECTS, KEY, out / "boto3"], boto),
    }


def one(rig, client, command, env, fault, chance):
    """Runs a client, injects a fault, and returns what came of it: `right`, `error`, `missed` or `wrong`."""
    out = rig.place.out / client
    for left in rig.place.out.glob(f"{client}*"):
        left.unlink()
    versions = {rig.current}
    process = subprocess.Popen([*map(str, command)], env={**clients.environment(), **env}, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started = wait_for_bytes(rig, process)
    time.sleep(chance.uniform(0.1, 0.8))
    if not started or process.poll() is not None:
        process.wait(LIMIT_S)
        return "missed"

    repair = FAULTS[fault](rig, chance)
    versions.add(rig.current)
    hit = process.poll() is None
    try:
        code = process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        repair()
        return "hangs"
    if repair() is False or not hit:
        return "missed"
    if code:
        return "error"
    content = out.read_bytes() if out.exists() else b""
    return "right" if any(content == rig.versions[version] for version in versions) else "wrong"


def wait_for_bytes(rig, process):
    """Waits until the relays send. Returns whether the client still runs then."""
    deadline = time.monotonic() + 20
    begun = rig.to_nats.bytes_down
    while time.monotonic() < deadline and process.poll() is None:
        if rig.to_nats.bytes_down > begun + MIB:
            return True
        time.sleep(0.01)
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gantry", help="binary to test; default: GANTRY_BINARY, or target/debug/gantry")
    parser.add_argument("--rounds", type=int, default=4, help="faults of each kind for each client")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rig = Rig(binary(args.gantry))
    try:
        rig.start()
        failed = play(rig, args)
    except servers.Problem as problem:
        sys.exit(f"faults.py: {problem}")
    finally:
        rig.close()
    sys.exit(1 if failed else 0)


def play(rig, args):
    chance = random.Random(args.seed)
    known = commands(rig)
    plan = [(fault, client) for fault in FAULTS for client in known if applies(fault, client)] * args.rounds
    results = {}
    for number, (fault, client) in enumerate(plan):
        command, env = known[client]
        for _ in range(3):
            result = one(rig, client, command, env, fault, chance)
            if result != "missed":
                break
        results.setdefault((fault, client), []).append(result)
        print(f"{number + 1:3} of {len(plan)}  {fault}  {client}  {result}", flush=True)

    print()
    for fault in FAULTS:
        for client in known:
            if found := results.get((fault, client)):
                counts = ", ".join(f"{found.count(result)} {result}" for result in sorted(set(found)))
                print(f"{fault:45} {client:8} {counts}")
    every = [result for found in results.values() for result in found]
    hits = [result for result in every if result != "missed"]
    failed = [result for result in hits if result not in ("right", "error")]
    print(f"\n{len(hits)} faults: {hits.count('right')} right files, {hits.count('error')} errors, "
          f"{len(failed)} wrong or hanging; {every.count('missed')} missed")
    return bool(failed)


def applies(fault, client):
    if fault == "the object is replaced":
        return client not in UNPINNED
    return fault != "a byte of S3's answer is flipped" or client not in RANGED


if __name__ == "__main__":
    main()
