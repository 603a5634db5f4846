"""Makes docs/preview.jpg, the picture at the top of the README: two public-domain portraits, as ``preview`` draws them.

    pip install scikit-image
    python docs/picture.py

Both photographs come out of packages: Eileen Collins (NASA, public domain) with scikit-image, Grace Hopper (U.S. Navy,
public domain) with matplotlib. They are left in out/photos/, so that the commands of the README can be run on them.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from matplotlib.cbook import get_sample_data
from PIL import Image
from skimage import data

HEIGHT_PX = 480
PHOTOS = Path("out/photos")
PREVIEWS = Path("out/preview")


def main() -> None:
    """Write the photographs, have them annotated, and put them side by side."""
    PHOTOS.mkdir(parents=True, exist_ok=True)
    Image.fromarray(data.astronaut()).save(PHOTOS / "collins.jpg", quality=92)
    shutil.copy(get_sample_data("grace_hopper.jpg", asfileobj=False), PHOTOS / "hopper.jpg")
    command = [sys.executable, "-m", "agegender.cli", "preview", PHOTOS, "--output", PREVIEWS]
    subprocess.run([*command, "--max-side-px", str(HEIGHT_PX)], check=True)  # both are at least as high as wide
    pictures = [Image.open(path) for path in sorted(PREVIEWS.glob("*.jpg"))]
    size = sum(picture.width for picture in pictures), max(picture.height for picture in pictures)
    both = Image.new("RGB", size, "white")
    for index, picture in enumerate(pictures):
        both.paste(picture, (sum(earlier.width for earlier in pictures[:index]), 0))
    both.save(Path(__file__).parent / "preview.jpg", quality=88)


if __name__ == "__main__":
    main()
