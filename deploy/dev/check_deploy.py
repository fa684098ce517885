#!/usr/bin/env python3
"""Checks the files in deploy/ with the tools that will read them.

    check_deploy.py            run all checks
    check_deploy.py NAME...    run some: kubernetes, systemd, prometheus, grafana, metrics, iam, nats

kubectl and promtool come from PATH or, if missing, from Debian's packages, unpacked
into `.dev/debian`. The Kubernetes schemas come with the packages pinned in
kubernetes.txt. Checks that need apt or systemd are reported as not run on machines
without them.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import servers
from servers import DEV, ROOT, Problem

DEPLOY = ROOT / "deploy"
PINS = Path(__file__).resolve().parent / "kubernetes.txt"
# The oldest version that has every field we use, and the newest version in the pinned schemas.
KUBERNETES = ("1.27", "1.37")
# Maximum exposure level that systemd-analyze may report, from 0 to 10.
EXPOSURE_MAX = 2.0
# The permission that each SDK operation needs according to S3's API pages: without and with a version.
S3_RIGHTS = {"get_object": ("s3:GetObject", "s3:GetObjectVersion"), "head_object": ("s3:GetObject", "s3:GetObjectVersion"),
             "list_objects_v2": ("s3:ListBucket", None), "head_bucket": ("s3:ListBucket", None),
             "get_object_attributes": ("s3:GetObjectAttributes", "s3:GetObjectVersionAttributes")}
# Used if granted, not required; deploy/README.md lists their purposes.
S3_OPTIONAL = {"s3:GetObjectAttributes", "s3:GetObjectVersionAttributes"}


class NotHere(Exception):
    """A tool that is not available on this machine."""


def tool(name, package, member):
    """The path of a tool, from PATH or from Debian's package, which is unpacked but not installed."""
    if on_path := shutil.which(name):
        return on_path
    target = DEV / "debian" / name
    if not target.exists():
        if not servers.has_apt():
            raise NotHere(f"{name} and no apt to get it")
        servers.say(f"getting Debian's {package}")
        with servers.scratch() as folder:
            servers.apt_unpack(package, folder)
            servers.install(Path(folder) / member, target)
    return str(target)


def run(command, problem, **options):
    done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Problem(f"{problem}\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def expect(holds, what):
    if not holds:
        raise Problem(what)


def kubernetes():
    """Renders the manifests, validates each against Kubernetes' schemas, and checks the pod's settings."""
    kubectl = tool("kubectl", "kubernetes-client", "usr/bin/kubectl")
    yaml, validate = schema_packages()
    text = run([kubectl, "kustomize", DEPLOY / "kubernetes"], "kustomize can't render deploy/kubernetes")
    objects = [entry for entry in yaml.safe_load_all(text) if entry]
    for entry in objects:
        for version in KUBERNETES:
            try:
                validate.validate(entry, version, strict=True)
            except validate.ValidationError as error:
                where = "/".join(map(str, error.path))
                raise Problem(f"{entry['kind']} is not valid for Kubernetes {version}: {where}: {error.message}") from None
    by_kind = {entry["kind"]: entry for entry in objects}
    check_pod(by_kind)
    check_selectors(by_kind)
    check_monitor(by_kind, yaml.safe_load((DEPLOY / "kubernetes" / "optional" / "podmonitor.yaml").read_text()))
    check_overlay(kubectl, yaml)
    return f"{len(objects)} objects are valid for Kubernetes {' and '.join(KUBERNETES)}"


def schema_packages():
    """Imports PyYAML and kubernetes-validate from their own folder."""
    pin = hashlib.sha256(PINS.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = DEV / f"kubernetes-{pin}"
    if not folder.exists():
        servers.say("getting Kubernetes' schemas")
        with servers.scratch() as scratch:
            unpacked = Path(scratch) / "packages"
            servers.call([*servers.pip(scratch), "--disable-pip-version-check", "--no-input", "install", "--quiet",
                          "--require-hashes", "--no-deps", "--only-binary=:all:", "--no-compile",
                          "--target", str(unpacked), "--requirement", str(PINS)],
                         "could not get the packages in kubernetes.txt with pip")
            os.replace(unpacked, folder)
    sys.path.insert(0, str(folder))
    import kubernetes_validate
    import yaml
    return yaml, kubernetes_validate


def check_pod(by_kind):
    """Checks Kubernetes' "restricted" pod security and the relations between our own values."""
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    settings = tomllib.loads(by_kind["ConfigMap"]["data"]["gantry.toml"])
    expect(pod["securityContext"]["runAsNonRoot"], "the pod may run as root")
    expect(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "the pod has no seccomp profile")
    for kind in ("hostNetwork", "hostPID", "hostIPC"):
        expect(not pod.get(kind), f"the pod has {kind}")
    allowed = {"name", "configMap", "secret"}
    expect(all(set(volume) <= allowed for volume in pod["volumes"]), "the pod mounts more than its configuration")
    for container in pod["containers"]:
        context = container["securityContext"]
        expect(context["allowPrivilegeEscalation"] is False, "privileges may escalate")
        expect(context["capabilities"] == {"drop": ["ALL"]}, "the container keeps capabilities")
        expect(context["readOnlyRootFilesystem"] is True, "the root filesystem is writable")
    expect(by_kind["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted",
           "the namespace does not enforce restricted pods")

    relay = pod["containers"][0]
    grace_s = settings["relay"]["drain_grace_ms"] / 1000
    expect(pod["terminationGracePeriodSeconds"] > grace_s, "the pod is killed before the drain grace of its transfers is over")
    memory = relay["resources"]["limits"]["memory"]
    expect(memory.endswith("Mi") and settings["relay"]["memory_budget_bytes"] * 2 <= int(memory[:-2]) << 20,
           "the memory limit is not twice the memory budget")
    # A transfer counts as 1.5 MiB (`transfer_reserve_bytes` in crates/gantry-relay/src/lib.rs).
    expect(settings["relay"]["transfers_max"] * 3 << 19 < settings["relay"]["memory_budget_bytes"],
           "the memory budget leaves no room for read-ahead when all transfers are in use")
    expect(settings["http"]["listen"] == f"0.0.0.0:{relay['ports'][0]['containerPort']}",
           "the probes use a different port than the relay")
    scale_at = int(by_kind["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]["target"]["averageValue"])
    expect(scale_at * 2 == settings["relay"]["transfers_max"], "the autoscaler's target is not half of transfers_max")
    mounts = [mount["mountPath"] for mount in relay["volumeMounts"]]
    config = relay["args"][relay["args"].index("--config") + 1]
    # Paths in comments are checked too, since users uncomment them.
    files = [config, *re.findall(r'_file = "([^"]+)"', by_kind["ConfigMap"]["data"]["gantry.toml"])]
    for file in files:
        expect(any(file.startswith(f"{mount}/") for mount in mounts), f"{file} is not mounted")


def check_selectors(by_kind):
    """Checks that every selector matches the pods and every named port exists in them."""
    template = by_kind["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    port = template["spec"]["containers"][0]["ports"][0]
    selectors = {
        "Deployment": by_kind["Deployment"]["spec"]["selector"]["matchLabels"],
        "Service": by_kind["Service"]["spec"]["selector"],
        "PodDisruptionBudget": by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": by_kind["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    }
    for constraint in template["spec"]["topologySpreadConstraints"]:
        selectors[f"spread over {constraint['topologyKey']}"] = constraint["labelSelector"]["matchLabels"]
    for name, selector in selectors.items():
        expect(selector and selector.items() <= labels, f"{name} does not select the pods")
    target = by_kind["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    expect((target["kind"], target["name"]) == ("Deployment", by_kind["Deployment"]["metadata"]["name"]),
           "the autoscaler's target is not the deployment")
    expect(by_kind["Service"]["spec"]["ports"][0]["targetPort"] == port["name"], "the service uses a different port")
    ingress = by_kind["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"]
    expect(ingress == port["containerPort"], "the network policy opens a different port")


def check_monitor(by_kind, monitor):
    """Checks that the PodMonitor selects the pods and their port."""
    template = by_kind["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    expect(monitor["spec"]["selector"]["matchLabels"].items() <= labels, "the PodMonitor does not select the pods")
    expect(monitor["spec"]["podMetricsEndpoints"][0]["port"] == template["spec"]["containers"][0]["ports"][0]["name"],
           "the PodMonitor uses a different port")


def check_overlay(kubectl, yaml):
    """Checks that the overlay in README.md, applied to the local base, sets the image and the configuration."""
    shown = re.search(r"```yaml\n(# kustomization.yaml\n.*?)```", (DEPLOY / "README.md").read_text(), re.DOTALL).group(1)
    overlay = yaml.safe_load(shown)
    with servers.scratch() as scratch:
        folder = Path(scratch) / "overlay"
        folder.mkdir()
        (folder / "gantry.toml").write_text("# ours\n")
        overlay["resources"] = [os.path.relpath((DEPLOY / "kubernetes").resolve(), folder.resolve())]
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        text = run([kubectl, "kustomize", folder], "kustomize can't render the overlay in deploy/README.md")
    by_kind = {entry["kind"]: entry for entry in yaml.safe_load_all(text) if entry}
    image = by_kind["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"]
    wanted = overlay["images"][0]
    expect(image == f"{wanted['newName']}:{wanted['newTag']}", f"the overlay's image is not used, got {image}")
    expect(by_kind["ConfigMap"]["data"]["gantry.toml"] == "# ours\n", "the overlay's gantry.toml is not used")


def systemd():
    """Verifies the units and their sandboxes with systemd-analyze."""
    analyze = shutil.which("systemd-analyze")
    if not analyze:
        raise NotHere("systemd-analyze")
    units = {unit.name: unit.read_text() for unit in sorted((DEPLOY / "systemd").iterdir())}
    services = [name for name in units if name.endswith(".service")]
    exposures = []
    with servers.scratch() as folder:
        # `verify` requires the program to exist. A unit finds the units that it names in its own folder.
        for name, text in units.items():
            installed = text.replace("ExecStart=/usr/local/bin/gantry", f"ExecStart={shutil.which('true')}")
            (Path(folder) / name).write_text(installed)
        for name in units:
            unit = Path(folder) / name
            said = run([analyze, "verify", "--man=no", "--recursive-errors=no", unit], f"systemd rejects {name}")
            expect(not said.strip(), f"systemd warns:\n{said}")
        for name in services:
            security = run([analyze, "security", "--offline=yes", f"--threshold={EXPOSURE_MAX * 10:.0f}", "--no-pager",
                            Path(folder) / name], f"{name} is more exposed than {EXPOSURE_MAX}")
            exposures.append(re.search(r"Overall exposure level.*: ([\d.]+)", security).group(1))

    for name, section in (("gantry.service", "relay"), ("gantry-gateway.service", "gateway")):
        stop_s = int(re.search(r"^TimeoutStopSec=(\d+)s$", units[name], re.MULTILINE).group(1))
        expect(stop_s * 1000 > default("drain_grace_ms", section), f"systemd kills {name} before its grace is over")
    memory_gib = int(re.search(r"^MemoryMax=(\d+)G$", units["gantry.service"], re.MULTILINE).group(1))
    expect(memory_gib << 30 >= 2 * default("memory_budget_bytes", "relay"), "MemoryMax is not twice the memory budget")
    return f"systemd accepts {len(units)} units; exposure {' and '.join(exposures)} of 10"


def default(key, section):
    """The default of a numeric key, from deploy/gantry.example.toml."""
    text = (DEPLOY / "gantry.example.toml").read_text().split(f"\n[{section}]\n", 1)[1]
    return int(re.search(rf"^#{key} = (\d+)$", text, re.MULTILINE).group(1))


def promtool(*args, problem):
    return run([tool("promtool", "prometheus", "usr/bin/promtool"), *args], problem)


def prometheus():
    """Parses the alert rules and runs their tests."""
    folder = DEPLOY / "prometheus"
    promtool("check", "rules", "--lint-fatal", folder / "alerts.yml", problem="the alert rules are invalid")
    promtool("test", "rules", folder / "alerts.test.yml", problem="the tests of the alert rules fail")
    alerts = set(re.findall(r"- alert: (\w+)", (folder / "alerts.yml").read_text()))
    yaml, _ = schema_packages()
    unseen = alerts - set(fired(yaml.safe_load((folder / "alerts.test.yml").read_text())))
    expect(not unseen, f"no test in alerts.test.yml makes these alerts fire: {sorted(unseen)}")
    return f"{len(alerts)} alert rules, each of which fires in a passing test"


def fired(tests):
    """The names of alerts that the tests expect to fire."""
    for test in tests["tests"]:
        for case in test.get("alert_rule_test", []):
            if case.get("exp_alerts"):
                yield case["alertname"]
        for case in test.get("promql_expr_test", []):
            for sample in case["exp_samples"]:
                yield re.search(r'alertname="(\w+)"', sample["labels"]).group(1)


def grafana():
    """Parses the dashboard's queries with promtool, as expressions of a rules file."""
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    variables = {"$__rate_interval": "5m", "$instance": ".*", "$store": ".*"}
    rules = []
    for number, query in enumerate(queries):
        for name, value in variables.items():
            query = query.replace(name, value)
        expect("$" not in query, f"an unknown variable in {query}")
        rules.append({"record": f"panel:{number}", "expr": query})
    expect(len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]), "two panels share an id")
    with servers.scratch() as folder:
        # JSON is valid YAML.
        file = Path(folder) / "queries.yml"
        file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
        promtool("check", "rules", file, problem="a query of the dashboard is invalid")
    return f"{len(queries)} queries in {len(panels)} panels parse"


def iam():
    """Checks that the policy grants exactly the S3 permissions that the code needs."""
    policy = json.loads((DEPLOY / "iam" / "policy.json").read_text())
    granted = {action for statement in policy["Statement"] for action in statement["Action"]}
    source = "".join(file.read_text() for file in (ROOT / "crates" / "gantry-store" / "src" / "s3").glob("*.rs"))
    used = set(rights(source))
    expect(granted == used - S3_OPTIONAL, f"the policy grants {sorted(granted)}, the code uses {sorted(used)}")
    readme = (DEPLOY / "README.md").read_text()
    expect(all(f"| `{right}` |" in readme for right in used), "deploy/README.md does not explain each right")
    for statement in policy["Statement"]:
        expect(statement["Effect"] == "Allow" and "*" not in statement["Resource"], "a statement is too wide")
    role = json.loads((DEPLOY / "iam" / "azure-role.json").read_text())
    data = ["Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read"]
    expect(role["DataActions"] == data and not role["Actions"], "the role for Azure grants more than reading blobs")
    return f"the policy grants {', '.join(sorted(granted))}, which is what crates/gantry-store/src/s3 needs"


def rights(source):
    """The permissions that the requests in the source need. A request is a chain of calls from the operation to `send`."""
    request = rf"\.({'|'.join(S3_RIGHTS)})\(\)(.*?)\.send\(\)"
    for operation, chain in re.findall(request, source, re.DOTALL):
        plain, of_version = S3_RIGHTS[operation]
        yield plain
        if of_version and ".set_version_id(" in chain:
            yield of_version


def metrics():
    """Checks that docs/METRICS.md, which a test compares with the code, lists every metric used in deploy/."""
    listed = set(re.findall(r"^\| `(gantry_\w+)`", (ROOT / "docs" / "METRICS.md").read_text(), re.MULTILINE))
    named = set()
    for file in ("prometheus/alerts.yml", "prometheus/alerts.test.yml", "grafana/dashboard.json",
                 "kubernetes/horizontalpodautoscaler.yaml"):
        text = (DEPLOY / file).read_text()
        found = {name.removesuffix("_bucket") for name in re.findall(r"\bgantry_\w+", text)}
        expect(found and found <= listed, f"deploy/{file} names metrics that no relay has: {sorted(found - listed)}")
        named |= found
    return f"{len(named)} of the {len(listed)} metrics are named, each one exists"


def nats():
    """Parses the files of several servers with nats-server, and compares the permissions that are repeated."""
    folder = DEPLOY / "nats"
    files = sorted(file for file in folder.glob("*/*.conf") if not file.name.endswith("addresses.conf"))
    named = set(re.findall(r"\$([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)\b", "".join(file.read_text() for file in files)))
    # `$SRV` is part of subjects.
    env = {**os.environ, **dict.fromkeys(named - {"SRV"}, "word"), "ROUTES": "[]", "HUB_URLS": "['nats-leaf://a:b@hub:7422']"}
    for file in files:
        run([servers.path_of("nats-server"), "-t", "-c", file], f"nats-server rejects {file.relative_to(ROOT)}", env=env)

    names = ("server.conf", "permissions.conf", "hub/site.conf", "hub/hub.conf")
    single, shared, site, hub = ((folder / name).read_text() for name in names)
    for user in ("relay_may", "device1_may", "monitor_may"):
        expect(subjects(single, user) == subjects(shared, user), f"permissions.conf has another {user} than server.conf")
    expect(subjects(single, "relay_may", "subscribe") == subjects(site, "relay_may", "subscribe"),
           "site.conf has another relay_may than server.conf")
    expect(subjects(single, "device1_may", "publish") == subjects(site, "device1_may", "publish"),
           "site.conf has another device1_may than server.conf")
    for user in ("site1_may", "site2_may", "edge1_may"):
        expect(subjects(hub, user, "publish") == subjects(single, "device1_may", "publish"),
               f"hub.conf permits {user} more or less than server.conf permits device1_may")
    return f"nats-server accepts {len(files)} files of several servers, whose permissions agree"


def subjects(text, user, way=None):
    """The subjects in a user's permissions, or in one part of them."""
    block = re.search(rf"^{user} \{{\n(.*?)^\}}", text, re.MULTILINE | re.DOTALL).group(1)
    block = re.sub(r"#.*", "", block)
    if way:
        block = re.search(rf"{way} \{{(.*?)\}}", block, re.DOTALL).group(1)
    return re.findall(r'"([^"]+)"', block)


CHECKS = {check.__name__: check for check in (kubernetes, systemd, prometheus, grafana, metrics, iam, nats)}


def main():
    failed = False
    for name in sys.argv[1:] or CHECKS:
        try:
            if name not in CHECKS:
                raise Problem(f"unknown check, expected one of {', '.join(CHECKS)}")
            print(f"deploy: {name}: {CHECKS[name]()}", flush=True)
        except NotHere as missing:
            print(f"NOT RUN HERE: {name}, this machine has no {missing}", flush=True)
        except Problem as problem:
            print(f"FAILED: deploy: {name}: {problem}", flush=True)
            failed = True
        except KeyboardInterrupt:
            sys.exit(130)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
