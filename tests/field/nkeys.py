"""Operators, accounts and users as JWTs, for nats-servers in operator mode. Keys and signatures come from openssl.

Source of the forms: github.com/nats-io/nkeys and github.com/nats-io/jwt.
"""

import base64
import json
import os
import subprocess
import tempfile
from pathlib import Path

OPERATOR, ACCOUNT, USER = 14 << 3, 0, 20 << 3
SEED = 18 << 3
# A private Ed25519 key in PKCS #8 is this and 32 bytes; a public one ends with 32 bytes. Source: RFC 8410.
PKCS8 = bytes.fromhex("302e020100300506032b657004220420")


class KeyPair:
    def __init__(self, kind):
        self.kind, self.private = kind, os.urandom(32)
        public = openssl(["pkey", "-inform", "DER", "-pubout", "-outform", "DER"], PKCS8 + self.private)
        self.public = encoded(bytes([kind]) + public[-32:])
        # The kind's bits follow those of the seed's own.
        self.seed = encoded(bytes([SEED | kind >> 5, (kind & 31) << 3]) + self.private)

    def sign(self, text):
        with tempfile.TemporaryDirectory() as folder:
            key, message = Path(folder) / "key", Path(folder) / "message"
            key.write_bytes(PKCS8 + self.private)
            message.write_text(text)
            return openssl(["pkeyutl", "-sign", "-rawin", "-keyform", "DER", "-inkey", key, "-in", message])

    def jwt(self, subject, claims):
        """Returns a JWT of this issuer about another key."""
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        body = {"jti": subject.public, "iat": 1_700_000_000, "iss": self.public, "name": "edge", "sub": subject.public,
                "nats": claims}
        signed = ".".join(url_safe(json.dumps(part).encode()) for part in (head, body))
        return f"{signed}.{url_safe(self.sign(signed))}"


class Operator:
    """An operator with one account."""

    def __init__(self):
        self.key, self.account = KeyPair(OPERATOR), KeyPair(ACCOUNT)

    def config(self):
        limits = {name: -1 for name in ("subs", "conn", "leaf", "imports", "exports", "data", "payload")}
        account = {"type": "account", "version": 2, "limits": {**limits, "wildcards": True}}
        operator = self.key.jwt(self.key, {"type": "operator", "version": 2})
        return (f"operator: {operator}\nresolver: MEMORY\n"
                f"resolver_preload: {{ {self.account.public}: {self.key.jwt(self.account, account)} }}")

    def credentials(self, path, **permissions):
        """Writes the credentials of a new user."""
        user = KeyPair(USER)
        claims = {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, **permissions}
        path.write_text(f"-----BEGIN NATS USER JWT-----\n{self.account.jwt(user, claims)}\n------END NATS USER JWT------\n\n"
                        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n")
        return path


def encoded(data):
    """Returns the text of a key: base32 with a CRC-16."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ (0x1021 if crc & 0x8000 else 0)) & 0xFFFF
    return base64.b32encode(data + crc.to_bytes(2, "little")).decode().rstrip("=")


def url_safe(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def openssl(arguments, data=None):
    done = subprocess.run(["openssl", *map(str, arguments)], input=data, capture_output=True)
    if done.returncode:
        raise OSError(f"openssl {arguments[0]}: {done.stderr.decode().strip()}")
    return done.stdout
