"""How many requests a predict run makes, by the server's own log: docs/operating.md tells users of them."""

import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.s3.test_jobs_s3 import ok
from tests.support.drawn import write_faces

IMAGES, UNIT_IMAGES = 64, 16
LOG_TIMEOUT_S = 20
LINE = re.compile(r'beast: .*"(?P<verb>[A-Z]+) /(?P<path>[^ ?]*)(?P<query>\?[^ ]*)? HTTP')
FOLDER = re.compile(r"faces|out/_work/listing/unit|out/_work/scored/unit|out/part")


def requests(run: Path, bucket: str) -> Counter[str]:
    """``VERB WHAT`` -> how often, of all objects of one kind together; listings are the queries for a list."""
    found: Counter[str] = Counter()
    for line in LINE.finditer((run / "log" / "client.rgw.log").read_text()):
        name, _, key = line["path"].partition("/")
        if name == bucket.removeprefix("s3://"):
            kind = FOLDER.match(key)
            what = "LIST" if "list-type" in (line["query"] or "") else line["verb"]
            found[f"{what} {kind[0] if kind else 'else'}"] += 1
    return found


def _logged(run: Path, bucket: str, complete: Callable[[Counter[str]], bool]) -> Counter[str]:
    """The server notes a request a moment after it has answered it."""
    end_s = time.monotonic() + LOG_TIMEOUT_S
    found = requests(run, bucket)
    while not complete(found) and time.monotonic() < end_s:
        time.sleep(0.1)
        found = requests(run, bucket)
    return found


def test_predict_asks_once_for_each_image_and_seven_times_for_each_unit(
    s3_run: tuple[Path, str], s3_bucket: str, tiny_model: Path
) -> None:
    write_faces(f"{s3_bucket}/faces", IMAGES)
    flags = ["--output", f"{s3_bucket}/out", "--model", str(tiny_model), "--faces", "none"]
    before = _logged(s3_run[0], s3_bucket, lambda found: found["PUT faces"] == IMAGES)
    ok("predict", "--input", f"{s3_bucket}/faces", *flags, "--num-workers", "1", "--unit-images", str(UNIT_IMAGES))
    units = IMAGES // UNIT_IMAGES
    wanted = {
        "GET faces": IMAGES,
        "PUT out/_work/listing/unit": units,
        "GET out/_work/listing/unit": units,
        "PUT out/_work/scored/unit": 2 * units,
        "GET out/_work/scored/unit": units,
        "DELETE out/_work/scored/unit": 2 * units,
        "PUT out/part": 1,
    }
    made = _logged(s3_run[0], s3_bucket, lambda found: wanted.items() <= (found - before).items()) - before
    rest = {what: made.pop(what) for what in list(made) if what.startswith("LIST") or what.endswith(" else")}
    assert made == wanted
    # what input and OUTPUT hold, records, and a heartbeat of the lease every ten seconds, of which a busy machine needs more
    assert sum(rest.values()) < 60, rest
