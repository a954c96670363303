"""`chat` and `compare` with pictures: what reaches a server, and what is refused with a reason."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest
from command_line import slm
from drawn import picture
from scripted_server import Server, scripted

from slm_backends.chat import MAX_IMAGES

CATALOG = """
[models.m]
name = "M"
inputs = ["text", "images"]

[deployments."m@openai"]
base_url = "{address}"
images = 2
"""
SEEING = "fake@images=2,tokens=6,rate=0,first=0,text=plain"
BLIND = "fake@tokens=6,rate=0,first=0,text=plain"


@pytest.fixture
def server() -> Iterator[Server]:
    with scripted() as made:
        yield made


@pytest.fixture
def env(server: Server, tmp_path: Path) -> dict[str, str]:
    own = tmp_path / "catalog.toml"
    own.write_text(CATALOG.format(address=server.address))
    return {"SLM_CATALOG": str(own)}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A PNG and a JPEG."""
    made = []
    for kind in ("PNG", "JPEG"):
        file = tmp_path / f"a {kind}.{kind.lower()}"
        file.write_bytes(picture(kind).data)
        made.append(file)
    return made


def given(*files: Path) -> list[str]:
    return [word for file in files for word in ("--image", str(file))]


def test_pictures_go_with_the_question_in_their_order(
    server: Server, env: dict[str, str], files: list[Path]
) -> None:
    done = slm("chat", "m@openai", *given(*files), "What is it?", env=env)
    assert (done.returncode, done.stdout) == (0, "Hello\n")
    (message,) = server.prompts[0].body["messages"]
    *images, words = sorted(message["content"], key=lambda part: part["type"])
    assert words == {"type": "text", "text": "What is it?"}
    for image, file, kind in zip(images, files, ("png", "jpeg"), strict=True):
        head, _, data = image["image_url"]["url"].partition(",")
        assert head == f"data:image/{kind};base64"
        sent, kept = (
            PIL.Image.open(io.BytesIO(each)) for each in (base64.b64decode(data), file.read_bytes())
        )
        assert sent.tobytes() == kept.tobytes()


def test_as_json(env: dict[str, str], files: list[Path]) -> None:
    done = slm("chat", "m@openai", "--json", *given(files[0]), "What is it?", env=env)
    assert json.loads(done.stdout)["text"] == "Hello"
    refused = slm("chat", "m@openai", "--json", "--image", "nowhere.png", "What?", env=env)
    assert refused.returncode == 1
    assert "Cannot read nowhere.png" in json.loads(refused.stdout)["error"]["message"]


def test_what_was_done_to_a_picture_is_said(env: dict[str, str], tmp_path: Path) -> None:
    moving = tmp_path / "moving.webp"
    frames = [PIL.Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(moving, save_all=True, append_images=frames[1:], lossless=True)
    done = slm("chat", "m@openai", *given(moving), "What is it?", env=env)
    assert done.returncode == 0
    assert f"{moving}: " in done.stderr and "frame" in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("notes.txt", b"I am no picture", "a text"),
        ("report.png", b"%PDF-1.7 and so on", "a PDF"),
        ("broken.png", picture("PNG", 64, 64).data[:200], "broken.png"),
        ("empty.png", b"", "empty"),
    ],
)
def test_what_is_no_picture_is_named(
    server: Server, env: dict[str, str], tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    done = slm("chat", "m@openai", *given(file), "What is it?", env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert name in done.stderr and reason in done.stderr
    assert server.prompts == []


def test_a_file_that_is_not_there(env: dict[str, str], tmp_path: Path) -> None:
    for missing in (tmp_path / "nowhere.png", tmp_path):
        done = slm("chat", "m@openai", *given(missing), "What is it?", env=env)
        assert done.returncode == 1
        assert f"Cannot read {missing}: " in done.stderr


def test_more_pictures_than_it_takes(env: dict[str, str], files: list[Path]) -> None:
    done = slm("chat", "m@openai", *given(*files, files[0]), "What is it?", env=env)
    assert done.returncode == 1
    assert "takes 2 images in a conversation, got 3" in done.stderr
    done = slm("chat", BLIND, *given(files[0]), "What is it?")
    assert "takes no images" in done.stderr
    many = given(*[files[0]] * (MAX_IMAGES + 1))
    assert str(MAX_IMAGES) in slm("chat", SEEING, *many, "What is it?").stderr


def test_compare_asks_about_pictures(files: list[Path], tmp_path: Path) -> None:
    asked = tmp_path / "prompts.txt"
    asked.write_text("What is it?\n")
    options = ("--prompts", str(asked), "--json")
    done = slm("compare", SEEING, SEEING, *given(*files), *options)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["prompts"] == [{"text": "What is it?", "system": "", "images": 2}]
    assert made["pairs"][0]["parted"] == 0
    done = slm("compare", SEEING, BLIND, *given(files[0]))  # with prompts of our own
    assert done.returncode == 1
    assert "Prompt 1: Describe this picture." in done.stdout
    assert "B failed: This deployment takes no images" in done.stdout
