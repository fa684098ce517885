#!/usr/bin/env python3
"""Compares the speed of Gantry with S3, NATS, JetStream's Object Store, s5cmd and aws.

    run.py                        every line, five times, in about ten minutes
    run.py --quick                every line, three times, with little data, to check that it works
    run.py --only gantry-s3,s3    some lines, or whole groups, by name
    run.py --list                 list the names
    run.py --show FILE…           print tables from files that `--json` wrote in one or more runs

The lines of a group alternate, so that other load on the machine affects all of
them. No result is printed for a download whose bytes were not compared.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

# The first import makes deploy/dev importable.
import build
import demo
import lines
import peers
import report
import rig
import servers
from demo import say
from servers import ROOT, Problem


def main():
    args = arguments()
    for sig in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, signal.default_int_handler)
    # A thousand connections need this many files, since local processes hold both ends.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    stage = demo.Stage()
    try:
        sys.exit(measure(stage, args))
    except Problem as problem:
        sys.exit(f"bench: {problem}")
    except KeyboardInterrupt:
        say("stopping")
        sys.exit(130)
    finally:
        stage.close()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="NAME,…", help="lines or groups to run")
    parser.add_argument("--list", action="store_true", help="list the lines")
    parser.add_argument("--repeats", type=int, help="number of runs for each line")
    parser.add_argument("--quick", action="store_true", help="little data, three repeats; the results are not meaningful")
    parser.add_argument("--large", action="store_true", help="also 8 GiB in one transfer; needs 17 GiB of disk space")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every sample to this file")
    parser.add_argument("--gantry", metavar="FILE", type=Path, help="measure this gantry binary")
    parser.add_argument("--programs", metavar="DIR", type=Path, help="folder of an existing build of gantry-bench")
    parser.add_argument("--show", metavar="FILE", type=Path, nargs="+", help="print the results that --json wrote")
    parser.add_argument("--logs", metavar="DIR", type=Path, help="keep the logs of servers, relays and clients")
    args = parser.parse_args()
    args.repeats = args.repeats or (3 if args.quick else 5)
    return args


def measure(stage, args):
    """Runs the requested lines; returns the exit code."""
    if args.list:
        groups = lines.groups(large=True, with_peers=True)
        for group in groups:
            say("\n".join([f"{group.name}:", *(f"    {line.name:<18} {line.what}" for line in group.lines)]))
        return 0
    if args.show:
        results = {}
        for file in args.show:
            results.update(json.loads(file.read_text())["lines"])
        say(report.text(lines.groups(large=True, with_peers=True), results))
        return 0
    with_peers = have_peers()
    groups = chosen(lines.groups(args.large, with_peers), args.only)
    gantry, programs = build.build(stage, args.gantry, args.programs)
    scene = rig.Rig(stage, gantry, programs, args.quick)
    about = machine(gantry, bool(args.gantry), with_peers)
    results, failed = {}, []
    for group in groups:
        run_group(scene, group, max(1, args.repeats // group.rarer), results, failed)
    if args.logs:
        args.logs.mkdir(parents=True, exist_ok=True)
        for log in [*stage.folder.glob("*.log"), *stage.folder.glob("s3/*.log")]:
            shutil.copy(log, args.logs)
    say("\n" + report.text(groups, results) + "\n")
    say(json.dumps(about, indent=2))
    if args.quick:
        say("quick: with so little data these results show only that everything works")
    if args.json:
        args.json.write_text(json.dumps({
            "machine": about, "quick": args.quick, "lines": results,
            "targets": [dict(zip(("what", "value", "sign", "target", "unit", "met"), row))
                        for row in report.targets(results)]}, indent=1))
    for name, problem in failed:
        say(f"FAILED: {name}: {problem}")
    return 1 if failed else 0


def run_group(scene, group, repeats, results, failed):
    for name in {name for line in group.lines for name in line.sets}:
        scene.fill(name)
    broken = set()
    with scene.relay(group.relays, group.with_gcs):
        for repeat in range(repeats):
            for line in group.lines:
                if line.name in broken:
                    continue
                try:
                    sample = line.run(scene)
                except Problem as problem:
                    broken.add(line.name)
                    failed.append((line.name, problem))
                    say(f"{line.name}: FAILED: {problem}")
                    continue
                results.setdefault(line.name, []).append(sample)
                say(f"{repeat + 1}/{repeats} {line.name}: {sample['value']:.4g} {line.unit}")


def chosen(groups, only):
    """Returns the groups, without the lines that were not requested."""
    if not only:
        return groups
    names = set(only.split(","))
    unknown = names - {name for group in groups for name in [group.name, *(line.name for line in group.lines)]}
    if unknown:
        raise Problem(f"no line or group named {', '.join(sorted(unknown))} (see --list)")
    kept = [group._replace(lines=[line for line in group.lines if {line.name, group.name} & names])
            for group in groups]
    return [group for group in kept if group.lines]


def have_peers():
    try:
        peers.get()
        return True
    except Problem as problem:
        say(f"NOT MEASURED: s5cmd and aws: {problem}")
        return False


def machine(gantry, is_given, with_peers):
    """Describes the machine and the versions of what is measured."""
    cpus = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")]
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])

    def said(*command):
        return subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=ROOT).stdout.strip()

    built = "a separate build" if is_given else said("git", "describe", "--always", "--dirty")
    weed = said(servers.path_of("weed"), "version").split()
    return {"cores": os.cpu_count(), "cpu": cpus[0] if cpus else platform.machine(),
            "memory_gib": round(memory_kib / (1 << 20)), "kernel": platform.release().partition("-")[0],
            "gantry": f"{said(gantry, '--version')} of {built}",
            "rustc": said("rustc", "--version"),
            "nats-server": said(servers.path_of("nats-server"), "--version"), "seaweedfs": " ".join(weed[:4]),
            **(peers.versions() if with_peers else {})}


if __name__ == "__main__":
    main()
