"""Ports for servers that can't choose one themselves."""

import random
import socket

# Below the range from which Linux takes the ports of outgoing connections (32768 to 60999 by default): a port from
# that range can be taken between its choice here and the moment when a server listens on it. Well-known ports of
# NATS, S3 servers and Prometheus are below 10000. Source: ip(7), ip_local_port_range.
PORTS = range(10000, 32768)
handed_out = set()
# Tests that seed the module's generator keep their plans, and don't choose each other's ports.
choice = random.SystemRandom().choice


def free_port():
    """Returns a loopback port on which nothing listens, and which this process has not been given before."""
    while len(handed_out) < len(PORTS):
        port = choice(PORTS)
        if port in handed_out:
            continue
        handed_out.add(port)
        with socket.socket() as probe:
            # As servers do, so that a connection in TIME_WAIT doesn't count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise OSError(f"no free port from {PORTS.start} to {PORTS.stop - 1}")
