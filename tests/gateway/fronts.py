"""The ways to start the front: a Unix socket, a socket from systemd, TLS, a relay's own stores, and the access log."""

import contextlib
import fcntl
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import time

import clients
import demo
from cases import SMALL, aws_command, call, expect, peers_env, same
from place import ANY_KEY, FILES, OBJECTS, free_port, page

LIMIT_S = 30
KEY = "tree/b/c.bin"


@contextlib.contextmanager
def started(place, *arguments, env=None, log=None, shell=(), stop=signal.SIGTERM, **options):
    """Runs another front, and stops it. After SIGTERM, its exit code must be 0."""
    pages = f"127.0.0.1:{free_port()}"
    env = {**demo.clean_env(), "NATS_URL": place.url, "GANTRY_HTTP__LISTEN": pages, **(env or {})}
    with open(log or os.devnull, "wb") as out, open(place.folder / "front.log", "wb") as errors:
        command = [*shell, place.gantry, *map(str, arguments)]
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, **options)
    try:
        deadline = time.monotonic() + LIMIT_S
        while not page(f"http://{pages}/readyz").startswith("ready"):
            expect(process.poll() is None and time.monotonic() < deadline,
                   f"the front is not ready: {(place.folder / 'front.log').read_text()[-500:]}")
            time.sleep(0.05)
        yield process
        process.send_signal(stop)
        code = process.wait(LIMIT_S)
        expect(code == (0 if stop == signal.SIGTERM else -stop), f"the front ended with exit code {process.returncode} after SIGTERM")
    finally:
        process.kill()
        process.wait()


def unix(place):
    path = place.folder / "front.sock"
    curl = functools.partial(call, clients.path_of("curl"), "-sSf", "--unix-socket", path)
    # The file of a socket that a killed process leaves behind is replaced.
    for stop in (signal.SIGKILL, signal.SIGTERM):
        with started(place, "gateway", "--listen", f"unix:{path}", stop=stop):
            same(curl(f"http://localhost/{OBJECTS}/{KEY}"), SMALL[KEY], "over a Unix socket")
        expect(path.exists() == (stop == signal.SIGKILL), "the socket's file is gone or left behind")
    return "a Unix socket, also after a kill"


def systemd(place):
    """Passes sockets as systemd does: as file descriptors from 3 on, with two variables (sd_listen_fds(3))."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        fds = [fcntl.fcntl(listening, fcntl.F_DUPFD, 100) for listening in (one, other)]

        # The process id is known only in the child, so a shell sets it.
        script = f'exec 3<&{fds[0]} 4<&{fds[1]}; LISTEN_PID=$$ LISTEN_FDS=2 exec "$0" "$@"'
        with started(place, "gateway", shell=["bash", "-c", script], pass_fds=fds):
            for listening in (one, other):
                url = f"http://127.0.0.1:{listening.getsockname()[1]}/{OBJECTS}/{KEY}"
                same(call(clients.path_of("curl"), "-sSf", url), SMALL[KEY], "on a socket from systemd")
        for fd in fds:
            os.close(fd)
    return "two sockets as systemd passes them"


def certificate(place):
    """Creates a certificate for localhost. Returns its file, and that of its key."""
    if not shutil.which("openssl"):
        raise clients.NotHere("openssl")
    cert, key = place.folder / "front.pem", place.folder / "front-key.pem"
    call("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-keyout", key, "-out", cert, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    return cert, key


def tls(place):
    cert, key = certificate(place)
    address = f"127.0.0.1:{free_port()}"
    env = {"GANTRY_GATEWAY__TLS_CERT_FILE": str(cert), "GANTRY_GATEWAY__TLS_KEY_FILE": str(key)}
    with started(place, "gateway", "--listen", address, env=env):
        url = f"https://localhost:{address.rsplit(':', 1)[1]}/{OBJECTS}/{KEY}"
        same(call(clients.path_of("curl"), "-sSf", "--cacert", cert, url), SMALL[KEY], "over TLS")
    return "HTTPS with a certificate of its own"


def signed(place):
    """With an access key, each request must be signed with it."""
    for name, text in (("id", "gateway\n"), ("secret", "of the gateway\n")):
        (place.folder / name).write_text(text)
    env = {"GANTRY_GATEWAY__ACCESS_KEY_ID_FILE": str(place.folder / "id"),
           "GANTRY_GATEWAY__SECRET_ACCESS_KEY_FILE": str(place.folder / "secret")}
    address = f"127.0.0.1:{free_port()}"
    with started(place, "gateway", "--listen", address, env=env):
        command = [*aws_command(), "--endpoint-url", f"http://{address}", "s3", "cp", f"s3://{OBJECTS}/{KEY}", "-"]
        for secret, code in (("of the gateway", 0), ("of another", 1)):
            keys = {**ANY_KEY, **peers_env(), "AWS_ACCESS_KEY_ID": "gateway", "AWS_SECRET_ACCESS_KEY": secret}
            same(call(*command, env=keys, code=code), b"" if code else SMALL[KEY], "a signed request")
        status = call(clients.path_of("curl"), "-s", "-o", "/dev/null", "-w", "%{http_code}",
                      f"http://{address}/{OBJECTS}/{KEY}")
        same(status, b"403", "a request without a signature")
    return "an access key: right, wrong and missing signatures"


def serve(place):
    address = f"127.0.0.1:{free_port()}"
    with started(place, "serve", f"--store=own={place.files}", "--gateway", address):
        got = call(clients.path_of("curl"), "-sSf", f"http://{address}/own/{KEY}")
        same(got, SMALL[KEY], "from a relay's own store")
        status = call(clients.path_of("curl"), "-sS", "-o", "/dev/null", "-w", "%{http_code}",
                      f"http://{address}/{OBJECTS}/{KEY}")
        same(status, b"404", "the store of another relay")
    return "serve --gateway, with its own stores only"


def access_log(place):
    # The last character is a control sequence introducer for terminals.
    curl = functools.partial(call, clients.path_of("curl"), "-sSf", "-A", 'a "b"\u009b')
    for form in ("common", "json"):
        address, log = f"127.0.0.1:{free_port()}", place.folder / "access.log"
        with started(place, "gateway", "--listen", address, env={"GANTRY_GATEWAY__ACCESS_LOG": form}, log=log):
            same(curl(f"http://{address}/{FILES}/{KEY}?X%2DAmz-Signature=hush"), SMALL[KEY], "with an access log")
        text = log.read_text(encoding="utf-8")
        expect("\u009b" not in text and "hush" not in text, f"a control character or a signature in {text!r}")
        lines = text.splitlines()
        expect(len(lines) == 1, f"{len(lines)} lines for one request: {lines}")
        if form == "common":
            expect(f'"GET /{FILES}/{KEY}? HTTP/1.1" 200 {len(SMALL[KEY])} "-" "a \\"b\\"' in lines[0], lines[0])
        else:
            entry = json.loads(lines[0])
            expect((entry["status"], entry["bytes"], entry["store"]) == (200, len(SMALL[KEY]), FILES), lines[0])
            expect(entry["user_agent"] == 'a "b"\u009b', lines[0])
    return "a line for each response, in both forms"


ALL = {front.__name__: front for front in (unix, systemd, tls, signed, serve, access_log)}
