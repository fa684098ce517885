#!/usr/bin/env python3
"""Floods a relay with messages that nats-server forwards but the relay's client library can't parse.

    flood.py --gantry PATH --rates 10,100,1000

At each rate, a download of 200 MB runs during the flood, and downloads of one byte are started one after the other.
Finally, a single message with a lone CR in a header value must not disconnect the relay for longer than a second. The
script fails if a download needs more than one recovery, a file is wrong, a new download fails, or the relay reports
that it is ready while it does not serve.
"""

import argparse
import asyncio
import json
import random
import re
import socket
import subprocess
import threading
import time

from play import options, play
import demo
import servers
from consumer import sha256
from demo import Problem, say
from rig import answers, ended, fetch, free_port, until
from table import median, p99, print_rows, show

SIZE = 200_000_000
# Makes a download last 10 s, so that the flood affects it.
PACE = "20MB"
RATES = "10,100,1000"
STORE = "files"
WITHIN_S = 120
BACK_WITHIN_S = 1.0
# What a consumer reports if it finds no relay because the connection for requests is being replaced.
FOUND_NOBODY = ("no relay is listening", "its relay may be restarting or reconnecting")
# The delay that the scheduler of a busy machine may add between two simultaneous events.
SETTLE_S = 0.005


def kinds(subject):
    """Every kind of message that nats-server forwards but async-nats 0.51 can't parse, to one subject."""
    name = subject.encode()

    def headers(block):
        return b"HPUB %s _INBOX.x %d %d\r\n%s\r\n" % (name, len(block), len(block), block)

    return {
        "reply": b"PUB %s _INBOX.\xff 0\r\n\r\n" % name,
        "subject": b"PUB %s.\xff 0\r\n\r\n" % name.rpartition(b".")[0],
        "version": headers(b"XXXX\r\n\r\n"),
        "colon": headers(b"NATS/1.0\r\nAAA\r\n\r\n"),
        "utf8": headers(b"NATS/1.0\r\nA: \xff\r\n\r\n"),
        "status": headers(b"NATS/1.0 99999\r\n\r\n"),
        "name": headers(b"NATS/1.0\r\nA B: x\r\n\r\n"),
        "cr": headers(b"NATS/1.0\r\nX: a\rb\r\n\r\n"),
    }


def subjects(instance):
    """All subjects that a consumer may publish to."""
    return [f"gantry.v1.{operation}.{STORE}" for operation in ("get", "stat", "list")] + [
        f"gantry.v1.ctl.{instance}.x", "$SRV.PING.gantry"]


class Client:
    """A connection to nats-server that can send arbitrary bytes."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n')
        self.file = self.socket.makefile("rb")

    def send(self, message):
        self.socket.sendall(message)

    def sync(self):
        """Returns once nats-server has processed everything sent before."""
        self.send(b"PING\r\n")
        while self.file.readline() != b"PONG\r\n":
            pass

    def close(self):
        self.file.close()
        self.socket.close()


class Flood:
    """Sends malformed messages at a steady rate from a separate thread."""

    def __init__(self, port, rate, instance):
        self.client, self.rate, self.sent = Client(port), rate, 0
        # Kinds and subjects cycle with different periods, so that all combinations occur.
        self.messages = [list(kinds(subject).values()) for subject in subjects(instance)]
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        began = time.monotonic()
        while not self.stopping.is_set():
            due = int((time.monotonic() - began) * self.rate) - self.sent
            for _ in range(min(due, 100)):
                of_subject = self.messages[self.sent % len(self.messages)]
                self.client.send(of_subject[self.sent % len(of_subject)])
                self.sent += 1
            self.stopping.wait(0.5 / self.rate)

    def __enter__(self):
        if self.rate:
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        if self.rate:
            self.thread.join()
        self.client.close()


class Place:
    """A nats-server and a relay of a directory, in a folder of their own."""

    def __init__(self, folder, gantry, alive_fd):
        self.folder, self.gantry, self.alive_fd = folder, gantry, alive_fd
        self.port, self.http = free_port(), f"127.0.0.1:{free_port()}"
        self.processes = []
        self.env = {**demo.clean_env(), "NATS_URL": f"nats://127.0.0.1:{self.port}"}

    def spawn(self, name, command):
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(demo.supervised(command), stdin=self.alive_fd, stdout=log, stderr=log, env=self.env)
        self.processes.append(process)
        return process

    async def start(self):
        files = self.folder / "files"
        files.mkdir()
        (files / "large").write_bytes(random.Random(1).randbytes(SIZE))
        (files / "small").write_bytes(b"x")
        self.digest = sha256(files / "large")
        self.spawn("nats", [servers.path_of("nats-server"), "-a", "127.0.0.1", "-p", str(self.port)])
        await until("nats-server answers", lambda: answers(self.port), WITHIN_S)
        self.spawn("relay", [self.gantry, "serve", "--store", f"{STORE}=file://{files}", "--http", self.http])
        await until("the relay is ready", self.is_ready, WITHIN_S)
        self.instance = re.search(r"instance=(?:\x1b\[\d*m)*\"?([0-9a-f]{32})", self.log("relay")).group(1)

    def log(self, name):
        text = (self.folder / f"{name}.log").read_text(errors="replace")
        return re.sub(r"\x1b\[\d*m", "", text)

    async def is_ready(self):
        try:
            return await fetch(f"http://{self.http}/readyz")
        except OSError:
            return False

    async def get(self, key, target, *args):
        """Runs `gantry get`; returns its summary and how long it took."""
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            self.gantry, "get", f"{STORE}/{key}", "-o", target, "--json", *args, env=self.env,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            said, errors = await asyncio.wait_for(process.communicate(), WITHIN_S)
        except TimeoutError:
            process.kill()
            raise Problem(f"a download of {key} took more than {WITHIN_S} s") from None
        if process.returncode:
            return None, time.monotonic() - began, f"exit {process.returncode}: {errors.decode(errors='replace')[-300:]}"
        return json.loads(said), time.monotonic() - began, ""

    async def get_until_accepted(self, key, target):
        """Runs `gantry get`, and retries if it found no relay. Returns total time, number of runs, and the failure."""
        began, again = time.monotonic(), 0
        while True:
            summary, _, error = await self.get(key, target)
            found_nobody = any(text in error for text in FOUND_NOBODY)
            if summary is not None or not found_nobody or time.monotonic() > began + WITHIN_S:
                return time.monotonic() - began, again, error
            again += 1

    async def close(self):
        for process in reversed(self.processes):
            process.terminate()
            await ended(process)


async def beside(place, rate):
    """Runs one flood. Returns a row of the table, and the problems."""
    problems, times, found_nobody = [], [], 0
    target = place.folder / f"large-{rate}"
    download = asyncio.create_task(place.get("large", target, "--limit-rate", PACE))
    await until("the download has begun", lambda: any(f.stat().st_size for f in place.folder.glob(f".large-{rate}*"))
                or download.done(), WITHIN_S)
    log_before = len(place.log("relay").splitlines())
    with Flood(place.port, rate, place.instance) as flood:
        while not download.done():
            took, again, error = await place.get_until_accepted("small", place.folder / f"small-{rate}")
            times.append(took)
            found_nobody += again
            if error:
                problems.append(f"rate {rate}: a new download failed, {error}")
        sent = flood.sent
    summary, took, error = await download
    recoveries = summary["recoveries"] if summary else None
    if summary is None:
        problems.append(f"rate {rate}: the download failed, {error}")
    elif sha256(target) != place.digest:
        problems.append(f"rate {rate}: the file is wrong")
    elif recoveries > 1:
        problems.append(f"rate {rate}: the download needed {recoveries} recoveries")
    lines = len(place.log("relay").splitlines()) - log_before - len(times) * 2
    row = (rate, sent, show(took), show(recoveries, 0), len(times), found_nobody, show(median(times), 3), show(p99(times), 3),
           show(max(times), 3), max(0, lines))
    return row, problems


async def one_cr(place):
    """Kills the relay's connection once. Returns how long it was away, and how often it reported ready meanwhile."""
    asker, killer = Client(place.port), Client(place.port)
    asker.send(b"SUB _INBOX.flood.* 1\r\n")
    asker.sync()
    asker.socket.settimeout(0.001)
    sent, received, answered = [], b"", None
    with Sampler(place.http) as sampler:
        began = time.monotonic()
        killer.send(kinds("$SRV.PING.gantry")["cr"])
        killer.sync()
        while answered is None and time.monotonic() < began + 10:
            sent.append(time.monotonic())
            asker.send(b"PUB $SRV.PING.gantry _INBOX.flood.%d 0\r\n\r\n" % (len(sent) - 1))
            try:
                received += asker.socket.recv(65536)
            except TimeoutError:
                continue
            answered = re.search(rb"MSG _INBOX\.flood\.(\d+) 1 \d{3}", received)
    asker.close()
    killer.close()
    if answered is None:
        return None, 0
    # The first request that was answered. Until shortly before it, the relay must not have been ready.
    number = int(answered.group(1))
    unheard = sent[number - 1] if number else began
    wrong = sum(status == 200 for at, status in sampler.samples if began + SETTLE_S < at < unheard - SETTLE_S)
    return sent[number] - began, wrong


class Sampler:
    """Requests /readyz continuously."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.address, self.samples, self.stopping = (host, int(port)), [], threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self.stopping.is_set():
            with socket.create_connection(self.address, timeout=5) as connection:
                asked = time.monotonic()
                connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                status = connection.recv(64).split()
                if len(status) > 1:
                    self.samples.append((asked, int(status[1])))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()


async def run(stage, gantry, args):
    place = Place(stage.folder, gantry, stage.alive_fd)
    problems = []
    rows = [("messages/s", "sent", "200 MB in s", "recoveries", "new downloads", "run again", "median s", "p99 s", "max s",
             "log lines")]
    try:
        await place.start()
        for rate in [0, *map(int, args.rates.split(","))]:
            row, wrong = await beside(place, rate)
            rows.append(row)
            problems += wrong
            say("  " + ", ".join(f"{name} {cell}" for name, cell in zip(rows[0], row)))
        away = []
        for _ in range(args.crs):
            took, wrong = await one_cr(place)
            if took is None or took > BACK_WITHIN_S:
                problems.append(f"one lone CR: the relay was away for {'more than 10' if took is None else show(took)} s")
            if wrong:
                problems.append(f"one lone CR: /readyz reported ready {wrong} times before the relay served")
            if took is not None:
                away.append(took)
            await until("the relay is ready", place.is_ready, WITHIN_S)
    finally:
        await place.close()
    print_rows(rows, say)
    say(f"one lone CR, {args.crs} times: serves again after {show(median(away), 3)} s (median), "
        f"{show(max(away, default=None), 3)} s (longest)")
    for problem in problems:
        say(f"NOT AS PROMISED: {problem}")
    if problems:
        raise Problem("some checks failed")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", default=RATES, help="messages per second, one flood each")
    parser.add_argument("--crs", type=int, default=5, help="how many single messages with a lone CR")
    options(parser)
    play(run, parser.parse_args())


if __name__ == "__main__":
    main()
