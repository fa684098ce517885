"""Builds the base images from Debian's packages and this host's toolchain.

Each image is kept as gantry-proof/NAME:KEY, where KEY is a hash of its inputs. It
has the name that the Dockerfile or the compose files use only while the test
runs. An existing image with such a name is used unchanged.
"""

import hashlib
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

from engine import Failed, docker, image_exists, image_label, run, say

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RECIPES = HERE / "bases"
DEBIAN = "gantry-proof/debian:bookworm"
BASE_LABEL = "gantry-proof.base"
PACKAGES_LABEL = "gantry-proof.packages"
BUSYBOX = "gantry-proof/busybox:latest"


class Bases:
    """The base images, and the public names that this run has assigned."""

    def __init__(self):
        self.named = []

    def make(self):
        """Builds missing images. Afterwards every FROM and image: resolves."""
        images = image_names()
        self._provide("rust", images["rust"], rust_context)
        self._provide("distroless", images["distroless"], lambda: recipe_files("pick-packages.sh"))
        self._provide("nats", images["nats"], nats_context, under=self._busybox)
        self._provide("seaweedfs", images["seaweedfs"], seaweedfs_context, under=self._busybox)
        self._provide("curl", images["curl"], dict)

    def forget_names(self):
        """Removes the public names, so that nobody mistakes these images for the originals."""
        while self.named:
            docker("rmi", "--no-prune", self.named.pop(), check=False)

    def _provide(self, name, public_name, context, under=None):
        if image_exists(public_name) and not image_label(public_name, BASE_LABEL):
            say(f"  {public_name}: present, used unchanged")
            return
        (under or self._debian)()
        kept = build_recipe(name, context())
        docker("tag", kept, public_name)
        self.named.append(public_name)
        say(f"  {public_name}: built here ({kept})")

    def _busybox(self):
        self._debian()
        docker("tag", build_recipe("busybox", {}), BUSYBOX)

    def _debian(self):
        packages = (RECIPES / "debian.packages").read_text().split()
        if image_label(DEBIAN, PACKAGES_LABEL) == " ".join(packages):
            return
        say("  debootstrap: Debian bookworm, minbase, and " + ", ".join(packages))
        import_debian(packages)


def image_names():
    """Returns the image names in the Dockerfile and the compose file."""
    text = (ROOT / "Dockerfile").read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.M))
    built_from = [re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], name)
                  for name in re.findall(r"^FROM (\S+)", text, re.M)]
    served = re.findall(r"^ +image: (\S+)$", (ROOT / "docker-compose.yml").read_text(), re.M)
    prefixes = {"rust": "rust:", "distroless": "gcr.io/distroless/", "nats": "nats:",
                "seaweedfs": "chrislusf/seaweedfs:", "curl": "curlimages/curl:"}
    names = {}
    for short, prefix in prefixes.items():
        found = {name for name in built_from + served if name.startswith(prefix)}
        if len(found) != 1:
            raise Failed(f"Dockerfile and docker-compose.yml should name one {prefix}… image, not {sorted(found)}")
        names[short] = found.pop()
    return names


def import_debian(packages):
    if os.geteuid() != 0:
        raise Failed("the base images are missing and debootstrap needs root")
    if shutil.which("debootstrap") is None:
        run(["apt-get", "update", "-q"], 120)
        run(["apt-get", "install", "-y", "-q", "debootstrap"], 180)
    with tempfile.TemporaryDirectory(prefix="gantry-proof-") as folder:
        rootfs = os.path.join(folder, "rootfs")
        run(["debootstrap", "--variant=minbase", "--include=" + ",".join(packages), "bookworm", rootfs], 600)
        shutil.rmtree(os.path.join(rootfs, "var/cache/apt/archives"), ignore_errors=True)
        tar = subprocess.Popen(["tar", "-C", rootfs, "-c", "."], stdout=subprocess.PIPE)
        try:
            docker("import", "--change", f'LABEL {PACKAGES_LABEL}="{" ".join(packages)}"', "-", DEBIAN,
                   timeout_s=300, stdin=tar.stdout)
        finally:
            tar.stdout.close()
            tar.wait(timeout=60)


def recipe_files(*names):
    return {name: RECIPES / name for name in names}


def build_recipe(name, files):
    """Builds bases/NAME.Dockerfile with files {path in the context: local path}."""
    recipe = RECIPES / f"{name}.Dockerfile"
    below = BUSYBOX if name in ("nats", "seaweedfs") else DEBIAN
    kept = f"gantry-proof/{name}:{context_key(recipe, files, below)}"
    if image_exists(kept):
        return kept
    # The classic builder, because it resolves a local FROM without contacting a
    # registry.
    builder = subprocess.Popen(
        ["docker", "build", "--quiet", "--label", f"{BASE_LABEL}={name}", "--tag", kept, "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=dict(os.environ, DOCKER_BUILDKIT="0"))
    try:
        # GNU format: the client recognises an archive by its first 512 bytes, which a pax header would fill.
        with tarfile.open(fileobj=builder.stdin, mode="w|", format=tarfile.GNU_FORMAT) as context:
            context.add(recipe, "Dockerfile")
            for inside in sorted(files):
                context.add(files[inside], inside)
        output, _ = builder.communicate(timeout=300)
    except BrokenPipeError:
        output = builder.stdout.read()
        builder.wait(timeout=60)
    finally:
        if builder.poll() is None:
            builder.kill()
    if builder.returncode != 0:
        raise Failed(f"{recipe.name}: {output.decode(errors='replace')[-3000:]}")
    remove_older(kept)
    return kept


def remove_older(kept):
    """Removes images of earlier recipes for the same base, except those in use."""
    repository = kept.split(":")[0]
    listed = docker("images", "--format", "{{.Repository}}:{{.Tag}}", repository).stdout.split()
    for name in listed:
        if name != kept and not name.endswith(":latest"):
            docker("rmi", name, check=False)


def context_key(recipe, files, below):
    """Hashes the recipe, the parent image, and each file's path and size."""
    key = hashlib.sha256(recipe.read_bytes())
    key.update(docker("image", "inspect", "--format", "{{.Id}}", below).stdout.encode())
    for inside in sorted(files):
        path = pathlib.Path(files[inside])
        state = path.stat()
        key.update(f"{inside} {path.is_dir()} {0 if path.is_dir() else state.st_size}\n".encode())
        if path.is_file() and state.st_size < 1 << 20:
            key.update(path.read_bytes())
    return key.hexdigest()[:12]


def rust_context():
    """Adds the local toolchain and the crates in Cargo.lock."""
    required = re.search(r"rust:([\d.]+)", image_names()["rust"])[1]
    version = run(["rustc", "--version"], cwd=ROOT).stdout.split()[1]
    if not version.startswith(required):
        raise Failed(f"the Dockerfile builds with Rust {required}, this host has {version}")
    sysroot = pathlib.Path(run(["rustc", "--print", "sysroot"], cwd=ROOT).stdout.strip())
    target = f"{platform.machine()}-unknown-linux-gnu"
    files = {"toolchain/bin/cargo": sysroot / "bin/cargo", "toolchain/bin/rustc": sysroot / "bin/rustc"}
    for library in sysroot.glob("lib/*.so*"):
        files[f"toolchain/lib/{library.name}"] = library
    files[f"toolchain/lib/rustlib/{target}"] = sysroot / "lib/rustlib" / target
    files.update(locked_crates())
    return files


def locked_crates():
    """Cargo's index and the crate files listed in Cargo.lock."""
    run(["cargo", "fetch", "--locked", "--quiet"], 300, cwd=ROOT)
    home = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo"))
    lock = (ROOT / "Cargo.lock").read_text()
    locked = re.findall(r'^name = "(.+)"\nversion = "(.+)"\nsource = "registry', lock, re.M)
    files = {}
    for index in (home / "registry/index").iterdir():
        for part in (".cache", "config.json"):
            if (index / part).exists():
                files[f"registry/index/{index.name}/{part}"] = index / part
    for name, version in locked:
        file = f"{name}-{version}.crate"
        found = list((home / "registry/cache").glob(f"*/{file}"))
        if not found:
            raise Failed(f"{file} is not in cargo's cache after cargo fetch")
        files[f"registry/cache/{found[0].parent.name}/{file}"] = found[0]
    return files


def nats_context():
    return {**recipe_files("nats-entrypoint.sh"), "nats-server": server_binary("nats-server")}


def seaweedfs_context():
    return {"weed": server_binary("weed")}


def server_binary(name):
    """The pinned server. A binary from PATH might not run with another system's libc."""
    done = run([sys.executable, str(ROOT / "deploy/dev/servers.py"), name], 300, env=dict(os.environ, PATH=""))
    return pathlib.Path(done.stdout.strip())
