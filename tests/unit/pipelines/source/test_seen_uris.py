import pytest

from agegender.pipelines.source import seen_uris as seen_module
from agegender.pipelines.source.seen_uris import Earlier, SeenUris


def test_a_uri_is_new_once_and_one_of_an_earlier_listing_is_told_with_its_unit_and_version() -> None:
    with SeenUris() as seen:
        seen.load(3, [("a", "10 x"), ("b", None)])
        assert seen.add("a") == Earlier(3, "10 x")
        assert seen.add("a") is False
        assert seen.add("c") is True
        assert seen.add("c") is False
        assert seen.add("b") == Earlier(3, None)
        seen.load(4, [("d", "1 y")])
        seen.mark(["d", "never listed"])
        assert seen.add("d") == Earlier(4, "1 y", marked=True)
        assert seen.add("caf\udce9") is True  # a file name that is no UTF-8


def test_what_does_not_fit_into_the_cache_is_kept_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_module, "CACHE_KB", 100)
    with SeenUris() as seen:
        names = [f"s3://bucket/{(index * 7919) % 20_000:06d}.jpg" for index in range(20_000)]  # in no order
        assert all(seen.add(name) is True for name in names)
        assert not any(seen.add(name) for name in names)
