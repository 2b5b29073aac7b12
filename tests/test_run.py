"""Files that appear whole or not at all, and stages that run once."""

import json

import pytest

from tfrec.errors import TfrecError
from tfrec.run import RunFolder, atomic_file, new_folder, write_json


def test_atomic_file_replaces_at_the_end(tmp_path):
    path = tmp_path / "new" / "file"
    with atomic_file(path) as file:
        file.write(b"first")
        assert not path.exists()
    with atomic_file(path) as file:
        file.write(b"second")
        file.flush()
        assert path.read_bytes() == b"first"
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_atomic_file_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half() -> None:
        with atomic_file(path) as file:
            file.write(b"half of the new")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_keeps_other_scripts_and_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"title": "视频", "recall": 0.5})
    with pytest.raises(TypeError):
        write_json(path, {"recall": object()})
    assert "视频" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == {"title": "视频", "recall": 0.5}


@pytest.fixture
def calls():
    return []


def work(calls: list[str], name: str):
    def run():
        calls.append(name)
        return {"answer": len(calls)}

    return run


def test_finished_stages_are_not_run_again(tmp_path, calls):
    run = RunFolder(tmp_path, "print", resume=False)
    assert not run.resumed
    assert not run.finished("data")
    first = run.stage("data", work(calls, "data"))
    assert first["answer"] == 1
    assert run.stage("data", work(calls, "data")) == first
    run.close()

    resumed = RunFolder(tmp_path, "print", resume=True)
    assert resumed.resumed
    assert resumed.finished("data")
    assert resumed.stage("data", work(calls, "data")) == resumed.result("data") == first
    assert resumed.stage("train", work(calls, "train"))["answer"] == 2
    assert calls == ["data", "train"]
    assert resumed.id == run.id
    assert resumed.progress.endswith("trained before: data, train")
    assert set(resumed.seconds) == {"data", "train"}
    assert all(seconds >= 0 for seconds in resumed.seconds.values())


def test_failed_stage_is_run_again(tmp_path, calls):
    def fail():
        raise RuntimeError("no memory")

    run = RunFolder(tmp_path, "print", resume=False)
    with pytest.raises(RuntimeError):
        run.stage("data", fail)
    run.close()
    resumed = RunFolder(tmp_path, "print", resume=True)
    assert not resumed.finished("data")
    resumed.stage("data", work(calls, "data"))
    assert calls == ["data"]


def test_without_resume_the_stages_start_over(tmp_path):
    RunFolder(tmp_path, "print", resume=False).stage("data", lambda: {})
    again = RunFolder(tmp_path, "print", resume=False)
    assert not again.resumed
    assert not again.finished("data")
    again.close()
    assert not RunFolder(tmp_path, "print", resume=True).finished("data")


def test_resume_refuses_another_configuration(tmp_path):
    RunFolder(tmp_path, "print", resume=False).stage("data", lambda: {})
    with pytest.raises(TfrecError, match=r"`--resume` needs the configuration and data"):
        RunFolder(tmp_path, "other", resume=True)
    # The refusal changed nothing, and a run from the start is free to differ.
    assert RunFolder(tmp_path, "print", resume=True).finished("data")
    assert not RunFolder(tmp_path, "other", resume=False).finished("data")


def test_one_run_at_a_time(tmp_path):
    run = RunFolder(tmp_path, "print", resume=False)
    with pytest.raises(TfrecError, match="Another run is at work in"):
        RunFolder(tmp_path, "print", resume=True)
    run.close()
    assert RunFolder(tmp_path, "print", resume=True).resumed


def test_resume_of_nothing_starts(tmp_path):
    run = RunFolder(tmp_path / "new", "print", resume=True)
    assert not run.resumed
    assert not run.finished("data")


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "module"
    with pytest.raises(FileNotFoundError), new_folder(target) as scratch:
        (scratch / "no" / "such" / "folder").write_text("half")
    assert not list(target.parent.iterdir())
    with new_folder(target) as scratch:
        (scratch / "part").write_text("whole")
    with pytest.raises(TfrecError, match="exists already"), new_folder(target):
        pass
    with new_folder(target, replace=True) as scratch:
        assert (target / "part").exists()
    assert not list(target.iterdir())
