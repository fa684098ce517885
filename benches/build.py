#!/usr/bin/env python3
"""Builds what is measured and what measures it.

    build.py --check      format and lints of bench, which nothing else compiles; part of make test
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
# Built apart: see Cargo.toml.
OBJECT_STORE = ["--no-default-features", "--features", "object-store", "--bin", "gantry-bench-objects"]


def build(stage, gantry=None, programs=None):
    """Builds what is not given, and returns the product and the folder of the programs that measure it."""
    gantry = (gantry or demo.build(stage)).resolve()
    if programs:
        return gantry, programs.resolve()
    demo.say("building what measures it")
    for options in (PROGRAMS, OBJECT_STORE):
        if stage.run(cargo("build", "--release", *options), cwd=BENCH).returncode != 0:
            raise Problem("the build failed")
    return gantry, target() / "release"


def check():
    """Returns whether format and lints are as they should be."""
    commands = [["cargo", "fmt", "--check"], *(cargo("clippy", *options, "--", "-D", "warnings")
                                               for options in (PROGRAMS, OBJECT_STORE))]
    return all([subprocess.run(command, cwd=BENCH, stdin=subprocess.DEVNULL).returncode == 0 for command in commands])


def cargo(command, *options):
    """A command of cargo's, with the product's lock and profiles, in its target folder: most is built there already."""
    lock, product = BENCH / "Cargo.lock", ROOT / "Cargo.lock"
    if not lock.exists() or lock.stat().st_mtime < product.stat().st_mtime:
        # cargo adds to it what only bench needs, of which Cargo.toml has the versions.
        shutil.copyfile(product, lock)
    # As a file of settings: cargo takes the profiles from it, and nothing else that is in there.
    return ["cargo", command, "--config", ROOT / "Cargo.toml", "--target-dir", target(), *options]


def target():
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()


if __name__ == "__main__":
    if sys.argv[1:] != ["--check"]:
        sys.exit(__doc__)
    sys.exit(0 if check() else 1)
