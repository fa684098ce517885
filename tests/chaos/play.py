"""The common start of all scripts here: options, a temporary stage, a running setup."""

import asyncio
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Appended last, because this folder has a run.py too.
sys.path.append(str(Path(__file__).resolve().parents[2] / "deploy" / "dev"))

import demo
import s3
import servers
from consumer import Consumer
from demo import Problem, say
from rig import Rig, answered, until, usage

# Allowed growth of an idle relay since its start: threads that wait for work, a connection for a probe.
FDS_MORE, THREADS_MORE = 4, 24
S3_CONNECTIONS_MAX = 16
# In addition while a transfer runs: connections for read-ahead, pipes and sockets.
FDS_PER_TRANSFER, S3_CONNECTIONS_PER_TRANSFER = 4, 16
# Peak resident memory with the few downloads of these scripts.
RSS_MAX_BYTES, CONSUMER_RSS_MAX_BYTES = 150 << 20, 96 << 20
IDLE_WITHIN_S = 60
# A disconnected relay holds a transfer for its idle timeout, and must have reconnected to NATS.
FITS_WITHIN_S = 20


def options(parser):
    parser.add_argument("--seed", default="1", help="seed of the faults; the same seed gives the same faults")
    parser.add_argument("--gantry", type=lambda path: Path(path).resolve(), help="use this binary, do not build")
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    parser.add_argument("--within-s", type=float, default=3600, help="time limit in seconds")


def play(acted, args):
    """Runs `acted(stage, gantry, args)`. On failure, exits with a message."""
    name = Path(sys.argv[0]).stem
    stage = demo.Stage()
    try:
        store = "fake-gcs-server" if getattr(args, "store", "s3") == "gcs" else "weed"
        for server in ("nats-server", store):
            servers.path_of(server)
        servers.DEV.mkdir(exist_ok=True)
        gantry = args.gantry or demo.build(stage)
        stage.folder = Path(tempfile.mkdtemp(dir=servers.DEV, prefix="chaos-"))
        remove_when_gone(stage)
        asyncio.run(within(acted(stage, gantry, args), args.within_s))
    except Problem as problem:
        sys.exit(f"chaos, {name}: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if args.keep and stage.folder:
            kept = shutil.copytree(stage.folder, f"{stage.folder}-kept", ignore=shutil.ignore_patterns("data", "*.sock"))
            say(f"logs: {kept}")
        stage.close()


async def within(acted, within_s):
    try:
        await asyncio.wait_for(acted, within_s)
    except TimeoutError:
        raise Problem(f"not done within {within_s:.0f} s") from None


def remove_when_gone(stage):
    """Makes sure that the folder is removed when this process ends, even if it is killed."""
    keeper = [sys.executable, "-I", "-S", str(s3.RUN), "--remove", str(stage.folder), "--", "sleep", "infinity"]
    stage.processes.append(("keeper", subprocess.Popen(keeper, stdin=stage.alive_fd)))


async def place(name, stage, gantry, report, seed, sizes, nodes=1, consumers=1, **options):
    """Yields a running setup with objects of these sizes, and consumers that are connected but idle."""
    rig = Rig(name, stage.folder / name, gantry, stage.alive_fd, nodes, **options)
    try:
        await rig.start_servers()
        # A relay is not ready before its bucket exists.
        for key, size in sizes.items():
            await rig.put(key, size, f"{seed} {key}")
        await rig.start_relays()
        crowd = [Consumer(rig, number, random.Random(f"{seed} {name} {number}"), report) for number in range(consumers)]
        for consumer in crowd:
            await consumer.connect()
        return rig, crowd
    except BaseException:
        await rig.close()
        raise


async def inject(hit, fault, report, where):
    """Injects a fault. A failure does not end the run."""
    rig, kind, consumer = hit.rig, hit.order.kind, hit.consumer
    # The peak of a killed process is lost, so record it first.
    rig.sample()
    began, at_share = time.monotonic(), consumer.meter.high / consumer.size
    try:
        await fault(hit)
    except (Problem, OSError) as problem:
        (report.hang if "no bytes" in str(problem) else report.unexpected)(f"{where} {kind}: {problem}")
        await rig.mend()

    samples = hit.samples()
    report.fault(kind, samples)
    rig.sample()
    gaps = ", ".join(f"{gap:.2f} s" for gap, _ in samples) or "-"
    say(f"  {where} {kind}, at {at_share:.0%}: no new byte for {gaps} ({time.monotonic() - began:.1f} s)")


async def fits(rig, crowd, report, where):
    """Checks after each fault that no relay uses more resources than the running downloads explain."""
    state = {}

    async def fit():
        running = sum(consumer.running for consumer in crowd)
        for relay in rig.relays:
            now, active, s3 = usage(relay.process.pid), await relay.active(), relay.s3_connections
            state.update(relay=relay.number, running=running, active=active, s3=s3, idle=relay.idle, **now)
            if (active > running or s3 > S3_CONNECTIONS_MAX + S3_CONNECTIONS_PER_TRANSFER * active
                    or now["fds"] - s3 > relay.idle["fds"] + FDS_MORE + FDS_PER_TRANSFER * active
                    or now["threads"] > relay.idle["threads"] + THREADS_MORE):
                return False
        return True

    try:
        await until("relays use only what the downloads explain", answered(fit), FITS_WITHIN_S)
    except Problem as problem:
        report.leak(f"{where}: {problem}: {state}")


def check_memory(rig, crowd, report):
    """Compares the peak memory with the limits."""
    rig.sample()
    for who, what, bound in [*((f"relay {relay.number}", relay, RSS_MAX_BYTES) for relay in rig.relays),
                             *((f"consumer {one.number}", one, CONSUMER_RSS_MAX_BYTES) for one in crowd)]:
        if what.rss_peak_bytes > bound:
            report.leak(f"{rig.name} {who} had {what.rss_peak_bytes >> 20} MiB in memory, more than {bound >> 20}")
    report.notes.append(f"{rig.name}: at most {max(one.rss_peak_bytes for one in crowd) >> 20} MiB in a consumer's memory")


async def at_rest(rig, report):
    """Checks that the resources are released when no download is running."""
    for relay in rig.relays:
        state = {}

        async def rests(relay=relay, state=state):
            now = usage(relay.process.pid)
            state.update(now, active=await relay.active(), s3=relay.s3_connections,
                         nats=sum(proxy.connections for proxy in relay.nats_proxies))
            # A relay without proxies for NATS is looked at from nats-server.
            return (state["active"] == 0 and state["nats"] == (2 if relay.nats_proxies else 0)
                    and state["s3"] <= S3_CONNECTIONS_MAX
                    and state["fds"] - state["s3"] <= relay.idle["fds"] + FDS_MORE
                    and state["threads"] <= relay.idle["threads"] + THREADS_MORE and state["rss_bytes"] <= RSS_MAX_BYTES)

        try:
            await until("the relay is at rest", answered(rests), IDLE_WITHIN_S)
        except Problem as problem:
            report.leak(f"{rig.name} relay {relay.number}: {problem}: {state}, at the start {relay.idle}")
        report.notes.append(
            f"{rig.name} relay {relay.number} at rest: {state['active']} transfers, {state['fds']} files and "
            f"{state['threads']} threads ({relay.idle['fds']} and {relay.idle['threads']} when new), {state['s3']} "
            f"connections to S3, {state['rss_bytes'] >> 20} MiB, at most {relay.rss_peak_bytes >> 20} MiB seen")
