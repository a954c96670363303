"""Running through a plan: with real workers, cut off, resumed, stopped, beside what fails."""

from __future__ import annotations

import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from asking import until

from slm_backends import fit, selector
from slm_backends.catalog import load
from slm_backends.errors import Busy
from slm_backends.multilingual import results as files
from slm_backends.multilingual import runner, tasks
from slm_backends.multilingual.plan import SAMPLING, Plan, Question
from slm_backends.multilingual.results import Cell, Results
from slm_backends.multilingual.runner import Campaign

QUICK = "fake@tokens=4,rate=0,first=0"
SLOW = "fake@tokens=400,rate=20,first=0"
BROKEN = "fake@rate=0,first=0,fail=3"
NO_KEY = "fake@refuse=key"
NOT_HERE = "phi-3.5-mini-instruct@onnx"
PATIENCE = 60.0


def plan(*deployments: str, count: int = 0, at_once: int = 0, max_tokens: int = 16) -> Plan:
    """Two questions in three languages, or `count` of them in English."""
    questions: tuple[Question, ...] = tasks.questions(
        "ask", ["en", "de", "zh"], names=["rain", "moon"]
    )
    if count:
        questions = tuple(replace(questions[0], id=f"ask/{n}", language="en") for n in range(count))
    sampling = replace(SAMPLING, max_tokens=max_tokens)
    return Plan("ask", deployments, questions, sampling, at_once=at_once)


def finished(campaign: Campaign) -> Results:
    assert campaign.wait(PATIENCE)
    return campaign.results


def texts(results: Results) -> list[tuple[tuple[str, str], str, str, int | None]]:
    """What does not depend on time."""
    cells = results.cells
    return [
        (key, cells[key].text, cells[key].finish_reason, cells[key].completion_tokens)
        for key in results.plan.keys
    ]


# --- real models ----------------------------------------------------------------------------------


def test_every_cell_is_answered_and_kept(
    embedded: tuple[str, ...], _workers: None, tmp_path: Path
) -> None:
    file = tmp_path / "run.jsonl"
    campaign = Campaign(Results(plan(*embedded)), file)
    campaign.start()
    results = finished(campaign)
    assert results.complete and not results.failed and not campaign.problem
    assert all(cell.text and cell.counted and cell.wait_s for cell in results.cells.values())
    assert {about.runtime for about in results.abouts.values()} == {
        "ONNX Runtime GenAI",
        "OpenVINO GenAI",
    }
    kept = files.read(file.read_bytes())
    assert kept.cells == results.cells and kept.abouts == results.abouts
    assert [(cell.question, cell.deployment) for cell in kept.cells.values()] == [*kept.plan.keys]
    assert [item.name for item in tmp_path.iterdir()] == ["run.jsonl"]


def cut_off(wanted: Plan, file: Path) -> Results:
    """What the file of a run holds that ended in the middle of a line."""
    cut = Campaign(Results(wanted), file)
    cut.start()
    until(lambda: len(cut.results.cells) >= 2, "two replies")
    cut.stop()
    assert cut.wait(PATIENCE)
    file.write_bytes(file.read_bytes() + b'{"kind": "cell", "question": "ask/ra')
    read = files.read(file.read_bytes())
    assert len(read.damaged) == 1
    assert 0 < len(read.missing) < len(wanted.keys)
    return read


def test_a_worker_that_dies_takes_only_what_it_was_writing(
    embedded: tuple[str, ...], _workers: None
) -> None:
    name = embedded[0]
    campaign = Campaign(Results(plan(name, QUICK, at_once=2, count=8)))
    campaign.start()
    until(lambda: campaign.results.plan.keys[0] in campaign.results.cells, "a reply")
    until(lambda: any(r.state == "decoding" for r in campaign.live().values()), "another")
    (pid,) = [worker.pid for worker in selector.workers() if worker.deployment_id == name]
    os.kill(pid, signal.SIGKILL)
    results = finished(campaign)
    assert 1 <= len(results.failed) <= 2
    assert all("The process that held" in results.cells[key].error for key in results.failed)
    campaign.start(results.failed)
    assert finished(campaign).complete


def test_a_run_that_was_cut_off_and_resumed_is_as_one_that_was_not(
    embedded: tuple[str, ...], _workers: None, tmp_path: Path
) -> None:
    wanted = plan(embedded[0], at_once=2)
    whole = Campaign(Results(wanted))
    whole.start()
    finished(whole)
    file = tmp_path / "run.jsonl"
    resumed = Campaign(cut_off(wanted, file), file)
    resumed.start()
    assert texts(finished(resumed)) == texts(whole.results)
    assert texts(files.read(file.read_bytes())) == texts(whole.results)


def test_what_was_answered_before_the_cut_is_not_asked_again(
    embedded: tuple[str, ...], _workers: None, tmp_path: Path
) -> None:
    # With OpenVINO texts may differ from an uncut run's: the last digits of what it computes depend
    # on what it has cached, and on what is computed beside it.
    file = tmp_path / "run.jsonl"
    read = cut_off(plan(embedded[1], at_once=2), file)
    before = dict(read.cells)
    resumed = Campaign(read, file)
    resumed.start()
    results = finished(resumed)
    assert results.complete
    assert {key: results.cells[key] for key in before} == before
    assert files.read(file.read_bytes()).cells == results.cells


def test_what_does_not_fit_together_comes_one_after_the_other(
    embedded: tuple[str, ...], _workers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for loaded in selector.loaded():
        selector.unload(loaded.id)
    needs = [fit.need(load().deployment(item)).total for item in embedded]
    monkeypatch.setenv("SLM_MEMORY_GB", str(1.1 * max(needs) / 1e9))
    campaign = Campaign(Results(plan(*embedded, QUICK)))
    campaign.start()
    together, answered = 0, []
    while campaign.running:
        together = max(together, len(selector.loaded()))
        answered += [key[1] for key in list(campaign.results.cells)[len(answered) :]]
        time.sleep(0.01)
    assert not campaign.results.missing
    assert together == 1
    order = [name for name in answered if name != QUICK]
    assert order == sorted(order, key=embedded.index)


# --- stop, and again ------------------------------------------------------------------------------


def test_stop_ends_it_at_once_and_keeps_whole_replies_only() -> None:
    campaign = Campaign(Results(plan(SLOW, QUICK)))
    campaign.start()
    until(lambda: len(campaign.results.cells) == 6 and campaign.live(), "the quick ones")
    begun = time.perf_counter()
    campaign.stop()
    assert campaign.wait(PATIENCE)
    assert time.perf_counter() - begun < 10  # of the 20 that a slow reply takes
    assert {key[1] for key in campaign.results.cells} == {QUICK}
    assert not campaign.live()
    assert campaign.progress.doing == "" and campaign.progress.seconds_left is None


def test_stop_also_ends_what_has_hardly_begun(tmp_path: Path) -> None:
    for _ in range(20):
        campaign = Campaign(Results(plan(SLOW)), tmp_path / "run.jsonl")
        campaign.start()
        campaign.stop()
        assert campaign.wait(5)
        assert not campaign.results.cells


def test_wait_gives_up_in_time() -> None:
    campaign = Campaign(Results(plan(SLOW)))
    campaign.start()
    assert not campaign.wait(0.05)
    campaign.stop()
    assert campaign.wait(PATIENCE)


def test_a_second_start_does_nothing_while_it_runs() -> None:
    campaign = Campaign(Results(plan(SLOW)))
    campaign.start()
    until(campaign.live, "a reply")
    before = set(campaign.live())
    campaign.start()
    assert set(campaign.live()) == before
    campaign.stop()
    assert campaign.wait(PATIENCE)


def test_failed_cells_are_asked_again_and_others_are_not() -> None:
    results = Results(plan(QUICK))
    first, second = results.plan.keys[:2]
    results.cells[first] = Cell(*first, error="It broke.")
    results.cells[second] = Cell(*second, text="as it was")
    campaign = Campaign(results)
    campaign.start(results.failed)
    finished(campaign)
    assert results.cells[first].done and results.cells[first].text
    assert results.cells[second].text == "as it was"
    assert set(results.cells) == {first, second}


# --- failures -------------------------------------------------------------------------------------


def test_what_fails_leaves_the_others_alone() -> None:
    campaign = Campaign(Results(plan(QUICK, BROKEN, NO_KEY, NOT_HERE)))
    campaign.start()
    results = finished(campaign)
    found = {name: [results.cells[q.id, name] for q in results.plan.questions] for name in
             results.plan.deployments}  # fmt: skip
    assert all(cell.done for cell in found[QUICK])
    assert all(cell.error and cell.text for cell in found[BROKEN])  # what came is kept
    assert len({cell.error for cell in found[NO_KEY]}) == 1
    assert all("not on this computer" in cell.error for cell in found[NOT_HERE])
    assert campaign.progress == runner.Progress(6, 18, 24, None, "")


def test_a_deployment_that_cannot_answer_is_not_asked_a_thousand_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    start = runner.run.start
    monkeypatch.setattr(runner.run, "start", lambda *a: asked.append(a) or start(*a))
    campaign = Campaign(Results(plan(NO_KEY, count=1_000)))
    campaign.start()
    assert len(finished(campaign).failed) == 1_000
    assert len(asked) <= runner.REMOTE_AT_ONCE


def test_a_run_goes_on_without_its_file_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(results: Results, file: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write", full)
    campaign = Campaign(Results(plan(QUICK)), tmp_path / "run.jsonl")
    campaign.start()
    assert finished(campaign).complete
    assert campaign.problem.startswith("run.jsonl cannot be written: No space left on device.")


def test_what_no_longer_fits_on_the_disk_is_not_lost_from_memory(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    campaign = Campaign(Results(plan(QUICK, count=50)), file)
    files.write(campaign.results, file)
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 3_000, most))
    try:
        campaign.start()
        assert finished(campaign).complete
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
    assert campaign.problem.startswith("run.jsonl cannot be written: File too large.")
    kept = files.read(file.read_bytes())
    assert 0 < len(kept.cells) < 50 and len(kept.damaged) == 1  # which can be gone on with
    assert [item.name for item in tmp_path.iterdir()] == ["run.jsonl"]


def test_where_there_is_room_again_at_the_end_all_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, times = files.write, []

    def full_at_first(results: Results, file: Path) -> None:
        times.append(file)
        if len(times) == 1:
            raise OSError(28, "No space left on device")
        write(results, file)

    monkeypatch.setattr(files, "write", full_at_first)
    file = tmp_path / "run.jsonl"
    campaign = Campaign(Results(plan(QUICK)), file)
    campaign.start()
    assert finished(campaign).complete and not campaign.problem
    assert files.read(file.read_bytes()).cells == campaign.results.cells


def test_two_runs_never_write_one_file(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    first = Campaign(Results(plan(SLOW)), file)
    first.start()
    second = Campaign(Results(plan(QUICK)), file)
    with pytest.raises(Busy, match="run.jsonl is being written by another run"):
        second.start()
    first.stop()
    assert first.wait(PATIENCE)
    second.start()
    assert finished(second).complete


# --- many -----------------------------------------------------------------------------------------


def test_a_thousand_cells() -> None:
    campaign = Campaign(Results(plan("fake@tokens=2,rate=0,first=0", count=1_000)))
    campaign.start()
    most = 0
    while campaign.running:
        most = max(most, len(campaign.live()))
        time.sleep(0.005)
    assert campaign.results.complete
    assert 0 < most <= runner.REMOTE_AT_ONCE


def test_as_many_are_under_way_as_the_plan_says() -> None:
    campaign = Campaign(Results(plan(SLOW, at_once=2)))
    campaign.start()
    until(lambda: len(campaign.live()) == 2, "two")
    time.sleep(0.1)
    assert len(campaign.live()) == 2
    campaign.stop()
    assert campaign.wait(PATIENCE)


def test_time_that_is_left_is_told_after_two_replies() -> None:
    campaign = Campaign(Results(plan("fake@tokens=10,rate=50,first=0", at_once=2)))
    campaign.start()
    guesses = []
    while campaign.running:
        progress = campaign.progress
        if progress.seconds_left is not None:
            guesses.append((progress.done, progress.seconds_left))
        time.sleep(0.02)
    assert guesses and min(done for done, _ in guesses) >= 2
    assert all(0 <= left < 5 for _, left in guesses)
