"""What each client does with the gateway, and what must come of it."""

import email.utils
import functools
import hashlib
import json
import subprocess
import sys
import zipfile

import clients
import servers
from place import ANY_KEY, FILES, OBJECTS, random_bytes

MIB = 1 << 20
LIMIT_S = 300
# A part of S3's multipart uploads and downloads, several of which make an object large.
LARGE = 40 * MIB + 12_345
SMALL = {"tree/a.txt": b"a\n", "tree/b/c.bin": bytes(range(256)) * 40, "tree/b/d e+f.bin": b"with a blank",
         "tree/empty": b""}


class Wrong(Exception):
    """A client failed, or has other bytes than the store."""


def fill(place):
    """Puts the objects that several cases read."""
    place.large = random_bytes(LARGE, 1)
    place.put("large.bin", place.large)
    for key, content in SMALL.items():
        place.put(key, content)
        path = place.files / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (place.files / "large.bin").write_bytes(place.large)


def call(*command, code=0, env=None, cwd=None):
    """Runs a client, and returns what it prints. Any other exit code than `code` is wrong."""
    env = {**clients.environment(), **(env or {})}
    done = subprocess.run([*map(str, command)], env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=LIMIT_S)
    if done.returncode != code:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise Wrong(f"{command[0]}: exit code {done.returncode}: {' / '.join(said[-3:])}")
    return done.stdout


def expect(condition, message):
    if not condition:
        raise Wrong(message)


def same(actual, expected, what):
    if actual != expected:
        raise Wrong(f"{what}: {len(actual)} bytes with SHA-256 {hashlib.sha256(actual).hexdigest()[:12]}, "
                    f"expected {len(expected)} with {hashlib.sha256(expected).hexdigest()[:12]}")


def curl(place):
    program = functools.partial(call, clients.path_of("curl"), "--silent", "--show-error", "--fail")
    url, out = f"{place.http}/{OBJECTS}/large.bin", place.out / "curl"

    out.write_bytes(place.large[:7_000_000])
    program("-C", "-", "-o", out, url)
    same(out.read_bytes(), place.large, "curl -C -")

    same(program("-r", "1000-1999", url), place.large[1000:2000], "curl -r")
    same(program("-r", "-500", url), place.large[-500:], "curl -r, a suffix")

    written = place.out / "curl-z"
    written.unlink(missing_ok=True)
    now = email.utils.formatdate(usegmt=True)
    program("-z", now, "-o", written, url)
    expect(not written.exists() or not written.read_bytes(), "curl -z downloaded an object that is not newer")
    program("-z", "Mon, 01 Jan 2001 00:00:00 GMT", "-o", written, url)
    same(written.read_bytes(), place.large, "curl -z, a newer object")

    etag, again = place.out / "etag", place.out / "curl-etag"
    program("--etag-save", etag, "-o", again, url)
    same(again.read_bytes(), place.large, "curl --etag-save")
    status = program("--etag-compare", etag, "-o", "/dev/null", "-w", "%{http_code}", url)
    same(status, b"304", "curl --etag-compare")
    return "-C -, -r, -z, --etag-compare"


def wget(place):
    out = place.out / "wget"
    out.write_bytes(place.large[:9_999_999])
    call(clients.path_of("wget"), "--no-config", "-q", "-c", "-O", out, f"{place.http}/{OBJECTS}/large.bin")
    same(out.read_bytes(), place.large, "wget -c")
    return "-c from 9,999,999 bytes"


def aria2(place):
    program = clients.path_of("aria2c")
    (place.out / "aria2").unlink(missing_ok=True)
    before = counter(place, "gantry_gateway_descriptions_total")
    call(program, "--no-conf", "-q", "-x", "8", "-s", "8", "-k", "1M", "--file-allocation=none", "-d", place.out,
         "-o", "aria2", f"{place.http}/{OBJECTS}/large.bin")
    same((place.out / "aria2").read_bytes(), place.large, "aria2c -x 8")
    asked = counter(place, "gantry_gateway_descriptions_total") - before
    expect(asked <= 2, f"aria2c cost {asked:.0f} descriptions")
    return f"-x 8, {asked:.0f} descriptions"


def aws(place):
    env = {**ANY_KEY, **peers_env()}
    program = functools.partial(call, *aws_command(), "--endpoint-url", place.http, env=env)
    before = counter(place, "gantry_gateway_descriptions_total")
    program("s3", "cp", "--only-show-errors", f"s3://{OBJECTS}/large.bin", place.out / "aws")
    same((place.out / "aws").read_bytes(), place.large, "aws s3 cp")
    asked = counter(place, "gantry_gateway_descriptions_total") - before
    expect(asked <= 2, f"aws s3 cp cost {asked:.0f} descriptions")

    for store in (OBJECTS, FILES):
        folder = place.out / f"aws-{store}"
        program("s3", "sync", "--only-show-errors", f"s3://{store}/tree", folder)
        same_tree(folder, "aws s3 sync")
        expect(program("s3", "sync", f"s3://{store}/tree", folder) == b"", "aws s3 sync downloads again")

    listed = program("s3", "ls", "--recursive", f"s3://{OBJECTS}/tree/").decode()
    expect([line.split(maxsplit=3)[3] for line in listed.splitlines()] == sorted(SMALL), f"aws s3 ls: {listed}")
    expect(OBJECTS in program("s3", "ls").decode(), "aws s3 ls lists no buckets")

    url = program("s3", "presign", f"s3://{OBJECTS}/tree/b/c.bin").decode().strip()
    same(call(clients.path_of("curl"), "-sSf", url), SMALL["tree/b/c.bin"], "a presigned GET")
    return f"cp with {asked:.0f} descriptions, sync twice, ls, presigned GET"


def s5cmd(place):
    program = functools.partial(call, clients.path_of("s5cmd"), "--endpoint-url", place.http, env=ANY_KEY)
    program("cp", f"s3://{OBJECTS}/large.bin", place.out / "s5cmd")
    same((place.out / "s5cmd").read_bytes(), place.large, "s5cmd cp")
    program("cp", f"s3://{OBJECTS}/tree/*", f"{place.out}/s5cmd-tree/")
    same_tree(place.out / "s5cmd-tree", "s5cmd cp of a tree")
    listed = program("ls", f"s3://{OBJECTS}/tree/*").decode()
    expect(len(listed.splitlines()) == len(SMALL), f"s5cmd ls: {listed}")
    return "cp, cp of a tree, ls"


def rclone(place):
    env = {**ANY_KEY, "RCLONE_CONFIG": "/dev/null", "RCLONE_CONFIG_GW_TYPE": "s3", "RCLONE_CONFIG_GW_PROVIDER": "Other",
           "RCLONE_CONFIG_GW_ENDPOINT": place.http, "RCLONE_CONFIG_GW_ENV_AUTH": "true"}
    program = functools.partial(call, clients.path_of("rclone"), env=env)
    folder = place.out / "rclone"
    program("copy", f"gw:{OBJECTS}", folder)
    same((folder / "large.bin").read_bytes(), place.large, "rclone copy")
    same_tree(folder / "tree", "rclone copy")
    program("check", "--download", f"gw:{OBJECTS}", folder)
    part = program("cat", "--offset", "1234567", "--count", "1000", f"gw:{OBJECTS}/large.bin")
    same(part, place.large[1_234_567:1_235_567], "rclone cat --offset")
    return "copy, check --download, cat --offset"


BOTO3 = """
import json, sys
import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, bucket, out = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}))
s3.download_file(bucket, "large.bin", out, Config=TransferConfig(multipart_threshold=1 << 20, multipart_chunksize=5 << 20))

def code(**options):
    try:
        return s3.get_object(Bucket=bucket, Key="large.bin", **options)["ResponseMetadata"]["HTTPStatusCode"]
    except ClientError as error:
        return [error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]]

head = s3.head_object(Bucket=bucket, Key="large.bin")
part = s3.get_object(Bucket=bucket, Key="large.bin", Range="bytes=100-199", IfMatch=head["ETag"])
found = {"size": head["ContentLength"], "range": part["ContentRange"], "part": part["Body"].read().hex(),
         "match": code(IfMatch='"other"'), "none_match": code(IfNoneMatch=head["ETag"]),
         "past": code(Range="bytes=99999999999-"), "missing": None,
         "keys": [entry["Key"] for page in s3.get_paginator("list_objects_v2").paginate(
             Bucket=bucket, Prefix="tree/", PaginationConfig={"PageSize": 2}) for entry in page["Contents"]]}
try:
    s3.get_object(Bucket=bucket, Key="missing")
except s3.exceptions.NoSuchKey as error:
    found["missing"] = error.response["Error"]["Code"]
print(json.dumps(found))
"""


def boto3(place):
    env = {**ANY_KEY, "PYTHONPATH": str(servers.path_of("moto"))}
    out = place.out / "boto3"
    found = json.loads(call(sys.executable, "-c", BOTO3, place.http, OBJECTS, out, env=env))
    same(out.read_bytes(), place.large, "boto3 download_file")
    expected = {"size": LARGE, "range": f"bytes 100-199/{LARGE}", "part": place.large[100:200].hex(),
                "match": [412, "PreconditionFailed"], "none_match": [304, "304"], "past": [416, "InvalidRange"],
                "missing": "NoSuchKey", "keys": sorted(SMALL)}
    expect(found == expected, f"boto3: {found}, expected {expected}")
    return "download_file in parallel, get_object with ranges and conditionals, pages of a listing"


def pip(place):
    name = "gantry_demo-1.0-py3-none-any.whl"
    wheel = place.files / "simple" / "gantry-demo" / name
    wheel.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("gantry_demo.py", "VALUE = 17\n")
        archive.writestr("gantry_demo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: gantry-demo\nVersion: 1.0\n")
        archive.writestr("gantry_demo-1.0.dist-info/WHEEL",
                         "Wheel-Version: 1.0\nGenerator: gantry\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("gantry_demo-1.0.dist-info/RECORD", "gantry_demo.py,,\n")
    with servers.scratch() as folder:
        program = servers.pip(folder)
        common = ["--isolated", "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--no-deps",
                  "--index-url", f"{place.http}/{FILES}/simple"]
        call(*program, "download", *common, "-d", place.out / "pip", "gantry-demo")
        same((place.out / "pip" / name).read_bytes(), wheel.read_bytes(), "pip download")
        call(*program, "install", *common, "--target", place.out / "pip-target", "gantry-demo")
    expect("17" in (place.out / "pip-target" / "gantry_demo.py").read_text(), "pip install installed something else")
    return "download and install from the index pages of a store"


def apt(place):
    if not servers.has_apt():
        raise clients.NotHere("this machine has no apt")
    repository = place.files / "apt"
    package = place.out / "deb"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "DEBIAN" / "control").write_text("Package: gantry-demo\nVersion: 1.0\nArchitecture: all\n"
                                                "Maintainer: Nobody <nobody@example.com>\nDescription: a test\n")
    (package / "data").write_bytes(random_bytes(3 * MIB, 2))
    repository.mkdir()
    call("dpkg-deb", "--root-owner-group", "-b", package, repository)
    # The names in the index begin with the folder, and not with a dot, which is no part of a key.
    index = call(clients.path_of("dpkg-scanpackages"), "apt", cwd=place.files)
    (repository / "Packages").write_bytes(index)

    base = place.out / "apt"
    for part in ("lists/partial", "cache/archives/partial", "parts"):
        (base / part).mkdir(parents=True)
    (base / "sources").write_text(f"deb [trusted=yes] {place.http}/{FILES} apt/\n")
    options = ["-o", f"Dir::Etc::SourceList={base}/sources", "-o", f"Dir::Etc::SourceParts={base}/parts",
               "-o", f"Dir::State::Lists={base}/lists", "-o", f"Dir::Cache={base}/cache", "-o", "Acquire::http::Proxy=DIRECT",
               "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"]
    call("apt-get", "-qq", *options, "update")
    call("apt-get", "-qq", *options, "download", "gantry-demo", cwd=place.out)
    archive = next(repository.glob("*.deb"))
    same((place.out / archive.name).read_bytes(), archive.read_bytes(), "apt-get download")
    call("apt-get", "-qq", *options, "update")
    return "update twice and download from a flat repository"


def zchunk(place):
    zck, zckdl = clients.path_of("zck"), clients.path_of("zckdl")
    old = bytearray(random_bytes(8 * MIB, 3))
    new = bytearray(old)
    # Changes that are far apart, so that the new chunks are several ranges.
    for at in range(500_000, len(new), 1_500_000):
        new[at:at + 1000] = random_bytes(1000, at)
    for name, content in (("old", old), ("new", new)):
        (place.out / name).write_bytes(content)
        call(zck, "-o", place.out / f"{name}.zck", place.out / name)
    (place.files / "new.zck").write_bytes((place.out / "new.zck").read_bytes())

    folder = place.out / "zckdl"
    folder.mkdir()
    call(zckdl, "-s", place.out / "old.zck", f"{place.http}/{FILES}/new.zck", cwd=folder)
    same((folder / "new.zck").read_bytes(), (place.out / "new.zck").read_bytes(), "zckdl")
    return "only the changed chunks, as multiple ranges"


def casync(place):
    program = clients.path_of("casync")
    image = random_bytes(12 * MIB, 4)
    (place.out / "image").write_bytes(image)
    store = place.files / "casync"
    store.mkdir()
    call(program, "make", f"--store={store}/default.castr", store / "image.caibx", place.out / "image")
    env = {"CASYNC_PROTOCOL_PATH": str(program.parent.parent / "lib" / "casync" / "protocols")}
    url = f"{place.http}/{FILES}/casync"
    call(program, "extract", f"--store={url}/default.castr", f"{url}/image.caibx", place.out / "casync", env=env)
    same((place.out / "casync").read_bytes(), image, "casync extract")
    return "an image of 12 MiB from a chunk store"


def qemu(place):
    program, modules = clients.qemu()
    disk = random_bytes(20 * MIB, 5)
    (place.out / "disk.raw").write_bytes(disk)
    call(program, "convert", "-f", "raw", "-O", "qcow2", place.out / "disk.raw", place.files / "disk.qcow2")
    env = {"QEMU_MODULE_DIR": str(modules)}
    # One request at a time: with eight, qemu 7.2 now and then asks for nothing more once it has all eight responses.
    call(program, "convert", "-m", "1", "-f", "qcow2", "-O", "raw", f"{place.http}/{FILES}/disk.qcow2", place.out / "qemu", env=env)
    same((place.out / "qemu").read_bytes(), disk, "qemu-img convert")
    return "convert of a qcow2 image, one request at a time"


def chromium(place):
    program = clients.path_of("chromium-headless-shell")
    image = place.out / "index.png"
    options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={place.out}/chromium",
               "--hide-scrollbars", "--window-size=900,500"]
    url = f"{place.http}/{FILES}/tree/"
    call(program, *options, f"--screenshot={image}", url)
    expect(image.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n", "the screenshot is no image")
    text = call(program, *options, "--dump-dom", url).decode()
    expect("a.txt" in text and "b/" in text and "<script" not in text.lower(), f"the index page: {text[:300]}")
    if place.screenshot:
        with open(place.screenshot, "wb") as kept:
            kept.write(image.read_bytes())
    return f"screenshot of the index page, {len(image.read_bytes())} bytes"


ALL = {case.__name__: case for case in (curl, wget, aria2, aws, s5cmd, rclone, boto3, pip, apt, zchunk, casync, qemu,
                                        chromium)}


def aws_command():
    return [sys.executable, clients.path_of("aws")]


def peers_env():
    import peers
    return peers.ENV


def same_tree(folder, what):
    for key, content in SMALL.items():
        path = folder / key.removeprefix("tree/")
        expect(path.exists(), f"{what}: {key} is missing")
        same(path.read_bytes(), content, f"{what}: {key}")


def counter(place, name):
    """The value of a metric of the gateway, summed over its labels."""
    from place import page
    lines = page(f"http://{place.pages}/metrics").splitlines()
    values = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
    if not values:
        raise Wrong(f"the gateway has no metric {name}")
    return sum(values)
