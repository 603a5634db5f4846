"""What else decoding an image does in every process of a run: it takes long, or does what a defective decoder would."""

import os
from pathlib import Path

TRAP = """
import importlib.abc, importlib.util, os, resource, signal, sys, time

class Trap(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "agegender.data.images":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_set(module):
            load(module)
            decode = module.decode

            def first(data):
                {first}

            def decode_after(data, *bounds, **options):
                first(data)
                return decode(data, *bounds, **options)

            module.decode = decode_after

        spec.loader.exec_module = load_and_set
        return spec

sys.meta_path.insert(0, Trap())
"""
"""Python runs ``sitecustomize`` at its start, in Ray's workers as well."""


def decoding_environment(folder: Path, first: str) -> dict[str, str]:
    """Variables with which each process of a run executes ``first`` before it decodes ``data``.

    Args:
        folder: is made, for the code.
        first: statements; ``os``, ``resource``, ``signal`` and ``time`` are imported.
    """
    folder.mkdir(exist_ok=True)
    body = ("\n" + " " * 16).join(first.strip().splitlines())
    (folder / "sitecustomize.py").write_text(TRAP.format(first=body))
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


def slow_and_counted(folder: Path, delay_s: float = 0.05) -> tuple[dict[str, str], Path]:
    """Each image takes ``delay_s`` more, and adds a byte to the file that is returned beside the variables."""
    counter = folder / "decoded"
    first = f"""
with open({str(counter)!r}, "ab") as counter:
    counter.write(b".")
time.sleep({delay_s})
"""
    return decoding_environment(folder, first), counter


def held_up(folder: Path) -> tuple[dict[str, str], Path]:
    """Each image waits as long as the file exists that is returned beside the variables."""
    hold = folder / "hold"
    first = f"""
while os.path.exists({str(hold)!r}):
    time.sleep(0.05)
"""
    return decoding_environment(folder, first), hold
