#!/usr/bin/env python3
"""Builds Gantry and the programs that measure it.

    build.py --check      check formatting and lints of the benchmarks, which nothing else compiles; part of make test
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent
sys.path.insert(0, str(BENCH.parent / "deploy" / "dev"))

import demo
from servers import ROOT, Problem

PROGRAMS = ["--bin", "gantry-bench"]
# Gives all dependencies the features that they have in the product's tests, so that they are not compiled again.
AS_IN_TESTS = ["--features", "tokio/test-util"]
# A separate package: see Cargo.toml.
OBJECT_STORE = ["--no-default-features", "--features", "object-store", "--bin", "gantry-bench-objects"]


def build(stage, gantry=None, programs=None):
    """Builds what is not given. Returns the paths of Gantry and of the measuring programs."""
    gantry = (gantry or demo.build(stage)).resolve()
    if programs:
        return gantry, programs.resolve()
    demo.say("building the measuring programs")
    for options in (PROGRAMS, OBJECT_STORE):
        if stage.run(cargo("build", "--release", *options), cwd=BENCH).returncode != 0:
            raise Problem("the build failed")
    return gantry, target() / "release"


def check():
    """Returns whether formatting and lints pass."""
    commands = [["cargo", "fmt", "--check"], *(cargo("clippy", *options, "--", "-D", "warnings")
                                               for options in (PROGRAMS + AS_IN_TESTS, OBJECT_STORE))]
    return all([subprocess.run(command, cwd=BENCH, stdin=subprocess.DEVNULL).returncode == 0 for command in commands])


def cargo(command, *options):
    """Returns a cargo command with Gantry's lock file, profiles and target folder, where most crates are already
    built."""
    lock, product = BENCH / "Cargo.lock", ROOT / "Cargo.lock"
    if not lock.exists() or lock.stat().st_mtime < product.stat().st_mtime:
        # cargo adds the crates that only the benchmarks need; Cargo.toml has their versions.
        shutil.copyfile(product, lock)
    # Passed as a configuration file, of which cargo uses only the profiles.
    return ["cargo", command, "--config", ROOT / "Cargo.toml", "--target-dir", target(), *options]


def target():
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()


if __name__ == "__main__":
    if sys.argv[1:] != ["--check"]:
        sys.exit(__doc__)
    sys.exit(0 if check() else 1)
