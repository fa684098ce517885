#!/usr/bin/env python3
"""Starts OpenStack Swift with its S3 API in one folder, for tests: one device, one replica, on 127.0.0.1.

    run_swift.py FOLDER PORT

runs until it is ended, or until one of its servers ends. The account is `gantry`, its user `field`, so the S3 keys are `gantry:field` and
`gantry-field-secret`. Run it with the Python of Debian's packages, and with them on PYTHONPATH.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
from pathlib import Path

from ports import free_port

PIPELINE = ("catch_errors gatekeeper healthcheck proxy-logging cache listing_formats bulk s3api tempauth copy slo dlo "
            "versioned_writes symlink proxy-server")
FILTERS = ("catch_errors", "gatekeeper", "healthcheck", "listing_formats", "bulk", "copy", "slo", "dlo", "symlink")


def write(folder, port, ports):
    """Writes the configuration of all servers, and returns the configuration of each."""
    devices, etc = folder / "devices", folder / "etc"
    (devices / "d1").mkdir(parents=True)
    etc.mkdir()
    (etc / "swift.conf").write_text("[swift-hash]\nswift_hash_path_prefix = gantry\nswift_hash_path_suffix = field\n")

    common = f"bind_ip = 127.0.0.1\nworkers = 0\nuser = {os.environ.get('USER', 'root')}\nswift_dir = {etc}\n" \
             f"log_level = WARNING\nlog_address = {folder}/log\n"
    for kind in ports:
        (etc / f"{kind}.conf").write_text(
            f"[DEFAULT]\n{common}bind_port = {ports[kind]}\ndevices = {devices}\nmount_check = false\n"
            f"[pipeline:main]\npipeline = {kind}-server\n[app:{kind}-server]\nuse = egg:swift#{kind}\n")

    filters = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in FILTERS)
    (etc / "proxy.conf").write_text(
        f"[DEFAULT]\n{common}bind_port = {port}\n[pipeline:main]\npipeline = {PIPELINE}\n"
        "[app:proxy-server]\nuse = egg:swift#proxy\nallow_account_management = true\naccount_autocreate = true\n"
        f"{filters}"
        "[filter:proxy-logging]\nuse = egg:swift#proxy_logging\n"
        "[filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:1\n"
        "[filter:s3api]\nuse = egg:swift#s3api\n"
        "[filter:tempauth]\nuse = egg:swift#tempauth\nuser_gantry_field = gantry-field-secret .admin\n"
        "[filter:versioned_writes]\nuse = egg:swift#versioned_writes\nallow_object_versioning = true\n")


def build_rings(folder, ports):
    from swift.common.ring import RingBuilder
    for kind, name in (("account", "account"), ("container", "container"), ("object", "object")):
        builder = RingBuilder(4, 1, 1)
        builder.add_dev({"id": 0, "region": 1, "zone": 1, "ip": "127.0.0.1", "port": ports[kind], "device": "d1",
                         "weight": 1.0})
        builder.rebalance()
        builder.get_ring().save(str(folder / "etc" / f"{name}.ring.gz"))


def serve(folder, kind):
    from swift.common import utils
    from swift.common.wsgi import run_wsgi
    utils.SWIFT_CONF_FILE = str(folder / "etc" / "swift.conf")
    # Swift would leave the process group, and so outlive a caller that ends the group.
    os.setsid = lambda: None
    sys.exit(run_wsgi(str(folder / "etc" / f"{kind}.conf"), f"{kind}-server", verbose=True))


def main():
    folder, port = Path(sys.argv[1]).resolve(), int(sys.argv[2])
    ports = {kind: free_port() for kind in ("account", "container", "object")}
    write(folder, port, ports)
    build_rings(folder, ports)

    # A process of its own for each server, since each one replaces parts of the standard library.
    context = multiprocessing.get_context("spawn")
    servers = [context.Process(target=serve, args=(folder, kind)) for kind in (*ports, "proxy")]
    for server in servers:
        server.start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        multiprocessing.connection.wait([server.sentinel for server in servers])
        sys.exit("run_swift.py: a server ended")
    finally:
        for server in servers:
            server.kill()


if __name__ == "__main__":
    main()
