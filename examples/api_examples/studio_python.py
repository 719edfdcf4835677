"""Let an example started with the system's Python go on with the studio's own, which has what it imports."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ENVIRONMENT = Path(__file__).resolve().parents[2] / ".venv"


def restart() -> NoReturn:
    """Run this program again in the environment that `python main.py` made, and end with its exit status."""
    python = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists() or Path(sys.prefix) == ENVIRONMENT:
        sys.exit("The studio's client is not installed. Run `python main.py` (or `pip install .`) once, then try again")
    sys.exit(subprocess.call([str(python), *sys.argv]))
