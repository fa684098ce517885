"""The results: a row for each kind of fault, totals, and all problems."""

import collections
import math
import statistics

MIB = 1 << 20


class Report:
    """Collects the results of all setups. Any entry in `problems` fails the run."""

    HEADING = ("fault", "count", "downloads affected", "median s", "p99 s", "max s", "MiB fetched twice: median", "max")

    def __init__(self, say):
        self.say = say
        self.samples = collections.defaultdict(list)
        self.struck = collections.Counter()
        self.problems = collections.Counter()
        self.downloads = self.object_bytes = self.link_bytes = self.twice_bytes = 0
        self.recoveries = self.resumed = self.gave_up = 0
        self.proofs = collections.Counter()
        self.notes = []

    def fault(self, kind, samples):
        self.struck[kind] += 1
        self.samples[kind] += samples

    def done(self, size, meter, summary):
        self.downloads += 1
        self.object_bytes += size
        self.link_bytes += meter.received
        self.twice_bytes += meter.twice
        self.recoveries += summary["recoveries"]
        self.resumed += "resumed_from" in summary
        self.proofs[summary["proof"]["kind"]] += 1

    def wrong(self, text):
        self._problem("wrong files", text)

    def hang(self, text):
        self._problem("hangs", text)

    def leak(self, text):
        self._problem("leaks", text)

    def broke(self, text):
        self._problem("downloads that ended otherwise", text)

    def unexpected(self, text):
        self._problem("faults that went otherwise", text)

    def _problem(self, kind, text):
        self.problems[kind] += 1
        self.say(f"FAILED ({kind}): {text}")

    def row(self, kind):
        gaps = [gap for gap, _ in self.samples[kind]]
        twice = [amount / MIB for _, amount in self.samples[kind]]
        return (kind, self.struck[kind], len(gaps), *(show(of(gaps)) for of in (median, p99, maximum)),
                show(median(twice), 1), show(maximum(twice), 1))

    def print(self):
        self.say("")
        print_rows([self.HEADING, *(self.row(kind) for kind in sorted(self.struck))], self.say)
        self.say("")
        self.say(f"{sum(self.struck.values())} faults, {self.downloads} downloads, {self.object_bytes / MIB:.0f} MiB; over the "
                 f"consumers' links {self.link_bytes / MIB:.0f} MiB, of which {self.twice_bytes / MIB:.1f} MiB were redundant")
        self.say(f"{self.recoveries} recoveries, {self.resumed} downloads resumed by a new process, "
                 f"{self.gave_up} runs repeated that found no relay or nats-server at their start; verified by: "
                 + (", ".join(f"{count} {kind}" for kind, count in self.proofs.items()) or "none"))
        for note in self.notes:
            self.say(note)
        kinds = ("wrong files", "hangs", "leaks", "downloads that ended otherwise", "faults that went otherwise")
        self.say(", ".join(f"{self.problems[kind]} {kind}" for kind in kinds))


def print_rows(rows, say):
    """Prints a table that is also valid Markdown."""
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(str(cell).ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for line in lines:
        say(line)


def median(values):
    return statistics.median(values) if values else None


def p99(values):
    """Returns the 99th percentile by nearest rank. With fewer than 100 values this is the maximum."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1] if values else None


def maximum(values):
    return max(values, default=None)


def show(value, digits=2):
    return "-" if value is None else f"{value:.{digits}f}"
