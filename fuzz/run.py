#!/usr/bin/env python3
"""Runs the fuzz targets one after the other, and prints a table of the results.

    run.py --seconds 60              every target for a minute
    run.py --seconds 600 --target s3 one of them
    run.py --check                   format and lints, which nothing else looks at
    run.py --build                   only builds

It needs no nightly compiler and no cargo-fuzz. Inputs that crash a target are kept in fuzz/artifacts/, and inputs that
cover new code in .dev/fuzz/. `--merge` adds a minimal set of the latter to corpus/.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FUZZ = Path(__file__).resolve().parent
ROOT = FUZZ.parent
TARGETS = re.findall(r'Target \{ name: "(\w+)"', (FUZZ / "src" / "lib.rs").read_text())

# The time limit for one input, in seconds, and the memory limit, in MiB. No target needs as much.
INPUT_TIMEOUT = 20
MEMORY_MAX = 1024
INPUT_MAX_BYTES = 4096
# The limits of a committed corpus: few and small files.
COMMITTED_FILES = 10
COMMITTED_BYTES = 512
SCRATCH = "/dev/shm"


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=10, help="how long each target runs")
    options.add_argument("--target", choices=TARGETS, help="only this one")
    options.add_argument("--build", action="store_true", help="only build")
    options.add_argument("--check", action="store_true", help="only format and lints")
    options.add_argument("--merge", action="store_true", help="afterwards add inputs that cover more code to corpus/")
    options = options.parse_args()

    if options.check:
        sys.exit(0 if check() else 1)
    program = build()
    if options.build:
        return
    chosen = [options.target] if options.target else TARGETS
    # In memory if possible, because the targets write files.
    with tempfile.TemporaryDirectory(dir=SCRATCH if os.access(SCRATCH, os.W_OK) else None) as scratch:
        results = [run(program, target, options.seconds, scratch) for target in chosen]
    table(results)
    if options.merge:
        for target in chosen:
            merge(program, target)
    sys.exit(1 if any(result["crashed"] for result in results) else 0)


def check():
    """Returns whether formatting and lints pass."""
    commands = [["cargo", "fmt", "--check"], cargo("clippy", "--all-targets", "--", "-D", "warnings")]
    return all([subprocess.run(command, cwd=FUZZ, stdin=subprocess.DEVNULL).returncode == 0 for command in commands])


def build():
    """Builds with coverage counters, and returns the program's path."""
    wrapped = {**os.environ, "RUSTC_WRAPPER": str(FUZZ / "instrument.sh")}
    if subprocess.run(cargo("build"), cwd=FUZZ, env=wrapped, stdin=subprocess.DEVNULL).returncode != 0:
        sys.exit("run.py: the build failed")
    return target_folder() / "debug" / "gantry-fuzz"


def cargo(command, *options):
    """Returns a cargo command with Gantry's lock file, profiles and target folder, where most crates are already
    built."""
    lock, product = FUZZ / "Cargo.lock", ROOT / "Cargo.lock"
    if not lock.exists() or lock.stat().st_mtime < product.stat().st_mtime:
        # cargo adds the crates that only fuzzing needs.
        shutil.copyfile(product, lock)
    return ["cargo", command, "--config", ROOT / "Cargo.toml", "--target-dir", target_folder(), *options]


def target_folder():
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()


def run(program, target, seconds, scratch):
    """Replays the corpus of one target, and continues from there."""
    committed, found, artifacts = FUZZ / "corpus" / target, ROOT / ".dev" / "fuzz" / target, FUZZ / "artifacts"
    for folder in (committed, found, artifacts):
        folder.mkdir(parents=True, exist_ok=True)
    command = [program, f"-max_total_time={seconds}", f"-timeout={INPUT_TIMEOUT}", f"-rss_limit_mb={MEMORY_MAX}", "-close_fd_mask=0",
               f"-max_len={INPUT_MAX_BYTES}", f"-artifact_prefix={artifacts}/{target}-", "-print_final_stats=1",
               found, committed]
    print(f"--- {target}", flush=True)
    began = time.monotonic()
    environment = {**os.environ, "GANTRY_FUZZ_TARGET": target, "TMPDIR": scratch}
    process = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace")
    output = process.stdout
    counters = re.search(r"\((\d+) inline 8-bit counters\)", output)
    if not counters or int(counters[1]) < 1000:
        sys.exit(f"run.py: {program} has no coverage counters: touch src/lib.rs crates/*/src/lib.rs fuzz/src/lib.rs, and run this again\n{output[-2000:]}")
    if process.returncode != 0:
        print(output[-8000:], flush=True)
    executions = re.search(r"stat::number_of_executed_units:\s*(\d+)", output)
    covered = re.findall(r"cov: (\d+)", output)
    return {
        "target": target,
        "executions": int(executions[1]) if executions else 0,
        "edges": int(covered[-1]) if covered else 0,
        "seconds": time.monotonic() - began,
        "crashed": process.returncode != 0,
    }


def table(results):
    print(f"\n{'target':<12} {'executions':>12} {'per second':>11} {'edges':>7}  result")
    for result in results:
        rate = result["executions"] / max(result["seconds"], 0.001)
        outcome = "CRASH, see fuzz/artifacts/" if result["crashed"] else "ok"
        print(f"{result['target']:<12} {result['executions']:>12} {rate:>11.0f} {result['edges']:>7}  {outcome}")
    executions, crashes = sum(result["executions"] for result in results), sum(result["crashed"] for result in results)
    print(f"{len(results)} targets, {executions} executions, {crashes} crashes", flush=True)


def merge(program, target):
    """Adds small inputs that cover more code to corpus/."""
    committed, found = FUZZ / "corpus" / target, ROOT / ".dev" / "fuzz" / target
    subprocess.run([program, "-merge=1", f"-max_len={COMMITTED_BYTES}", committed, found], check=True,
                   env={**os.environ, "GANTRY_FUZZ_TARGET": target}, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Among the small files, the larger ones cover the most.
    files = sorted(committed.iterdir(), key=lambda file: file.stat().st_size)
    kept = [file for file in files if 0 < file.stat().st_size <= COMMITTED_BYTES][-COMMITTED_FILES:] or files[:1]
    for file in files:
        if file not in kept:
            file.unlink()


if __name__ == "__main__":
    main()
