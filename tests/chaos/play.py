"""What every script here begins with: options, a stage that is cleared afterwards, a place that runs."""

import asyncio
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

# Behind our own folder, which has a run.py, too.
sys.path.append(str(Path(__file__).resolve().parents[2] / "deploy" / "dev"))

import demo
import s3
import servers
from consumer import Consumer
from demo import Problem, say
from rig import Rig, until, usage

# A relay at rest, compared with itself when it was new: threads that wait for work, a connection being probed.
FDS_MORE, THREADS_MORE = 4, 24
S3_CONNECTIONS_MAX = 16
# The default of relay.memory_budget_bytes.
RSS_MAX_BYTES = 512 << 20
IDLE_WITHIN_S = 60


def options(parser):
    parser.add_argument("--seed", default="1", help="the same faults for the same seed")
    parser.add_argument("--gantry", type=lambda path: Path(path).resolve(), help="the binary, in place of a fresh build")
    parser.add_argument("--keep", action="store_true", help="keep the logs")


def play(acted, args):
    """Runs `acted(stage, gantry, args)`; exits with a line when not all was well."""
    for sig in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, signal.default_int_handler)
    name = Path(sys.argv[0]).stem
    stage = demo.Stage()
    try:
        for server in ("nats-server", "weed"):
            servers.path_of(server)
        servers.DEV.mkdir(exist_ok=True)
        gantry = args.gantry or demo.build(stage)
        stage.folder = Path(tempfile.mkdtemp(dir=servers.DEV, prefix="chaos-"))
        remove_when_gone(stage)
        asyncio.run(acted(stage, gantry, args))
    except Problem as problem:
        sys.exit(f"chaos, {name}: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if args.keep and stage.folder:
            kept = shutil.copytree(stage.folder, f"{stage.folder}-kept", ignore=shutil.ignore_patterns("data", "*.sock"))
            say(f"logs: {kept}")
        stage.close()


def remove_when_gone(stage):
    """Has the folder removed when this process is gone, even if it was killed."""
    keeper = [sys.executable, "-I", "-S", str(s3.RUN), "--remove", str(stage.folder), "--", "sleep", "infinity"]
    stage.processes.append(("keeper", subprocess.Popen(keeper, stdin=stage.alive_fd)))


async def place(name, stage, gantry, report, seed, sizes, nodes=1, consumers=1, **options):
    """A place that runs, with objects of these sizes, and consumers that are connected and do nothing yet."""
    rig = Rig(name, stage.folder / name, gantry, stage.alive_fd, nodes, **options)
    try:
        await rig.start_servers()
        # A relay is not ready before its bucket is there.
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


async def at_rest(rig, report):
    """What must be gone when nobody downloads any more."""
    for relay in rig.relays:
        state = {}

        async def rests(relay=relay, state=state):
            now = usage(relay.process.pid)
            state.update(now, active=await relay.active(), s3=relay.s3_proxy.connections,
                         nats=sum(proxy.connections for proxy in relay.nats_proxies))
            return (state["active"] == 0 and state["nats"] == 1 and state["s3"] <= S3_CONNECTIONS_MAX
                    and state["fds"] - state["s3"] <= relay.idle["fds"] + FDS_MORE
                    and state["threads"] <= relay.idle["threads"] + THREADS_MORE and state["rss_bytes"] <= RSS_MAX_BYTES)

        try:
            await until("the relay is at rest", rests, IDLE_WITHIN_S)
        except Problem as problem:
            report.leak(f"{rig.name} relay {relay.number}: {problem}: {state}, when it was new {relay.idle}")
        report.notes.append(
            f"{rig.name} relay {relay.number} at rest: {state['active']} transfers, {state['fds']} files and "
            f"{state['threads']} threads ({relay.idle['fds']} and {relay.idle['threads']} when new), {state['s3']} "
            f"connections to S3, {state['rss_bytes'] >> 20} MiB, at most {relay.rss_peak_bytes >> 20} MiB seen")
