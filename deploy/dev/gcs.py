"""fake-gcs-server in place of an S3 server: like Google Cloud Storage, with its objects on disk."""

import json
import urllib.error
import urllib.parse
import urllib.request

import servers


def command(folder, port):
    """The command that starts the server. Proxies in front of it have other ports, so the public host has none."""
    return [servers.path_of("fake-gcs-server"), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port),
            "-public-host", "127.0.0.1", "-backend", "filesystem", "-filesystem-root", folder, "-log-level", "error"]


def create_bucket(port, bucket):
    """Creates a bucket, unless it exists already."""
    try:
        post(f"http://127.0.0.1:{port}/storage/v1/b", json.dumps({"name": bucket}).encode(), "application/json")
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise


def put(port, bucket, key, file, size):
    """Puts a file as one object. The server computes its checksums."""
    name = urllib.parse.quote(key, safe="")
    url = f"http://127.0.0.1:{port}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}"
    post(url, file, "application/octet-stream", {"Content-Length": str(size)})


def post(url, body, content_type, headers=None):
    request = urllib.request.Request(url, body, {"Content-Type": content_type, **(headers or {})}, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()
