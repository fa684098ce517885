#!/usr/bin/env python3
"""Starts a temporary S3 server (SeaweedFS) and puts objects into it.

    s3.py FOLDER [--keep]

starts a server with its data in FOLDER and prints a line of JSON: endpoint, pid,
region, and users with their keys (`admin` may do everything, `denied` nothing). The
server runs until standard input, which must be a pipe, is closed. Then it is killed
and FOLDER is removed. With --keep, FOLDER stays; a server started again on the same
FOLDER has the same data and ports.
"""

import argparse
import base64
import datetime
import hashlib
import hmac
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import servers
from ports import free_port

RUN = Path(__file__).resolve().parent / "run.py"
REGION = "us-east-1"
# These keys are not secret: they are for a server that only this machine can reach, while a test runs.
USERS = {
    "admin": {"access_key_id": "gantry-admin", "secret_access_key": "gantry-admin-secret"},
    "denied": {"access_key_id": "gantry-denied", "secret_access_key": "gantry-denied-secret"},
}
READY_WITHIN_S = 60
PARTS = ("master", "volume", "filer", "s3")


def start(folder, stdin=None, remove=None):
    """Starts the server and waits until it can store an object. Returns the data that `s3.py` prints, and the process.

    `remove` lists the paths to delete after the server has ended; the default is its folder.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    ports = kept_ports(folder)
    identities = [
        {"name": name,
         "credentials": [{"accessKey": keys["access_key_id"], "secretKey": keys["secret_access_key"]}],
         "actions": ["Admin", "Read", "Write", "List", "Tagging"] if name == "admin" else ["List:nothing-at-all"]}
        for name, keys in USERS.items()]
    (folder / "users.json").write_text(json.dumps({"identities": identities}))

    # Read from the working folder. By default a bucket starts with seven volumes, which takes a while.
    (folder / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")

    # On SIGTERM SeaweedFS takes half a minute to shut down, and its data is discarded anyway.
    supervisor = [sys.executable, "-I", "-S", str(RUN), "--grace", "0"]
    for path in [*([folder] if remove is None else remove), *sockets(ports)]:
        supervisor += ["--remove", str(path)]
    log = folder / "weed.log"
    with open(log, "ab") as output:
        process = subprocess.Popen([*supervisor, "--", *weed(folder, ports)],
                                   stdin=stdin, stdout=output, stderr=output, cwd=folder)
    server = {"endpoint": f"http://127.0.0.1:{ports['s3']}", "pid": process.pid, "region": REGION, "users": USERS}
    deadline = time.monotonic() + READY_WITHIN_S
    last = "it never answered"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise servers.Problem(f"SeaweedFS stopped at once, {tail(log)}")
        try:
            # The port opens before the server can store objects, so try to store one.
            put(server, "ready", "ready", b"ready")
            return server, process
        except (OSError, http.client.HTTPException) as error:
            last = str(error)
            time.sleep(0.05)
    process.kill()
    raise servers.Problem(f"SeaweedFS was not ready within {READY_WITHIN_S} s: {last}, {tail(log)}")


def weed(folder, ports):
    """The command: one process, loopback only, no telemetry, no preallocated space."""
    command = [str(servers.path_of("weed")), "-logtostderr", "server", "-filer", "-s3",
               "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}/data", f"-s3.config={folder}/users.json",
               f"-filer.localSocket={folder}/filer.sock", f"-s3.localSocket={folder}/s3.sock",
               # A single server need not wait for peers before electing itself.
               "-master.peers=none", "-master.telemetry=false", "-master.volumePreallocate=false",
               "-s3.port.iceberg=0", "-s3.port.lance=0",
               # Each bucket has its own volumes, which are files that grow with their content.
               "-volume.max=2000", "-master.volumeSizeLimitMB=1024", "-volume.minFreeSpace=100MiB"]
    for part in PARTS:
        command += [f"-{part}.port={ports[part]}", f"-{part}.port.grpc={ports[part + '.grpc']}"]
    return command


def kept_ports(folder):
    """Free ports, always the same for the same folder."""
    kept = folder / "ports.json"
    if not kept.exists():
        names = [name for part in PARTS for name in (part, f"{part}.grpc")]
        kept.write_text(json.dumps({name: free_port() for name in names}))
    return json.loads(kept.read_text())


def sockets(ports):
    """Unix sockets that SeaweedFS creates outside its folder and leaves behind if killed."""
    return [f"/tmp/seaweedfs-{part}-grpc-{ports[part + '.grpc']}.sock" for part in PARTS]


def tail(log):
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"last line of its log: {lines[-1] if lines else '(empty)'}"


def put(server, bucket, key, body, **checksum):
    """Puts bytes or an open file as one object, with a signed request. The server creates a missing bucket.

    With `sha256=` or `crc64nvme=` and the digest's bytes, the server checks and stores that checksum.
    """
    headers = {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    for algorithm, digest in checksum.items():
        headers[f"x-amz-checksum-{algorithm}"] = base64.b64encode(digest).decode()
    path = f"/{bucket}/{urllib.parse.quote(key)}"
    host = server["endpoint"].removeprefix("http://")
    length = len(body) if isinstance(body, bytes) else os.fstat(body.fileno()).st_size
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request("PUT", path, body, {**signed("PUT", host, path, headers, server["users"]["admin"]),
                                               "content-length": str(length)})
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise OSError(f"PUT {path}: {response.status} {answer[:200].decode(errors='replace')}")


def signed(method, host, path, headers, keys, query=""):
    """Signature Version 4 (docs.aws.amazon.com, "Authenticating Requests"). The query is encoded, and sorted by name."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    headers = {**headers, "host": host, "x-amz-date": now}
    names = ";".join(sorted(headers))
    canonical = "\n".join([method, path, query, *(f"{name}:{headers[name]}" for name in sorted(headers)), "", names,
                           headers["x-amz-content-sha256"]])
    scope = f"{now[:8]}/{REGION}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{keys['secret_access_key']}".encode()
    for step in scope.split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return {**headers, "authorization": f"AWS4-HMAC-SHA256 Credential={keys['access_key_id']}/{scope}, "
                                        f"SignedHeaders={names}, Signature={signature}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--keep", action="store_true", help="keep the folder when the server ends")
    args = parser.parse_args()
    try:
        server, _ = start(args.folder, remove=[] if args.keep else None)
        print(json.dumps(server), flush=True)
    except servers.Problem as problem:
        sys.exit(f"s3.py: {problem}")


if __name__ == "__main__":
    main()
