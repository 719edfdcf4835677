"""Draw many pictures on a running studio, each into a file with a JSON file of its parameters beside it.

    python batch_generate.py "a red apple" "a castle on a hill" --count 4 --output pictures
    python batch_generate.py --file prompts.txt --seed 100 --steps 25 --concurrency 4

Started on a terminal without arguments it asks. A file that exists is never overwritten. A picture that fails does not
stop the others; the exit status is 0 when all were drawn and 1 otherwise.
"""

import argparse
import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from studio_python import restart

try:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from illustrious.client import ClientError, IllustriousAIClient
except ImportError:
    restart()

IDEAS = ("a red apple on a blue background", "a castle", "a rocket", "a panda", "sunrise over mountains", "a dragon")
BUSY = {429, 503}
LONGEST_WAIT = 120.0


@dataclass(frozen=True)
class Task:
    """One picture to draw. ``wishes`` are the fields of /generate-image beside the prompt."""

    number: int
    prompt: str
    wishes: dict[str, Any]


def tasks(prompts: Sequence[str], count: int, seed: int, wishes: dict[str, Any]) -> Iterator[Task]:
    """``count`` pictures of each prompt: seeds ``seed``, ``seed`` + 1, …, or random ones for −1."""
    number = 0
    for prompt in prompts:
        for copy in range(count):
            number += 1
            yield Task(number, prompt, {**wishes, "seed": seed + copy if seed >= 0 else -1})


def draw(client: IllustriousAIClient, task: Task, retries: int, stopping: threading.Event) -> dict[str, Any]:
    """The studio's answer. A studio that is busy (429, or 503 with Retry-After) is asked again when it says so."""
    for attempt in range(retries + 1):
        try:
            return client.generate(task.prompt, **task.wishes)
        except ClientError as error:
            busy = error.status == 429 or (error.status in BUSY and error.retry_after is not None)
            if not busy or attempt == retries:
                raise
            wait = error.retry_after if error.retry_after is not None else 2.0**attempt
            if stopping.wait(min(wait, LONGEST_WAIT)):
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def save(folder: Path, task: Task, answer: dict[str, Any], seconds: float) -> Path:
    """Write the picture and its parameters under a name nobody has, and return the picture's path."""
    words = "-".join(re.findall(r"\w+", task.prompt.lower()))[:48].strip("-_") or "picture"
    image = answer.pop("image")
    for attempt in range(1, 10_000):
        name = f"{words}-{answer['seed']}" + (f"-{attempt}" if attempt > 1 else "")
        picture, beside = folder / f"{name}.png", folder / f"{name}.json"
        if beside.exists():
            continue
        with suppress(FileExistsError):
            with picture.open("xb") as stream:  # x: fails when there is one, also when it came a moment ago
                stream.write(image)
            facts = {
                "prompt": task.prompt,
                **task.wishes,
                **answer,  # the seed, size and model that were really used
                "file": picture.name,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(seconds, 3),
            }
            with beside.open("x", encoding="utf-8") as text:
                json.dump(facts, text, ensure_ascii=False, indent=2)
                text.write("\n")
            return picture
    raise OSError(f"{folder} has ten thousand pictures called {words} already; choose another --output.")


def read_prompts(file: str) -> list[str]:
    """One prompt a line, from a file or (``-``) standard input. Empty lines and those beginning with # are left out."""
    text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)[x×X](\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write WIDTHxHEIGHT, for example 64x64")
    return int(found[1]), int(found[2])


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 or more")
    return int(text)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description="Draw many pictures on a running studio.")
    result.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to draw")
    result.add_argument("--file", "-f", help="a file of prompts, one a line; - for standard input")
    result.add_argument("--count", type=at_least_one, default=1, help="pictures of each prompt (%(default)s)")
    result.add_argument("--steps", type=int, default=30, help="denoising steps (%(default)s)")
    result.add_argument("--guidance", type=float, default=7.5, help="how closely to follow the prompt (%(default)s)")
    result.add_argument("--seed", type=int, default=-1, help="seed of the first picture of each prompt; -1: random")
    result.add_argument("--negative", default="", help="what not to draw")
    result.add_argument("--size", type=size, metavar="WxH", help="in pixels; left out, the model's own")
    result.add_argument("--concurrency", type=at_least_one, default=2, help="requests at a time (%(default)s)")
    result.add_argument("--retries", type=int, default=5, help="attempts more when the studio is busy (%(default)s)")
    result.add_argument("--output", "-o", type=Path, default=Path("pictures"), help="folder to write to (%(default)s)")
    result.add_argument("--base-url", default="http://localhost:8000", help="where the studio is (%(default)s)")
    result.add_argument("--api-key", help="its API key, where it asks for one")
    return result


def ask() -> list[str]:
    """The arguments, from a person at a terminal."""
    print("1  a few ideas of ours\n2  write prompts\n3  prompts from a file\nq  quit")
    choice = input("> ").strip().lower()
    if choice == "1":
        chosen = list(IDEAS)
    elif choice == "2":
        print("One prompt a line; an empty line ends them.")
        chosen = list(iter(lambda: input("> ").strip(), ""))
    elif choice == "3":
        chosen = ["--file", input("File: ").strip()]
    else:
        return []
    count = input("Pictures of each [1]: ").strip() or "1"
    return ["--count", count, "--output", input("Folder [pictures]: ").strip() or "pictures", *chosen]


def run(options: argparse.Namespace, prompts: Sequence[str]) -> int:
    wishes: dict[str, Any] = {
        "steps": options.steps,
        "guidance": options.guidance,
        "negative_prompt": options.negative,
    }
    if options.size:
        wishes["width"], wishes["height"] = options.size
    todo = list(tasks(prompts, options.count, options.seed, wishes))
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (TextColumn("Drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    stopping = threading.Event()
    failed = 0

    def one(task: Task) -> Path:
        begun = time.perf_counter()
        answer = draw(client, task, options.retries, stopping)
        return save(options.output, task, answer, time.perf_counter() - begun)

    with IllustriousAIClient(options.base_url, api_key=options.api_key) as client:
        client.check_status()
        options.output.mkdir(parents=True, exist_ok=True)
        with Progress(*columns, console=console) as progress, ThreadPoolExecutor(options.concurrency) as pool:
            bar = progress.add_task("draw", total=len(todo))
            under_way = {pool.submit(one, task): task for task in todo}
            try:
                for future in as_completed(under_way):
                    try:
                        console.print(f"✅ {future.result()}", markup=False)
                    except (ClientError, OSError) as error:
                        failed += 1
                        console.print(f"❌ {under_way[future].prompt}: {error}", markup=False)
                    progress.advance(bar)
            except KeyboardInterrupt:
                stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                console.print("Stopping after the pictures under way …")
                raise
    print(f"{len(todo) - failed} of {len(todo)} pictures are in {options.output}.")
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a console that is not UTF-8 shows ? for ✅
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not given and sys.stdin.isatty():
            given = ask()
            if not given:
                return 0
        command = parser()
        options = command.parse_args(given)
        prompts = [*options.prompts, *(read_prompts(options.file) if options.file else ())]
        if not prompts:
            command.error("there is nothing to draw; give prompts, or --file with one prompt a line")
        return run(options, prompts)
    except (ClientError, OSError, UnicodeDecodeError) as error:
        print(f"❌ {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, EOFError):
        return 130


if __name__ == "__main__":
    sys.exit(main())
