"""A hub with relays, and sites whose relays reach the hub through a link and keep on disk what they read."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "deploy" / "dev"), str(HERE)]

import demo
import s3
from demo import Problem, say
from isolation import page
from ports import free_port
from throttle import Throttle

STORE, BUCKET = "thin", "thin"
FAST = 200_000_000
WITHIN_S = 60
# Set in the process that has a mount namespace of its own.
OWN_MOUNTS = "EDGE_RIG_OWN_MOUNTS"


class Hub:
    """A nats-server and a relay of a directory, or of a bucket of an S3 server."""

    def __init__(self, stage, gantry, name="hub", is_s3=False, nats="", env=None, leaf_port=None):
        self.stage, self.gantry, self.name = stage, gantry, name
        self.files = stage.folder / f"{name}-files"
        self.files.mkdir()
        if leaf_port:
            nats += f'\nleafnodes {{ listen: "127.0.0.1:{leaf_port}" }}\n'
        self.url = start_nats(stage, name, nats)
        self.s3, self.env = None, {**demo.clean_env(), "NATS_URL": self.url, **(env or {})}
        if is_s3:
            self.s3, process = s3.start(stage.folder / f"{name}-s3", stdin=stage.alive_fd)
            stage.processes.append((f"{name}-s3", process))
            keys = self.s3["users"]["admin"]
            self.env |= {"AWS_ACCESS_KEY_ID": keys["access_key_id"], "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"],
                         "AWS_REGION": self.s3["region"], "AWS_ENDPOINT_URL": self.s3["endpoint"]}
            self.put("first", b"so that there is a bucket")
        self.http, self.relay, self.starts = f"127.0.0.1:{free_port()}", None, 0

    def start_relay(self, *options):
        self.starts += 1
        address = f"s3://{BUCKET}" if self.s3 else f"file://{self.files}"
        command = [self.gantry, "serve", f"--store={STORE}={address}", "--http", self.http, *options]
        self.relay = self.stage.start(f"{self.name}-relay-{self.starts}", command, self.env)
        self.stage.wait_for("the hub's relay is not ready", lambda: "nats: connected" in page(self.http, "readyz"))

    def kill_relay(self):
        kill(self.stage, self.relay)

    def put(self, key, body):
        """Puts or replaces an object."""
        if self.s3:
            return s3.put(self.s3, BUCKET, key, body, sha256=hashlib.sha256(body).digest())
        new = self.files.with_name("new-file")
        new.write_bytes(body)
        new.rename(self.files / key)

    def sent(self):
        """Returns the bytes of objects that the relay has sent."""
        return metric(self.http, "gantry_sent_bytes_total")


class Site:
    """A nats-server and an edge relay, whose connection to the hub goes through a link.

    With `leaf`, the nats-server is a leaf node of the hub's, and that connection is the link: the relay reads what the
    relays with the prefix `origin` serve.
    """

    def __init__(self, stage, gantry, hub_url, name="site", rate=FAST, keys="", uplink="", leaf_port=None, user=None):
        self.stage, self.gantry, self.name, self.keys, self.user = stage, gantry, name, keys, user
        self.link = Throttle(("127.0.0.1", leaf_port or int(hub_url.rsplit(":", 1)[1])), rate)
        remote = f'leafnodes {{ reconnect: 1s, remotes: [{{ url: "nats-leaf://127.0.0.1:{self.link.port}" }}] }}'
        self.url = start_nats(stage, name, remote if leaf_port else "")
        scheme, address = ("prefix", "origin") if leaf_port else ("url", f"nats://127.0.0.1:{self.link.port}")
        self.uplink = uplink or f'{scheme} = "{address}"'
        self.http = f"127.0.0.1:{free_port()}"
        self.cache = stage.folder / f"{name}-cache"
        self.config = stage.folder / f"{name}.toml"
        self.env = {**demo.clean_env(), "NATS_URL": self.url}
        self.edge, self.starts, self.gets = None, 0, 0

    def configure(self, keys=None, cache=None, stores=None):
        """Writes the configuration, with other keys of the store if they are given."""
        self.keys = self.keys if keys is None else keys
        self.cache = cache or self.cache
        folder = f'cache_dir = "{self.cache}"\n' if self.cache != Path("/none") else ""
        self.config.write_text(stores or f'[stores.{STORE}]\nurl = "nats:{STORE}"\n{folder}{self.keys}\n'
                                         f"[stores.{STORE}.nats]\n{self.uplink}\n")

    def start_edge(self, is_connected=True, *options):
        self.starts += 1
        self.configure()
        command = [self.gantry, "serve", "--config", self.config, "--http", self.http, *options]
        if self.user:
            command = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", *command]
        self.edge = self.stage.start(f"{self.name}-edge-{self.starts}", command, self.env)
        expected = f"store {STORE}: ok" if is_connected else "nats: connected"
        self.stage.wait_for(f"the edge relay of {self.name} is not ready", lambda: expected in page(self.http, "readyz"))

    def kill_edge(self):
        kill(self.stage, self.edge)

    def reload(self):
        """Lets the edge relay read its configuration again, and returns what it logs from then on."""
        before = len(self.log())
        self.signal(signal.SIGHUP)
        return wait_for("the edge relay does not reload", lambda: self.reloaded(before))

    def reloaded(self, before):
        text = self.log()[before:]
        return text if re.search(r"reload|configuration", text) else None

    def signal(self, number):
        self.edge.send_signal(number)

    def log(self):
        return plain(self.stage.log(f"{self.name}-edge-{self.starts}").read_text())

    def warnings(self):
        """Returns the warnings and errors about the cache since the edge relay's start."""
        return [line for line in self.log().splitlines() if " WARN " in line and "cache f" in line]

    def start_get(self, key, *options, env=None):
        self.gets += 1
        file = self.stage.folder / f"{self.name}-get-{self.gets}"
        command = [self.gantry, "get", f"{STORE}/{key}", "-o", file, "--json", "--progress", "none", *options]
        process = self.stage.start(file.name, command, {**self.env, **(env or {})})
        forget(self.stage, process)
        return Get(self.stage, process, key, file)

    def get(self, key, *options, env=None):
        return self.start_get(key, *options, env=env).end()

    def run(self, *args, env=None, timeout=WITHIN_S):
        """Runs a command, and returns its exit code and everything it prints."""
        done = self.stage.run([self.gantry, *args], env={**self.env, **(env or {})}, capture_output=True, timeout=timeout)
        return done.returncode, plain(done.stdout + done.stderr)

    def cached(self, action, *args):
        """Runs `gantry cache ACTION` on the cache folder."""
        return self.run("cache", action, *args, "--dir", self.cache)

    def blocks(self):
        return sorted(self.cache.glob("*.block"))

    def filled(self, count):
        """Waits until so many blocks are on disk."""
        wait_for(f"{count} blocks at {self.name}", lambda: len(self.blocks()) >= count)

    def stop(self):
        """Ends the edge relay, and waits for it."""
        forget(self.stage, self.edge)
        self.signal(signal.SIGTERM)
        self.edge.wait(WITHIN_S)


class Get:
    """A download that is in progress or has ended."""

    def __init__(self, stage, process, key, file):
        self.stage, self.process, self.key, self.file = stage, process, key, file
        self.code = self.body = self.said = self.summary = None

    def end(self, within_s=150):
        try:
            self.code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise Problem(f"{self.file.name} of {self.key} did not end within {within_s} s") from None
        self.said = plain(self.stage.log(self.file.name).read_text()).strip()
        self.body = self.file.read_bytes() if self.file.exists() else None
        self.file.unlink(missing_ok=True)
        # A file must never be there unless the download is complete.
        if (self.body is None) == (self.code == 0):
            raise Problem(f"{self.key}: exit code {self.code}, and {'no file' if self.body is None else 'a file'}: {self.said}")
        if self.code == 0:
            self.summary = json.loads(self.said.splitlines()[-1])
        return self


class Counts:
    """What a scenario has seen. Its line is printed at the end."""

    def __init__(self, name):
        self.name, self.began, self.wrong, self.counts, self.failures = name, time.monotonic(), 0, {}, []

    def add(self, what, count=1):
        self.counts[what] = self.counts.get(what, 0) + count

    def right(self, get, *bodies):
        """Counts a download that must have succeeded with one of these bodies."""
        self.add("downloads")
        if get.code != 0:
            self.expect(False, f"{get.key}: exit code {get.code}: {get.said[-500:]}")
        else:
            self.compare(get, *bodies)

    def compare(self, get, *bodies):
        if get.body not in bodies:
            self.wrong += 1
            self.expect(False, f"{get.key}: WRONG FILE")

    def refused(self, get, codes, *words):
        """Counts a download that must have failed with one of these codes, and a message with these words."""
        self.add("refused")
        holds = get.code in codes and all(word in get.said for word in words)
        self.expect(holds, f"{get.key}: exit code {get.code} instead of {codes}, or not {words}: {get.said[-500:]}")

    def expect(self, holds, what):
        if not holds:
            self.failures.append(what)
            say(f"{self.name}: {what}")

    def ran(self, done, code, *words):
        """Checks the exit code and the words of a command."""
        holds = done[0] == code and all(word in done[1] for word in words)
        self.expect(holds, f"exit code {done[0]} instead of {code}, or not {words}: {done[1][-500:]}")

    def line(self):
        counts = ", ".join(f"{count} {what}" for what, count in self.counts.items())
        state = "ok" if not self.failures else f"FAILED ({len(self.failures)})"
        return f"{self.name}: {counts}; {self.wrong} wrong files; {time.monotonic() - self.began:.0f} s; {state}"


def run_cases(title, cases, args, gantry_of):
    """Runs the cases one after the other, each in a folder of its own, and ends this process."""
    lines, is_bad, began = [], False, time.monotonic()
    for name in args.case or cases:
        stage, counts = demo.Stage(), Counts(name)
        stage.folder = gantry_of.folder()
        try:
            cases[name](stage, gantry_of.gantry, counts)
        except (Problem, OSError, subprocess.SubprocessError) as problem:
            counts.expect(False, str(problem))
        finally:
            unmount_below(stage.folder)
            stage.close()
        is_bad |= bool(counts.failures)
        lines.append(counts.line())
        say(lines[-1])
    say("\n".join([f"--- {title}: {time.monotonic() - began:.0f} s", *lines]))
    sys.exit(f"{title}: failed" if is_bad else 0)


def start_nats(stage, name, text):
    file = stage.folder / f"{name}-nats.conf"
    file.write_text(text + "\n")
    return demo.start_nats(stage, "-c", file)


def forget(stage, process):
    """Excludes a process that may end from those that must not."""
    stage.processes = [(name, other) for name, other in stage.processes if other is not process]


def kill(stage, process):
    forget(stage, process)
    process.kill()
    process.wait()


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def metric(http, name):
    """Returns the sum of all series with this name, or this beginning."""
    lines = [line for line in page(http, "metrics").splitlines() if line.startswith(name)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def wait_for(what, ready, within_s=WITHIN_S):
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found := ready():
            return found
        time.sleep(0.02)
    raise Problem(f"{what}: not within {within_s} s")


def mount_tmpfs(folder, size, options=""):
    """Mounts a small file system. Only the mount namespace of this process sees it."""
    folder.mkdir(exist_ok=True)
    call("mount", "-t", "tmpfs", "-o", f"size={size},mode=700{options}", "tmpfs", folder)


def unmount_below(folder):
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if Path(mount).is_relative_to(folder):
            call("umount", "-l", mount)


def call(*command):
    done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise Problem(f"{command[0]} failed: {done.stderr.strip()}")


def own_mounts():
    """Starts this script again in a mount namespace of its own, in which only root can mount."""
    if os.geteuid() != 0:
        raise Problem("mounting small file systems needs root")
    for tool in ("unshare", "setpriv", "mount"):
        if not shutil.which(tool):
            raise Problem(f"{tool} is missing: install util-linux")
    if OWN_MOUNTS not in os.environ:
        os.environ[OWN_MOUNTS] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])
