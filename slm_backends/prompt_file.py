"""Prompts that were kept for GitHub Models: `*.prompt.yml`, and the model ids of that time.

    file = prompt_file.read(data)                       # bytes, as a person gives them
    text = prompt_file.fill(file.prompt, {"input": "..."})
    ids = prompt_file.deployments_for(file.model, catalog.load())

GitHub Models ended on 30 July 2026; its files are still in many repositories. The format is the one
of "Storing prompts in GitHub repositories" in GitHub's documentation, and of the CLI gh-models.
Knows no page. A file is data from anywhere: its size and depth are limited, YAML's aliases and tags
are refused, and what has no place here is told, never dropped in silence.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import reprlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from slm_backends import selector
from slm_backends.access import EVERYONE, Access
from slm_backends.catalog import Catalog, Deployment
from slm_backends.chat import MAX_MESSAGES, ROLES, SAMPLING_FIELDS, Message, Role, Sampling
from slm_backends.errors import BadRequest, NotFound

MAX_BYTES = 100_000
MAX_DEPTH = 20
MAX_LISTED = 8  # names in one sentence
NEAREST = 4  # ids that are offered instead of one that is not known

VARIABLE = re.compile(r"\{\{\s*([^\W\d][\w.-]*)\s*\}\}")
#: of modelParameters, besides the fields of Sampling and their camelCase
OTHER_NAMES = {"max_completion_tokens": "max_tokens"}
NOTHING = ("", "~", "null")  # how YAML writes that there is no value
FORM = "A prompt file has `messages:`, each with a `role:` and a `content:`."


@dataclass(frozen=True)
class PromptFile:
    """What a file asks for, with its {{variables}} still in the texts.

    model      as the file names it, for `deployments_for`; it may be empty
    system     the system text, or empty
    earlier    turns before the last one of the user, which is `prompt`
    sampling   the fields of Sampling that the file sets, and their values
    variables  names in the order of their use -> the value of the first row of testData, or empty
    left_out   what of the file has no place here, a sentence each
    """

    name: str
    description: str
    model: str
    system: str
    earlier: tuple[Message, ...]
    prompt: str
    sampling: Mapping[str, Any]
    variables: Mapping[str, str]
    left_out: tuple[str, ...]


def read(data: bytes) -> PromptFile:
    """The prompt in that file. Raises BadRequest, with the line where YAML gives one."""
    entry = _mapping(_parsed(data), "The file")
    left_out: list[str] = []
    system, earlier, prompt = _conversation(entry.pop("messages", None), left_out)
    sampling = _sampling(entry.pop("modelParameters", None), left_out)
    texts = (system, *(message.content for message in earlier), prompt)
    names = dict.fromkeys(name for text in texts for name in VARIABLE.findall(text))
    proposed = _first_row(entry.pop("testData", None), names, left_out)
    name, description, model = (_label(entry, key) for key in ("name", "description", "model"))
    _leave_out_the_rest(entry, left_out)
    return PromptFile(
        name,
        description,
        model,
        system,
        earlier,
        prompt,
        sampling,
        {name: proposed.get(name, "") for name in names},
        tuple(left_out),
    )


def fill(template: str, values: Mapping[str, str]) -> str:
    """The text with a value for each {{variable}}; braces in a value stay as they are.

    Raises BadRequest for a variable without a value.
    """

    def value(found: re.Match[str]) -> str:
        try:
            return values[found[1]]
        except KeyError:
            raise BadRequest(
                f"The prompt has no value for {found[0]}.", hint=f"Give {found[1]} a value."
            ) from None

    return VARIABLE.sub(value, template)


def deployments_for(model_id: str, catalog: Catalog, access: Access = EVERYONE) -> list[str]:
    """Ids of the deployments of the model that an old id means, best first: local ones that can
    answer now, then others that can, then the rest.

    Takes ids of GitHub Models, Azure's registry, NIM, the Hugging Face hub and Ollama, and our own.
    Raises NotFound, with the nearest models, where none is meant.
    """
    if model_id in catalog.deployments:
        model = catalog.deployments[model_id].model.id
    else:
        known = _known_names(catalog)
        found = next((known[name] for name in _spellings(model_id) if name in known), None)
        if found is None:
            wanted = model_id.rstrip("/").rpartition("/")[2].lower()
            near = difflib.get_close_matches(wanted, catalog.models, NEAREST, cutoff=0)
            raise NotFound(
                f"No model here goes by the name {model_id!r}.",
                hint=f"Near it are {', '.join(near)}; pick one of them.",
            )
        model = found
    ids = [item for item in catalog.deployments.values() if item.model.id == model]
    return [item.id for item in sorted(ids, key=lambda item: _rank(item, access))]


# --- the parts of a file --------------------------------------------------------------------------


def _parsed(data: bytes) -> Any:
    if len(data) > MAX_BYTES:
        raise BadRequest(
            f"A prompt file may have at most {MAX_BYTES:,} bytes, this one has {len(data):,}."
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadRequest("The file is not text in UTF-8.", hint=FORM) from None
    try:
        _check_shape(text)
        loader = _Words(text)
        node = loader.get_single_node()
        if node is None:
            raise BadRequest("The file is empty.", hint=FORM)
        _check_keys(node)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise BadRequest(f"The file is not YAML: {where}{error.problem}.", hint=FORM) from None
    except yaml.YAMLError:
        raise BadRequest("The file holds characters that YAML does not allow.", hint=FORM) from None


class _Words(yaml.SafeLoader):
    """safe_load, but with every plain word as it was written: what YAML 1.1 makes of 12:30, 1.10,
    no and 2026-11-22 would not be what the model is meant to read."""

    yaml_implicit_resolvers: dict[str, Any] = {}


def _check_shape(text: str) -> None:
    """Look through the file before anything is made of it: with aliases a few lines can mean
    gigabytes, deep nesting can end the process, and a tag asks for something else than text."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        tag = getattr(event, "tag", None)
        if tag:
            raise BadRequest(f"Line {line} has a tag, {reprlib.repr(tag)}.", hint=FORM)
        if isinstance(event, yaml.AliasEvent):
            raise BadRequest(
                f"Line {line} repeats another part of the file, with *{event.anchor}.",
                hint="Write that part out: aliases are not read.",
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise BadRequest(f"Line {line} is nested more than {MAX_DEPTH} levels deep.")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check_keys(node: yaml.Node) -> None:
    """Refuse two equal keys: YAML would keep the last, without a word."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise BadRequest(
                        f"Line {key.start_mark.line + 1} gives {reprlib.repr(key.value)} "
                        "a second time."
                    )
                seen.add(key.value)
            _check_keys(value)


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{what} must be a table of `key: value` lines.", hint=FORM)
    return dict(value)  # the caller takes out what it has read


def _label(entry: dict[str, Any], key: str) -> str:
    return _text(entry.pop(key, "")).strip()


def _conversation(value: Any, left_out: list[str]) -> tuple[str, tuple[Message, ...], str]:
    """(system text, earlier turns, the user's last words)."""
    if not isinstance(value, list) or not value:
        raise BadRequest("The file has no list of messages.", field="messages", hint=FORM)
    if len(value) > MAX_MESSAGES:
        raise BadRequest(f"The file has more than {MAX_MESSAGES:,} messages.", field="messages")
    messages = []
    for place, item in enumerate(value, 1):
        entry = _mapping(item, f"Message {place}")
        role, content = entry.pop("role", ""), entry.pop("content", None)
        if not isinstance(content, str):
            raise BadRequest(f"Message {place} has no text.", field="messages", hint=FORM)
        messages.append(Message(_role(role), content))
        left_out += (
            f"{reprlib.repr(key)} of message {place} was left out: a message has a role and a "
            "content here."
            for key in entry
        )
    system = [message.content for message in messages if message.role == "system"]
    if len(system) > 1:
        left_out.append(f"Its {len(system)} system messages were joined into one.")
    turns = [message for message in messages if message.role != "system"]
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=None)
    if last is None:
        raise BadRequest("No message of the file is the user's.", field="messages", hint=FORM)
    if turns[last + 1 :]:
        left_out.append("The reply after the user's last message was left out: the model gives it.")
    return "\n\n".join(system), tuple(turns[:last]), turns[last].content


def _role(text: Any) -> Role:
    found: Role | None = next((role for role in ROLES if role == _text(text).lower()), None)
    if found is None:
        raise BadRequest(
            f"There is no role {reprlib.repr(text)}, only {', '.join(ROLES)}.", field="messages"
        )
    return found


def _sampling(value: Any, left_out: list[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    entry = {} if value in (None, *NOTHING) else _mapping(value, "modelParameters")
    for key, setting in entry.items():
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower()
        name = OTHER_NAMES.get(name, name)
        if name not in SAMPLING_FIELDS:
            left_out.append(
                f"The parameter {reprlib.repr(key)} was left out: there is none of its kind here."
            )
        elif name in given:
            raise BadRequest(f"{key} gives {name} a second time.", field=name)
        elif name == "stop":
            given[name] = [setting] if isinstance(setting, str) else setting
        elif setting not in NOTHING:
            given[name] = _number(setting)
    made = Sampling(**given)
    return {name: getattr(made, name) for name in given}


def _number(text: Any) -> Any:
    """What the text means; the text where it is no number, for Sampling to refuse."""
    for kind in (int, float):
        with contextlib.suppress(TypeError, ValueError):
            return kind(text)
    return text


def _first_row(value: Any, names: Collection[str], left_out: list[str]) -> dict[str, str]:
    """The values of the first row of testData, as texts."""
    if value in (None, *NOTHING, []):
        return {}
    if not isinstance(value, list):
        raise BadRequest("testData must be a list.", hint=FORM)
    if len(value) > 1:
        left_out.append(
            f"Of the {len(value):,} rows of testData only the first was taken, as values for the "
            "variables."
        )
    row = _mapping(value[0], "A row of testData")
    unused = [key for key in row if key not in names]
    if unused:
        left_out.append(
            f"{_listed(unused)} of testData was left out: the prompt does not use it, and replies "
            "are not compared with what was expected."
        )
    return {key: _text(item) for key, item in row.items() if key in names}


def _leave_out_the_rest(entry: dict[str, Any], left_out: list[str]) -> None:
    evaluators = entry.pop("evaluators", None)
    if evaluators not in (None, *NOTHING, []):
        count = len(evaluators) if isinstance(evaluators, list) else 1
        left_out.append(
            f"{count:,} evaluators were left out: replies are read by people here."
            if count > 1
            else "An evaluator was left out: replies are read by people here."
        )
    if entry.pop("responseFormat", "text") not in ("text", *NOTHING) or "jsonSchema" in entry:
        left_out.append(
            "The response format was left out: no runtime here is made to keep to one, so ask for "
            "it in the prompt."
        )
    entry.pop("jsonSchema", None)
    if entry:
        left_out.append(f"{_listed(entry)} was left out: a prompt has nothing of that name here.")


def _listed(keys: Collection[str]) -> str:
    named = [reprlib.repr(key) for key in keys]
    more = [f"{len(named) - MAX_LISTED} more"] if len(named) > MAX_LISTED else []
    *most, last = named[:MAX_LISTED] + more
    return f"{', '.join(most)} and {last}" if most else last


def _text(value: Any) -> str:
    """A value as one would have written it in the file."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- old ids --------------------------------------------------------------------------------------


def _spellings(model_id: str) -> Iterator[str]:
    """The names that an id may stand for, likeliest first, each without what differs from place to
    place: azureml://registries/azureml/models/NAME/versions/13, publisher/NAME, NAME:tag."""
    name = model_id.strip().rstrip("/").removeprefix("azureml:")
    registered = re.search(r"/models/([^/]+)", name)
    name = registered[1] if registered else name.rpartition("/")[2]
    yield _key(name)  # phi3:14b-medium-4k-instruct-q4_0
    yield _key(name.partition(":")[0])


def _key(name: str) -> str:
    """What is the same in Phi-3.5-mini-instruct, phi-3_5-mini-instruct and phi3.5-mini-instruct."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _known_names(catalog: Catalog) -> dict[str, str]:
    """Name -> id of the model. A model's own name goes before what a server calls it."""
    known: dict[str, str] = {}
    for item in catalog.deployments.values():
        served = item.served_as.rpartition("/")[2]
        repository = item.source.repo.rpartition("/")[2] if item.source else ""
        for name in filter(None, (served, repository)):
            known.setdefault(_key(name), item.model.id)
    for model in catalog.models.values():
        known |= {_key(model.id): model.id, _key(model.name): model.id}
    return known


def _rank(deployment: Deployment, access: Access) -> tuple[bool, bool]:
    state = selector.state(deployment, access)
    # A local one that can answer has a reason only where it is too large for the memory.
    return not (deployment.local and state.usable and not state.reason), not state.usable
