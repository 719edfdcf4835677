"""The server process stays small: what is heavy lives in children."""

import subprocess
import sys

HEAVY = ("torch", "diffusers", "transformers", "xllamacpp", "accelerate", "peft")


def test_importing_the_app_loads_nothing_heavy() -> None:
    code = f"import sys, illustrious.app; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
