import threading

import pytest
from test_manifest import make_identity, write_folder

from mergedistill_jax.configs.worker import Worker, parse_worker
from mergedistill_jax.manifest import open_for_writing, read_manifest
from mergedistill_jax.teachers import sharing
from mergedistill_jax.teachers.sharing import tell_missing, wait_until_complete, worker_of_job


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_shard_has_one_owner_and_the_shares_differ_by_one_at_most(count):
    workers = [Worker(index=index, count=count) for index in range(count)]
    owned = [[shard for shard in range(20) if worker.owns(shard)] for worker in workers]
    assert sorted(shard for shards in owned for shard in shards) == list(range(20))
    assert max(map(len, owned)) - min(map(len, owned)) <= 1


def test_a_worker_is_written_as_it_is_read():
    for text in ("0/1", "2/3", "15/256"):
        assert str(parse_worker(text)) == text


@pytest.mark.parametrize("text", ["3/3", "1", "-1/2", "0/0", "a/b", "0/2/3", " 0/2"])
def test_an_impossible_worker_is_refused(text):
    with pytest.raises(ValueError, match=r"worker: found '.*', expected INDEX/COUNT"):
        parse_worker(text)


def test_a_process_outside_a_job_is_alone():
    assert worker_of_job() == Worker(index=0, count=1)


def test_a_process_of_a_job_has_its_place_there(monkeypatch):
    monkeypatch.setattr(sharing.jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(sharing.jax, "process_index", lambda: 2)
    monkeypatch.setattr(sharing.jax, "process_count", lambda: 4)
    assert worker_of_job() == Worker(index=2, count=4)


def test_what_is_missing_is_told_by_worker(tmp_path):
    write_folder(tmp_path, shards=4, documents=95)  # 0 to 3 of 10
    told = tell_missing(read_manifest(tmp_path), 3)
    assert told == (
        "6 of 10 shards are missing: 2 of worker 0/3 (first shard-00006.json), "
        "2 of worker 1/3 (first shard-00004.json), 2 of worker 2/3 (first shard-00005.json)"
    )


def test_a_job_waits_for_the_shards_of_the_others(tmp_path, monkeypatch):
    open_for_writing(tmp_path, make_identity())
    slept = []
    monkeypatch.setattr(sharing.time, "sleep", slept.append)
    other = threading.Timer(0.1, write_folder, [tmp_path])
    other.start()
    manifest = wait_until_complete(tmp_path)
    other.join()
    assert manifest.complete
    assert slept[0] == sharing.POLL_S
    assert max(slept) <= sharing.LONGEST_POLL_S
