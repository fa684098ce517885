"""The programs in docs/PROTOCOL.md."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```python (\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: The program of each level.
LEVELS = {"bare": "bare_consumer.py", "resuming": "resuming.py", "full": "full.py"}


def programs():
    """Returns the text of each program by its file name."""
    return dict(BLOCK.findall((ROOT / "docs" / "PROTOCOL.md").read_text()))


def extract(folder):
    """Writes all programs into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in programs().items():
        (folder / name).write_text(text)
