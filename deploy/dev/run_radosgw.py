#!/usr/bin/env python3
"""Starts Ceph with its S3 gateway in one folder, for tests: one monitor, one OSD in memory, one replica, on 127.0.0.1.

    run_radosgw.py FOLDER PORT PACKAGES

runs until it is ended, or until one of its servers ends. The S3 keys are `gantry-field` and `gantry-field-secret`.
PACKAGES is the folder with Debian's packages. Run it with Debian's Python, with the packages' modules on PYTHONPATH and
their libraries on LD_LIBRARY_PATH.
"""

import json
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from ports import free_port

# How long each step of the start may take, on a busy machine.
STEP_S = 60

CONF = """\
[global]
fsid = {fsid}
mon host = 127.0.0.1:{mon_port}
ms bind ipv6 = false
ms bind msgr1 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
# radosgw would ask for encryption, which needs authentication.
ms mon client mode = crc
keyring = {folder}/keyring
plugin dir = {libraries}/ceph
erasure code dir = {libraries}/ceph/erasure-code
run dir = {folder}
crash dir = {folder}/crash
admin socket =
pid file =
log file = {folder}/$name.log
log to stderr = false
err to stderr = true
debug ms = 0

mon data = {folder}/mon
mon data avail crit = 1
mon cluster log file = {folder}/cluster.log
mon allow pool size one = true
mon max pg per osd = 1000
mon osd min in ratio = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0

osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 2147483648
osd class dir = {libraries}/rados-classes
# A busy machine must not make the only OSD look dead.
osd heartbeat grace = 600
osd op thread suicide timeout = 0

rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {folder}/rgw
rgw zone root pool = .rgw.root
rgw thread pool size = 32
rgw num rados handles = 1
rgw enable usage log = false
rgw run sync thread = false
"""


class Cluster:
    """The servers, and the folder of each."""

    def __init__(self, folder, port, packages):
        self.folder, self.programs = folder, packages / "usr" / "bin"
        self.conf, self.fsid, self.osd = folder / "ceph.conf", str(uuid.uuid4()), str(uuid.uuid4())
        self.servers = []
        for name in ("mon", "osd", "rgw", "crash"):
            (folder / name).mkdir(parents=True)
        (folder / "keyring").touch()
        self.mon_port = free_port()
        libraries = packages / "usr" / "lib" / "x86_64-linux-gnu"
        self.conf.write_text(CONF.format(fsid=self.fsid, folder=folder, libraries=libraries, port=port,
                                         mon_port=self.mon_port))

    def start(self):
        monmap = str(self.folder / "monmap")
        address = f"[v2:127.0.0.1:{self.mon_port}]"
        self.run("monmaptool", "--create", "--addv", "a", address, "--fsid", self.fsid, monmap)
        self.run("ceph-mon", "--mkfs", "--id", "a", "--monmap", monmap)
        self.serve("ceph-mon", "--id", "a")

        self.order({"prefix": "osd new", "uuid": self.osd})
        self.run("ceph-osd", "--mkfs", "--id", "0", "--osd-uuid", self.osd)
        self.serve("ceph-osd", "--id", "0")

        # Waits for the OSD, because it makes pools.
        self.run("radosgw-admin", "user", "create", "--uid", "gantry", "--display-name", "gantry",
                 "--access-key", "gantry-field", "--secret-key", "gantry-field-secret")
        self.serve("radosgw", "--name", "client.rgw")

    def run(self, program, *args):
        command = [self.programs / program, *args, "--conf", self.conf]
        subprocess.run(command, check=True, timeout=STEP_S, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def serve(self, program, *args):
        command = [self.programs / program, *args, "--conf", self.conf, "--foreground"]
        self.servers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))

    def order(self, command):
        """Sends a command to the monitor."""
        import rados
        with rados.Rados(conffile=str(self.conf), conf={"client_mount_timeout": str(STEP_S)}) as cluster:
            code, _, reason = cluster.mon_command(json.dumps(command), b"", timeout=STEP_S)
        if code:
            raise SystemExit(f"run_radosgw.py: {command['prefix']}: {reason}")


def main():
    folder, port, packages = Path(sys.argv[1]).resolve(), int(sys.argv[2]), Path(sys.argv[3]).resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    cluster = Cluster(folder, port, packages)
    try:
        cluster.start()
        while all(server.poll() is None for server in cluster.servers):
            time.sleep(0.5)
        sys.exit("run_radosgw.py: a server ended")
    finally:
        for server in cluster.servers:
            server.kill()


if __name__ == "__main__":
    main()
