import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agegender.artifact import FRAMING, ModelInfo, NetworkConfig
from agegender.config import PredictConfig
from agegender.errors import InputError, ResourceError
from agegender.pipelines.runtime import detector as finding

FILE = b"stands for the detector's file"
NETWORK = NetworkConfig(backbone="compact", age_head="distribution", image_size_px=32)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(finding.DETECTOR_VARIABLE, raising=False)
    monkeypatch.setattr(finding, "DETECTOR_SHA256", hashlib.sha256(FILE).hexdigest())
    return tmp_path / "cache" / "agegender" / finding.DETECTOR_FILE


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A web server on loopback with the file, and another one that is not it."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "right.onnx").write_bytes(FILE)
    (tmp_path / "site" / "wrong.onnx").write_bytes(b"<html>sign in first</html>")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path / "site"))  # type: ignore[arg-type]

        def log_message(self, format: str, *arguments: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_file_is_downloaded_once_into_the_users_cache(cache: Path, site: str) -> None:
    assert finding.detector_model(url=f"{site}/right.onnx") == cache
    assert cache.read_bytes() == FILE
    assert finding.detector_model(url=f"{site}/gone.onnx") == cache


def test_a_damaged_copy_in_the_cache_is_downloaded_again(cache: Path, site: str) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(FILE[:-1])
    finding.detector_model(url=f"{site}/right.onnx")
    assert cache.read_bytes() == FILE


@pytest.mark.parametrize(("file", "said"), [("wrong.onnx", "SHA-256"), ("gone.onnx", "404")])
def test_what_is_not_the_file_is_never_kept_and_the_message_says_where_to_put_it(
    file: str, said: str, cache: Path, site: str
) -> None:
    with pytest.raises(ResourceError, match=said) as raised:
        finding.detector_model(url=f"{site}/{file}")
    assert str(cache) in str(raised.value)
    assert "--detector-model" in str(raised.value)
    assert not cache.exists()


def test_without_a_network_the_message_says_where_to_put_it(cache: Path) -> None:
    with pytest.raises(ResourceError, match="cannot be downloaded") as raised:
        finding.detector_model(url="http://127.0.0.1:9/closed.onnx")
    assert str(cache) in str(raised.value)


def test_what_the_user_names_comes_first_then_the_environment(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, other = tmp_path / "named.onnx", tmp_path / "other.onnx"
    named.write_bytes(b"a")
    other.write_bytes(b"b")
    monkeypatch.setenv(finding.DETECTOR_VARIABLE, str(other))
    assert finding.detector_model(str(named)) == named
    assert finding.detector_model() == other
    with pytest.raises(InputError, match=r"--detector-model .*gone"):
        finding.detector_model(str(tmp_path / "gone"))


def test_a_file_that_is_no_detector_is_refused_before_work_begins(tmp_path: Path) -> None:
    (tmp_path / "wrong.onnx").write_bytes(b"text")
    config = PredictConfig(input=["a"], output="o", model="m", detector_model=str(tmp_path / "wrong.onnx"))
    with pytest.raises(InputError, match="face detector's file"):
        finding.face_search(config)


def test_without_faces_nothing_is_looked_for() -> None:
    config = PredictConfig(input=["a"], output="o", model="m", faces="none", detector_model="gone")
    assert finding.face_search(config) is None
    assert finding.search_identity(None) == {}


def test_a_model_that_learnt_another_framing_is_refused_with_both_named() -> None:
    finding.check_framing(ModelInfo(model_id="a", network=NETWORK), "m")
    with pytest.raises(InputError, match=f"'tight-2'.*'{FRAMING}'"):
        finding.check_framing(ModelInfo(model_id="a", network=NETWORK, framing="tight-2"), "m")
