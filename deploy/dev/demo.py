#!/usr/bin/env python3
"""Demonstrates a download with a real S3 server, a real nats-server and a relay.

    demo.py           download 256 MiB, compare, report speed and verification, stop
    demo.py --stay    keep everything running until Ctrl-C and print commands to try

All servers listen on free ports of 127.0.0.1 only and keep their data in a folder
below `.dev/`. They stop when this process ends, even if it is killed.
"""

import argparse
import filecmp
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import s3
import servers
from servers import DEV, ROOT, Problem

BUCKET, KEY, STORE = "demo", "model.bin", "demo"
READY_WITHIN_S = 30
STALLED_AFTER_S = 300


class Stage:
    """Processes and their folder. The processes end when the pipe closes; this object holds its writing end.

    From then on, SIGTERM and SIGHUP raise KeyboardInterrupt as Ctrl-C does, so that the script calls `close`.
    """

    def __init__(self):
        for sig in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, signal.default_int_handler)
        self.folder = None
        self.alive_fd, self.hold_fd = os.pipe()
        self.processes = []

    def start(self, name, command, env=None):
        """Starts a supervised command and writes its output to a log in the folder."""
        with open(self.log(name), "ab") as log:
            process = subprocess.Popen(supervised(command), stdin=self.alive_fd, stdout=log, stderr=log, env=env,
                                       cwd=self.folder)
        self.processes.append((name, process))
        return process

    def run(self, command, **options):
        """Runs a supervised command and waits for it."""
        return subprocess.run(supervised(command), stdin=self.alive_fd, text=True, **options)

    def log(self, name):
        return self.folder / f"{name}.log"

    def wait_for(self, what, ready):
        """Waits until `ready()` returns a true value. Fails if a process dies or time runs out."""
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            for name, process in self.processes:
                if process.poll() is not None:
                    raise Problem(f"{name} stopped at once, {s3.tail(self.log(name))}")
            found = ready()
            if found:
                return found
            time.sleep(0.05)
        raise Problem(f"{what} within {READY_WITHIN_S} s")

    def close(self):
        """Stops all processes, waits for them, and removes the folder."""
        os.close(self.hold_fd)
        for _, process in self.processes:
            process.wait()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def supervised(command):
    return [sys.executable, "-I", "-S", str(s3.RUN), "--", *map(str, command)]


def binary(stage):
    """Returns the binary named by GANTRY_BINARY, or builds the release binary."""
    given = os.environ.get("GANTRY_BINARY")
    return Path(given).resolve() if given else build(stage)


def build(stage):
    """Builds the release binary and returns its path, as cargo reports it."""
    say("building (the first build takes a few minutes)")
    cargo = stage.run(["cargo", "build", "--release", "--locked", "--bin", "gantry",
                       "--message-format=json-render-diagnostics"], cwd=ROOT, stdout=subprocess.PIPE)
    if cargo.returncode != 0:
        raise Problem("the build failed")
    built = [json.loads(line) for line in cargo.stdout.splitlines() if line.startswith("{")]
    return next(Path(entry["executable"]) for entry in built
                if entry.get("executable") and entry["target"]["name"] == "gantry")


def start_nats(stage, *options):
    """Starts nats-server on a free port and returns its URL."""
    process = stage.start("nats-server", [servers.path_of("nats-server"), "-a", "127.0.0.1", "-p", "-1",
                                          "--ports_file_dir", stage.folder, *options])

    def url():
        for file in stage.folder.glob(f"*_{process.pid}.ports"):
            try:
                return json.loads(file.read_text())["nats"][0]
            except (ValueError, LookupError):
                pass  # not complete yet

    return stage.wait_for("nats-server did not report its port", url)


def run(stage, mib, stay):
    gantry = binary(stage)
    stage.folder = Path(tempfile.mkdtemp(dir=DEV, prefix="demo-"))
    say("starting nats-server and SeaweedFS")
    url = start_nats(stage)
    # If this process is killed, SeaweedFS' watchdog removes the folder, because SeaweedFS writes most of it.
    store, process = s3.start(stage.folder / "s3", stdin=stage.alive_fd, remove=[stage.folder])
    stage.processes.append(("s3/weed", process))

    say(f"putting {mib} MiB of random bytes into s3://{BUCKET}/{KEY}")
    original = stage.folder / "original"
    digest = hashlib.sha256()
    with open(original, "w+b") as file:
        for _ in range(mib):
            block = os.urandom(1 << 20)
            digest.update(block)
            file.write(block)
        file.seek(0)
        s3.put(store, BUCKET, KEY, file, sha256=digest.digest())

    keys = store["users"]["admin"]
    relay_env = {"AWS_ACCESS_KEY_ID": keys["access_key_id"], "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"],
                 "AWS_REGION": store["region"], "AWS_ENDPOINT_URL": store["endpoint"], "NATS_URL": url}
    serve = [gantry, "serve", "--store", f"{STORE}=s3://{BUCKET}"]
    say(f"starting the relay: gantry {shlex.join(map(str, serve[1:]))}")
    stage.start("gantry", serve, {**clean_env(), **relay_env})
    # The consumer gets access to NATS only: no S3 address, no credentials.
    consumer_env = {**clean_env(), "NATS_URL": url}
    stage.wait_for("the relay did not answer", lambda: stage.run(
        [gantry, "stat", f"{STORE}/{KEY}"], env=consumer_env, capture_output=True).returncode == 0)

    if stay:
        tell_what_to_try(gantry, url, relay_env)
        signal.pause()
    download_and_compare(stage, gantry, consumer_env, original, mib)


def download_and_compare(stage, gantry, env, original, mib):
    copy = stage.folder / "copy"
    get = [gantry, "get", f"{STORE}/{KEY}", "-o", copy, "--json"]
    say(f"downloading: gantry get {STORE}/{KEY}")
    begin = time.monotonic()
    try:
        done = stage.run(get, env=env, capture_output=True, timeout=STALLED_AFTER_S)
    except subprocess.TimeoutExpired:
        raise Problem(f"the download did not finish within {STALLED_AFTER_S} s") from None
    seconds = time.monotonic() - begin
    if done.returncode != 0:
        raise Problem(f"gantry get failed with exit code {done.returncode}: {done.stderr.strip()}")
    if not filecmp.cmp(original, copy, shallow=False):
        raise Problem("the downloaded file differs from the object")
    say(f"gantry get: {done.stdout.strip()}")
    say(f"compared: {mib} MiB, all bytes equal")
    say(f"demo done: {mib} MiB in {seconds:.2f} s, {mib / seconds:.0f} MiB/s")


def tell_what_to_try(gantry, url, relay_env):
    binary = shlex.quote(str(gantry))
    say(f"""
Everything is running. Try this in another terminal:

    export NATS_URL={url}
    {binary} stat {STORE}/{KEY}
    {binary} get {STORE}/{KEY} -o /tmp/{KEY}
    {binary} get {STORE}/{KEY} -o - | sha256sum
    {binary} ls {STORE}

Start a second relay, which shares the work:

    {' '.join(f'{name}={shlex.quote(value)}' for name, value in relay_env.items())} \\
        {binary} serve --store {STORE}=s3://{BUCKET}

Ctrl-C stops everything.""")


def clean_env():
    """This process's environment without variables that configure Gantry."""
    return {name: value for name, value in os.environ.items()
            if not name.startswith(("AWS_", "NATS_", "GANTRY_"))}


def say(text):
    print(text, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stay", action="store_true", help="keep everything running until Ctrl-C")
    parser.add_argument("--mib", type=int, default=256, help="size of the object")
    args = parser.parse_args()
    stage = Stage()
    try:
        for name in ("nats-server", "weed"):
            servers.path_of(name)
        DEV.mkdir(exist_ok=True)
        run(stage, args.mib, args.stay)
    except Problem as problem:
        sys.exit(f"demo: {problem}")
    except KeyboardInterrupt:
        say("stopping")
        sys.exit(0 if args.stay else 130)
    finally:
        stage.close()


if __name__ == "__main__":
    main()
