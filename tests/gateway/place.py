"""A gateway, with everything behind it: nats-server, an S3 server and a relay."""

import hashlib
import os
import random
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy" / "dev"))

import demo
import s3
import servers
from ports import free_port

BUCKET, OBJECTS, FILES = "objects", "objects", "files"
# Without keys of its own, a gateway on loopback ignores signatures. S3 clients refuse to start without a key.
ANY_KEY = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1",
           "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null",
           "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}


class Place:
    """The store `objects` is a bucket, and `files` a directory, `self.files`."""

    def __init__(self, gantry):
        self.stage = demo.Stage()
        servers.DEV.mkdir(exist_ok=True)
        self.folder = self.stage.folder = Path(tempfile.mkdtemp(dir=servers.DEV, prefix="gateway-"))
        self.gantry = gantry
        self.files = self.folder / "files"
        self.files.mkdir()
        self.out = self.folder / "out"
        self.out.mkdir()
        self.url = self.server = None
        self.address = f"127.0.0.1:{free_port()}"
        self.pages = f"127.0.0.1:{free_port()}"

    def start(self):
        self.url = demo.start_nats(self.stage)
        self.server, process = s3.start(self.folder / "s3", stdin=self.stage.alive_fd, remove=[self.folder])
        self.stage.processes.append(("s3/weed", process))
        self.start_relay()
        self.start_gateway()

    def start_relay(self, name="relay", nats=None, endpoint=None, env=None):
        keys = self.server["users"]["admin"]
        pages = f"127.0.0.1:{free_port()}"
        env = {**demo.clean_env(), "NATS_URL": nats or self.url, "AWS_REGION": self.server["region"],
               "AWS_ACCESS_KEY_ID": keys["access_key_id"], "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"],
               "AWS_ENDPOINT_URL": endpoint or self.server["endpoint"], **(env or {})}
        process = self.stage.start(name, [self.gantry, "serve", f"--store={OBJECTS}=s3://{BUCKET}",
                                          f"--store={FILES}={self.files}", "--http", pages], env)
        self.stage.wait_for("the relay is not ready", lambda: page(f"http://{pages}/readyz").startswith("ready"))
        return process

    def start_gateway(self, nats=None, env=None):
        env = {**demo.clean_env(), "NATS_URL": nats or self.url, "GANTRY_HTTP__LISTEN": self.pages, **(env or {})}
        self.gateway = self.stage.start("gateway", [self.gantry, "gateway", "--listen", self.address], env)
        self.stage.wait_for("the gateway is not ready", lambda: page(f"http://{self.pages}/readyz").startswith("ready"))

    def stop_gateway(self):
        self.forget(self.gateway)
        self.gateway.terminate()
        self.gateway.wait()

    def forget(self, process):
        """Removes a process that is ended on purpose from those that must not end."""
        self.stage.processes = [entry for entry in self.stage.processes if entry[1] is not process]

    @property
    def http(self):
        return f"http://{self.address}"

    def put(self, key, content):
        s3.put(self.server, BUCKET, key, content, sha256=hashlib.sha256(content).digest())

    def close(self):
        self.stage.close()


def random_bytes(size, seed):
    """Bytes that depend on the seed only."""
    # `randbytes` permits less than 256 MiB.
    source = random.Random(seed)
    return b"".join(source.randbytes(min(MIB, size - start)) for start in range(0, size, MIB))


def page(url):
    """The text of a page, also of one that reports an error; empty if nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        return ""


def binary(given):
    """The binary to test."""
    return Path(given or os.environ.get("GANTRY_BINARY") or ROOT / "target" / "debug" / "gantry").resolve()
