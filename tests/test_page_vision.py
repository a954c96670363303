"""The Vision page without a browser: the tray, how panes are shown pictures, what is sent."""

from __future__ import annotations

import io
from pathlib import Path

import PIL.Image
import pytest
from drawn import picture
from streamlit.testing.v1 import AppTest
from test_page_chat import ask, deployments, labels, press, shown
from test_page_chat import open_page as open_any

from slm_backends import showing
from slm_backends.chat import MAX_IMAGES, Image
from ui import gallery
from ui.panes import DEFAULTS, Pane
from ui.pictures import Picture
from ui.starters import STARTERS
from ui.tray import Tray

NANO = "phi-vision-nano@transformers"
SEES = "fake@tokens=3,rate=0,first=0,text=plain,images=32"
SEES_ONE = "fake@tokens=3,rate=0,first=0,text=plain,images=1"
READS = "fake@tokens=400,rate=0,first=0,text=echo"


def open_page(*panes: str, **link: str) -> AppTest:
    return open_any(*panes, script="pages/vision.py", **link)


def add(page: AppTest, *names: str, text: str = "") -> AppTest:
    """Attach a picture of that name each, differing in width, in one go."""
    composer = page.chat_input(key="composer")
    for number, name in enumerate(names, 1):
        composer.upload(name, picture(width=10 * number).data, "image/png")
    composer.set_value(text).run()
    assert not page.exception
    return page


def attach(page: AppTest, name: str, data: bytes) -> AppTest:
    page.chat_input(key="composer").upload(name, data).set_value("").run()
    assert not page.exception
    return page


def panes(page: AppTest) -> list[Pane]:
    found: list[Pane] = page.session_state["panes_vision"]
    return found


def tray(page: AppTest) -> Tray:
    found: Tray = page.session_state["tray"]
    return found


def names(page: AppTest) -> list[str]:
    return [picture.name for picture in tray(page).pictures]


def sent(page: AppTest, place: int) -> list[tuple[Image, ...]]:
    """The pictures of each message of the last request of that pane."""
    request = panes(page)[place].turns[-1].request
    assert request is not None
    return [message.images for message in request.messages]


def captions(page: AppTest) -> list[str]:
    """As they are read, without the marks that keep them from being Markdown."""
    return [caption.value.replace("\\", "") for caption in page.caption]


def moving(frames: int = 6) -> bytes:
    """A GIF in which a bar goes to the right, half a second a frame."""
    drawn = []
    for number in range(frames):
        frame = PIL.Image.new("RGB", (64, 48), "white")
        frame.paste("blue", (8 * number, 8, 8 * number + 8, 40))
        drawn.append(frame)
    written = io.BytesIO()
    drawn[0].save(written, "GIF", save_all=True, append_images=drawn[1:], duration=500, loop=0)
    return written.getvalue()


# --- opening --------------------------------------------------------------------------------------


def test_it_opens_with_its_own_panes_and_starters() -> None:
    page = open_page()
    assert [pane.deployment for pane in panes(page)] == list(DEFAULTS["vision"])
    assert sum(button.key.startswith("start_") for button in page.button) == len(STARTERS)
    assert not any(button.disabled for button in page.button if button.key.startswith("start_"))
    assert "pane" not in page.query_params


def test_its_panes_and_parameters_are_not_those_of_the_chat_page() -> None:
    page = open_any(READS, script="app.py", temperature="1.5")
    del page.query_params["pane"]  # as a browser does on its way to another page
    page.switch_page("pages/vision.py").run()
    assert not page.exception
    assert [pane.deployment for pane in panes(page)] == list(DEFAULTS["vision"])
    assert page.number_input(key="temperature_vision").value == 0.3
    page.number_input(key="temperature_vision").set_value(0.7)
    add(page, "a.png")
    page.switch_page("pages/chat.py").run()
    assert not page.exception
    assert deployments(page) == [READS]
    page.switch_page("pages/vision.py").run()
    assert names(page) == ["a.png"]  # nothing is lost on the way


def test_panes_come_from_the_link() -> None:
    page = open_page(SEES, READS, temperature_vision="0.5")
    assert [pane.deployment for pane in panes(page)] == [SEES, READS]
    assert page.number_input(key="temperature_vision").value == 0.5


# --- the tray -------------------------------------------------------------------------------------


def test_files_are_put_into_the_tray_and_nothing_is_asked_yet() -> None:
    page = add(open_page(SEES), "a.png", "b.png", text="What is it?")
    assert names(page) == ["a.png", "b.png"]
    assert panes(page)[0].turns == []
    assert {"Move left: 1", "Move right: 1", "Remove: 1", "Full view: 2"} <= set(labels(page))


def test_pictures_are_moved_and_removed() -> None:
    page = add(open_page(SEES), "a.png", "b.png", "c.png")
    press(page, "Move right: 1")
    assert names(page) == ["b.png", "a.png", "c.png"]
    press(page, "Move left: 3")
    assert names(page) == ["b.png", "c.png", "a.png"]
    press(page, "Remove: 2")
    assert names(page) == ["b.png", "a.png"]
    ask(page, "Which?")
    assert [len(images) for images in sent(page, 0)] == [2]
    assert names(page) == []


def test_the_first_and_the_last_cannot_be_moved_on() -> None:
    page = add(open_page(SEES), "a.png", "b.png")
    greyed = {button.label for button in page.button if button.disabled}
    assert {"Move left: 1", "Move right: 2"} <= greyed
    assert not {"Move right: 1", "Move left: 2"} & greyed


def test_a_bad_file_is_told_and_the_good_ones_are_kept() -> None:
    page = open_page(SEES)
    composer = page.chat_input(key="composer")
    composer.upload("good.png", picture().data)
    composer.upload("bad.png", picture().data[:40])
    composer.upload("page.png", b"<!doctype html><p>No picture.</p>")
    composer.set_value("").run()
    assert not page.exception
    assert names(page) == ["good.png"]
    told = next(caption for caption in captions(page) if "bad" in caption)
    assert "page" in told
    press(page, "Dismiss")
    assert not any("bad" in caption for caption in captions(page))


def test_a_conversation_has_so_many_pictures_and_no_more() -> None:
    page = open_page(SEES)
    for number in range(2):
        add(page, *[f"{number}-{each}.png" for each in range(25)])
    assert len(names(page)) == MAX_IMAGES
    assert any("left out" in caption for caption in captions(page))
    ask(page, "What are they?")
    add(page, "late.png")
    assert names(page) == []


def test_full_view_shows_the_picture_as_it_is_sent() -> None:
    page = add(open_page(SEES), "a.png", "b.png")
    press(page, "Full view: 2")
    assert any("20 × 8 pixels" in caption for caption in captions(page))
    page.run()
    assert not any("20 × 8 pixels" in caption for caption in captions(page))


# --- videos ---------------------------------------------------------------------------------------


def test_a_video_becomes_frames_with_times() -> None:
    page = attach(open_page(SEES), "move.gif", moving())
    assert [each.at for each in tray(page).pictures] == [
        "0:00.0", "0:00.5", "0:01.0", "0:01.5", "0:02.0", "0:02.5",
    ]  # fmt: skip
    page.slider(key=f"count_{tray(page).items[0].id}").set_value(3).run()
    assert not page.exception
    assert len(tray(page).pictures) == 3
    page.toggle(key=f"sheet_{tray(page).items[0].id}").set_value(True).run()
    assert len(tray(page).pictures) == 1
    ask(page, "What moves?")
    assert [len(images) for images in sent(page, 0)] == [1]


def test_a_video_without_frames_is_told_and_put_away() -> None:
    page = attach(open_page(SEES), "broken.gif", moving()[:20])
    assert tray(page).items == []
    assert any("broken" in caption for caption in captions(page))


# --- asking ---------------------------------------------------------------------------------------


def test_pictures_go_with_their_turn_and_with_all_that_follow() -> None:
    page = add(open_page(SEES), "a.png", "b.png")
    first = tuple(each.image for each in tray(page).pictures)
    ask(page, "What are they?")
    assert sent(page, 0) == [first]
    ask(page, "And their colour?")
    assert sent(page, 0) == [first, (), ()]
    add(page, "c.png")
    assert "Full view: 3" in labels(page)  # the number that the model knows it by
    third = tray(page).pictures[0].image
    ask(page, "And this one?")
    assert sent(page, 0) == [first, (), (), (), (third,)]


def test_the_code_view_names_pictures_instead_of_printing_their_bytes() -> None:
    page = ask(add(open_page(NANO), "a.png"), "What is it?")
    panes(page)[0].cancel()
    page.segmented_control(key="view").set_value("Code").run()
    assert not page.exception
    programs = [code.value for code in page.code]
    assert len(programs) == 2
    for program in programs:
        assert "data:image/png;base64,(picture 1, in base64)" in program


def test_starters_come_back_with_new_pictures() -> None:
    page = open_page("fake@tokens=3,rate=0,first=0,text=plain,images=2")
    add(page, "a.png")
    assert "Describe" in labels(page)
    ask(page, "What is it?")
    assert "Describe" not in labels(page)  # asked, and nothing lies in the tray
    add(page, "b.png")
    assert "Describe" in labels(page)


def test_regenerate_sends_the_pictures_again() -> None:
    page = ask(add(open_page(SEES), "a.png"), "What is it?")
    before = sent(page, 0)
    assert len(before[0]) == 1
    press(page, "Regenerate")
    assert sent(page, 0) == before


def test_the_pictures_of_a_turn_that_failed_go_with_the_next_one() -> None:
    broken = "fake@tokens=3,rate=0,first=0,text=plain,images=32,fail=0"
    page = ask(add(open_page(broken), "a.png"), "What is it?")
    panes(page)[0].deployment = SEES
    ask(page, "Well?")
    assert [len(images) for images in sent(page, 0)] == [1]


def test_who_takes_one_picture_says_so_and_gets_a_sheet_or_the_first() -> None:
    page = add(open_page(SEES, SEES_ONE), "a.png", "b.png")
    assert any("takes one picture" in caption for caption in captions(page))
    first = tray(page).pictures[0].image
    choice = next(radio for radio in page.radio if radio.key.startswith("way_") and radio.options)
    assert choice is not None
    one = next(radio for radio in page.radio if radio.key.endswith("_1_2"))
    assert one.value == showing.SHEET
    one.set_value(showing.FIRST).run()
    assert not page.exception
    ask(page, "What is it?")
    assert [len(images) for images in sent(page, 0)] == [2]
    assert sent(page, 1) == [(first,)]
    assert any("first picture" in caption for caption in captions(page))


def test_a_clear_label_where_only_text_is_read() -> None:
    page = open_page(READS)
    assert any("reads text only, sees nothing else" in caption for caption in captions(page))


def test_the_text_of_a_receipt_is_read_and_handed_on() -> None:
    page = open_page(READS)
    [(name, data)] = gallery.files(["receipt"])
    attach(page, name, data)
    ask(page, "What is the total?")
    asked = panes(page)[0].turns[-1].sent
    assert asked is not None
    assert not asked.messages[-1].images
    assert "12.40" in asked.messages[-1].content
    assert "12.40" in shown(page)[-1]
    assert any(expander.label == "What was read" for expander in page.expander)


@pytest.mark.parametrize("starter", STARTERS, ids=lambda starter: starter.name)
def test_a_starter_asks_about_its_sample(starter: object) -> None:
    page = press(open_page(SEES), starter.name)
    turn = panes(page)[0].turns[-1]
    assert turn.prompt == starter.prompt
    assert len(turn.pictures) >= starter.fewest
    assert [each.name for each in turn.pictures] == [
        name for name, _ in gallery.files([starter.sample])
    ]


def test_starters_that_need_more_pictures_are_greyed_out() -> None:
    page = add(open_page(SEES), "a.png")
    greyed = {button.label for button in page.button if button.disabled}
    assert {"Compare two", "Frames"} <= greyed
    press(page, "Describe")
    assert [each.name for each in panes(page)[0].turns[-1].pictures] == ["a.png"]


def test_a_thumbnail_is_small_whatever_is_sent() -> None:
    small = Picture("a", picture(width=900, height=300), 900, 300).small
    with PIL.Image.open(io.BytesIO(small)) as opened:
        assert max(opened.size) <= 160


# --- what it costs --------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A deployment that counts as Phi-3.5-vision does; its weights are nowhere."""
    file = tmp_path / "catalog.toml"
    file.write_text(
        '[models.v]\nname = "V"\ncontext = 131072\nsight = "phi-3-vision"\n'
        f'[sources.v]\npath = "{tmp_path}"\n'
        '[deployments."v@transformers"]\nsource = "v"\nimages = 32\n'
        '[providers.team]\nname = "Team"\nbase_url = "http://127.0.0.1:9/v1"\n'
        'sampling = ["max_tokens"]\n[deployments."v@team"]\nimages = 4\n'
    )
    monkeypatch.setenv("SLM_CATALOG", str(file))
    return "v@transformers"


def test_the_cost_is_shown_before_anything_is_sent(large: str) -> None:
    page = add(open_page(large), "a.png")
    assert any("2,509 tokens" in caption for caption in captions(page))
    add(page, "b.png")
    assert not any("2,509 tokens" in caption for caption in captions(page))  # in fewer crops
    assert not any("past 4,096" in caption for caption in captions(page))
    add(page, *[f"{number}.png" for number in range(8)])
    assert any("past 4,096" in caption for caption in captions(page))
    assert panes(page)[0].turns == []


def test_a_pane_that_cannot_hold_them_is_not_asked_and_the_others_are() -> None:
    page = open_page(NANO, SEES, max_tokens_vision="4000")
    add(page, "a.png", "b.png", "c.png", "d.png")
    [told] = [caption for caption in captions(page) if "4,096 are held" in caption]
    assert "contact sheet" in told
    ask(page, "What are they?")
    refused, answered = (pane.turns[-1] for pane in panes(page))
    assert refused.run is None
    assert "4,096 are held" in refused.reply.error.message
    assert answered.reply.state == "done"


def test_it_is_said_to_which_server_pictures_go(large: str) -> None:
    page = open_page("v@team", SEES)
    told = [caption for caption in captions(page) if "sent to" in caption]
    assert len(told) == 1
    assert "Pictures are sent to" in told[0] and "127.0.0.1:9" in told[0]


def test_a_server_makes_of_pictures_what_it_likes(large: str) -> None:
    page = add(open_page("v@team"), "a.png")
    assert "tokens not known" in captions(page)
