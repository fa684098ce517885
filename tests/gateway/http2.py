"""HTTP/2 over TLS: responses beside each other on one connection, its choice by ALPN, and wrong bytes."""

import contextlib
import functools
import subprocess

import clients
from cases import LARGE, SMALL, call, expect, same
from faults import Flip, Links
from fronts import certificate, started
from place import BUCKET, FILES, OBJECTS, free_port

# curl's exit code for a stream that the server has reset.
STREAM_ERROR = 92
PARALLEL = 8
KEY = "tree/b/c.bin"


@contextlib.contextmanager
def front(place, *command, env=None):
    """Runs a front with TLS. Returns its address, and curl for it."""
    cert, key = certificate(place)
    port = free_port()
    env = {"GANTRY_GATEWAY__TLS_CERT_FILE": str(cert), "GANTRY_GATEWAY__TLS_KEY_FILE": str(key), **(env or {})}
    program = clients.path_of("curl")
    if b"HTTP2" not in call(program, "--version"):
        raise clients.NotHere("curl with HTTP/2")

    address = f"127.0.0.1:{port}"
    with started(place, *[address if word == "ADDRESS" else word for word in command], env=env):
        yield f"https://localhost:{port}", functools.partial(call, program, "-sS", "--cacert", cert)


def http2(place):
    written = [place.out / f"http2-{number}" for number in range(PARALLEL)]
    with front(place, "gateway", "--listen", "ADDRESS") as (url, curl):
        transfers = [word for out in written for word in ("-o", out, f"{url}/{OBJECTS}/large.bin")]
        said = curl("--fail", "--http2", "--parallel", "--parallel-max", PARALLEL, "-w", "%{http_version} %{num_connects}\n",
                    *transfers).decode().split("\n")[:-1]
        for out in written:
            same(out.read_bytes(), place.large, "HTTP/2 in parallel")
        connections = sum(int(line.split()[1]) for line in said)
        expect([line.split()[0] for line in said] == ["2"] * PARALLEL and connections == 1,
               f"not all responses were on one connection of HTTP/2: {said}")

        for option, version in (("--http2", b"2"), ("--http1.1", b"1.1"), ("--no-alpn", b"1.1"),
                                ("--http2-prior-knowledge", b"2")):
            got = curl("--fail", option, "-w", "%{http_version}", f"{url}/{FILES}/{KEY}")
            same(got, SMALL[KEY] + version, f"curl {option}, and its version of HTTP")
        same(curl("--http2", "-r", "1000-1999", f"{url}/{OBJECTS}/large.bin"), place.large[1000:2000], "a range")

    plain = subprocess.run([clients.path_of("curl"), "-sS", "--http2-prior-knowledge", f"{place.http}/{OBJECTS}/{KEY}"],
                           capture_output=True, env=clients.environment())
    expect(plain.returncode != 0 and not plain.stdout, "HTTP/2 is served without TLS")
    return f"{PARALLEL} × {LARGE / (1 << 20):.0f} MiB on one connection, ALPN, no HTTP/2 without TLS"


def http2_flip(place):
    """A byte of S3's answer is flipped: the response ends with an error of its stream."""
    keys = place.server["users"]["admin"]
    links = Links()
    link = links.to(int(place.server["endpoint"].rsplit(":", 1)[1]))
    env = {"AWS_ACCESS_KEY_ID": keys["access_key_id"], "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"],
           "AWS_REGION": place.server["region"], "AWS_ENDPOINT_URL": f"http://127.0.0.1:{link.port}"}

    with front(place, "serve", f"--store=flipped=s3://{BUCKET}", "--gateway", "ADDRESS", env=env) as (url, curl):
        fault = link.http_fault = Flip()
        curl("--http2", "-o", place.out / "flipped", f"{url}/flipped/large.bin", code=STREAM_ERROR)
        link.http_fault = None
        expect(fault.done, "no byte was flipped")
        same(curl("--http2", f"{url}/flipped/large.bin"), place.large, "after a flipped byte")
    return f"a flipped byte: curl ends with exit code {STREAM_ERROR}"


ALL = {case.__name__: case for case in (http2, http2_flip)}
