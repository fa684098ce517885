#!/usr/bin/env python3
"""Measures what one bad store or consumer does to the others of a relay.

    isolation.py                    all cases
    isolation.py --case listing     one of them
    isolation.py --gantry target/debug/gantry

stalled: 22 consumers of an S3 store take some bytes and then stall. A download of 1000 bytes must start within 1 s, and
what was read ahead for the stalled ones must be released.
hung: a directory hangs, and hundreds of requests wait for it. Downloads from another directory must be as fast as
without. Needs root and /dev/fuse.
silent: the same with an S3 server that stops answering.
tls: six slow consumers of an S3 server over TLS, which offers HTTP/2, leave a fast one at least 0.9 of its rate.
end: with requests waiting for the directory that hangs, SIGTERM without a grace period ends the relay at once.
listing: `gantry ls` of 300,000 files must take at most 3 times as long as `find` with sizes and dates, and 64 requests
with `limit` 1 must fit into the relay's memory.

All processes listen on 127.0.0.1 and stop when this process ends. Exits with 1 if a case fails.
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "deploy" / "dev"), str(HERE)]

import demo
import s3
import servers
from demo import Problem, say
from front import TlsFront
from hanging import HangingDirectory
from ports import free_port
from wire import Connection, Stalled

MIB = 1 << 20
CONSUMERS, TAKEN_BYTES = 22, 9 * MIB
FILES = 300_000
DOWNLOADS = 50
SLOW, ROUNDS, FAST_BYTES = 6, 7, 128 * MIB


class Place:
    """A nats-server, and a relay that is started with some stores."""

    def __init__(self, stage, gantry):
        self.stage, self.gantry, self.url = stage, gantry, demo.start_nats(stage)
        self.env = {**demo.clean_env(), "NATS_URL": self.url}
        self.relays = 0

    def serve(self, stores, env=None):
        """Starts a relay. Returns its process and the address of its HTTP pages."""
        self.relays += 1
        name, http = f"relay-{self.relays}", f"127.0.0.1:{free_port()}"
        arguments = [f"--store={name}={url}" for name, url in stores.items()]
        process = self.stage.start(name, [self.gantry, "serve", *arguments, "--http", http], {**self.env, **(env or {})})
        self.stage.wait_for("the relay is not ready", lambda: "nats: connected" in page(http, "readyz"))
        return process, http

    def run(self, *arguments):
        """Runs a command, and returns how long it took, in seconds."""
        began = time.perf_counter()
        done = self.stage.run([self.gantry, *arguments], env=self.env, capture_output=True, timeout=300)
        took = time.perf_counter() - began
        if done.returncode:
            raise Problem(f"gantry {arguments[0]}: exit code {done.returncode}: {done.stderr.strip()}")
        return took, done.stdout


def start_s3(place, folder):
    """Starts an S3 server, and returns it with the variables that lead a relay to it."""
    server, process = s3.start(folder, stdin=place.stage.alive_fd)
    place.stage.processes.append(("s3", process))
    keys = server["users"]["admin"]
    return server, {"AWS_ACCESS_KEY_ID": keys["access_key_id"], "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"],
                    "AWS_REGION": server["region"], "AWS_ENDPOINT_URL": server["endpoint"]}


def stalled(place, folder):
    server, env = start_s3(place, folder / "s3")
    s3.put(server, "bucket", "large", bytes(64 * MIB))
    s3.put(server, "bucket", "small", bytes(1000))
    _, http = place.serve({"objects": "s3://bucket"}, env)

    consumers = [Stalled(place.url, "objects", "large", TAKEN_BYTES) for _ in range(CONSUMERS)]
    peak, began = 0, time.monotonic()
    while any(consumer.taken < TAKEN_BYTES for consumer in consumers):
        peak = max(peak, metric(http, "gantry_memory_reserved_bytes"))
        if time.monotonic() - began > 120:
            raise Problem("the consumers did not get their bytes")
        time.sleep(0.01)
    peak = max(peak, metric(http, "gantry_memory_reserved_bytes"))

    client = Connection(place.url)
    received, took = client.get("objects", "small")
    time.sleep(4)
    reserved = metric(http, "gantry_memory_reserved_bytes")
    places = int(metric(http, "gantry_transfers_active"))
    for consumer in consumers:
        consumer.connection.close()

    say(f"stalled: {len(received)} bytes in {took:.3f} s beside {CONSUMERS} stalled consumers; "
        f"reserved {peak / MIB:.0f} MiB at the peak, {reserved / MIB:.0f} MiB after 4 s for {places} transfers")
    return took < 1 and places == CONSUMERS and reserved == CONSUMERS * 3 * MIB // 2


def hung(place, folder):
    (folder / "good").mkdir()
    (folder / "good" / "x").write_bytes(bytes(1000))
    (folder / "hung").mkdir()
    directory = HangingDirectory(folder / "hung")
    try:
        stores = {"good": f"file://{folder}/good", "hung": f"file://{folder}/hung"}
        process, http = place.serve(stores)
        before, _ = beside_requests_to("hung", place, process)
        directory.hang()
        after, most_threads = beside_requests_to("hung", place, process)
        is_reported = "store hung: " in page(http, "readyz") and "store hung: ok" not in page(http, "readyz")

        directory.resume()
        began = time.monotonic()
        while b"hello" not in reply(place, "hung", "x"):
            if time.monotonic() - began > 30:
                raise Problem("the directory is not served again")
        say(f"hung: median {ms(statistics.median(before))} before, {ms(statistics.median(after))} while a directory hangs; "
            f"slowest of {DOWNLOADS} {ms(max(before))} and {ms(max(after))}; at most {most_threads} threads; "
            f"served again {time.monotonic() - began:.1f} s after it resumed")
        return max(after) < max(0.1, 3 * max(before)) and most_threads < 64 and is_reported
    finally:
        directory.close()


def silent(place, folder):
    (folder / "fine").mkdir()
    (folder / "fine" / "x").write_bytes(bytes(1000))
    server, env = start_s3(place, folder / "s3-silent")
    s3.put(server, "bucket", "x", b"hello")
    process, _ = place.serve({"good": f"file://{folder}/fine", "silent": "s3://bucket"}, env)
    before, _ = beside_requests_to("silent", place, process)
    os.kill(server["pid"], signal.SIGSTOP)
    try:
        after, _ = beside_requests_to("silent", place, process)
    finally:
        os.kill(server["pid"], signal.SIGCONT)
    say(f"silent: median {ms(statistics.median(before))} before, {ms(statistics.median(after))} while S3 is silent; "
        f"slowest of {DOWNLOADS} {ms(max(before))} and {ms(max(after))}")
    return max(after) < max(0.1, 3 * max(before))


def tls(place, folder):
    server, env = start_s3(place, folder / "s3-tls")
    s3.put(server, "bucket", "large", os.urandom(FAST_BYTES))
    host, port = re.search(r"//([^/:]+):(\d+)", server["endpoint"]).groups()
    front = TlsFront((host, int(port)), folder)
    place.serve({"tls": "s3://bucket"}, {**env, "AWS_ENDPOINT_URL": front.endpoint, "AWS_CA_BUNDLE": str(front.ca)})
    command = [place.gantry, "get", "tls/large", "--quiet", "-o", "/dev/null"]

    def fast():
        took, _ = place.run(*command[1:])
        return FAST_BYTES / MIB / took

    fast()
    alone, beside = [], []
    for _ in range(ROUNDS):
        alone.append(fast())
        slow = [subprocess.Popen([*command, "--limit-rate", "100K"], env=place.env, stdin=subprocess.DEVNULL)
                for _ in range(SLOW)]
        # The first window of each is not limited.
        time.sleep(1.5)
        beside.append(fast())
        for consumer in slow:
            consumer.terminate()
        for consumer in slow:
            consumer.wait()
    front.close()

    ratio = statistics.median(beside) / statistics.median(alone)
    say(f"tls: {statistics.median(alone):.0f} MiB/s alone, {statistics.median(beside):.0f} beside {SLOW} slow consumers, "
        f"ratio {ratio:.2f} (medians of {ROUNDS}; alone {min(alone):.0f} to {max(alone):.0f}, "
        f"beside {min(beside):.0f} to {max(beside):.0f}); protocols {front.protocols}")
    return ratio >= 0.9


def beside_requests_to(store, place, relay):
    """Downloads from `good` while others send thousands of requests to `store`. Returns the times and the most threads."""
    client, others = Connection(place.url), Connection(place.url)
    threading.Thread(target=drain, args=(others,), daemon=True).start()
    client.get("good", "x")
    times, most_threads = [], 0
    for _ in range(DOWNLOADS):
        # Twenty of each kind, from consumers that retry. With a directory that hangs, this lasts longer than its deadline.
        for _ in range(20):
            others.ask(f"gantry.v1.get.{store}", {"key": "x", "credit": 10})
            others.ask(f"gantry.v1.stat.{store}", {"key": "x"})
            others.ask(f"gantry.v1.list.{store}", {})
        time.sleep(0.4)
        times.append(client.get("good", "x")[1])
        most_threads = max(most_threads, threads(relay))
    client.close()
    others.close()
    return times, most_threads


def drain(connection):
    try:
        while True:
            connection.next()
    except (OSError, EOFError, ValueError):
        pass


def end(place, folder):
    (folder / "hung2").mkdir()
    directory = HangingDirectory(folder / "hung2")
    try:
        process, _ = place.serve({"hung2": f"file://{folder}/hung2"}, {"GANTRY_RELAY__DRAIN_GRACE_MS": "0"})
        directory.hang()
        client = Connection(place.url)
        for _ in range(8):
            client.ask("gantry.v1.stat.hung2", {"key": "x"})
            client.ask("gantry.v1.list.hung2", {})
        time.sleep(0.5)

        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        place.stage.processes = [(name, other) for name, other in place.stage.processes if other is not process]
        process.wait(60)
        took = time.monotonic() - began
        answers = [client.next()[1] for _ in range(16)]
        drained = sum(b"draining" in answer for answer in answers)
        say(f"end: the relay ended {took:.2f} s after SIGTERM, and answered {drained} of 16 waiting requests")
        return took < 1.5 and drained == 16
    finally:
        directory.close()


def listing(place, folder):
    many = folder / "many"
    many.mkdir()
    for number in range(FILES):
        (many / f"file-{number * 7919 % FILES:06}").touch()
    process, http = place.serve({"many": f"file://{many}"})
    before = peak_rss(process.pid)

    find = ["find", str(many), "-type", "f", "-printf", "%s %T@ %p\n"]
    finds, lists = [], []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run(find, check=True, stdout=subprocess.DEVNULL)
        finds.append(time.perf_counter() - began)
        took, text = place.run("ls", "many/")
        lists.append(took)
        if text.count("\n") != FILES:
            raise Problem(f"{text.count(chr(10))} lines instead of {FILES}")
    after_ls = peak_rss(process.pid)

    client = Connection(place.url)
    began = time.monotonic()
    for _ in range(64):
        client.ask("gantry.v1.list.many", {"limit": 1})
    answers = [client.next()[1] for _ in range(64)]
    took = time.monotonic() - began
    served = sum(b"file-000000" in answer for answer in answers)
    after = peak_rss(process.pid)
    say(f"listing: {FILES} files: find {min(finds):.2f} s, gantry ls {min(lists):.2f} s, "
        f"{min(lists) / min(finds):.1f} times; relay's memory {before / MIB:.0f} MiB before, {after_ls / MIB:.0f} MiB after; "
        f"64 requests with limit 1: {served} served in {took:.1f} s, {after / MIB:.0f} MiB; "
        f"reserved now {metric(http, 'gantry_memory_reserved_bytes') / MIB:.0f} MiB")
    return min(lists) < 3 * min(finds) and after < 512 * MIB and served == 64


def reply(place, store, key):
    client = Connection(place.url)
    try:
        return client.get(store, key)[0]
    except OSError as error:
        return str(error).encode()
    finally:
        client.close()


def page(http, name):
    try:
        with urllib.request.urlopen(f"http://{http}/{name}", timeout=10) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        return ""


def metric(http, name):
    return float(re.search(rf"^{name} (\S+)$", page(http, "metrics"), re.M).group(1))


def status(pid, field):
    return int(re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()).group(1))


def threads(process):
    return status(process.pid, "Threads")


def peak_rss(pid):
    return status(pid, "VmHWM") << 10


def ms(seconds):
    return f"{1000 * seconds:.1f} ms"


CASES = {"stalled": stalled, "hung": hung, "silent": silent, "tls": tls, "end": end, "listing": listing}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, action="append", help="run only this case; may be repeated")
    parser.add_argument("--gantry", type=lambda path: Path(path).resolve(), help="use this binary, do not build")
    args = parser.parse_args()

    stage, failed = demo.Stage(), []
    try:
        servers.DEV.mkdir(exist_ok=True)
        gantry = args.gantry or demo.build(stage)
        stage.folder = Path(tempfile.mkdtemp(dir=servers.DEV, prefix="field-"))
        place = Place(stage, gantry)
        for name in args.case or CASES:
            if not CASES[name](place, stage.folder):
                failed.append(name)
    except Problem as problem:
        sys.exit(f"isolation: {problem}")
    finally:
        stage.close()
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
