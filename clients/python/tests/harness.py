"""Real servers for the tests: nats-server, relays, and an S3 server. All end with this process."""

from __future__ import annotations

import asyncio
import faulthandler
import hashlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import Any, Optional

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "deploy" / "dev"))

import s3  # noqa: E402
import servers  # noqa: E402
from ports import free_port  # noqa: E402

READY_WITHIN_S = 30.0

# Several times what the longest test takes on a busy machine.
TEST_WITHIN_S = 300.0

# asyncio's debug mode, which unittest enables, reports each step that takes longer than 100 ms.
logging.getLogger("asyncio").setLevel(logging.ERROR)


class AsyncTest(unittest.IsolatedAsyncioTestCase):
    """A test that ends the process if it takes too long, after printing what each of its tasks waits for."""

    _loop: Optional[asyncio.AbstractEventLoop] = None

    def run(self, result: Optional[unittest.TestResult] = None) -> Optional[unittest.TestResult]:
        timer = threading.Timer(TEST_WITHIN_S, self._end_process)
        timer.daemon = True
        timer.start()
        try:
            return super().run(result)
        finally:
            timer.cancel()

    async def asyncSetUp(self) -> None:
        self._loop = asyncio.get_running_loop()

    def _end_process(self) -> None:
        tasks = [] if self._loop is None else asyncio.all_tasks(self._loop)
        for task in tasks:
            task.print_stack(file=sys.stderr)
        faulthandler.dump_traceback(file=sys.stderr)
        print(f"FAILED: {self.id()}: still running after {TEST_WITHIN_S:.0f} s", file=sys.stderr, flush=True)
        os._exit(1)


class Harness:
    """A folder, and processes that are killed when the pipe held by this object is closed."""

    def __init__(self) -> None:
        servers.DEV.mkdir(exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(dir=servers.DEV, prefix="python-"))
        self.objects = self.folder / "objects"
        self.objects.mkdir()
        self.gantry = Path(os.environ.get("GANTRY_BINARY", ROOT / "target" / "debug" / "gantry"))
        if not self.gantry.exists():
            raise RuntimeError(f"no gantry binary at {self.gantry}: set GANTRY_BINARY")
        self._alive_fd, self._hold_fd = os.pipe()
        self._processes: list[subprocess.Popen[bytes]] = []

        # Removes the folder even if this process is killed.
        self.start("cleaner", ["sleep", "infinity"], remove=self.folder)

    def start(
        self,
        name: str,
        command: list[object],
        env: Optional[dict[str, str]] = None,
        remove: Optional[Path] = None,
    ) -> subprocess.Popen[bytes]:
        """Starts a process that is killed when this one ends. Its output goes to a log in the folder."""
        removes = ["--remove", str(remove)] if remove else []
        runner = [sys.executable, "-I", "-S", str(s3.RUN), "--grace", "0", *removes, "--"]
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [*runner, *map(str, command)],
                stdin=self._alive_fd,
                stdout=log,
                stderr=log,
                env=env or clean_env(),
                cwd=self.folder,
            )
        self._processes.append(process)
        return process

    def nats(self, port: Optional[int] = None, max_payload: Optional[int] = None) -> NatsServer:
        """Starts nats-server."""
        return NatsServer(self, port or free_port(), max_payload)

    def relay(self, url: str, *stores: str, name: str = "relay", env: Optional[dict[str, str]] = None) -> Any:
        """Starts a relay. Without `stores`, it serves the folder `objects` as `files`."""
        chosen = stores or (f"files=file://{self.objects}",)
        command: list[object] = [self.gantry, "serve", "--http", "off", "--no-context", "-s", url]
        for store in chosen:
            command += ["--store", store]
        return self.start(name, command, {**clean_env(), **(env or {})})

    def s3(self) -> dict[str, Any]:
        """Starts an S3 server, and returns the same as `s3.start`."""
        server, process = s3.start(self.folder / "s3", stdin=self._alive_fd)
        self._processes.append(process)
        return dict(server)

    def object(self, key: str, size: int) -> str:
        """Creates a file of random bytes in the store's folder, and returns its SHA-256."""
        path = self.objects / key
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with open(path, "wb") as file:
            left = size
            while left > 0:
                block = os.urandom(min(left, 1 << 20))
                digest.update(block)
                file.write(block)
                left -= len(block)
        return digest.hexdigest()

    def close(self) -> None:
        """Ends all processes and removes the folder."""
        os.close(self._hold_fd)
        for process in self._processes:
            process.wait()
        os.close(self._alive_fd)
        shutil.rmtree(self.folder, ignore_errors=True)


class NatsServer:
    """A nats-server that can be killed and restarted on the same port."""

    def __init__(self, harness: Harness, port: int, max_payload: Optional[int]) -> None:
        self._harness = harness
        self._port = port
        self._config = harness.folder / f"nats-{port}.conf"
        self._config.write_text(f"max_payload: {max_payload}\n" if max_payload else "")
        self.url = f"nats://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        """Starts it and waits until it listens."""
        binary = servers.path_of("nats-server")
        command: list[object] = [binary, "-a", "127.0.0.1", "-p", self._port, "-c", self._config]
        self.process = self._harness.start(f"nats-{self._port}", command)
        wait_until(lambda: is_open(self._port), f"nats-server on port {self._port}")

    def kill(self) -> None:
        """Ends it at once."""
        kill(self.process)


def kill(process: Any) -> None:
    """Kills a process and waits for its end."""
    process.send_signal(signal.SIGKILL)
    process.wait()


async def serving(client: Any, name: str) -> None:
    """Waits until a relay answers for an object."""
    import gantry_client

    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            await client.stat(name)
            return
        except gantry_client.GantryError as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"no relay within {READY_WITHIN_S} s: {error}") from error
            await asyncio.sleep(0.05)


def wait_until(holds: Any, what: str) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + READY_WITHIN_S
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not ready within {READY_WITHIN_S} s")
        time.sleep(0.02)


def is_open(port: int) -> bool:
    """Returns whether a process listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def clean_env() -> dict[str, str]:
    """This process's environment without variables that configure Gantry."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "NATS_", "GANTRY_"))}


def s3_env(server: dict[str, Any]) -> dict[str, str]:
    """The environment with which a relay can read from the S3 server."""
    keys = server["users"]["admin"]
    return {
        "AWS_ACCESS_KEY_ID": keys["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"],
        "AWS_REGION": server["region"],
        "AWS_ENDPOINT_URL": server["endpoint"],
    }


