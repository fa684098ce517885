"""Downloads of objects from a real S3 server, with its stored checksums."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import re
import tempfile
import unittest
import urllib.parse
from pathlib import Path
from typing import Any

import gantry_client
from gantry_client import crc
from harness import AsyncTest, Harness, s3, s3_env, serving

MIB = 1 << 20


class S3(AsyncTest):
    @classmethod
    def setUpClass(cls) -> None:
        cls.harness = Harness()
        cls.addClassCleanup(cls.harness.close)
        cls.server = cls.harness.s3()
        cls.nats = cls.harness.nats()
        cls.relay = cls.harness.relay(cls.nats.url, "s3=s3://objects", env=s3_env(cls.server))
        cls.data = os.urandom(12 * MIB + 345)
        s3.put(cls.server, "objects", "plain.bin", cls.data, crc64nvme=crc.crc64nvme(cls.data).to_bytes(8, "big"))
        s3.put(cls.server, "objects", "sha.bin", cls.data, sha256=hashlib.sha256(cls.data).digest())
        parts = [cls.data[: 5 * MIB], cls.data[5 * MIB : 10 * MIB], cls.data[10 * MIB :]]
        put_parts(cls.server, "objects", "composite.bin", parts)

    async def asyncSetUp(self) -> None:
        await super().asyncSetUp()
        self.client = await gantry_client.connect(self.nats.url)
        self.addAsyncCleanup(self.client.close)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.target = Path(folder.name) / "a.bin"
        await serving(self.client, "s3/plain.bin")

    async def check(self, key: str, verification: str) -> None:
        result = await self.client.get(f"s3/{key}", to=self.target)
        self.assertEqual(self.target.read_bytes(), self.data)
        self.assertEqual(str(result.verification), verification)

    async def test_a_crc64nvme_is_verified(self) -> None:
        await self.check("plain.bin", "crc64nvme (full_object)")

    async def test_a_sha256_is_verified(self) -> None:
        await self.check("sha.bin", "sha256 (full_object)")

    async def test_a_composite_checksum_is_verified(self) -> None:
        await self.check("composite.bin", "sha256 (composite of 3 parts)")


def put_parts(server: dict[str, Any], bucket: str, key: str, parts: list[bytes]) -> None:
    """Uploads an object in parts, each with its SHA-256."""
    path = f"/{bucket}/{key}"
    answer, _ = call(server, "POST", path, "uploads=", b"", {"x-amz-checksum-algorithm": "SHA256"})
    found = re.search(rb"<UploadId>([^<]+)</UploadId>", answer)
    assert found, answer
    upload = urllib.parse.quote(found.group(1).decode(), safe="")

    listed = ""
    for number, part in enumerate(parts, 1):
        digest = base64.b64encode(hashlib.sha256(part).digest()).decode()
        query = f"partNumber={number}&uploadId={upload}"
        _, etag = call(server, "PUT", path, query, part, {"x-amz-checksum-sha256": digest})
        listed += (
            f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag>"
            f"<ChecksumSHA256>{digest}</ChecksumSHA256></Part>"
        )
    body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
    call(server, "POST", path, f"uploadId={upload}", body, {})


def call(
    server: dict[str, Any], verb: str, path: str, query: str, body: bytes, headers: dict[str, str]
) -> tuple[bytes, str]:
    """Sends a signed request; returns the body and the ETag of the answer."""
    host = server["endpoint"].removeprefix("http://")
    signed = s3.signed(
        verb, host, path, {**headers, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}, server["users"]["admin"], query
    )
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request(verb, f"{path}?{query}", body, {**signed, "content-length": str(len(body))})
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    assert response.status == 200, answer
    return answer, response.headers.get("ETag", "")


if __name__ == "__main__":
    unittest.main()
