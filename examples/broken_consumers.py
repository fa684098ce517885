"""Consumers that each break one rule: changes to the programs in docs/PROTOCOL.md. `gantry conformance` must catch each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Broken:
    """One broken consumer."""

    #: The case that must catch it.
    case: str

    #: The program that is changed.
    level: str

    #: What it does wrong.
    what: str

    #: The texts that are replaced, each followed by its replacement.
    changes: tuple

    #: The level at which the program runs, if it is another one: the full program uses the resuming one.
    run_as: str = ""

    @property
    def runs(self):
        """The level of the program that runs."""
        return self.run_as or self.level

    def apply(self, text):
        """Returns the changed program."""
        for old, new in zip(self.changes[::2], self.changes[1::2]):
            if text.count(old) != 1:
                raise AssertionError(f"{self.case}: {text.count(old)} times in {self.level}: {old!r}")
            text = text.replace(old, new)
        return text


def bare(case, what, *changes):
    return Broken(case, "bare", what, changes)


def resuming(case, what, *changes):
    return Broken(case, "resuming", what, changes)


def full(case, what, *changes):
    return Broken(case, "full", what, changes)


def both(case, what, *changes):
    """Changes the resuming program, and runs it as well as the full one, which uses it."""
    return [resuming(case, what, *changes), Broken(case, "resuming", what, changes, run_as="full")]


#: Lines that several consumers change.
INSTANCE, TRANSFER = "([A-Za-z0-9_-]{1,64})", "([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
IS_OWN = 'is_own = names[1] == transfer and names == CONTROL.fullmatch(accepted["control"]).groups()'
IS_MINE = 'return is_own and accepted["key"] == key and (start, end) == (0, size) and credit <= WINDOW'
WRITE = "await asyncio.to_thread(file.write, message.data)"
REPORT = 'if waits > 1 or written - reported >= (1 if waits else max(1, accepted["credit"] // 2)):'
EXPECTED = 'is_ours = accepted and transfer == accepted["transfer"] and kind in ("chunk", "beat", "end")'
COUNTS = 'integers(json.loads(message.data), "chunks", "bytes") == [chunks, written]'
END = 'require(is_complete and written == accepted["end"], "the end counts something else", message)'
POSITION = 'require((sequence, offset) == (str(chunks), str(written)), "a chunk was lost", message)'
CRC = 'is_intact = crc == f"{crc64nvme(message.data):016x}"'
LIMIT = 'is_allowed = message.data and written <= min(reported + accepted["credit"], accepted["end"])'
MEMBERS = 'code, message, is_retryable = error["code"], error["message"], error["retryable"]'
RETRY = "return Setback(reason, pause_s) if is_retryable else Failure(reason)"
ABSENT = "if not self.version and time.monotonic() - self.absent_at >= NO_RELAY_S:"
COUNTED = '(count(end["chunks"]), count(end["bytes"])) != counts'
NEXT = "if (sequence, offset) != (self.chunks, self.written):"
STRANGE = 'if accepted and transfer != accepted["transfer"]:'
OTHER_TYPE = 'if kind not in ("chunk", "beat") or not accepted:'
LARGEST = 'if accepted["window_max"] < 1 or not 1 <= accepted["chunk_max"] <= chunk_max:'
REQUESTED = '(accepted["key"], start, accepted["end"]) == (self.key, self.written, size)'
KEEP_ALIVE = ("timers += [self.sent_at + self.idle_s / 4,", "timers += [self.sent_at + 60,")
PROBE = ("                if self.sent_at < probe_at:\n", "                if False:\n")
DOWNLOADED = "            await download(nc, store, key, file)\n"
#: Writes what it has and succeeds, whatever happens.
CARELESS = """\
            try:
                await download(nc, store, key, file)
            except Exception:
                pass
"""

BROKEN = [
    # What arrives, and in which form.
    bare("get", "drops the last byte", DOWNLOADED, DOWNLOADED + "            file.truncate(file.tell() - 1)\n"),
    bare("get", "publishes to the reply subject of messages", "            if kind == \"beat\" and not accepted:\n",
         "            await nc.publish(message.reply, b\"-\")\n            if kind == \"beat\" and not accepted:\n"),
    bare("get-empty", "waits for a chunk of an empty object", COUNTS, COUNTS + " and chunks > 0"),
    bare("get-one-byte", "writes nothing of a single byte", WRITE,
         "file.write(message.data[:len(message.data) // 2 * 2])"),
    bare("get-odd-key", "quotes the key", '{"key": key, "window"', '{"key": key.replace(" ", "%20"), "window"'),
    bare("get-many-windows", "reports only once", REPORT, REPORT.replace("if waits > 1 or", "if reported == 0 and")),
    bare("unknown-members", "rejects unknown members", "                is_complete =",
         "                assert len(json.loads(message.data)) == 2\n                is_complete ="),
    bare("null-members", "takes `null` for a text", "require(is_requested(",
         'accepted.get("content_type", "").lower()\n                require(is_requested('),
    bare("missing-members", "needs `metadata`", "require(is_requested(",
         'accepted["metadata"].keys()\n                require(is_requested('),
    bare("beats-before-accepted", "takes a beat for a failure", 'if kind == "beat" and not accepted:',
         'if kind == "beat" and not accepted and chunks:'),

    # Errors and absence.
    bare("error-not-found", "takes an error for the end", "    finally:\n", "    except RuntimeError:\n        return\n    finally:\n"),
    *both("error-busy", "ignores `retry_after_ms`", "return Setback(reason, pause_s)", "return Setback(reason, 0.0)"),
    resuming("error-unknown-retryable", "knows the retryable codes only", RETRY,
             RETRY.replace("if is_retryable", 'if code in ("busy", "draining", "internal", "idle", "store_unavailable")')),
    resuming("error-unknown-final", "knows the final codes only", RETRY,
             RETRY.replace("if is_retryable", 'if code not in ("not_found", "denied", "changed", "range", "bad_request")')),
    *both("error-without-body", "fails for good on an unreadable error", '"internal: an unreadable error", True, 0.0',
          '"internal: an unreadable error", False, 0.0'),
    *both("error-without-retryable", "takes a missing `retryable` for false", MEMBERS,
          MEMBERS.replace('error["retryable"]', 'error.get("retryable", False)')),
    *both("error-odd-members", "takes a text for a boolean", MEMBERS + "\n", MEMBERS + ' is True\n'),
    *both("error-odd-text", "reads what is not UTF-8", "json.loads(data.decode())", 'json.loads(data.decode(errors="replace"))'),
    *both("error-midway", "fails for good on any error", RETRY, "return Failure(reason)"),
    *both("error-changed", "requests again after any error", RETRY, "return Setback(reason, pause_s)"),
    bare("no-relay", "succeeds without a relay", DOWNLOADED, CARELESS),
    *both("no-relay", "waits for a relay without end", ABSENT, "if False:"),
    *both("no-relay-for-a-moment", "takes the first `503` for final", ABSENT, "if True:"),
    *both("controls-unheard", "takes a `503` to a control message for the end of the relay",
          '        if headers.get("Status") == "503":\n', '        if headers.get("Status") == "503":\n            self.accepted = None\n'),
    full("controls-unheard", "does not wait for silence after a `503`",
         "if time.monotonic() - self.heard_at > max(0.25, 1.25 * self.beat_s):", "if True:"),
    *both("retries-are-spaced", "does not pause", "await asyncio.sleep(max(setback.pause_s, 0.0 if is_first else backoff_s))",
          "await asyncio.sleep(setback.pause_s)"),

    # `accepted`.
    bare("accepted-other-control", "does not compare the control subject", IS_OWN, "is_own = names[1] == transfer"),
    *both("accepted-other-control", "does not compare the control subject",
          '(accepted["transfer"], accepted["control"]) != (transfer, control)', 'accepted["transfer"] != transfer'),
    bare("accepted-other-instance", "does not derive the control subject", IS_OWN,
         'is_own = names[1] == transfer and CONTROL.fullmatch(accepted["control"])'),
    *both("accepted-other-instance", "does not derive the control subject",
          '(accepted["transfer"], accepted["control"]) != (transfer, control)',
          'accepted["transfer"] != transfer or not accepted["control"].endswith(transfer)'),
    bare("accepted-odd-instance", "does not check the form of the instance", INSTANCE, "(.+)"),
    *both("accepted-odd-instance", "does not check the form of the instance", ' and TOKEN.fullmatch(accepted["instance"])', ""),
    bare("accepted-odd-transfer", "does not check the form of the transfer", TRANSFER, "(.+)"),
    *both("accepted-odd-transfer", "does not check the form of the transfer", "UUID.fullmatch(transfer) and ", ""),
    bare("accepted-other-transfer", "does not compare the transfer", IS_OWN,
         'is_own = names == CONTROL.fullmatch(accepted["control"]).groups()'),
    *both("accepted-other-transfer", "does not compare the transfer",
          "control = f\"gantry.v1.ctl.{accepted['instance']}.{transfer}\"",
          "transfer = accepted[\"transfer\"]\n        control = f\"gantry.v1.ctl.{accepted['instance']}.{transfer}\""),
    bare("accepted-other-key", "does not compare the key", IS_MINE, IS_MINE.replace(' and accepted["key"] == key', "")),
    *both("accepted-other-key", "does not compare the key", REQUESTED, '(start, accepted["end"]) == (self.written, size)'),
    bare("accepted-other-start", "does not compare the start", IS_MINE, IS_MINE.replace("(start, end) == (0, size)", "True")),
    *both("accepted-other-start", "does not compare the start", REQUESTED,
          '(accepted["key"], accepted["end"]) == (self.key, size)\n        self.written = start'),
    bare("accepted-other-end", "does not compare the end", IS_MINE, IS_MINE.replace("(start, end) == (0, size)", "start == 0")),
    *both("accepted-repeated", "takes a second `accepted`", "            if not accepted:\n", "            if True:\n"),

    # Bounds.
    *both("bounds-negative-size", "does not check the size", '    for name in ("size", "start",',
          '    assert accepted["size"] >= 0 or sys.exit("negative")\n    for name in ("size", "start",'),
    bare("bounds-huge-size", "believes any size", IS_MINE, 'assert accepted["size"] < 2**63 or sys.exit(0)\n    ' + IS_MINE),
    *both("bounds-huge-size", "believes any size", "not 0 <= value <= OFFSET_MAX", "not 0 <= value"),
    *both("bounds-chunk-max", "divides by `chunk_max`", LARGEST, 'accepted["chunk_max"] or sys.exit("zero")\n    ' + LARGEST),
    *both("bounds-chunk-max-too-large", "takes chunks of any size", LARGEST, LARGEST.replace(" <= chunk_max:", ":")),
    *both("bounds-window-max", "divides by `window_max`", LARGEST, 'accepted["window_max"] or sys.exit("zero")\n    ' + LARGEST),
    *both("bounds-long-etag", "repeats an etag of any length", " and len(version.encode()) <= 1024", ""),
    *both("bounds-odd-version", "repeats any `version_id`", '        versions.append(accepted["version_id"])\n', "        pass\n"),
    *both("bounds-short-timers", "believes `beat_ms`", 'min(max(accepted["beat_ms"], 50), 10_000) / 1000',
          '1 / accepted["beat_ms"] if accepted["beat_ms"] else sys.exit("zero")'),
    *both("silence-between-beats", "ignores `beat_ms`", 'min(max(accepted["beat_ms"], 50), 10_000) / 1000', "1.0"),

    # Integrity.
    *both("integrity-checksum", "does not verify the checksum", 'return await asyncio.to_thread(self.verify)', 'return "unverified"'),
    bare("integrity-composite", "knows no composite checksums", WRITE,
         'assert accepted["checksum"]["kind"] == "full_object"\n                file.write(message.data)'),
    full("integrity-composite", "does not compute the digest of the digests", 'b"".join(parts)', "parts[-1]"),
    full("integrity-composite", "takes each run for a single part", ' for run in runs for _ in range(run["count"])]', " for run in runs]"),
    full("integrity-composite-wrong", "does not verify parts", 'else checksum.get("parts")\n', "else None\n"),
    full("integrity-composite-wrong", "adds the parts up without their counts", 'sum(run["count"] * run["size"] for run in runs) != size',
         'sum(run["size"] for run in runs) != size'),
    full("integrity-sha256-wrong", "verifies CRCs only", 'is_known = algorithm in CRCS or algorithm in ("sha1", "sha256")',
         "is_known = algorithm in CRCS"),
    *both("integrity-invalid", "takes an invalid checksum for a reason to hang", '        stored = b""\n', "        time.sleep(60)\n"),
    *both("integrity-short", "takes a short checksum for another one",
          'if len(stored) != len(digest) or base64.b64encode(stored).decode() != value:', "if not stored:"),
    bare("integrity-none", "needs a checksum", WRITE,
         'file.write(message.data and accepted["checksum"] and message.data)'),

    # Chunks and beats.
    bare("chunk-lost", "does not compare positions and counts", POSITION, "pass", END, END.replace('is_complete and written == accepted["end"]', "True")),
    *both("chunk-lost", "does not compare positions and counts", NEXT, "if False:", COUNTED, "False"),
    *both("chunk-last-lost", "does not compare the position of a beat", NEXT,
          'if kind == "chunk" and (sequence, offset) != (self.chunks, self.written):'),
    *both("chunk-repeated", "writes a repeated chunk", "            return False  # a repeat\n",
          "            sequence, offset = self.chunks, self.written\n"),
    bare("chunk-reordered", "writes chunks as they come", POSITION, "pass"),
    bare("chunk-corrupt", "does not compare the CRC", CRC, "is_intact = True"),
    *both("chunk-corrupt", "does not compare the CRC", 'if crc != f"{crc64nvme(data):016x}":', "if False:"),
    bare("chunk-without-crc", "takes a missing CRC for a correct one", CRC, CRC.replace("crc == ", "crc is None or crc == ")),
    *both("chunk-without-crc", "takes a missing CRC for a correct one", 'headers["Gantry-Crc"]', 'headers.get("Gantry-Crc")',
          'if crc != f"{crc64nvme(data):016x}":', 'if crc and crc != f"{crc64nvme(data):016x}":'),
    bare("chunk-other-offset", "compares the sequence only", POSITION,
         'require(sequence == str(chunks), "a chunk was lost", message)'),
    *both("chunk-other-offset", "compares the sequence only", NEXT, "if sequence != self.chunks:"),
    bare("chunk-odd-numbers", "does not read the sequence", POSITION,
         'require(offset == str(written), "a chunk was lost", message)'),
    *both("chunk-odd-numbers", "does not read the sequence", 'digits(headers["Gantry-Seq"])', "self.chunks"),
    bare("chunk-signed-numbers", "takes a sign for a digit", POSITION,
         'require((int(sequence), int(offset)) == (chunks, written), "a chunk was lost", message)'),
    *both("chunk-signed-numbers", "takes a sign for a digit", "if not DIGITS.fullmatch(text):", "if False:"),
    bare("chunk-odd-crc", "takes capital letters for digits of a CRC", CRC, CRC.replace("crc == ", "crc.lower() == ")),
    *both("chunk-odd-crc", "takes capital letters for digits of a CRC", 'if crc != f"', 'if crc.lower() != f"'),
    bare("chunk-empty", "takes an empty chunk", LIMIT, LIMIT.replace("message.data and ", "")),
    *both("chunk-empty", "takes an empty chunk", 'if not 0 < len(data) <=', "if not len(data) <="),
    *both("chunk-too-long", "does not compare `chunk_max`", 'if not 0 < len(data) <= self.accepted["chunk_max"] or end >',
          "if not 0 < len(data) or end >"),
    bare("chunk-past-end", "writes past the end", LIMIT, "is_allowed = True"),
    *both("chunk-past-end", "writes past the end", 'end > min(self.limit(), self.accepted["end"])', "False",
          'if not 0 < len(data) <= self.accepted["chunk_max"] or', "if"),
    bare("chunk-before-accepted", "writes a chunk before `accepted`", EXPECTED,
         'is_ours, accepted = True, accepted or {"end": 0, "control": "none", "credit": 10**9}',
         LIMIT, "is_allowed = True", POSITION, POSITION.replace("require(", "require(kind is None or "),
         END, END.replace('is_complete and written == accepted["end"]', "True")),
    *both("other-transfer", "takes messages of other transfers", STRANGE, "if False:"),
    *both("chunk-without-transfer", "takes a chunk without a transfer", STRANGE,
          'if accepted and transfer not in (None, accepted["transfer"]):'),
    *both("error-without-transfer", "takes an error without a transfer", STRANGE,
          'if accepted and transfer not in (None, accepted["transfer"]):'),
    bare("unknown-type", "ignores unknown types", EXPECTED,
         EXPECTED.replace('("chunk", "beat", "end")', '("chunk", "beat", "end", "banana")'),
         POSITION, POSITION.replace("require(", 'require(kind == "banana" or ')),
    *both("unknown-type", "ignores unknown types", OTHER_TYPE,
          'if accepted and kind not in ("chunk", "beat"):\n            return False\n        if not accepted:'),
    *both("beat-other-wait", "fails for good on another `Gantry-Wait`", 'if kind == "beat":\n',
          'if kind == "beat":\n            headers["Gantry-Wait"] in ("credit", "store") or sys.exit("wait")\n'),
    bare("beat-other-offset", "does not compare the offset of a beat", POSITION,
         POSITION.replace("require(", 'require(kind == "beat" or ')),
    *both("beat-other-offset", "does not compare the offset of a beat", NEXT,
          'if sequence != self.chunks or (kind == "chunk" and offset != self.written):'),

    # Credit.
    bare("credit-beat", "never reports", REPORT, "if False:"),
    resuming("credit-beat", "never reports", "        if self.waits > 1 or", "        if False and"),
    full("credit-beat", "gives no more credit", "            self.credit, self.given_at = credit, now\n", "            self.given_at = now\n"),
    bare("credit-lost", "reports each offset once", REPORT, REPORT.replace("waits > 1 or ", "")),
    resuming("credit-lost", "reports each offset once", "if self.waits > 1 or self.written", "if self.written"),
    full("credit-lost-often", "sends each credit once", "elif is_blocked and now - self.sent_at >= self.beat_s / 2:", "elif False:",
         *KEEP_ALIVE, *PROBE),
    bare("credit-lost-often", "reports each offset twice", REPORT, REPORT.replace("waits > 1", "waits == 2")),
    resuming("credit-lost-often", "reports each offset twice", "if self.waits > 1 or", "if self.waits == 2 or"),
    bare("credit-exceeded", "takes what was not allowed", LIMIT, "is_allowed = True"),
    resuming("credit-exceeded", "takes what was not allowed", "return self.reported + self.window", "return OFFSET_MAX"),
    resuming("credit-exceeded", "ignores `window_max`", 'min(self.window, accepted["window_max"])', "self.window"),
    full("credit-exceeded", "takes what was not allowed", "return self.credit", "return 2**63"),
    full("credit-exceeded", "takes the requested credit for the granted one",
         'self.credit = min(self.credit, accepted["credit"])', "pass"),
    bare("credit-exceeded-later", "takes the requested window for the credit", LIMIT,
         LIMIT.replace('reported + accepted["credit"]', "reported + WINDOW")),
    resuming("credit-exceeded-later", "ignores `window_max`", 'min(self.window, accepted["window_max"])', "self.window"),
    bare("beat-store", "fails on a beat", 'kind in ("chunk", "beat", "end")', 'kind in ("chunk", "end")'),
    *both("beat-store", "does not take a beat for life", 'return self.written < accepted["end"]', "return False"),
    full("beat-flood", "answers every beat", "elif is_blocked and now - self.sent_at >= self.beat_s / 2:", "elif is_blocked:"),

    # The end.
    bare("end-chunks", "does not count chunks", COUNTS, 'json.loads(message.data)["bytes"] == written'),
    *both("end-chunks", "does not count chunks", COUNTED, 'count(end["bytes"]) != counts[1]'),
    bare("end-bytes", "does not count bytes", COUNTS, 'json.loads(message.data)["chunks"] == chunks'),
    *both("end-bytes", "does not count bytes", COUNTED, 'count(end["chunks"]) != counts[0]'),
    bare("end-odd-numbers", "takes a text for a number", COUNTS,
         '[int(json.loads(message.data)[name]) for name in ("chunks", "bytes")] == [chunks, written]'),
    *both("end-odd-numbers", "takes a text for a number", "    if type(value) is not int or not 0", "    value = int(value)\n    if not 0"),
    bare("end-early", "does not compare the end", END, END.replace(' and written == accepted["end"]', "")),
    *both("end-early", "does not compare the end", ' or self.written != accepted["end"]', "",
          "return await asyncio.to_thread(self.verify)", 'return "unverified"'),
    bare("end-after-loss", "does not read the counts", END, END.replace('is_complete and written == accepted["end"]', "True")),
    bare("end-lost", "stops at the last byte", "  # meanwhile the connection is read\n",
         '\n                if written == accepted["end"]:\n                    return\n'),
    *both("end-lost", "stops at the last byte", "  # meanwhile the connection is read\n",
          '\n                    if self.written == self.accepted["end"]:\n                        return\n'),
    *both("end-lost-with-beats", "takes beats after the last byte for life", 'return self.written < accepted["end"]',
          "return True"),
    bare("end-of-larger-object", "stops at the last chunk", END, END.replace(' and written == accepted["end"]', "")),
    bare("goaway", "takes `goaway` for the end", 'kind in ("chunk", "beat", "end")',
         'kind in ("chunk", "beat", "end", "goaway") and (kind != "goaway" or sys.exit(0))'),
    *both("goaway", "fails for good on `goaway`", 'raise Setback("the relay is shutting down")', 'raise Failure("goaway")'),
    bare("goaway-before-accepted", "ignores an early `goaway`", 'if kind == "beat" and not accepted:',
         'if kind in ("beat", "goaway") and not accepted and (kind != "goaway" or sys.exit(0)):'),

    # Recovery.
    *both("resume", "does not pin the version", 'version.get("etag")', "None"),
    *both("resume", "does not pin `version_id`", 'version.get("version_id")}', "None}"),
    *both("resume", "keeps its subscription", "            await messages.unsubscribe()\n", "            pass\n"),
    *both("resume-at-the-end", "requests the last byte again", '"start": self.written, "window"',
          '"start": self.written + (self.version is not None), "window"'),
    *both("resume-other-etag", "does not compare the etag", "(etag, size) != (first", "(first[\"etag\"], size) != (first"),
    *both("resume-other-size", "does not compare the size", "(etag, size) != (first", "(etag, first[\"size\"]) != (first"),
    *both("resume-other-version", "does not compare `version_id`", "len(ids) > 1 or ", ""),
    *both("resume-other-checksum", "does not compare the checksum", '(is_same_kind and ours.get("value") != theirs.get("value"))',
          "False"),
    *both("resume-later-checksum", "takes a new checksum for another one", "is_same_kind and ours", "ours"),
    *both("resume-other-start", "does not compare the start", REQUESTED,
          '(accepted["key"], accepted["end"]) == (self.key, size)\n        self.written = start'),
    *both("resume-replaced", "drops the pin", RETRY, "self.version = None\n        return Setback(reason, pause_s)"),
    *both("resume-after-gap", "fails without a relay", ABSENT, "if True:"),
    full("resume-in-pieces", "uses one inbox", "class FullDownload(Download):\n",
         "nats.aio.client.Client.new_inbox = lambda nc: \"_INBOX.one.\" + nc.__class__.__name__\n\n\nclass FullDownload(Download):\n"),

    # Liveness.
    bare("silence-before-accepted", "succeeds after silence", DOWNLOADED, CARELESS),
    resuming("silence-after-beat", "waits forever", "max(STALL_S, 3 * self.beat_s)", "3600"),
    full("silence-after-beat", "waits forever", "self.lost_at()", "self.heard_at + 3600"),
    resuming("silence-midway", "waits forever after `accepted`", "max(STALL_S, 3 * self.beat_s)",
             "(3600 if self.accepted else STALL_S)"),
    *both("repeats-are-silence", "takes repeats for life", "                if not is_new:\n",
          "                self.heard_at = time.monotonic()\n                if not is_new:\n"),
    full("probe", "sends nothing during a silence", *KEEP_ALIVE, *PROBE),
    full("probe-ended", "does not ask for an answer", "await self.send(probe=True)", "await self.send()"),
    full("relay-dies", "ignores the `503`", '            raise Setback("the relay is gone")\n', "            return\n"),
    full("keeps-alive", "does not keep its promise", *KEEP_ALIVE, *PROBE),
]
