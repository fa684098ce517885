"""Calls the docker client, with a time limit for each call."""

import json
import os
import shutil
import subprocess
import sys
import time

LABEL = "gantry-proof"


class Failed(Exception):
    """A failed step of the test, with a message for the user."""


def say(text):
    print(text, flush=True)


def run(args, timeout_s=180, check=True, **kwargs):
    """Runs a command and returns the completed process, with its output as text."""
    try:
        done = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, timeout=timeout_s, **kwargs)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(args)}: no end within {timeout_s} s") from error
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(args)}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done


def docker(*args, timeout_s=180, check=True, **kwargs):
    return run(["docker", *args], timeout_s, check, **kwargs)


def engine_version():
    """The engine's version, or None and a reason if no engine answers."""
    if shutil.which("docker") is None:
        return None, "no docker client on PATH"
    try:
        done = docker("version", "--format", "{{.Server.Version}}", timeout_s=20, check=False)
    except Failed as error:
        return None, str(error)
    if done.returncode != 0:
        return None, (done.stderr.strip().splitlines() or ["no answer"])[-1]
    return done.stdout.strip(), None


def image_exists(name):
    return docker("image", "inspect", name, check=False).returncode == 0


def image_label(name, label):
    done = docker("image", "inspect", "--format", f'{{{{index .Config.Labels "{label}"}}}}', name, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def inspect(container):
    done = docker("inspect", container)
    return json.loads(done.stdout)[0]


def health(container):
    return inspect(container)["State"].get("Health", {}).get("Status", "none")


def wait_until(what, condition, timeout_s, every_s=0.2):
    """Returns the first true result of condition(). Fails after timeout_s."""
    limit = time.monotonic() + timeout_s
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > limit:
            raise Failed(f"{what}: not within {timeout_s} s")
        time.sleep(every_s)


def compose_commands():
    """Every installed version of Compose, v2 first, as (name, command)."""
    found = []
    plugin = run(["docker", "compose", "version", "--short"], check=False)
    if plugin.returncode == 0:
        found.append((f"docker compose {plugin.stdout.strip()}", ["docker", "compose"]))
    if shutil.which("docker-compose"):
        alone = run(["docker-compose", "version", "--short"], check=False)
        if alone.returncode == 0:
            found.append((f"docker-compose {alone.stdout.strip()}", ["docker-compose"]))
    return found


class Project:
    """A compose file with its own project name."""

    def __init__(self, command, file, name, environment):
        self.command = command
        self.file = file
        self.name = name
        self.environment = dict(os.environ, **environment)
        self.has_wait = command[0] == "docker"

    def base(self):
        return [*self.command, "-p", self.name, "-f", self.file]

    def __call__(self, *args, timeout_s=180, check=True):
        return run([*self.base(), *args], timeout_s, check, env=self.environment)

    def up(self, timeout_s=420):
        """Starts the services with the commands in the file's first lines."""
        if self.has_wait:
            self("up", "--wait", timeout_s=timeout_s)
        else:
            self("up", "-d", timeout_s=timeout_s)

    def down(self):
        self("--profile", "consumer", "down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)

    def container(self, service):
        """The id of a service's only container, running or not."""
        ids = self("ps", "-q", service).stdout.split()
        if len(ids) != 1:
            done = docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={self.name}",
                          "--filter", f"label=com.docker.compose.service={service}")
            ids = done.stdout.split()
        if len(ids) != 1:
            raise Failed(f"service {service} has {len(ids)} containers, not one")
        return ids[0]

    def network(self):
        return f"{self.name}_default"

    def published(self, service, port):
        """The address of a container's port on this host, as host:port."""
        return docker("port", self.container(service), str(port)).stdout.splitlines()[0].strip()


def remove_everything(run_id):
    """Removes each container that this run started directly."""
    ids = docker("ps", "-aq", "--filter", f"label={LABEL}={run_id}", check=False).stdout.split()
    if ids:
        docker("rm", "--force", "--volumes", *ids, check=False)


def stop_on_signal(signal_number, _frame):
    sys.exit(128 + signal_number)
