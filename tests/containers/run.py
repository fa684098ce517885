#!/usr/bin/env python3
"""Tests the image and the compose files on a Docker engine without a registry.

Builds the base images and the Dockerfile, starts docker-compose.yml with each
installed version of Compose, downloads an object and compares it. Then injects faults
into the cluster of deploy/compose/cluster.yml and prints the longest wait for a byte.
Containers and networks are always removed; images stay as a cache for the next run.
"""

import argparse
import dataclasses
import fcntl
import hashlib
import os
import re
import signal
import subprocess
import sys
import time

import compose
import engine
from bases import BASE_LABEL, ROOT, Bases
from engine import Failed, Project, docker, health, inspect, say, wait_until
from faults import CLUSTER_URL, Faults
from image import check_image

IMAGE = "gantry:local"
BUILD_STAGE = "gantry-proof/build:latest"
# Build arguments with which the build takes less time.
QUICK = ("CARGO_PROFILE_RELEASE_LTO=off", "CARGO_PROFILE_RELEASE_OPT_LEVEL=1")
# Most of it is for a cold build of the dependencies.
LIMIT_S = 40 * 60
ONE_NATS_URL = "nats://nats:4222"
ONE_SAMPLES = "hello.bin=1 big.bin=256"
# Shorter than the rest of a download, so that a stopped relay has to hand over its transfer.
DRAIN_GRACE_MS = "2000"
CLUSTER_SAMPLES = "hello.bin=1 medium.bin=96 big.bin=512"


@dataclasses.dataclass
class Sample:
    sha256: str
    len_bytes: int


class Proof:
    """Runs the checks in order and counts those that passed."""

    def __init__(self, profile):
        self.run_id = f"gantry-proof-{os.getpid()}"
        self.profile = profile
        self.bases = Bases()
        self.projects = []
        self.passed = []
        self.rows = []

    def check(self, name, step):
        say(f"\n== {name}")
        began = time.monotonic()
        result = step()
        self.passed.append(name)
        say(f"   ok, {time.monotonic() - began:.1f} s")
        return result

    def project(self, command, file, suffix, **environment):
        project = Project(command, str(ROOT / file), f"{self.run_id}-{suffix}",
                          {"NATS_PORT": "0", "RELAY_HEALTH_PORT": "0", **environment})
        self.projects.append(project)
        return project

    def run(self):
        self.check("base images", self.bases.make)
        self.check("docker build", lambda: build(self.profile))
        self.check("the image: user, size, contents", lambda: check_image(IMAGE, self.run_id))
        compose.provide()
        composes = engine.compose_commands()
        if not composes:
            raise Failed("neither docker compose nor docker-compose is installed")
        for number, (name, command) in enumerate(composes):
            self.compose_file(name, command, number)
        if not any(command[0] == "docker" for _, command in composes):
            say("\nNOT RUN: Compose v2 is not installed; only docker-compose was tested")
        self.gateway_file(*composes[0])
        self.cluster_file(*composes[0])
        for name, command in composes[1:]:
            self.cluster_comes_up(name, command)

    def compose_file(self, name, command, number):
        project = self.project(command, "docker-compose.yml", f"one{number}",
                               SAMPLES=ONE_SAMPLES)
        self.check(f"{name}: up", lambda: bring_up(project, ["relay"]))
        samples = sample_digests(project)
        self.check(f"{name}: run consumer get demo/hello.bin -o -", lambda: run_consumer(project, samples))
        self.check(f"{name}: a missing object is exit 4", lambda: run_missing(project))
        if number == 0:
            faults = Faults(project, IMAGE, ONE_NATS_URL, self.run_id, samples)
            self.check("the only nats-server restarts in mid-transfer", faults.restart_only_nats)
            self.rows += faults.rows
            self.check("the relay is unhealthy without NATS", lambda: health_follows_nats(project))
        project.down()

    def gateway_file(self, name, command):
        project = self.project(command, "deploy/compose/gateway.yml", "gateway", SAMPLES=ONE_SAMPLES)
        self.check(f"{name}: a gateway: up", lambda: bring_up(project, ["relay", "gateway"]))
        samples = sample_digests(project)
        self.check(f"{name}: a program that speaks only S3", lambda: run_app(project, samples))
        project.down()

    def cluster_file(self, name, command):
        project = self.project(command, "deploy/compose/cluster.yml", "cluster", SAMPLES=CLUSTER_SAMPLES,
                               DRAIN_GRACE_MS=DRAIN_GRACE_MS)
        self.check(f"{name}: three nats-servers, two relays: up", lambda: bring_up(project, ["relay-1", "relay-2"]))
        faults = Faults(project, IMAGE, CLUSTER_URL, self.run_id, sample_digests(project))
        for what, fault in (
                ("a download with nothing broken", faults.baseline),
                ("the serving relay is killed in mid-transfer", faults.kill_relay),
                ("the serving relay is stopped in mid-transfer", faults.stop_relay),
                ("the serving relay is cut off in mid-transfer", faults.disconnect_relay),
                ("the serving relay freezes in mid-transfer", faults.freeze_relay),
                ("every nats-server restarts in mid-transfer", faults.roll_nats),
                ("both relays roll under load", faults.roll_relays)):
            self.check(what, fault)
        self.rows += faults.rows
        project.down()

    def cluster_comes_up(self, name, command):
        project = self.project(command, "deploy/compose/cluster.yml", "cluster-too", SAMPLES=ONE_SAMPLES)
        self.check(f"{name}: three nats-servers, two relays: up", lambda: bring_up(project, ["relay-1", "relay-2"]))
        samples = sample_digests(project)
        self.check(f"{name}: run consumer in the cluster", lambda: run_consumer(project, samples))
        project.down()

    def tear_down(self):
        engine.remove_everything(self.run_id)
        for project in self.projects:
            project.down()
        self.bases.forget_names()

    def print_logs(self):
        """Prints the containers' logs, to investigate a failure."""
        for project in self.projects:
            said = project("logs", "--no-color", "--tail", "40", check=False).stdout
            if said:
                say(f"-- {project.name}\n{said[-12000:]}")

    def print_table(self):
        width = max((len(row.broken) for row in self.rows), default=0)
        say(f"\n{'fault':<{width}}  at MiB  no byte for s  download s  note")
        for row in self.rows:
            say(f"{row.broken:<{width}}  {row.at_mib:>6}  {row.pause_s:>13.2f}  {row.took_s:>10.1f}  {row.note}")


def build(profile):
    revision = engine.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=False).stdout.strip() or "unknown"
    # The first stage has its own name because it contains the compiled dependencies.
    # The image that it replaces is found by its label and removed.
    for arguments in (["--target", "build", "--label", f"{BASE_LABEL}=build", "--tag", BUILD_STAGE], ["--tag", IMAGE]):
        # Passed to both builds; otherwise the second would repeat the work of the first.
        for argument in (f"REVISION={revision}", *profile):
            arguments += ["--build-arg", argument]
        done = subprocess.run(["docker", "build", *arguments, str(ROOT)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S)
        if done.returncode != 0:
            raise Failed(f"docker build: exit {done.returncode}\n{done.stdout[-6000:]}")
    docker("image", "prune", "--force", "--filter", f"label={BASE_LABEL}", check=False)


def bring_up(project, relays):
    project.up()
    for relay in relays:
        container = project.container(relay)
        wait_until(f"{relay} healthy", lambda: health(container) == "healthy", 120)
        serves_hardened(container)
    seed = inspect(project.container("seed"))["State"]
    if seed["Running"] or seed["ExitCode"] != 0:
        raise Failed(f"seed: running {seed['Running']}, exit {seed['ExitCode']}")


def serves_hardened(relay):
    """Checks that the healthy relay runs read-only and without capabilities."""
    container = inspect(relay)
    held, user = container["HostConfig"], container["Config"]["User"]
    if not held["ReadonlyRootfs"] or held["CapDrop"] != ["ALL"] or held["CapAdd"]:
        raise Failed(f"the relay may write or has capabilities: {held['ReadonlyRootfs']}, {held['CapDrop']}")
    if not any(option.startswith("no-new-privileges") for option in held["SecurityOpt"] or []):
        raise Failed("the relay may gain privileges")
    if user != "65532:65532":
        raise Failed(f"the relay runs as {user!r}")
    say("   the relay is healthy as 65532:65532, read-only, without capabilities")


def sample_digests(project):
    """Returns the objects that the seed container reports as stored. Gantry is not involved in this report."""
    said = docker("logs", project.container("seed")).stdout
    return {key: Sample(digest, int(mib) << 20)
            for key, mib, digest in re.findall(r"put demo/(\S+), (\d+) MiB, sha256 ([0-9a-f]{64})", said)}


def run_consumer(project, samples):
    command = [*project.base(), "run", "--rm", "-T", "consumer", "get", "demo/hello.bin", "-o", "-"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=project.environment, timeout=180)
    digest = hashlib.sha256(done.stdout).hexdigest()
    if done.returncode != 0 or digest != samples["hello.bin"].sha256:
        raise Failed(f"exit {done.returncode}, {len(done.stdout)} bytes, SHA-256 {digest}, "
                     f"not {samples['hello.bin'].sha256}\n{done.stderr.decode(errors='replace')[-2000:]}")
    say(f"   {len(done.stdout)} bytes equal; " + done.stderr.decode(errors="replace").strip().splitlines()[-1])


def run_app(project, samples):
    for key, sample in samples.items():
        command = [*project.base(), "run", "--rm", "-T", "app", f"http://127.0.0.1:9000/demo/{key}"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=project.environment, timeout=180)
        digest = hashlib.sha256(done.stdout).hexdigest()
        if done.returncode != 0 or digest != sample.sha256:
            raise Failed(f"{key}: exit {done.returncode}, {len(done.stdout)} bytes, SHA-256 {digest}, "
                         f"not {sample.sha256}\n{done.stderr.decode(errors='replace')[-2000:]}")
    say(f"   {len(samples)} objects equal")


def run_missing(project):
    done = project("run", "--rm", "-T", "consumer", "get", "demo/no-such-key", "-o", "-", check=False)
    if done.returncode != 4 or done.stdout:
        raise Failed(f"exit {done.returncode}, {len(done.stdout)} bytes\n{done.stderr[-2000:]}")
    say("\n".join(f"   {line}" for line in done.stderr.splitlines() if line.startswith("gantry:")))


def health_follows_nats(project):
    nats, relay = project.container("nats"), project.container("relay")
    docker("stop", "--time", "1", nats)
    wait_until("relay unhealthy", lambda: health(relay) == "unhealthy", 120)
    docker("start", nats)
    wait_until("relay healthy again", lambda: health(relay) == "healthy", 120)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--if-engine", action="store_true", help="succeed with a message if no engine answers")
    options.add_argument("--quick-build", action="store_true", help="build the image with little optimisation")
    arguments = options.parse_args()

    version, reason = engine.engine_version()
    if version is None:
        say(f"CONTAINER TESTS NOT RUN: no Docker engine answers ({reason})")
        return 0 if arguments.if_engine else 1
    say(f"Docker engine {version}")

    lock_file = ROOT / "target/containers/lock"
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with open(lock_file, "w", encoding="utf-8") as lock:
        # The public image names are shared by the whole engine, so only one test may run at a time.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return prove(QUICK if arguments.quick_build else ())


def prove(profile):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, engine.stop_on_signal)
    signal.alarm(LIMIT_S)
    proof = Proof(profile)
    failed = 0
    try:
        proof.run()
    except (Failed, subprocess.TimeoutExpired) as error:
        failed = 1
        say(f"   FAILED: {error}")
        proof.print_logs()
    finally:
        signal.alarm(0)
        proof.tear_down()
    proof.print_table()
    say(f"\ncontainers: {len(proof.passed)} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main())
