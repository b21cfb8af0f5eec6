"""Pairs that a stage and its workers make in S3 through a faulty proxy, with kills: the same bytes."""

import fsspec
import s3
from processes import below, kill, wait_for

from fewstep.shards import Shards


def test_pairs_made_through_a_faulty_proxy_with_kills_have_the_same_bytes(slow, tmp_path, bucket, s3_address):
    checkout = slow.copy(tmp_path / "checkout")
    out = checkout.forget("couple@round1")
    faults = s3.Faults(errors=0.05, silences=0.05)
    there = fsspec.filesystem("s3", use_listings_cache=False)

    def arrived() -> list[str]:
        return there.glob(f"{bucket}/couple@round1.*/train/.shard-*.tar.json")

    with s3.faulty_proxy(s3_address, faults) as proxy:
        access = s3.ACCESS | {"AWS_ENDPOINT_URL_S3": proxy, "FEWSTEP_SHARDS": bucket, "FEWSTEP_WORKERS": "2"}
        for victim, enough in (("stage", 2), ("worker", 4)):
            stage = checkout.begin("python", "-m", "stages.couple", "round1", **access)
            wait_for(lambda: len(arrived()) >= enough)  # noqa: B023
            kill(stage.pid if victim == "stage" else below(stage.pid)[-1])
            said, _ = stage.communicate(timeout=300)
            assert ("a worker died" in said) == (victim == "worker"), said
        assert stage.returncode == 0, said
        assert "resuming from sample" in said
        last = checkout.repro("couple@round1", **access)
    assert faults.happened["error"] > 0
    assert faults.happened["silence"] > 0
    assert checkout.files(out) == slow.files(out)
    remote = Shards("s3://" + arrived()[0].rpartition("/")[0])
    assert remote.digest == Shards(checkout / out / "train").digest
    everything = b"".join(checkout.files(".fewstep").values()) + b"".join(checkout.files(out).values())
    assert s3.SECRET.encode() not in everything
    assert s3.SECRET not in said + last.said


def test_an_unreachable_place_is_named_before_any_work(slow, tmp_path):
    checkout = slow.copy(tmp_path / "checkout")
    checkout.forget("couple@round1")
    # Flows, which other tests have imported, set more patience than is good here.
    nobody = s3.ACCESS | {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "2"}
    said = checkout.refused("python -m stages.couple round1", FEWSTEP_SHARDS="s3://nobody/here", **nobody)
    assert "can't use s3://nobody/here" in said
