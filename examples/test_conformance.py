#!/usr/bin/env python3
"""Runs `gantry conformance` against every consumer of this project, against a relay, and against broken consumers.

    test_conformance.py [--broken] [--consumer NAME]... [--only CASE]... [--jobs N] [--table FILE]

Without `--broken`, each consumer must pass at its level: the programs in docs/PROTOCOL.md, the bare consumers in
JavaScript and Go, the Python package, and `gantry get`; and so must a relay. With `--broken`, each case must catch a program of
the document that breaks its rule. `--table` writes the results as a table of rules by consumer. GANTRY_BINARY names the
binary.
"""

import argparse
import concurrent.futures
import json
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent
PYTHON_TESTS = EXAMPLES.parent / "clients" / "python" / "tests"
sys.path.insert(0, str(PYTHON_TESTS))

import document  # noqa: E402
from broken_consumers import BROKEN  # noqa: E402
from harness import Harness, clean_env, wait_until  # noqa: E402
from test_bare_consumers import go, javascript  # noqa: E402

PLACEHOLDERS = ["{url}", "{store}", "{key}", "{file}"]
WITHIN_S = 600
OBJECT = ("conformance/object.bin", 3_000_000)
TABLE = EXAMPLES.parent / "docs" / "CONFORMANCE.md"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broken", action="store_true", help="check that each case catches a broken consumer")
    parser.add_argument("--consumer", action="append", default=[], metavar="NAME",
                        help="run only the consumers whose names contain this")
    parser.add_argument("--only", action="append", default=[], metavar="CASE", help="run only this case")
    parser.add_argument("--jobs", type=int, default=8, help="how many cases run at once")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write a table of rules by consumer")
    args = parser.parse_args()

    harness = Harness()
    try:
        document.extract(harness.folder / "document")
        kit = Kit(harness, args.only, args.consumer, args.jobs)
        results = kit.broken() if args.broken else kit.intact()
        if args.table:
            args.table.write_text(table(kit.reports))
    finally:
        harness.close()
    failed = sum(result == "failed" for result in results)
    print(f"{results.count('passed')} passed, {failed} failed, {results.count('skipped')} skipped")
    sys.exit(1 if failed or "passed" not in results else 0)


class Kit:
    """Runs the kit on a nats-server of its own."""

    def __init__(self, harness, only, names, jobs):
        self.harness = harness
        self.only = only
        self.names = names
        self.jobs = jobs
        self.reports = {}
        self.url = harness.nats().url
        self.documents = harness.folder / "document"

    def intact(self):
        """Runs every consumer and a relay. Returns the results."""
        gantry = [self.harness.gantry, "get", "--no-glob", "--no-context", "-s", "{url}", "{store}/{key}", "-o", "{file}"]
        consumers = [
            *((f"{level}, docs/PROTOCOL.md", level, [sys.executable, self.documents / program, *PLACEHOLDERS])
              for level, program in document.LEVELS.items()),
            ("bare_consumer.js", "bare", with_placeholders(javascript(self.harness))),
            ("bare_consumer.go", "bare", with_placeholders(go(self.harness))),
            ("Python package", "full", [sys.executable, PYTHON_TESTS / "consume.py", *PLACEHOLDERS]),
            ("gantry get", "full", gantry),
        ]
        results = [self.consumer(*consumer) for consumer in consumers if self.is_chosen(consumer[0])]
        return [*results, self.relay()] if self.is_chosen("gantry serve") else results

    def is_chosen(self, name):
        return not self.names or any(part in name for part in self.names)

    def consumer(self, name, level, command):
        if isinstance(command, str):
            print(f"NOT RUN HERE: conformance of {name}: {command}", flush=True)
            return "skipped"
        options = ["--level", level, "--jobs", self.jobs, *self.chosen(), "--json"]
        self.reports[name] = self.run(["consumer", *options, "--", *command])
        return report(name, self.reports[name])

    def relay(self):
        """Runs the kit against a relay that serves a directory."""
        key, size = OBJECT
        self.harness.object(key, size)
        self.harness.relay(self.url)
        arguments = ["relay", *self.chosen(), "--json", f"files/{key}"]
        wait_until(lambda: "cases" in self.run([*arguments, "--case", "stat"]), "the relay")
        self.reports["gantry serve"] = self.run(arguments)
        return report("gantry serve", self.reports["gantry serve"])

    def broken(self):
        """Runs each broken consumer with the case that must catch it. Returns the results."""
        chosen = [broken for broken in BROKEN if not self.only or broken.case in self.only]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            results = list(pool.map(self.catches, chosen, range(len(chosen))))

        known = {row["id"] for row in self.run(["consumer", "--level", "full", "--json", "--", "false"])["cases"]}
        for case in sorted(known - {broken.case for broken in BROKEN}):
            print(f"FAILED: no broken consumer for {case}")
            results.append("failed")
        return results

    def catches(self, broken, number):
        folder = self.harness.folder / "broken" / str(number)
        document.extract(folder)
        changed = folder / document.LEVELS[broken.level]
        changed.write_text(broken.apply(changed.read_text()))
        command = [sys.executable, folder / document.LEVELS[broken.runs], *PLACEHOLDERS]
        arguments = ["consumer", "--level", broken.runs, "--case", broken.case, "--patience", "15", "--json", "--"]
        done = self.run([*arguments, *command])
        if done.get("failed") == 1:
            print(f"caught: {broken.case} at level {broken.runs}: {broken.what}: {done['cases'][0]['details'][0][:160]}", flush=True)
            return "passed"
        named = f"a consumer of level {broken.runs} that {broken.what}"
        print(f"FAILED: {broken.case} does not catch {named}: {done}", flush=True)
        return "failed"

    def chosen(self):
        return [word for case in self.only for word in ("--case", case)]

    def run(self, arguments):
        """Runs the kit, and returns its report."""
        command = [self.harness.gantry, "--no-context", "-s", self.url, "conformance", *arguments]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=WITHIN_S,
                              stdin=subprocess.DEVNULL, env=clean_env())
        try:
            return json.loads(done.stdout.splitlines()[0])
        except (IndexError, ValueError):
            return {"error": done.stdout + done.stderr}


def with_placeholders(command):
    return command if isinstance(command, str) else [*command, *PLACEHOLDERS]


def report(name, done):
    """Prints the result of one consumer or relay."""
    if "cases" not in done:
        print(f"conformance of {name}: FAILED: {done}", flush=True)
        return "failed"
    for row in done["cases"]:
        if row["result"] == "fail":
            print(f"conformance of {name}: FAILED: {row['id']}: {row['details']}", flush=True)
    listed = TABLE.read_text()
    for row in done["cases"]:
        if f"| `{row['id']}` |" not in listed:
            print(f"conformance of {name}: FAILED: {row['id']} is not in {TABLE.name}: see --table", flush=True)
            return "failed"
    counts = f"{done['passed']} passed, {done['failed']} failed, {done['not_applicable']} not applicable"
    print(f"conformance of {name}: {counts}", flush=True)
    return "failed" if done["failed"] or not done["passed"] else "passed"


SIGNS = {"pass": "yes", "fail": "**no**", "not_applicable": "–"}


def table(reports):
    """Returns a table of the consumers' rules, and one of the relay's."""
    consumers = {name: rows_of(done) for name, done in reports.items() if name != "gantry serve"}
    relays = {name: rows_of(done) for name, done in reports.items() if name == "gantry serve"}
    return "\n".join(text for text in (columns(consumers), columns(relays)) if text)


def rows_of(done):
    return {row["id"]: row for row in done.get("cases", [])}


def columns(reports):
    if not reports:
        return ""
    lines = [["section", "rule", "case", "level", *reports], ["---"] * (4 + len(reports))]
    for case, row in next(iter(reports.values())).items():
        results = [SIGNS[rows[case]["result"]] if case in rows else "not run" for rows in reports.values()]
        lines.append([row["section"], row["rule"].replace("|", "\\|"), f"`{case}`", row["level"], *results])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
