#!/usr/bin/env python3
"""Compares the gateway's conditions and ranges with those of Debian's nginx.

    nginx.py                            all requests
    nginx.py range                      those whose names contain `range`
    nginx.py --gantry target/debug/gantry

Both servers serve the same files: nginx from the folder, and the gateway from a relay of that folder. Each request goes
to both, with the ETag of each. Their statuses, lengths, ranges and bytes are compared with each other, and the bytes with
those of the file. Every difference must be one of DIFFERENCES, and each of those must occur; otherwise the script exits
with 1.
"""

import argparse
import email.parser
import http.client
import os
import sys
from dataclasses import dataclass

import clients
from place import FILES, Place, binary, free_port, page, random_bytes

import demo
import servers

SIZE = 10_000
# Thu, 02 Jan 2025 02:04:05 GMT
MODIFIED_S = 1_735_783_445
AT, BEFORE, AFTER = (f"Thu, 02 Jan 2025 02:04:0{second} GMT" for second in (5, 4, 6))
AT_RFC_850, AT_ASCTIME = "Thursday, 02-Jan-25 02:04:05 GMT", "Thu Jan  2 02:04:05 2025"
LIMIT_S = 20

# The headers of a request, by its name. ETAG and DATE stand for the server's own tag and date.
REQUESTS = {
    "no condition": [],
    "If-Match, same": ["If-Match: ETAG"],
    "If-Match, other": ['If-Match: "other"'],
    "If-Match, weak": ["If-Match: W/ETAG"],
    "If-Match, any": ["If-Match: *"],
    "If-Match, list with it": ['If-Match: "other", ETAG, "third"'],
    "If-Match, list without it": ['If-Match: "other", "third"'],
    "If-Match, two headers": ['If-Match: "other"', "If-Match: ETAG"],
    "If-Match, empty": ["If-Match:"],
    "If-None-Match, same": ["If-None-Match: ETAG"],
    "If-None-Match, other": ['If-None-Match: "other"'],
    "If-None-Match, weak": ["If-None-Match: W/ETAG"],
    "If-None-Match, any": ["If-None-Match: *"],
    "If-None-Match, list with it": ['If-None-Match: "other",W/ETAG'],
    "If-None-Match, list without it": ['If-None-Match: "other", "third"'],
    "If-None-Match, two headers": ['If-None-Match: "other"', "If-None-Match: ETAG"],
    "If-Modified-Since, same": [f"If-Modified-Since: {AT}"],
    "If-Modified-Since, earlier": [f"If-Modified-Since: {BEFORE}"],
    "If-Modified-Since, later": [f"If-Modified-Since: {AFTER}"],
    "If-Modified-Since, RFC 850": [f"If-Modified-Since: {AT_RFC_850}"],
    "If-Modified-Since, asctime": [f"If-Modified-Since: {AT_ASCTIME}"],
    "If-Modified-Since, no date": ["If-Modified-Since: yesterday"],
    "If-Unmodified-Since, same": [f"If-Unmodified-Since: {AT}"],
    "If-Unmodified-Since, earlier": [f"If-Unmodified-Since: {BEFORE}"],
    "If-Unmodified-Since, later": [f"If-Unmodified-Since: {AFTER}"],
    "If-Unmodified-Since, no date": ["If-Unmodified-Since: yesterday"],
    "order: If-Match met, If-Unmodified-Since not": ["If-Match: ETAG", f"If-Unmodified-Since: {BEFORE}"],
    "order: If-Match not met, If-Unmodified-Since met": ['If-Match: "other"', f"If-Unmodified-Since: {AT}"],
    "order: If-None-Match same, If-Modified-Since earlier": ["If-None-Match: ETAG", f"If-Modified-Since: {BEFORE}"],
    "order: If-None-Match other, If-Modified-Since same": ['If-None-Match: "other"', f"If-Modified-Since: {AT}"],
    "order: If-Match and If-None-Match, same": ["If-Match: ETAG", "If-None-Match: ETAG"],
    "order: If-Match other, If-None-Match same": ['If-Match: "other"', "If-None-Match: ETAG"],
    "order: 412 before 416": ['If-Match: "other"', "Range: bytes=10000-"],
    "order: 304 before 416": ["If-None-Match: ETAG", "Range: bytes=10000-"],
    "order: 304 before 206": ["If-None-Match: ETAG", "Range: bytes=0-9"],
    "order: If-Match met, range": ["If-Match: ETAG", "Range: bytes=0-9"],
    "If-Range, same tag": ["If-Range: ETAG", "Range: bytes=0-9"],
    "If-Range, other tag": ['If-Range: "other"', "Range: bytes=0-9"],
    "If-Range, weak tag": ["If-Range: W/ETAG", "Range: bytes=0-9"],
    "If-Range, same date": [f"If-Range: {AT}", "Range: bytes=0-9"],
    "If-Range, earlier date": [f"If-Range: {BEFORE}", "Range: bytes=0-9"],
    "If-Range, later date": [f"If-Range: {AFTER}", "Range: bytes=0-9"],
    "If-Range, no date": ["If-Range: yesterday", "Range: bytes=0-9"],
    "If-Range, no range": ["If-Range: ETAG"],
    "new file, If-Range same date": ["If-Range: DATE", "Range: bytes=0-9"],
    "new file, If-Range same tag": ["If-Range: ETAG", "Range: bytes=0-9"],
    "If-Range, same tag, past the end": ["If-Range: ETAG", "Range: bytes=10000-"],
    "If-Range, other tag, past the end": ['If-Range: "other"', "Range: bytes=10000-"],
    "range, first byte": ["Range: bytes=0-0"],
    "range, middle": ["Range: bytes=500-999"],
    "range, open": ["Range: bytes=9000-"],
    "range, all": ["Range: bytes=0-"],
    "range, suffix": ["Range: bytes=-500"],
    "range, suffix of all": ["Range: bytes=-10000"],
    "range, suffix longer than all": ["Range: bytes=-20000"],
    "range, suffix of nothing": ["Range: bytes=-0"],
    "range, end past the end": ["Range: bytes=9990-20000"],
    "range, end past 64 bits": ["Range: bytes=0-99999999999999999999"],
    "range, start at the end": ["Range: bytes=10000-"],
    "range, start past the end": ["Range: bytes=20000-30000"],
    "range, start past 64 bits": ["Range: bytes=99999999999999999999-"],
    "range, last before first": ["Range: bytes=9-0"],
    "range, no number": ["Range: bytes=a-b"],
    "range, only a dash": ["Range: bytes=-"],
    "range, nothing": ["Range: bytes="],
    "range, no dash": ["Range: bytes=5"],
    "range, sign": ["Range: bytes=+1-2"],
    "range, other unit": ["Range: items=0-9"],
    "range, unit in capitals": ["Range: BYTES=0-9"],
    "range, blanks": ["Range: bytes= 0-9"],
    "range, two headers": ["Range: bytes=0-9", "Range: bytes=20-29"],
    "ranges, two": ["Range: bytes=0-9,100-199"],
    "ranges, blanks": ["Range: bytes=0-9, 100-199"],
    "ranges, suffix and open": ["Range: bytes=0-9,9000-9009,-10"],
    "ranges, backwards": ["Range: bytes=100-199,0-9"],
    "ranges, adjacent": ["Range: bytes=0-99,100-199"],
    "ranges, overlapping": ["Range: bytes=0-99,50-149"],
    "ranges, the same twice": ["Range: bytes=0-99,0-99"],
    "ranges, more than the file": ["Range: bytes=0-,0-,0-"],
    "ranges, one past the end": ["Range: bytes=0-9,20000-"],
    "ranges, all past the end": ["Range: bytes=10000-,20000-"],
    "ranges, one invalid": ["Range: bytes=0-9,9-0"],
    "ranges, empty elements": ["Range: bytes=0-9,,100-199"],
    "ranges, 1024": ["Range: bytes=" + ",".join(f"{2 * at}-{2 * at}" for at in range(1024))],
    "ranges, 1025": ["Range: bytes=" + ",".join(f"{2 * at}-{2 * at}" for at in range(1025))],
    "HEAD": [],
    "HEAD, range": ["Range: bytes=0-9"],
    "HEAD, start past the end": ["Range: bytes=20000-"],
    "HEAD, If-None-Match same": ["If-None-Match: ETAG"],
    "HEAD, If-Match other": ['If-Match: "other"'],
    "empty file": [],
    "empty file, open": ["Range: bytes=0-"],
    "empty file, suffix": ["Range: bytes=-1"],
    "empty file, If-None-Match same": ["If-None-Match: ETAG"],
}

# What nginx and the gateway answer, and why they differ.
REPEATED = "nginx rejects repeated headers. RFC 9110, 5.3, allows to repeat those that are lists."
IGNORED = "RFC 9110, 14.2, allows to reject an invalid range, and to ignore it. The gateway ignores it, as S3 does."
GET_ONLY = "RFC 9110, 14.2, defines ranges for GET only."
EMPTY = "A 206 can't state an empty range. RFC 9110, 14.1.2, calls `0-` unsatisfiable; the suffix gets the same answer."
DIFFERENCES = {
    "If-Match, two headers": ("400", "200", REPEATED),
    "If-None-Match, two headers": ("400", "304", REPEATED),
    "If-Modified-Since, later": (
        "200", "304", "By default, nginx wants exactly its date. RFC 9110, 13.1.3: 304 unless the file is newer."),
    "If-Unmodified-Since, no date": ("412", "200", "RFC 9110, 13.1.4: an invalid date is ignored."),
    "order: If-Match met, If-Unmodified-Since not": (
        "412", "200", "RFC 9110, 13.2.2: If-Match decides alone. nginx demands both."),
    "order: If-None-Match same, If-Modified-Since earlier": (
        "200", "304", "RFC 9110, 13.2.2: If-None-Match decides alone. nginx demands both."),
    "new file, If-Range same date": (
        "206 bytes 0-9/10000", "200",
        "RFC 9110, 8.8.2.2: a date is weak while the file may be replaced within its second. The gateway waits 60 s."),
    "range, end past 64 bits": (
        "416 bytes */10000", "206 bytes 0-9999/10000", "RFC 9110, 14.1.2: an end past the file means the file's end."),
    "range, last before first": ("416 bytes */10000", "200", IGNORED),
    "range, no number": ("416 bytes */10000", "200", IGNORED),
    "range, only a dash": ("416 bytes */10000", "200", IGNORED),
    "range, no dash": ("416 bytes */10000", "200", IGNORED),
    "range, sign": ("416 bytes */10000", "200", IGNORED),
    "range, two headers": (
        "206 bytes 0-9/10000", "200", "nginx uses the first one. Range is no list, so two contradict each other."),
    "ranges, overlapping": (
        "206, 2 parts", "206 bytes 0-149/10000", "RFC 9110, 15.3.7.2, allows to combine ranges. No byte is sent twice."),
    "ranges, the same twice": (
        "206, 2 parts", "206 bytes 0-99/10000", "RFC 9110, 15.3.7.2, allows to combine ranges. No byte is sent twice."),
    "ranges, more than the file": (
        "200", "206 bytes 0-9999/10000", "nginx sends the file if the ranges are longer. The gateway combines them."),
    "ranges, one invalid": ("206 bytes 0-9/10000", "200", "nginx leaves out the invalid one. " + IGNORED),
    "ranges, empty elements": (
        "416 bytes */10000", "206, 2 parts", "RFC 9110, 5.6.1.2: empty elements of a list are ignored."),
    "ranges, 1025": ("206, 1025 parts", "200", "The gateway sends at most 1024 parts, and otherwise the whole object."),
    "HEAD, range": ("206 bytes 0-9/10000", "200", GET_ONLY),
    "HEAD, start past the end": ("416 bytes */10000", "200", GET_ONLY),
    "empty file, open": ("200", "416 bytes */0", EMPTY),
    "empty file, suffix": ("200", "416 bytes */0", EMPTY),
}


@dataclass(frozen=True)
class Answer:
    status: int
    length: str
    range: str
    # The body, or its parts with their ranges. Pages that describe an error are not compared.
    content: object

    def __str__(self):
        parts = f", {len(self.content)} parts" if isinstance(self.content, tuple) else ""
        return f"{self.status}{f' {self.range}' if self.range else ''}{parts}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="compare only requests whose names contain it")
    parser.add_argument("--gantry", help="binary to test; default: GANTRY_BINARY, or target/debug/gantry")
    args = parser.parse_args()
    wanted = [name for name in REQUESTS if not args.names or any(part in name for part in args.names)]

    place = Place(binary(args.gantry))
    try:
        nginx = start(place)
        rows = [(name, ask(nginx, name), ask(place.address, name)) for name in wanted]
    except clients.NotHere as problem:
        print(f"NOT RUN HERE: {problem}")
        return
    except servers.Problem as problem:
        sys.exit(f"nginx.py: {problem}")
    finally:
        place.close()

    wrong = [verdict for row in rows if (verdict := show(*row))]
    print(f"{len(rows)} requests, {sum(ours != theirs for _, theirs, ours in rows)} differences, {len(wrong)} wrong")
    for verdict in wrong:
        print(f"FAILED: {verdict}")
    sys.exit(1 if wrong else 0)


def start(place):
    """Starts everything, and returns the address of nginx."""
    for key, content in (("data.bin", random_bytes(SIZE, 1)), ("empty.bin", b""), ("new.bin", random_bytes(SIZE, 1))):
        (place.files / key).write_bytes(content)
        os.utime(place.files / key, (MODIFIED_S, MODIFIED_S))

    program = clients.path_of("nginx")
    place.url = demo.start_nats(place.stage)
    pages = f"127.0.0.1:{free_port()}"
    place.stage.start("relay", [place.gantry, "serve", f"--store={FILES}={place.files}", "--http", pages],
                      {**demo.clean_env(), "NATS_URL": place.url})
    place.stage.wait_for("the relay is not ready", lambda: page(f"http://{pages}/readyz").startswith("ready"))
    place.start_gateway()

    address = f"127.0.0.1:{free_port()}"
    config = place.folder / "nginx.conf"
    config.write_text(configuration(place.folder, address))
    place.stage.start("nginx", [program, "-p", place.folder, "-c", config, "-e", place.folder / "nginx-errors.log"],
                      clients.environment())
    place.stage.wait_for("nginx is not ready", lambda: page(f"http://{address}/"))
    os.utime(place.files / "new.bin")
    return address


def configuration(folder, address):
    """nginx with its defaults, as one process, and with room for a long Range."""
    temporary = "\n".join(f"    {kind}_temp_path {folder}/nginx-{kind};"
                          for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return f"""daemon off;
master_process off;
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    default_type application/octet-stream;
    large_client_header_buffers 4 32k;
{temporary}
    server {{
        listen {address};
        root {folder};
    }}
}}
"""


def ask(address, name):
    """Sends a request with the server's own tag, and returns the answer."""
    method = "HEAD" if name.startswith("HEAD") else "GET"
    file = next((word for word in ("empty", "new") if name.startswith(word)), "data")
    path = f"/{FILES}/{file}.bin"
    head = send(address, "HEAD", path, [])[0]
    own = {"ETAG": head.getheader("ETag"), "DATE": head.getheader("Last-Modified")}
    headers = [line.replace("ETAG", own["ETAG"]).replace("DATE", own["DATE"]) for line in REQUESTS[name]]

    response, body = send(address, method, path, headers)
    content_range = response.getheader("Content-Range", "")
    if response.status not in (200, 206):
        return Answer(response.status, "", content_range, b"")

    length, media_type = response.getheader("Content-Length"), response.getheader("Content-Type")
    if not media_type.startswith("multipart/byteranges"):
        if method == "GET":
            check(name, content_range, body)
        return Answer(response.status, length, content_range, body)

    several = parts(media_type, body)
    for _, part_range, content in several:
        check(name, part_range, content)
    if int(length) != len(body):
        raise servers.Problem(f"{address}: {name}: {len(body)} bytes, announced as {length}")
    # The length depends on the boundary.
    return Answer(response.status, "", content_range, several)


def check(name, content_range, content):
    """Compares bytes with those of the file."""
    file = b"" if name.startswith("empty") else random_bytes(SIZE, 1)
    if content_range:
        first, last = content_range.removeprefix("bytes ").split("/")[0].split("-")
        file = file[int(first):int(last) + 1]
    if content != file:
        raise servers.Problem(f"{name}: the bytes are not those of the file")


def send(address, method, path, headers):
    """Returns a response, and its body. Headers are sent as they are, repeated ones too."""
    connection = http.client.HTTPConnection(address, timeout=LIMIT_S)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for line in headers:
            connection.putheader(*line.split(": ", 1) if ": " in line else (line.rstrip(":"), ""))
        connection.endheaders()
        response = connection.getresponse()
        return response, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise servers.Problem(f"{address}: {method} {path} with {headers}: {error!r}") from None
    finally:
        connection.close()


def parts(media_type, body):
    """Returns the parts of a body of several ranges: their types, ranges and bytes."""
    boundary = b"\r\n--" + media_type.split("boundary=")[1].strip('"').encode()
    before, *between, after = body.split(boundary)
    if before or after != b"--\r\n":
        raise servers.Problem(f"a body of several ranges begins with {before!r} and ends with {after!r}")

    found = []
    for part in between:
        head, content = part.removeprefix(b"\r\n").split(b"\r\n\r\n", 1)
        head = email.parser.BytesParser().parsebytes(head, headersonly=True)
        found.append((head["Content-Type"], head["Content-Range"], content))
    return tuple(found)


def show(name, theirs, ours):
    """Prints a row, and returns what is wrong with it."""
    known = DIFFERENCES.get(name)
    print(f"{name:54} nginx: {theirs!s:24} gateway: {ours!s:24} {known[2] if known else ''}".rstrip())
    if known:
        as_known = (str(theirs), str(ours)) == known[:2]
        return None if as_known else f"{name}: nginx {theirs}, gateway {ours}, expected {known[0]} and {known[1]}"
    return None if theirs == ours else f"{name}: nginx {theirs}, gateway {ours}, without an explanation"


if __name__ == "__main__":
    main()
