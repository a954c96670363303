"""deploy/: what its files say of each other, and its proxies for real in front of the app.

The proxies run where nginx or Caddy is installed, on ports of this machine and with certificates of
the test; what else is changed in their files for that is in `adapted`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import browsing
import httpx2
import pytest
import yaml
from command_line import PATIENCE, ROOT
from playwright.sync_api import Browser, Page, sync_playwright
from serving import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from benchmarks import browser as chromium
from slm_backends import access, catalog
from slm_backends.catalog import Catalog, Deployment

DEPLOY = ROOT / "deploy"
TEAM = "phi-3.5-mini-instruct@team"
NAME = "playground.example.com"
USER, PASSWORD = "team", "a password"
#: of that password, by bcrypt at its lowest cost
HASH = "$2a$04$abcdefghijklmnopqrstuuQCzP7jzWZS/E3GL4oF3LWbHm3pfKHH."


# --- what the files say of each other -------------------------------------------------------------


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Catalog:
    monkeypatch.setenv("SLM_CATALOG", str(DEPLOY / "catalog.toml"))
    return catalog.load()


@pytest.fixture
def team(known: Catalog) -> Deployment:
    return known.deployments[TEAM]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="module")
def cluster() -> dict[tuple[str, str], dict[str, Any]]:
    """(kind, name) -> object of the manifests that the kustomization lists."""
    kustomization = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
    files = [DEPLOY / name for name in kustomization["resources"]]
    assert sorted(files) == sorted((DEPLOY / "kubernetes").iterdir())
    objects = [entry for file in files for entry in yaml.safe_load_all(file.read_text())]
    return {(entry["kind"], entry["metadata"]["name"]): entry for entry in objects}


def container(cluster: dict[tuple[str, str], dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = cluster["Deployment", name]["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def options(words: list[str]) -> dict[str, str]:
    """--name=value -> value."""
    return dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--"))


def default(text: str) -> str:
    """What compose makes of ${NAME:-default} where NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_one_variable_moves_the_deployment(
    team: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert team.provider is not None
    monkeypatch.setenv("TEAM_SERVER_KEY", "key-of-the-team")
    monkeypatch.delenv("TEAM_SERVER", raising=False)
    here = access.EVERYONE.connection(team.provider)
    assert here.base_url == "http://127.0.0.1:8000/v1"
    for url in ("http://vllm:8000/v1", "http://nim:8000/v1", "https://cluster.example.com/v1"):
        monkeypatch.setenv("TEAM_SERVER", url)
        moved = access.EVERYONE.connection(team.provider)
        assert moved.base_url == url
        assert moved.key == here.key
        assert not moved.missing


def test_every_server_answers_to_the_name_in_the_catalog(
    team: Deployment, compose: dict[str, Any], cluster: dict[tuple[str, str], dict[str, Any]]
) -> None:
    # Our own `serve` answers to the model's id.
    assert team.served_as == team.model.id
    for words in (compose["services"]["vllm"]["command"], container(cluster, "vllm")["args"]):
        assert options(words)["served-model-name"] == team.served_as
    nim = compose["services"]["nim"]["environment"]
    assert nim["NIM_SERVED_MODEL_NAME"] == team.served_as


def test_every_server_has_the_weights_that_run_here(
    known: Catalog, compose: dict[str, Any], cluster: dict[tuple[str, str], dict[str, Any]]
) -> None:
    source = known.deployments["phi-3.5-mini-instruct@transformers"].source
    assert source is not None
    for words in (compose["services"]["vllm"]["command"], container(cluster, "vllm")["args"]):
        assert words[0] == source.repo
        assert options(words)["revision"] == source.revision
    nim = compose["services"]["nim"]["environment"]
    assert nim["NIM_MODEL_PATH"] == f"hf://{source.repo}"


def test_compose_names_only_what_it_has(compose: dict[str, Any], team: Deployment) -> None:
    services = compose["services"]
    used = set()
    for service in services.values():
        assert set(service.get("depends_on", {})) <= services.keys()
        for volume in service["volumes"]:
            place = volume.split(":")[0]
            if place.startswith("."):
                assert (DEPLOY / place).is_file()
            else:
                used.add(place)
    assert used == compose["volumes"].keys()
    # Only the proxy can be reached from outside.
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    playground = services["playground"]
    host, port = services["proxy"]["environment"]["PLAYGROUND_UPSTREAM"].split(":")
    assert services[host]["expose"] == [port]
    mounted = dict(volume.split(":")[:2] for volume in playground["volumes"])
    assert mounted["./catalog.toml"] == playground["environment"]["SLM_CATALOG"]
    server = httpx2.URL(default(playground["environment"]["TEAM_SERVER"]))
    assert services[server.host]["expose"] == [str(server.port)]
    assert options(services["vllm"]["command"])["port"] == str(server.port)
    key = playground["environment"]["TEAM_SERVER_KEY"]
    assert services["vllm"]["environment"]["VLLM_API_KEY"] == key


def test_compose_needs_no_variable_that_the_example_lacks(compose: dict[str, Any]) -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    example = (DEPLOY / ".env.example").read_text()
    offered = set(re.findall(r"^#?([A-Z_]+)=", example, re.M))
    assert set(re.findall(r"\$\{(\w+)", text)) == offered
    assert "deploy/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_image_has_what_compose_expects(compose: dict[str, Any]) -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (\S+)", text, re.M)
    assert all((ROOT / source).exists() for source in copied)
    assert {"app.py", "pages", "ui", "slm_backends", ".streamlit/config.toml"} <= set(copied)
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text().split("\n")
    assert {f"!{source}" for source in copied} <= set(kept)
    playground = compose["services"]["playground"]
    build = playground["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    (port,) = playground["expose"]
    assert f"EXPOSE {port}" in text
    assert f"--server.port={port}" in text
    assert f"127.0.0.1:{port}/_stcore/health" in text
    volumes = json.loads(re.findall(r"^VOLUME (.*)", text, re.M)[0])
    mounted = [volume.split(":")[1] for volume in playground["volumes"]]
    assert set(volumes) < set(mounted)
    homes = dict(re.findall(r"(SLM_HOME|HF_HOME)=(\S+)", text))
    assert sorted(homes.values()) == sorted(volumes)
    # The last user is not root, and starts the app.
    assert text.rindex("\nUSER slm") < text.rindex("\nCMD")


def test_the_cluster_names_only_what_it_has(
    cluster: dict[tuple[str, str], dict[str, Any]], compose: dict[str, Any]
) -> None:
    for kind, name in cluster:
        if kind != "Service":
            continue
        service = cluster[kind, name]["spec"]
        (port,) = service["ports"]
        matched = [
            entry["spec"]["template"]["spec"]["containers"][0]
            for (kind, _), entry in cluster.items()
            if kind == "Deployment"
            and entry["spec"]["template"]["metadata"]["labels"] == service["selector"]
        ]
        (target,) = matched
        assert port["targetPort"] in [entry["name"] for entry in target["ports"]]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert target[probe]["httpGet"]["port"] == port["targetPort"]
    playground, vllm = container(cluster, "playground"), container(cluster, "vllm")
    server = httpx2.URL(environment(playground)["TEAM_SERVER"])
    assert cluster["Service", server.host]["spec"]["ports"][0]["port"] == server.port
    assert vllm["ports"][0]["containerPort"] == server.port
    assert vllm["image"] == compose["services"]["vllm"]["image"]
    assert vllm["args"] == compose["services"]["vllm"]["command"]
    assert int(vllm["resources"]["limits"]["nvidia.com/gpu"]) == 1
    secrets = [
        entry["valueFrom"]["secretKeyRef"]
        for part in (playground, vllm)
        for entry in part["env"]
        if "valueFrom" in entry
    ]
    assert secrets == [{"name": "team-server", "key": "key"}] * 2
    for name in ("playground", "vllm"):
        pod = cluster["Deployment", name]["spec"]["template"]["spec"]
        volumes = {entry["name"]: entry for entry in pod["volumes"]}
        assert {entry["name"] for entry in container(cluster, name)["volumeMounts"]} == set(volumes)
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert ("PersistentVolumeClaim", claim) in cluster


def test_the_ingress_keeps_a_visitor_with_one_process(
    cluster: dict[tuple[str, str], dict[str, Any]],
) -> None:
    ingress = cluster["Ingress", "playground"]
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    backend = path["backend"]["service"]
    service = cluster["Service", backend["name"]]
    assert backend["port"]["name"] == service["spec"]["ports"][0]["name"]
    sticky = "traefik.ingress.kubernetes.io/service.sticky.cookie"
    assert service["metadata"]["annotations"][sticky] == "true"
    (tls,) = ingress["spec"]["tls"]
    playground = environment(container(cluster, "playground"))
    assert tls["hosts"] == [rule["host"]] == [playground["STREAMLIT_SERVER_ALLOWED_HOSTS"]]
    (namespace,) = (name for kind, name in cluster if kind == "Namespace")
    (middleware,) = (name for kind, name in cluster if kind == "Middleware")
    router = ingress["metadata"]["annotations"]["traefik.ingress.kubernetes.io/router.middlewares"]
    assert router == f"{namespace}-{middleware}@kubernetescrd"


def test_every_image_is_pinned(
    compose: dict[str, Any], cluster: dict[tuple[str, str], dict[str, Any]]
) -> None:
    images = [service["image"] for service in compose["services"].values()]
    images += [container(cluster, name)["image"] for name in ("playground", "vllm")]
    images += re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.M)
    assert len(images) == 7
    for image in images:
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*", image), image


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kustomize_builds_it() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY)], capture_output=True, timeout=PATIENCE, text=True
    )
    assert done.returncode == 0, done.stderr
    objects = list(yaml.safe_load_all(done.stdout))
    config = next(entry for entry in objects if entry["kind"] == "ConfigMap")
    assert config["data"]["catalog.toml"] == (DEPLOY / "catalog.toml").read_text()
    spaces = {
        entry["metadata"].get("namespace") for entry in objects if entry["kind"] != "Namespace"
    }
    assert spaces == {"slm-playground"}
    playground = next(
        entry for entry in objects
        if (entry["kind"], entry["metadata"]["name"]) == ("Deployment", "playground")
    )  # fmt: skip
    pod = playground["spec"]["template"]["spec"]
    assert pod["volumes"][0]["configMap"]["name"] == config["metadata"]["name"]


# --- the proxies, for real ------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def adapted(text: str, *changes: tuple[str, str]) -> str:
    """The text with each of the changes, all of which must be possible."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


def nginx(folder: Path, upstream: int, plain: int, port: int) -> tuple[list[str], dict[str, str]]:
    """What to start, with which variables."""
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={NAME}"]
    made += ["-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem")]
    subprocess.run(made, check=True, capture_output=True)
    (folder / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
    kept = "".join(
        f"{kind}_temp_path {folder};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = adapted(
        (DEPLOY / "nginx.conf").read_text(),
        ("listen 80;", f"listen 127.0.0.1:{plain};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("/etc/nginx/tls", str(folder)),
        ("/etc/nginx/playground.users", str(folder / "users")),
        ("127.0.0.1:8501", f"127.0.0.1:{upstream}"),
        ("http {", f"http {{\naccess_log off;\n{kept}"),
    )
    (folder / "nginx.conf").write_text(configuration)
    main = f"daemon off; pid {folder}/pid; error_log stderr;"
    if os.geteuid() == 0:
        main += " user root;"  # the folder of a test is its user's alone
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", main], {}


def caddy(folder: Path, upstream: int, plain: int, port: int) -> tuple[list[str], dict[str, str]]:
    version = subprocess.run(["caddy", "version"], check=True, capture_output=True, text=True)
    text = (DEPLOY / "Caddyfile").read_text()
    if tuple(map(int, re.findall(r"\d+", version.stdout)[:2])) < (2, 8):
        text = adapted(text, ("basic_auth", "basicauth"))  # its name until then
    words = ["admin off", "local_certs", "skip_install_trust", "default_bind 127.0.0.1"]
    words += [f"http_port {plain}", f"https_port {port}"]
    (folder / "Caddyfile").write_text("{\n" + "\n".join(words) + "\n}\n" + text)
    variables = {
        "PLAYGROUND_HOST": NAME,
        "PLAYGROUND_USER": USER,
        "PLAYGROUND_PASSWORD_HASH": HASH,
        "PLAYGROUND_UPSTREAM": f"127.0.0.1:{upstream}",
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
    }
    return [
        "caddy",
        "run",
        "--config",
        str(folder / "Caddyfile"),
        "--adapter",
        "caddyfile",
    ], variables


Proxy = Callable[[Path, int, int, int], tuple[list[str], dict[str, str]]]
PROXIES = [
    pytest.param(
        proxy,
        id=proxy.__name__,
        marks=pytest.mark.skipif(
            not all(map(shutil.which, programs)), reason=f"{programs[0]} is not installed"
        ),
    )
    for proxy, programs in ((nginx, ("nginx", "openssl")), (caddy, ("caddy",)))
]


@contextmanager
def running(proxy: Proxy, folder: Path, upstream: int) -> Iterator[int]:
    """The port at which the proxy speaks TLS."""
    plain, port = free_port(), free_port()
    command, variables = proxy(folder, upstream, plain, port)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | variables
        )
    try:
        until = time.monotonic() + PATIENCE
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        while True:
            try:  # it listens before it has made its certificate
                with socket.create_connection(("127.0.0.1", port)) as plain_socket:
                    trusting.wrap_socket(plain_socket, server_hostname=NAME).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)


def ask(client: httpx2.Client, port: int, path: str, **more: Any) -> Any:
    """A stream from the proxy, asked for by its name at this machine's address."""
    return client.stream(
        more.pop("method", "GET"),
        f"https://127.0.0.1:{port}{path}",
        headers={"Host": f"{NAME}:{port}"},
        extensions={"sni_hostname": NAME},
        **more,
    )


class Upstream:
    """Says what it was sent, and sends a second line only when it is told that the first came."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.app = Starlette(
            routes=[
                Route("/headers", lambda request: JSONResponse(dict(request.headers))),
                Route("/size", self.size, methods=["POST"]),
                Route("/lines", lambda request: StreamingResponse(self.lines())),
            ]
        )

    async def size(self, request: Request) -> Response:
        return JSONResponse(len(await request.body()))

    async def lines(self) -> AsyncIterator[str]:
        self.loop = asyncio.get_running_loop()
        yield "first\n"
        await self.go_on.wait()
        yield "second\n"

    def release(self) -> None:
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.go_on.set)


@pytest.mark.parametrize("proxy", PROXIES)
def test_what_a_proxy_passes_on(proxy: Proxy, tmp_path: Path) -> None:
    upstream = Upstream()
    with (
        serving(upstream.app) as url,
        running(proxy, tmp_path, int(url.rpartition(":")[2])) as port,
        httpx2.Client(verify=False, timeout=10) as client,
    ):
        with ask(client, port, "/headers") as refused:
            assert refused.status_code == 401
        client.auth = (USER, PASSWORD)
        with ask(client, port, "/headers") as answer:
            headers = json.loads(answer.read())
        assert headers["host"] == f"{NAME}:{port}"
        assert "authorization" not in headers
        with ask(client, port, "/size", method="POST", content=bytes(50 << 20)) as answer:
            assert answer.read() == str(50 << 20).encode()
        with ask(client, port, "/size", method="POST", content=bytes(53 << 20)) as answer:
            assert not answer.is_success  # 413; older versions of Caddy say 502
        with ask(client, port, "/lines") as answer:
            lines = answer.iter_lines()
            # The second is only sent after this: a proxy that buffers would wait for it.
            assert next(lines) == "first"
            upstream.release()
            assert next(lines) == "second"


@pytest.fixture(scope="module")
def app() -> Iterator[browsing.App]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMLIT_SERVER_ALLOWED_HOSTS", NAME)
        patch.setenv("SLM_CATALOG", str(DEPLOY / "catalog.toml"))
        patch.setenv("TEAM_SERVER", "http://127.0.0.1:9/v1")
        patch.setenv("TEAM_SERVER_KEY", "key-of-the-team")
        with browsing.serving() as app:
            yield app


@pytest.fixture(scope="module")
def visitors() -> Iterator[Browser]:
    """A browser in which the proxy's name is this machine."""
    flags = [*chromium.FLAGS, f"--host-resolver-rules=MAP {NAME} 127.0.0.1"]
    with sync_playwright() as playwright:
        program = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


@pytest.mark.parametrize("proxy", PROXIES)
def test_the_app_behind_a_proxy(
    proxy: Proxy, tmp_path: Path, app: browsing.App, visitors: Browser
) -> None:
    with running(proxy, tmp_path, int(app.url.rpartition(":")[2])) as port:
        context = visitors.new_context(
            ignore_https_errors=True, http_credentials={"username": USER, "password": PASSWORD}
        )
        page = context.new_page()
        sockets: list[str] = []
        page.on("websocket", lambda socket: sockets.append(socket.url))
        page.goto(f"https://{NAME}:{port}/chat?pane=fake@tokens=100,rate=80")
        browsing.ready(page)
        assert sockets == [f"wss://{NAME}:{port}/_stcore/stream"]
        browsing.ask(page, "Go on")
        seen = watched(page)
        # It grew before the eyes, in many steps.
        assert len(set(seen)) >= 5
        assert seen == sorted(seen)
        assert browsing.line(page, 0).startswith("100 tokens")
        context.close()


def watched(page: Page) -> list[int]:
    """The tokens that a reply was seen to have until it was answered."""
    seen: list[int] = []
    while browsing.stop_button(page).count():
        found = re.match(r"(\d+) tokens", browsing.line(page, 0))
        if found:
            seen.append(int(found[1]))
        time.sleep(0.05)
    browsing.answered(page)
    return seen
