"""Checks the image: its user, size and contents."""

import subprocess
import tarfile

from engine import LABEL, Failed, docker, inspect, say

MIB = 1 << 20
HARDENED = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none"]


def check_image(image, run_id):
    config = inspect(image)["Config"]
    if config["User"] != "65532:65532":
        raise Failed(f"the image's user is {config['User']!r}")
    if not config.get("Healthcheck"):
        raise Failed("the image has no HEALTHCHECK")
    for label in ("title", "licenses", "source", "version", "revision"):
        if not config["Labels"].get(f"org.opencontainers.image.{label}"):
            raise Failed(f"the label org.opencontainers.image.{label} is missing")
    runs_hardened(image, run_id)
    has_no_shell(image, run_id)
    print_contents(image, run_id)


def runs_hardened(image, run_id):
    done = docker("run", "--rm", "--label", f"{LABEL}={run_id}", *HARDENED, image, "--version")
    say(f"   {done.stdout.strip()}, as 65532:65532, read-only, no capabilities, no network")


def has_no_shell(image, run_id):
    for shell in ("/bin/sh", "/bin/bash", "/busybox/sh"):
        done = docker("run", "--rm", "--label", f"{LABEL}={run_id}", *HARDENED, "--entrypoint", shell, image,
                      "-c", "true", check=False)
        if done.returncode == 0:
            raise Failed(f"the image has {shell}")


def print_contents(image, run_id):
    """Prints the size of the files by kind, and the base's packages."""
    container = docker("create", "--label", f"{LABEL}={run_id}", image).stdout.strip()
    sizes, packages, set_uid = {}, [], []
    try:
        export = subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE)
        with tarfile.open(fileobj=export.stdout, mode="r|") as files:
            for file in files:
                folder, _, name = file.name.rpartition("/")
                # Next to each package's status is its list of checksums, with a dot in the name.
                if folder == "var/lib/dpkg/status.d" and name and "." not in name:
                    packages.append(name)
                if file.isfile() and file.mode & 0o6000:
                    set_uid.append(file.name)
                kind = kind_of(file.name)
                sizes[kind] = sizes.get(kind, 0) + file.size
        export.stdout.close()
        export.wait(timeout=60)
    finally:
        docker("rm", "--force", container, check=False)
    if set_uid:
        raise Failed(f"set-user-id files in the image: {set_uid}")
    by_size = sorted(sizes.items(), key=lambda item: -item[1])
    say(f"   {inspect(image)['Size'] / MIB:.1f} MiB: "
        + ", ".join(f"{kind} {size / MIB:.1f}" for kind, size in by_size if size >= MIB // 20))
    say("   packages: " + " ".join(sorted(packages)))


def kind_of(path):
    if "/gconv/" in path:
        return "libc charsets"
    for start, kind in (("usr/local/bin/gantry", "gantry"), ("usr/lib/locale", "locales"),
                        ("usr/share/zoneinfo", "time zones"), ("usr/lib", "libraries"), ("lib", "libraries"),
                        ("etc/ssl", "CA certificates"), ("usr/share/ca-certificates", "CA certificates")):
        if path.startswith(start):
            return kind
    return "other"
