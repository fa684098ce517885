"""Installs Compose v2, which Debian provides since trixie, as a plugin of the docker client.

It is kept in `.dev/compose`, separate from installed programs. apt checks it against
Debian's keys, which older releases also have.
"""

import os
import pathlib
import shutil
import sys

from bases import ROOT
from engine import Failed, run, say

sys.path.insert(0, str(ROOT / "deploy" / "dev"))

import servers

KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
RELEASE = "trixie"
CONFIG = servers.DEV / "compose"
PLUGIN = CONFIG / "cli-plugins" / "docker-compose"


def provide():
    """Makes `docker compose` available to this process and its children, if it is missing and Debian is reachable."""
    if run(["docker", "compose", "version"], check=False).returncode == 0:
        return
    try:
        if not PLUGIN.exists():
            get()
    except (Failed, servers.Problem) as problem:
        return say(f"  no Compose v2: {problem}")
    os.environ["DOCKER_CONFIG"] = str(CONFIG)
    say(f"  Compose v2: Debian's, {PLUGIN}")


def get():
    if not servers.has_apt():
        raise Failed("this machine has no apt")
    with servers.scratch() as name:
        folder = pathlib.Path(name)
        # From the Debian mirror that this machine uses.
        sites = run(["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Component: main"]).stdout
        site = next((site for site in sites.splitlines() if site.rstrip("/").endswith("/debian")), None)
        if site is None:
            raise Failed("apt has no Debian mirror")
        (folder / "sources").write_text(f"deb [signed-by={KEYS}] {site} {RELEASE} main\n")
        for part in ("lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True)
        apt = ["apt-get", "--quiet=2", "-o", f"Dir::Etc::SourceList={folder}/sources", "-o", "Dir::Etc::SourceParts=-",
               "-o", f"Dir::State::Lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache",
               "-o", "APT::Sandbox::User=root"]
        run([*apt, "update"], 180)
        run([*apt, "download", "docker-compose"], 180, cwd=folder)
        archive = next(folder.glob("docker-compose_*.deb"))
        run(["dpkg-deb", "--extract", str(archive), str(folder)], 60)
        PLUGIN.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / "usr/libexec/docker/cli-plugins/docker-compose", PLUGIN)
