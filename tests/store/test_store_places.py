"""A store behind a URL is the same store."""

import json
import sys

import pytest
import torch
from sources import held

from digsite._core.errors import LoadError, MissingExtra
from digsite.store import Store, harvest, places

pytest.importorskip("obstore")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIGSITE_CACHE", str(tmp_path / "cache"))
    places._opened.cache_clear()
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_objects_hold_what_a_folder_holds(kind, tmp_path, cache):
    url = f"file://{tmp_path}/objects" if kind == "file" else "memory://bucket/folder"
    source = held(50)
    here, there = harvest(source, tmp_path / "here", shard_rows=16), harvest(source, url, shard_rows=16)
    assert there.manifest.files == here.manifest.files
    numbers = torch.tensor([49, 0, 17])
    assert torch.equal(there.rows_at(numbers)["a"], here.rows_at(numbers)["a"])
    there.verify()
    names = {path.stem for path in cache.rglob("*.safetensors")}
    assert names <= {entry.sha256 for entry in there.manifest.files.values()} and len(names) >= 6
    source.given = 0
    harvest(source, url, shard_rows=16)
    assert source.given == 0
    if kind == "file":
        assert (tmp_path / "objects" / "a" / "shard-00003.safetensors").is_file()


def test_a_copy_is_fetched_once_and_a_changed_object_is_refused():
    url = "memory://changed"
    harvest(held(50), url, shard_rows=16)
    objects = places._opened(url)
    objects.put("a/shard-00000.safetensors", b"other")
    with pytest.raises(LoadError, match=r"memory://changed/a/shard-00000.safetensors is not what the manifest says"):
        Store(url).rows_at(torch.tensor([0]))
    manifest = json.loads(bytes(objects.get("manifest.json").bytes()))
    assert manifest["rows"] == 50


def test_without_obstore_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtra) as caught:
        Store("s3://bucket/folder")
    assert str(caught.value) == (
        'A store at s3://bucket/folder needs the package obstore. Install it with: pip install "digsite[cloud]"'
    )
