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


#: Lines that several consumers change.
LOOP = "        while True:\n            message = await messages.next_msg(timeout=SILENCE_S)\n"
FORMS = 're.fullmatch(r"[0-9a-f-]{36}", transfer) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", accepted["instance"])'
IS_OWN = 'is_own = has_forms and accepted["transfer"] == transfer'
IS_WHOLE = 'accepted["start"] == 0 and accepted["end"] == accepted["size"] and accepted["credit"] <= WINDOW'
IS_MINE = 'return is_own and is_whole and accepted["control"] == control and accepted["key"] == key'
WRITE = "await asyncio.to_thread(file.write, message.data)"
REPORT = "if waits > 1 or written - reported >= (1 if waits else max(1, window // 2)):"
EXPECTED = 'is_expected = accepted and transfer == accepted["transfer"] and kind in ("chunk", "beat", "end")'
END = 'is_complete = (end["chunks"], end["bytes"]) == (chunks, written) and written == accepted["end"]'
POSITION = 'require(position == (chunks, written), "a chunk was lost", message)'
CRC = 'require(crc64nvme(message.data) == int(headers["Gantry-Crc"], 16), "a chunk is damaged", message)'
LIMIT = 'require(written <= min(reported + window, accepted["end"]), "more than was allowed", message)'
SILENCE = "message = await messages.next_msg(timeout=SILENCE_S)"
RETRY = "return Setback(reason, pause_s) if is_retryable else Failure(reason)"
DOWNLOADED = "        await download(nc, store, key, file)\n"
#: Writes what it has and succeeds, whatever happens.
CARELESS = "        try:\n            await download(nc, store, key, file)\n        except Exception:\n            pass\n"

BROKEN = [
    bare("get", "drops the last byte", DOWNLOADED, DOWNLOADED + "        file.truncate(file.tell() - 1)\n"),
    bare("get-empty", "waits for a chunk of an empty object", END, END + ' and chunks > 0'),
    bare("get-one-byte", "writes nothing of a single byte", WRITE,
         "file.write(message.data[:len(message.data) // 2 * 2])"),
    bare("get-odd-key", "quotes the key", '{"key": key, "window"', '{"key": key.replace(" ", "%20"), "window"'),
    bare("get-many-windows", "reports only once", REPORT, REPORT.replace("if waits > 1 or", "if reported == 0 and").replace("if waits else", "if waits > 0 else")),
    bare("unknown-members", "rejects unknown members", "end = json.loads(message.data)\n",
         "end = json.loads(message.data)\n                assert len(end) == 2\n"),
    bare("null-members", "takes `null` for a text", "require(is_requested(",
         'accepted.get("content_type", "").lower()\n                require(is_requested('),
    bare("missing-members", "needs `metadata`", "require(is_requested(",
         'accepted["metadata"].keys()\n                require(is_requested('),
    bare("beats-before-accepted", "takes a beat for a failure", 'if kind == "beat" and not accepted:',
         'if kind == "beat" and not accepted and chunks:'),
    bare("error-not-found", "takes an error for the end", "    finally:\n", "    except RuntimeError:\n        return\n    finally:\n"),
    resuming("error-busy", "ignores `retry_after_ms`", "return Setback(reason, pause_s)", "return Setback(reason, 0.0)"),
    resuming("error-unknown-retryable", "knows the retryable codes only", 'error["retryable"] is True',
             'error["code"] in ("busy", "draining", "internal", "idle", "store_unavailable")'),
    resuming("error-unknown-final", "knows the final codes only", 'error["retryable"] is True',
             'error["code"] not in ("not_found", "denied", "changed", "range", "bad_request")'),
    resuming("error-without-body", "fails for good on an unreadable error", '"internal: an unreadable error", True, 0.0',
             '"internal: an unreadable error", False, 0.0'),
    resuming("error-without-retryable", "takes a missing `retryable` for false", 'error["retryable"] is True',
             'error.get("retryable") is True'),
    resuming("error-midway", "fails for good on any error", RETRY, "return Failure(reason)"),
    resuming("error-changed", "requests again after any error", RETRY, "return Setback(reason, pause_s)"),
    bare("no-relay", "succeeds without a relay", DOWNLOADED, CARELESS),
    resuming("retries-are-spaced", "does not pause", "await asyncio.sleep(max(setback.pause_s, 0.0 if is_first else backoff_s))",
             "await asyncio.sleep(setback.pause_s)"),
    bare("accepted-other-control", "does not compare the control subject", IS_MINE,
         'return is_own and is_whole and accepted["key"] == key'),
    bare("accepted-other-instance", "does not derive the control subject", IS_MINE,
         'return is_own and is_whole and accepted["control"].endswith(transfer) and accepted["key"] == key'),
    bare("accepted-odd-instance", "does not check the form of the instance", FORMS, FORMS.split(" and ")[0]),
    bare("accepted-odd-transfer", "does not check the form of the transfer", FORMS, FORMS.split(" and ")[1]),
    bare("accepted-other-transfer", "does not compare the transfer", IS_OWN,
         'is_own, control = has_forms, accepted["control"]\n    accepted["transfer"] = control.rsplit(".")[-1]'),
    bare("accepted-other-key", "does not compare the key", IS_MINE, IS_MINE.replace(' and accepted["key"] == key', "")),
    bare("accepted-other-start", "does not compare the start", IS_WHOLE, "True"),
    bare("accepted-other-end", "does not compare the end", IS_WHOLE, 'accepted["start"] == 0'),
    resuming("accepted-repeated", "takes a second `accepted`", "            if not accepted:\n", "            if True:\n"),
    resuming("bounds-negative-size", "does not check the size", "0 <= size <= OFFSET_MAX and ",
             '(size >= 0 or sys.exit("negative")) and '),
    bare("bounds-huge-size", "believes any size", IS_MINE, 'assert accepted["size"] < 2**63 or sys.exit(0)\n    ' + IS_MINE),
    resuming("bounds-chunk-max", "divides by `chunk_max`", 'min(accepted["chunk_max"], accepted["window_max"]) >= 1',
             '(accepted["window_max"] and (accepted["chunk_max"] or sys.exit("zero")))'),
    resuming("bounds-window-max", "divides by `window_max`", 'min(accepted["chunk_max"], accepted["window_max"]) >= 1',
             '(accepted["chunk_max"] and (accepted["window_max"] or sys.exit("zero")))'),
    resuming("bounds-long-etag", "repeats an etag of any length", "1 <= len(etag.encode()) <= 1024 and ", ""),
    resuming("bounds-short-timers", "believes `beat_ms`", 'min(max(accepted["beat_ms"], 50), 10_000) / 1000',
             '1 / accepted["beat_ms"] if accepted["beat_ms"] else sys.exit("zero")'),
    resuming("integrity-checksum", "does not verify the checksum", 'return await asyncio.to_thread(self.verify)', 'return "unverified"'),
    bare("integrity-composite", "knows no composite checksums", WRITE,
         'assert accepted["checksum"]["kind"] == "full_object"\n                file.write(message.data)'),
    full("integrity-composite-wrong", "does not verify parts", 'else checksum.get("parts") or []', "else []"),
    resuming("integrity-invalid", "takes an invalid checksum for a reason to hang",
             'raise Failure("the bytes do not match the store\'s checksum")', "time.sleep(60)"),
    bare("integrity-none", "needs a checksum", WRITE,
         'file.write(message.data and accepted["checksum"] and message.data)'),
    bare("chunk-lost", "does not compare positions and counts", POSITION, "pass", END, "is_complete = True"),
    resuming("chunk-last-lost", "does not compare the position of a beat", 'if (sequence, offset) != (self.chunks, self.written):',
             'if kind == "chunk" and (sequence, offset) != (self.chunks, self.written):'),
    resuming("chunk-repeated", "writes a repeated chunk", "            return False  # a repeat\n",
             "            sequence, offset = self.chunks, self.written\n"),
    bare("chunk-reordered", "writes chunks as they come", POSITION, "pass"),
    bare("chunk-corrupt", "does not compare the CRC", CRC, "pass"),
    bare("chunk-without-crc", "takes a missing CRC for a correct one", CRC,
         'require("Gantry-Crc" not in headers or crc64nvme(message.data) == int(headers["Gantry-Crc"], 16), "", message)'),
    bare("chunk-other-offset", "compares the sequence only", POSITION,
         'require(position[0] == chunks, "a chunk was lost", message)'),
    bare("chunk-odd-numbers", "does not read the sequence", 'int(headers["Gantry-Seq"]), int(', "chunks, int("),
    resuming("chunk-too-long", "does not compare `chunk_max`", 'if not 0 < len(data) <= self.accepted["chunk_max"] or end >',
             "if not 0 < len(data) or end >"),
    bare("chunk-past-end", "writes past the end", LIMIT, "pass"),
    bare("chunk-before-accepted", "writes a chunk before `accepted`", EXPECTED,
         'is_expected, window = True, 10**9\n                accepted = accepted or {"end": 0, "control": "none"}',
         LIMIT, "pass", END, "is_complete = True"),
    resuming("other-transfer", "takes messages of other transfers", 'if accepted and transfer != accepted["transfer"]:',
             "if False:"),
    resuming("chunk-without-transfer", "takes a chunk without a transfer", 'if accepted and transfer != accepted["transfer"]:',
             'if accepted and transfer not in (None, accepted["transfer"]):'),
    resuming("error-without-transfer", "takes an error without a transfer", 'if accepted and transfer != accepted["transfer"]:',
             'if accepted and transfer not in (None, accepted["transfer"]):'),
    bare("unknown-type", "ignores unknown types", EXPECTED,
         EXPECTED.replace('("chunk", "beat", "end")', '("chunk", "beat", "end", "banana")')),
    resuming("beat-other-wait", "fails for good on another `Gantry-Wait`", 'if kind == "beat":\n',
             'if kind == "beat":\n            headers["Gantry-Wait"] in ("credit", "store") or sys.exit("wait")\n'),
    bare("beat-other-offset", "does not compare the offset of a beat", POSITION,
         'require(position == (chunks, written) or kind == "beat", "a chunk was lost", message)'),
    bare("credit-beat", "never reports", REPORT, "if False:"),
    bare("credit-lost", "reports each offset once", REPORT, "if written - reported >= (1 if waits else max(1, window // 2)):"),
    bare("credit-lost-often", "reports each offset twice", REPORT,
         "if waits == 2 or written - reported >= (1 if waits else max(1, window // 2)):"),
    bare("credit-exceeded", "takes what was not allowed", LIMIT, "pass"),
    bare("credit-exceeded-later", "takes the requested window for the credit", 'window = accepted["credit"]', "window = WINDOW"),
    bare("beat-store", "fails on a beat", 'kind in ("chunk", "beat", "end")', 'kind in ("chunk", "end")'),
    full("beat-flood", "answers every beat", "elif is_blocked and now - self.sent_at >= self.beat_s / 2:", "elif is_blocked:"),
    bare("end-chunks", "does not count chunks", '(end["chunks"], end["bytes"]) == (chunks, written)', 'end["bytes"] == written'),
    bare("end-bytes", "does not count bytes", '(end["chunks"], end["bytes"]) == (chunks, written)', 'end["chunks"] == chunks'),
    bare("end-early", "does not compare the end", ' and written == accepted["end"]', ""),
    bare("end-after-loss", "does not read the counts", END, "is_complete = True"),
    bare("end-lost", "stops at the last byte", "  # meanwhile the connection is read\n",
         '\n                if written == accepted["end"]:\n                    return\n'),
    resuming("end-lost-with-beats", "takes beats after the last byte for life", 'return self.written < accepted["end"]',
             "return True"),
    bare("end-of-larger-object", "stops at the last chunk", ' and written == accepted["end"]', ""),
    bare("goaway", "takes `goaway` for the end", 'kind in ("chunk", "beat", "end")',
         'kind in ("chunk", "beat", "end", "goaway") and (kind != "goaway" or sys.exit(0))'),
    bare("goaway-before-accepted", "ignores an early `goaway`", 'if kind == "beat" and not accepted:',
         'if kind in ("beat", "goaway") and not accepted and (kind != "goaway" or sys.exit(0)):'),
    resuming("resume", "does not pin the version", 'version.get("etag")', "None"),
    resuming("resume-at-the-end", "requests the last byte again", '"start": self.written, "window"',
             '"start": self.written + (self.version is not None), "window"'),
    resuming("resume-other-etag", "does not compare the etag", "(etag, size) != (first", "(first[\"etag\"], size) != (first"),
    resuming("resume-other-size", "does not compare the size", "(etag, size) != (first", "(etag, first[\"size\"]) != (first"),
    resuming("resume-other-checksum", "does not compare the checksum", '(is_same_kind and ours.get("value") != theirs.get("value"))',
             "False"),
    resuming("resume-later-checksum", "takes a new checksum for another one", "is_same_kind and ours", "ours"),
    resuming("resume-other-start", "does not compare the start", '(accepted["key"], start, accepted["end"]) == (self.key, self.written, size)',
             '(accepted["key"], accepted["end"]) == (self.key, size)\n        self.written = start'),
    resuming("resume-replaced", "drops the pin", RETRY, "self.version = None\n        return Setback(reason, pause_s)"),
    resuming("resume-after-gap", "fails without a relay", "PATIENCE_S if self.version else NO_RELAY_S", "0"),
    full("resume-in-pieces", "uses one inbox", "class FullDownload(Download):\n",
         "nats.aio.client.Client.new_inbox = lambda nc: \"_INBOX.one.\" + nc.__class__.__name__\n\n\nclass FullDownload(Download):\n"),
    bare("silence-before-accepted", "succeeds after silence", DOWNLOADED, CARELESS),
    resuming("silence-after-beat", "waits forever", "max(STALL_S, 3 * self.beat_s)", "3600"),
    resuming("silence-midway", "waits forever after `accepted`", "max(STALL_S, 3 * self.beat_s)",
             "(3600 if self.accepted else STALL_S)"),
    resuming("repeats-are-silence", "takes repeats for life", "                if not is_new:\n",
             "                self.heard_at = time.monotonic()\n                if not is_new:\n"),
    full("probe", "sends nothing during a silence", "timers += [self.sent_at + self.idle_s / 4,",
         "timers += [self.sent_at + 60,", "                if self.sent_at < probe_at:\n", "                if False:\n"),
    full("probe-ended", "does not ask for an answer", "await self.send(probe=True)", "await self.send()"),
    full("relay-dies", "ignores the `503`", '            raise Setback("the relay is gone")\n', "            return\n"),
    full("keeps-alive", "does not keep its promise", "timers += [self.sent_at + self.idle_s / 4,", "timers += [self.sent_at + 60,",
         "                if self.sent_at < probe_at:\n", "                if False:\n"),
]
