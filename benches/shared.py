#!/usr/bin/env python3
"""Measures shared reads: many consumers of one object in S3, and what they cost a single consumer.

    shared.py                              100 consumers of 256 MiB, which start within 5 s
    shared.py --consumers 20 --mib 64      fewer and less, to check that it works
    shared.py --slow                       one more consumer, which takes 4 MiB/s
    shared.py --replace                    also as many processes, while whose downloads the object is replaced

Prints a line for each measurement:

alone: one consumer, without and with shared reads in turn. Time and the relay's peak memory.
one object: all consumers of one object. Bytes that S3 sent ÷ bytes of the object, the rate of all consumers together,
    the relay's peak memory, and its budget. A proxy between the relay and S3 counts the bytes, headers included.
the same: without the proxy, which also needs the processor.
different objects: as many consumers of different objects, in a directory that is in memory. The same rate.
replaced midway: how many processes got the old object, the new one, or exit code 7, since the rest of the old one was
    gone. Bytes that S3 sent ÷ bytes of an object.

Every download is compared with its object. Exits with 1 if S3 sent more than 1.02 times the object, or if the rate
without the proxy is below that of different objects.
"""

import argparse
import collections
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

# The first import makes deploy/dev importable.
import build
import demo
import rig
from demo import say
from measure import gantry
from rig import MIB
from servers import ROOT, Problem

sys.path.insert(0, str(ROOT / "tests" / "field"))
from throttle import UNLIMITED, Throttle

SLOW = "4MiB"
# The exit code for an object that has changed.
CHANGED = 7


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--consumers", type=int, default=100)
    parser.add_argument("--mib", type=int, default=256, help="size of the object")
    parser.add_argument("--within", type=float, default=5, help="seconds within which the consumers start, in five groups")
    parser.add_argument("--budget-mib", type=int, default=512, help="relay.memory_budget_bytes")
    parser.add_argument("--first-mib", type=int, default=16, help="stores.NAME.shared_reads_first_bytes")
    parser.add_argument("--repeats", type=int, default=5, help="downloads of one consumer alone")
    parser.add_argument("--slow", action="store_true", help="add a consumer that is slow")
    parser.add_argument("--replace", action="store_true", help="also replace the object midway")
    parser.add_argument("--gantry", metavar="FILE", type=Path)
    parser.add_argument("--programs", metavar="DIR", type=Path, help="folder of an existing build of gantry-bench")
    args = parser.parse_args()

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stage = demo.Stage()
    try:
        binary, programs = build.build(stage, args.gantry, args.programs)
        scene = rig.Rig(stage, binary, programs, quick=False)
        sys.exit(0 if measure(scene, args) else 1)
    except Problem as problem:
        sys.exit(f"shared: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        stage.close()


def measure(scene, args):
    scene.sets["one"] = (1, args.mib * MIB)
    scene.fill("one")
    different(scene, args.consumers)
    scene.env["GANTRY_RELAY__MEMORY_BUDGET_BYTES"] = str(args.budget_mib * MIB)
    scene.env["GANTRY_STORES__S3__SHARED_READS_FIRST_BYTES"] = str(args.first_mib * MIB)

    alone(scene, args.repeats)
    ratio = one_object(scene, args)
    shared_rate, sample, _ = together(scene, args, "s3", "one", args.slow)
    say(f"the same: {shared_rate:.0f} MiB/s, relay {used(sample)}")
    rate, sample, _ = together(scene, args, "files", "different")
    say(f"different objects: {rate:.0f} MiB/s, relay {used(sample)}")
    is_right = not args.replace or replaced(scene, args)
    return is_right and ratio <= 1.02 and shared_rate >= rate


def different(scene, count):
    """Adds objects with different names in the directory, whose bytes are in memory once."""
    scene.sets["different"] = (count, scene.sets["one"][1])
    scene.crcs["different"] = scene.crcs["one"] * count
    folder = scene.objects / "different"
    folder.mkdir()
    for number in range(count):
        os.link(scene.objects / "one" / "0", folder / str(number))


def alone(scene, repeats):
    samples = {"false": [], "true": []}
    for _ in range(repeats):
        for shared, found in samples.items():
            scene.env["GANTRY_STORES__S3__SHARED_READS"] = shared
            with scene.relay():
                found.append(gantry(name="one")(scene))
    for shared, found in samples.items():
        times = sorted(sample["seconds"] for sample in found)
        memory = statistics.median(sample["rss_mib"]["relay"] for sample in found)
        cpu = statistics.median(sample["cpu_s"]["relay"] for sample in found)
        say(f"alone, shared reads {shared}: {statistics.median(times):.3f} s ({times[0]:.3f} to {times[-1]:.3f}), "
            f"relay {memory:.0f} MiB, {cpu:.2f} s of CPU")


def one_object(scene, args):
    with counted(scene) as proxy:
        rate, sample, slow_s = together(scene, args, "s3", "one", args.slow)

    ratio = proxy.passed / scene.sets["one"][1]
    slow = f", the slow one took {slow_s:.0f} s" if args.slow else ""
    say(f"one object: S3 sent {ratio:.3f} times the object; {rate:.0f} MiB/s, relay {used(sample)} with a budget of "
        f"{args.budget_mib} MiB{slow}")
    return ratio


@contextlib.contextmanager
def counted(scene):
    """Yields a proxy for S3, which relays use that start meanwhile."""
    host, _, port = scene.store["endpoint"].removeprefix("http://").partition(":")
    proxy = Throttle((host, int(port)), UNLIMITED)
    direct = scene.s3_env["AWS_ENDPOINT_URL"]
    scene.s3_env["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy.port}"
    try:
        yield proxy
    finally:
        scene.s3_env["AWS_ENDPOINT_URL"] = direct
        proxy.close()


def replaced(scene, args):
    """Replaces the object while processes download it. Returns whether each has got all of one version, or was told."""
    with counted(scene) as proxy, scene.relay():
        etags = [etag(scene)]
        command = [scene.gantry, "get", "s3/one/0", "-o", os.devnull, "--json"]
        started = []
        for _ in range(args.consumers):
            started.append(subprocess.Popen(command, env=consumer_env(scene), stdin=subprocess.DEVNULL,
                                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
            time.sleep(args.within / args.consumers)
        del scene.crcs["one"]
        shutil.rmtree(scene.objects / "one")
        scene.fill("one")
        etags.append(etag(scene))
        ended = [(process.communicate(timeout=rig.STALLED_AFTER_S), process.returncode) for process in started]

    got = collections.Counter(what_it_got(output, code, etags) for (output, _), code in ended)
    ratio = proxy.passed / scene.sets["one"][1]
    say("replaced midway: " + ", ".join(f"{count} {what}" for what, count in sorted(got.items()))
        + f"; S3 sent {ratio:.3f} times the object")
    return set(got) <= {"old", "new", "told"}


def consumer_env(scene):
    """The environment without the relay's variables."""
    return {**demo.clean_env(), "NATS_URL": scene.nats}


def etag(scene):
    stat = subprocess.run([scene.gantry, "stat", "s3/one/0", "--json"], env=consumer_env(scene), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=rig.STALLED_AFTER_S, check=True)
    return json.loads(stat.stdout)["etag"]


def what_it_got(output, code, etags):
    """Returns which version a process has verified with the checksum that S3 keeps of it."""
    if code:
        return "told" if code == CHANGED else f"exit code {code}"
    report = json.loads(output)
    is_proved = report["proof"] == {"kind": "full_object", "algorithm": "crc64nvme"} and report["etag"] in etags
    return ("old", "new")[etags.index(report["etag"])] if is_proved else "wrong"


def together(scene, args, store, name, with_slow=False):
    """Returns the rate of all consumers in MiB/s, what the relay used, and the time of the slow consumer."""
    groups = [args.consumers // 5 + (number < args.consumers % 5) for number in range(5)]
    groups = [count for count in groups if count]
    slow = {}

    with scene.relay():
        with scene.watch() as sample:
            began = time.perf_counter()
            thread = threading.Thread(target=get_slowly, args=(scene, store, name, slow), daemon=True)
            if with_slow:
                thread.start()
            started = []
            for count in groups:
                started.append(scene.start(
                    "consume", "--store", store, "--connections", count, "--set", name, "--objects",
                    scene.sets[name][0], "--downloads", count, "--in-flight", count, "--warm-up", 0, "--pause-ms", 0))
                time.sleep(args.within / len(groups))
            results = [scene.result(process) for process in started]
            took = time.perf_counter() - began
            if with_slow:
                thread.join(rig.STALLED_AFTER_S)

    for count, result in zip(groups, results):
        scene.compare(name, result["downloads"], count)
    if with_slow and slow.get("code") != 0:
        raise Problem(f"the slow consumer: {slow}")
    return args.consumers * scene.sets[name][1] / MIB / took, sample, slow.get("seconds")


def used(sample):
    return f"{sample['rss_mib']['relay']:.0f} MiB and {sample['cpu_s']['relay']:.1f} s of CPU"


def get_slowly(scene, store, name, found):
    began = time.perf_counter()
    command = [scene.gantry, "get", f"{store}/{name}/0", "-o", os.devnull, "--quiet", "--limit-rate", SLOW]
    found["code"] = subprocess.run(command, env=consumer_env(scene), stdin=subprocess.DEVNULL,
                                   timeout=rig.STALLED_AFTER_S, check=False).returncode
    found["seconds"] = time.perf_counter() - began


if __name__ == "__main__":
    main()
