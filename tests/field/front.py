"""TLS in front of a server, with a certificate of a private authority, and with HTTP/2 offered."""

import socket
import ssl
import subprocess
import threading

BLOCK_BYTES = 256 * 1024


class TlsFront:
    """Accepts TLS on 127.0.0.1, and passes the bytes on to `target` without TLS."""

    def __init__(self, target, folder):
        self.target, self.ca, self.protocols = target, folder / "front.pem", set()
        key, certificate = make_certificate(folder, self.ca)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        self.context.set_alpn_protocols(["h2", "http/1.1"])
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.endpoint = f"https://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        try:
            client = self.context.wrap_socket(client, server_side=True)
            self.protocols.add(client.selected_alpn_protocol())
            server = socket.create_connection(self.target)
        except OSError:
            return
        threading.Thread(target=pass_on, args=(client, server), daemon=True).start()
        pass_on(server, client)

    def close(self):
        self.listener.close()


def make_certificate(folder, ca):
    """Makes an authority, and a certificate of it for 127.0.0.1. Returns the files of the key and the certificate."""
    key, certificate, ca_key = folder / "front.key", folder / "front.crt", folder / "ca.key"
    request, extensions = folder / "front.csr", folder / "front.ext"
    extensions.write_text("subjectAltName=IP:127.0.0.1\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for command in (
        ["req", "-x509", *new_key, "-days", "2", "-subj", "/CN=field authority", "-keyout", ca_key, "-out", ca],
        ["req", *new_key, "-subj", "/CN=front", "-keyout", key, "-out", request],
        ["x509", "-req", "-days", "2", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial",
         "-extfile", extensions, "-out", certificate],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return key, certificate


def pass_on(source, sink):
    try:
        while data := source.recv(BLOCK_BYTES):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
