#!/usr/bin/env python3
"""Checks that a real Prometheus returns data for every query of the dashboard.

    observe.py                    a few downloads, one scrape per second, each query once
    observe.py --plot FILE.svg    a minute of load, and a plot of what the dashboard shows

Prometheus comes from PATH or, if missing, from Debian's package, unpacked into
`.dev`. All servers listen on 127.0.0.1 only and stop when this process ends, even
if it is killed.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from xml.sax.saxutils import escape

import check_deploy
import demo
import s3
from demo import Stage, say
from ports import free_port
from servers import DEV, ROOT, Problem

MIB = 32
STEADY_FOR_S = 6
PLOT_FOR_S = 60
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
# The titles of the panels to plot.
DRAWN = ["Sent by store", "Finished transfers by outcome", "Time to first byte", "Active transfers",
         "Reserved memory budget", "Time to response headers"]
# Grafana's unit: (displayed unit, its size in Grafana's unit).
UNITS = {"Bps": ("MiB/s", 1 << 20), "ops": ("per s", 1), "s": ("ms", 1e-3), "none": ("", 1), "percentunit": ("%", 0.01)}


class Prometheus:
    def __init__(self, stage, relay):
        self.port = free_port()
        config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                  "rule_files": [str(ROOT / "deploy" / "prometheus" / "alerts.yml")],
                  "scrape_configs": [{"job_name": "gantry", "static_configs": [{"targets": [relay]}]}]}
        # JSON is valid YAML.
        file = stage.folder / "prometheus.yml"
        file.write_text(json.dumps(config))
        binary = check_deploy.tool("prometheus", "prometheus", "usr/bin/prometheus")
        stage.start("prometheus", [binary, "--config.file", file, "--storage.tsdb.path", stage.folder / "tsdb",
                                   "--web.listen-address", f"127.0.0.1:{self.port}"])

    def up(self):
        """Whether Prometheus has scraped the relay."""
        try:
            return bool(self.ask("query", query="gantry_store_up == 1"))
        except OSError:
            return False

    def ask(self, what, **parameters):
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # still starting up
                raise
            raise Problem(f"Prometheus refuses {parameters}: {error.read().decode()}") from None


def panels():
    """(title, unit, (query, legend)…) of each panel, with values for the dashboard's variables."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        queries = []
        for target in panel.get("targets", []):
            query = target["expr"]
            for name, value in {"$__rate_interval": "10s", "$instance": ".*", "$store": ".*"}.items():
                query = query.replace(name, value)
            queries.append((query, target["legendFormat"]))
        if queries:
            yield panel["title"], panel["fieldConfig"]["defaults"]["unit"], queries


def run(stage, plot):
    gantry = demo.binary(stage)
    stage.folder = Path(tempfile.mkdtemp(dir=DEV, prefix="observe-"))
    nats = demo.start_nats(stage)
    store, process = s3.start(stage.folder / "s3", stdin=stage.alive_fd, remove=[stage.folder])
    stage.processes.append(("s3/weed", process))
    original = stage.folder / "original"
    original.write_bytes(os.urandom(MIB << 20))
    with open(original, "rb") as file:
        s3.put(store, demo.BUCKET, demo.KEY, file, sha256=hashlib.sha256(original.read_bytes()).digest())

    keys = store["users"]["admin"]
    relay_env = {"AWS_ACCESS_KEY_ID": keys["access_key_id"], "AWS_SECRET_ACCESS_KEY": keys["secret_access_key"],
                 "AWS_REGION": store["region"], "AWS_ENDPOINT_URL": store["endpoint"], "NATS_URL": nats}
    http = f"127.0.0.1:{free_port()}"
    stage.start("gantry", [gantry, "serve", "--store", f"{demo.STORE}=s3://{demo.BUCKET}", "--http", http],
                {**demo.clean_env(), **relay_env})
    prometheus = Prometheus(stage, http)
    stage.wait_for("Prometheus did not see the relay", prometheus.up)

    env = {**demo.clean_env(), "NATS_URL": nats}
    say("downloading")
    begin = time.time()
    if plot:
        while time.time() < begin + PLOT_FOR_S:
            # More downloads in the middle.
            several = 1 + 3 * (PLOT_FOR_S / 3 < time.time() - begin < 2 * PLOT_FOR_S / 3)
            download(stage, gantry, env, several)
    # A rate needs several samples with a changing counter.
    enough = time.time() + STEADY_FOR_S
    while time.time() < enough:
        download(stage, gantry, env, 1)
    ask_all(stage, prometheus)
    if plot:
        draw(prometheus, begin, time.time(), plot)


def download(stage, gantry, env, several):
    """Runs this many downloads at once, and one of a missing key."""
    command = demo.supervised([gantry, "get", f"{demo.STORE}/{demo.KEY}", "-o", "-"])
    running = [subprocess.Popen(command, stdin=stage.alive_fd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                env=env) for _ in range(several)]
    if any(process.wait(demo.STALLED_AFTER_S) != 0 for process in running):
        raise Problem("a download failed")
    stage.run([gantry, "get", f"{demo.STORE}/none", "-o", "-"], env=env, capture_output=True)


def ask_all(stage, prometheus):
    asked = [(title, query) for title, _, queries in panels() for query, _ in queries]
    unanswered = []

    def answered():
        unanswered[:] = [title for title, query in asked if not prometheus.ask("query", query=query)]
        return not unanswered

    try:
        stage.wait_for("no answer", answered)
    except Problem:
        raise Problem(f"Prometheus has no data for {', '.join(unanswered) or 'a query'}") from None
    say(f"observe done: Prometheus has data for each of the dashboard's {len(asked)} queries")


def draw(prometheus, begin, end, file):
    """Plots some panels over the duration of the load."""
    width, height, columns = 360, 170, 2
    shapes = []
    drawn = [entry for entry in panels() if entry[0] in DRAWN]
    # A panel in the row "Now" has the same title as a later panel.
    drawn = list({title: (title, unit, queries) for title, unit, queries in drawn}.values())
    for number, (title, unit, queries) in enumerate(drawn):
        name, scale = UNITS[unit]
        lines = []
        for query, legend in queries:
            for series in prometheus.ask("query_range", query=query, start=begin, end=end, step=1):
                label = legend
                for key, value in series["metric"].items():
                    label = label.replace("{{" + key + "}}", value)
                points = [(float(at) - begin, float(value) / scale) for at, value in series["values"]
                          if value not in ("NaN", "+Inf")]
                if label != "limit" and points:
                    lines.append((label, points))
        top = max((value for _, points in lines for _, value in points), default=0) or 1
        left, above = (number % columns) * width + 20, (number // columns) * height + 24
        shapes.append(f'<text x="{left}" y="{above - 8}" font-weight="bold">{escape(title)}</text>'
                      f'<text x="{left}" y="{above + 10}" fill="#777">{top:.4g} {name}</text>'
                      f'<path d="M{left} {above}v120h{width - 40}" fill="none" stroke="#999"/>')
        for index, (label, points) in enumerate(lines):
            color = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728")[index % 4]
            path = " ".join(f"{left + at / (end - begin) * (width - 40):.1f},{above + 120 - value / top * 104:.1f}"
                            for at, value in points)
            shown = "relay" if label.startswith("127.0.0.1:") else label
            shapes.append(f'<polyline points="{path}" fill="none" stroke="{color}"/>'
                          f'<text x="{left + 90 * index}" y="{above + 134}" fill="{color}">{escape(shown)}</text>')
    rows = -(-len(drawn) // columns)
    file.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns * width} {rows * height}" '
                    f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
                    + "\n".join(shapes) + "</svg>\n")
    say(f"drawn: {file}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="also plot some panels")
    args = parser.parse_args()
    stage = Stage()
    try:
        DEV.mkdir(exist_ok=True)
        run(stage, args.plot)
    except check_deploy.NotHere as missing:
        say(f"NOT RUN HERE: observe, this machine has no {missing}")
    except Problem as problem:
        sys.exit(f"observe: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        stage.close()


if __name__ == "__main__":
    main()
