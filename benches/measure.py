"""The measurements. Each function here returns a function that takes the rig and returns a sample.

A sample has a value and the resources that each process used. It contains only downloads whose bytes were compared.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time

import demo
from rig import BUCKET, MIB
from servers import Problem

FROZEN, FROZEN_CONNECTIONS, FROZEN_FOR_S = 1000, 100, 5
LONG_LINK_MS = 50


def s3(name="big", downloads=1, in_flight=1, unit="MiB/s", warm_up=0, pause_ms=0):
    """Downloads directly from S3."""
    def run(rig):
        with rig.watch() as sample:
            said = rig.call("s3", "--bucket", BUCKET, "--object-bytes", rig.sets[name][1],
                            *load(rig, name, downloads, in_flight, warm_up, pause_ms))
        return finished(rig, sample, said, name, rig.fewer(downloads), unit, warm_up)
    return run


def object_store():
    """Downloads directly from fake-gcs-server with the crate `object_store`."""
    def run(rig):
        rig.fill_gcs("big")
        with rig.watch() as sample:
            said = rig.call("gcs", "--bucket", BUCKET, "--object-bytes", rig.sets["big"][1],
                            "--endpoint", f"http://127.0.0.1:{rig.gcs_port}", *load(rig, "big", 1, 1, 0, 0))
        return finished(rig, sample, said, "big")
    return run


def gantry(store="s3", name="big", downloads=1, in_flight=1, connections=1, unit="MiB/s", warm_up=0, pause_ms=0):
    """Downloads through the relay with Gantry's consumer."""
    def run(rig, env=None):
        with rig.watch() as sample:
            said = rig.call("consume", "--store", store, "--connections", connections,
                            *load(rig, name, downloads, in_flight, warm_up, pause_ms), env=env)
        return finished(rig, sample, said, name, rig.fewer(downloads), unit, warm_up)
    return run


def load(rig, name, downloads, in_flight, warm_up, pause_ms):
    return ["--set", name, "--objects", rig.sets[name][0], "--downloads", rig.fewer(downloads),
            "--in-flight", in_flight, "--warm-up", rig.fewer(warm_up), "--pause-ms", pause_ms]


def nats():
    """Sends the bytes with NATS alone."""
    def run(rig, env=None):
        with rig.watch() as sample:
            publisher = rig.start("publish", rig.objects / "big" / "0")
            said = rig.call("subscribe", "--bytes", rig.sets["big"][1], env=env)
            published = rig.result(publisher)
        sample["cpu_s"]["publisher"] = published["cpu_s"]
        return finished(rig, sample, said, "big")
    return run


def ask(name="8m", downloads=1, in_flight=1, connections=1, unit="MiB/s", warm_up=0, pause_ms=0):
    """Sends one request after another with NATS alone."""
    def run(rig):
        answerer = rig.start("answer", rig.objects / name)
        try:
            answerer.stdout.readline()
            with rig.watch() as sample:
                said = rig.call("ask", "--object-bytes", rig.sets[name][1], "--connections", connections,
                                *load(rig, name, downloads, in_flight, warm_up, pause_ms))
        finally:
            answerer.kill()
            answerer.communicate()
        return finished(rig, sample, said, name, rig.fewer(downloads), unit, warm_up)
    return run


def long_link(run):
    """Measures a distant consumer."""
    def far(rig):
        proxy = rig.start("delay", rig.nats.removeprefix("nats://"), "--ms", LONG_LINK_MS)
        try:
            return run(rig, {"NATS_URL": f"nats://{json.loads(proxy.stdout.readline())}"})
        finally:
            proxy.kill()
            proxy.communicate()
    return far


def object_get():
    """Downloads from JetStream's Object Store."""
    def run(rig):
        if not rig.in_object_store:
            put_object(rig)
        with rig.watch() as sample:
            said = rig.call("get", "big", program="gantry-bench-objects")
        return finished(rig, sample, said, "big")
    return run


def object_put_get():
    """Copies from S3 to JetStream's Object Store, and downloads from there."""
    def run(rig):
        with rig.watch() as sample:
            put = put_object(rig)
            said = rig.call("get", "big", program="gantry-bench-objects")
        sample["put_s"] = put["seconds"]
        said["seconds"] += put["seconds"]
        sample["cpu_s"]["putter"] = put["cpu_s"]
        return finished(rig, sample, said, "big")
    return run


def put_object(rig):
    """Puts the object while it arrives from S3."""
    pipe = rig.stage.folder / "pipe"
    if not pipe.exists():
        os.mkfifo(pipe)
    copier = rig.start("s3", "--pipe", pipe, "--bucket", BUCKET, "--object-bytes", rig.sets["big"][1], "--set", "big")
    try:
        put = rig.call("put", "big", pipe, program="gantry-bench-objects")
        rig.result(copier)
    finally:
        copier.kill()
    rig.in_object_store = True
    return put


def s3_file():
    """Downloads directly from S3 to a file."""
    def run(rig):
        with scratch_file(rig) as file:
            with rig.watch() as sample:
                said = rig.call("s3", "--bucket", BUCKET, "--object-bytes", rig.sets["big"][1], "--set", "big",
                                "--file", file)
            said["downloads"] = rig.sums(file)
        return finished(rig, sample, said, "big")
    return run


def tool(command, env=None):
    """Measures a command-line tool that downloads to a file, from the outside. `command(rig, file)` returns its
    command."""
    def run(rig):
        with scratch_file(rig) as file:
            with rig.watch() as sample:
                said = timed(rig, command(rig, file), env)
            said["downloads"] = rig.sums(file)
        return finished(rig, sample, said, "big")
    return run


def tree(command, name):
    """Measures a command-line tool that downloads all objects of a set to a folder. `command(rig, folder)` returns
    its command."""
    def run(rig):
        count = rig.sets[name][0]
        folder = rig.stage.folder / "folder"
        folder.mkdir()
        os.sync()
        try:
            with rig.watch() as sample:
                said = timed(rig, command(rig, folder))
            said["downloads"] = rig.sums(*(folder / str(number) for number in range(count)))
        finally:
            shutil.rmtree(folder)
        return finished(rig, sample, said, name, count, "per s")
    return run


def timed(rig, command, env=None):
    """Runs a command-line tool to its end."""
    with open(rig.stage.log("clients"), "ab") as log:
        begin = time.monotonic()
        process = subprocess.Popen(demo.supervised(command), stdin=rig.stage.alive_fd, stdout=log, stderr=log,
                                   env={**rig.env, **rig.s3_env, **(env or {})})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - begin
    if process.returncode != 0:
        raise Problem(f"exit code {process.returncode}, {rig.last_words()}")
    return {"seconds": seconds, "cpu_s": usage.ru_utime + usage.ru_stime, "rss_bytes": usage.ru_maxrss << 10}


@contextlib.contextmanager
def scratch_file(rig):
    """Returns a file to download to. Earlier writes are synced first, so that they don't disturb the measurement."""
    file = rig.stage.folder / "file"
    os.sync()
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def frozen():
    """Measures the relay's memory with consumers that hang."""
    def run(rig):
        with rig.watch() as sample:
            accepted = rig.call("frozen", "--store", "s3", "--key", "big/0", "--count", FROZEN,
                                "--connections", FROZEN_CONNECTIONS, "--hold-s", FROZEN_FOR_S)
        # The relay's memory budget allows a third of them; the others are answered `busy` until some transfers end.
        if accepted < FROZEN // 3:
            raise Problem(f"only {accepted} of {FROZEN} transfers were accepted")
        return {**sample, "value": sample["rss_mib"]["relay"]}
    return run


def finished(rig, sample, said, name, downloads=1, unit="MiB/s", warm_up=0):
    """Compares the bytes, then adds the client's results to the sample."""
    rig.compare(name, said["downloads"], downloads)
    # For servers, the sample includes the warm-up, so its downloads count too; clients exclude it.
    for server in sample["cpu_s"]:
        sample["cpu_s"][server] *= downloads / (downloads + rig.fewer(warm_up))
    sample.update(seconds=said["seconds"], mib=downloads * rig.sets[name][1] / MIB, downloads=downloads)
    sample["cpu_s"]["consumer"] = said["cpu_s"]
    sample["rss_mib"]["consumer"] = said["rss_bytes"] / MIB
    if unit == "ms":
        firsts = sorted(first * 1000 for _, _, first in said["downloads"])
        sample["p99"] = firsts[(len(firsts) - 1) * 99 // 100]
        sample["value"] = firsts[(len(firsts) - 1) // 2]
    else:
        sample["value"] = {"MiB/s": sample["mib"], "per s": downloads}[unit] / sample["seconds"]
    return sample
