"""Documents that can fail: what they show is run, what they list is compared, what they link to is there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from fastapi.routing import APIRoute
from PIL import Image
from pydantic import BaseModel
from starlette.routing import Route
from typer.core import TyperCommand, TyperGroup

from illustrious.api.jobs import JobBody
from illustrious.api.studio import ImageBody
from illustrious.app import create_app, open_studio
from illustrious.cli import app as cli
from illustrious.settings import PREFIX, Settings
from illustrious.types import Control, Hires, Lora, Outpaint
from tests.server import RunningStudio, bare_environment

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CONTRACT = ROOT / "tests" / "data" / "founding_contract.md"
DOCUMENTED_ADDRESS = "http://localhost:8000"


@dataclass(frozen=True)
class Block:
    """A fenced block of a document; ``line`` is where it begins."""

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def blocks(document: Path, *languages: str) -> list[Block]:
    found = []
    text = document.read_text(encoding="utf-8")
    for match in re.finditer(r"^( *)```(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        indent, language, content = match.groups()
        if language in languages:
            lines = [line.removeprefix(indent) for line in content.splitlines()]
            found.append(Block(document, text.count("\n", 0, match.start()) + 1, language, "\n".join(lines)))
    return found


API = ROOT / "docs" / "API.md"
TRIED = (CONTRACT, API, ROOT / "docs" / "jobs.md", ROOT / "README.md")
CURLS = [block for name in TRIED for block in blocks(name, "bash", "") if re.search("^curl ", block.text, re.MULTILINE)]
PYTHONS = [block for name in TRIED for block in blocks(name, "python")]
JAVASCRIPTS = blocks(CONTRACT, "javascript")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with the picture that examples look at."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "your_image.jpg")
    return tmp_path


def run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=bare_environment(folder, NO_PROXY="*", **environment),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_the_founding_contract_has_the_examples_it_is_known_for() -> None:
    assert len([block for block in CURLS if block.document == CONTRACT]) == 7
    assert len([block for block in PYTHONS if block.document == CONTRACT]) == 4
    assert len(JAVASCRIPTS) == 1


def curl_commands(block: Block) -> Iterator[str]:
    """The curl commands of a block, each of one or more lines; others are looked at elsewhere."""
    joined = re.sub(r"\\\n", " ", block.text)
    yield from re.findall(r"^curl (?:[^'\n]|'[^']*')*", joined, re.MULTILINE)


@pytest.fixture(scope="module")
def named(fake_server: RunningStudio) -> dict[str, str]:
    """What examples call ``$JOB`` and ``$IMAGE``."""
    body = {"prompt": "an apple", "seed": 1}
    with httpx.Client(base_url=fake_server.url, trust_env=False, timeout=60) as http:
        drawn = http.post("/generate-image", json=body)
        return {"JOB": drawn.headers["X-Job-Id"], "IMAGE": drawn.json()["image_id"]}


SHOWN = {
    "/models": "image",
    "/generate-image": "image_base64",
    "/chat": "response",
    "/gallery?": "items",
    "/gallery/scan": "added",
    "/replay": "identical",
    "/gallery/$": "prompt",
    "/jobs?": "items",
    "/jobs": "id",
    "/workers": "workers",
    "/health": "status",
    "/status": "status",
}
"""What the answer to an example must have, by a part of its command; the first that fits counts."""


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("block", CURLS, ids=str)
def test_curl_examples_succeed_as_written(
    block: Block, fake_server: RunningStudio, named: dict[str, str], here: Path
) -> None:
    commands = list(curl_commands(block))
    assert commands
    for command in commands:
        written = command.replace(DOCUMENTED_ADDRESS, fake_server.url)
        for name, value in named.items():
            written = written.replace(f"${name}", value)
        arguments = shlex.split(written)
        printed = run([*arguments, "--silent", "--show-error", "--fail-with-body"], here)
        if "-o" in arguments:
            assert (here / arguments[arguments.index("-o") + 1]).stat().st_size > 0
        elif "/events" in command:
            assert "event: result" in printed
        elif "/metrics" in command:
            assert "illustrious_queue_depth" in printed
        else:
            answer = json.loads(printed)
            wanted = next(field for part, field in SHOWN.items() if part in command)
            assert answer[wanted] is not None, answer


@pytest.mark.parametrize("block", PYTHONS, ids=str)
def test_python_examples_succeed_as_written(block: Block, fake_server: RunningStudio, here: Path) -> None:
    # A client of the default address finds the test's server there.
    code = block.text.replace("IllustriousAIClient()", f'IllustriousAIClient("{DOCUMENTED_ADDRESS}")')
    file = here / "example.py"
    file.write_text(code.replace(DOCUMENTED_ADDRESS, fake_server.url), encoding="utf-8")
    printed = run([sys.executable, str(file)], here)
    assert printed.strip(), "an example shows something"
    for name in re.findall(r"open\(['\"](\w+\.png)['\"], ['\"]wb['\"]\)", code):
        assert Image.open(here / name).format == "PNG"


AXIOS = ROOT / "examples" / "node" / "node_modules"


@pytest.mark.skipif(
    shutil.which("node") is None or not (AXIOS / "axios").is_dir(),
    reason="needs node, and axios: npm install --no-package-lock in examples/node",
)
@pytest.mark.parametrize("block", JAVASCRIPTS, ids=str)
def test_javascript_examples_succeed_as_written(block: Block, fake_server: RunningStudio, here: Path) -> None:
    file = here / "example.js"
    file.write_text(block.text.replace(DOCUMENTED_ADDRESS, fake_server.url), encoding="utf-8")
    printed = run(["node", str(file)], here, NODE_PATH=str(AXIOS))
    assert "Image saved as cyberpunk.png" in printed
    assert re.search(r"AI: Turn \d+: Hello, how are you\?", printed)
    assert Image.open(here / "cyberpunk.png").format == "PNG"


@pytest.mark.parametrize("block", [block for name in DOCUMENTS for block in blocks(name, "json")], ids=str)
def test_json_examples_are_json(block: Block) -> None:
    assert isinstance(json.loads(block.text), dict)


def test_answers_have_the_fields_that_are_documented(fake_server: RunningStudio, here: Path) -> None:
    """Each founding endpoint's first JSON example in docs/API.md has exactly the fields of a real answer."""
    from illustrious.client import IllustriousAIClient

    examples = [json.loads(block.text) for block in blocks(API, "json")]

    def documented(field: str) -> list[set[str]]:
        return [set(example) for example in examples if field in example]

    with IllustriousAIClient(fake_server.url) as client:
        status = client.check_status()
        assert documented("gpu_backend") == [set(status)]
        (example,) = [example for example in examples if "backends" in example]
        for name, backend in status["backends"].items():
            assert set(example["backends"][name]) == set(backend)
        drawn = client.generate("a cat", steps=10)
        assert documented("image_id") == [(set(drawn) - {"image"}) | {"image_base64"}]
        said = client.chat("hello", "documented")
        drawn_in_chat = client.chat("#generate a cat", "documented")
        assert documented("response") == [set(said), set(drawn_in_chat)]


def test_jobs_pictures_and_workers_have_the_fields_that_are_documented(
    fake_server: RunningStudio, named: dict[str, str]
) -> None:
    examples = [json.loads(block.text) for block in blocks(API, "json")]
    with httpx.Client(base_url=fake_server.url, trust_env=False, timeout=60) as http:
        real = [
            http.post("/jobs", json={"prompt": "an apple"}).json(),
            http.get(f"/jobs/{named['JOB']}").json(),
            http.get(f"/gallery/{named['IMAGE']}").json(),
            http.post(f"/gallery/{named['IMAGE']}/replay").json(),
            http.post("/gallery/scan").json(),
            http.get("/models").json(),
            http.get("/workers").json(),
        ]
    for answer in real:
        assert set(answer) in [set(example) for example in examples], answer
    (workers,) = [example["workers"] for example in examples if "workers" in example]
    assert [set(worker) for worker in workers] == [set(real[-1]["workers"][0])]
    (models,) = [example for example in examples if "lora" in example]
    for kind in ("image", "chat"):
        assert [set(card) for card in models[kind]] == [set(real[-2][kind][0])]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table(document: Path, header: str) -> list[list[str]]:
    """The rows of the table whose header line begins with ``header``."""
    lines = iter(document.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.startswith(f"| {header}"):
            next(lines)
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    return rows
                rows.append(cells(row))
            return rows
    raise AssertionError(f"{document.name} has no table {header!r}")


REQUESTS: dict[str, type[BaseModel]] = {
    "asked with": ImageBody,
    "of `loras`": Lora,
    "of `control`": Control,
    "of `hires`": Hires,
    "of `outpaint`": Outpaint,
}
"""Table of docs/API.md → what it lists the fields of."""


def limits(schema: Any) -> Iterator[str]:
    """Every bound and choice in a field's schema."""
    for key, value in schema.items():
        if key in ("minimum", "maximum", "multipleOf", "minLength", "maxLength", "maxItems"):
            yield str(int(value))
        elif key == "enum":
            yield from value
        elif key == "anyOf":
            for one in value:
                yield from limits(one)


@pytest.mark.parametrize(("header", "noun"), REQUESTS.items(), ids=list(REQUESTS))
def test_every_field_of_a_request_is_listed_with_its_default_and_range(header: str, noun: type[BaseModel]) -> None:
    schema = noun.model_json_schema()
    rows = {tuple(re.findall(r"`(\w+)`", row[0])): row for row in table(API, header)}
    assert list(chain(*rows)) == list(noun.model_fields)
    for names, (_, _, default, range_, meaning) in rows.items():
        fields = [schema["properties"][name] for name in names]
        if set(names) & set(schema.get("required", ())):
            assert default == "required"
        else:
            values = ["null" if one["default"] is None else f"`{json.dumps(one['default'])}`" for one in fields]
            assert default == ", ".join(dict.fromkeys(values)), names
        for field in fields:
            assert set(limits(field)) <= set(re.findall(r"-?\w+", range_)), names
        assert meaning


def test_every_kind_of_picture_has_an_example_that_is_accepted() -> None:
    examples = [json.loads(block.text) for block in blocks(API, "json")]
    asked = [example for example in examples if "prompt" in example and "id" not in example]
    for example in asked:
        assert JobBody.model_validate(example).unknown_fields() == []
    shown = {name for example in asked for name in example}
    assert {"init_image", "mask", "outpaint", "hires", "loras", "control", "count", "model", "vae"} <= shown


def default_of(name: str) -> str:
    if name == "data_dir":
        return "the platform's user data folder"
    value = Settings.model_fields[name].default
    if value is None or value == ():
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_the_settings_table_is_the_settings() -> None:
    expected = [
        [f"`{name}`", f"`{PREFIX}{name.upper()}`", default_of(name), field.description]
        for name, field in Settings.model_fields.items()
    ]
    assert table(ROOT / "CLAUDE.md", "setting | environment") == expected


def test_the_route_list_is_the_routes(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, fake=True)
    with open_studio(settings) as studio:
        app = create_app(settings, studio)
    served = {
        f"{method} {route.path}" for route in walk(app.routes) for method in route.methods or () if method != "HEAD"
    }
    in_openapi = {f"{method.upper()} {path}" for path, item in app.openapi()["paths"].items() for method in item}
    documented = {row[0].strip("`") for row in table(API, "route")}
    assert in_openapi <= served
    assert documented == served


def test_the_arrows_shown_are_the_arrows_checked() -> None:
    """Layers in brackets are those not yet built."""
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = next(
        contract["layers"]
        for contract in configuration["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    built = [
        [name.removeprefix("illustrious.") for name in layer.split(" | ") if not name.startswith("(")]
        for layer in layers
    ]
    (shown,) = [block for block in blocks(ROOT / "CLAUDE.md", "") if block.text.startswith("cli →")]
    assert [layer.split(" | ") for layer in re.split(r"\s*→\s*", shown.text)] == [layer for layer in built if layer]
    drawing = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for layer in built:
        assert " │ ".join(layer) in drawing


def walk(routes: object) -> Iterator[Route | APIRoute]:
    for route in routes:  # type: ignore[attr-defined]
        if isinstance(route, Route | APIRoute):
            yield route
        elif inner := getattr(getattr(route, "original_router", route), "routes", None):
            yield from walk(inner)


def shell_lines(document: Path) -> Iterator[tuple[Block, str]]:
    for block in blocks(document, "", "bash", "sh"):
        for line in re.sub(r"\\\n", " ", block.text).splitlines():
            if re.match(r"(python|illustrious|git|cd|pip|ollama|npm|node) ", line):
                yield block, line
    for number, row in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        for span in re.findall(r"`((?:python main\.py|illustrious) [^`]+)`", row):
            yield Block(document, number, "", span), span


COMMANDS = [(str(block), line) for document in DOCUMENTS for block, line in shell_lines(document)]


def check_against(group: TyperGroup, words: list[str]) -> None:
    """Every verb and option of the words exists, and nothing is left over."""
    command: TyperGroup | TyperCommand = group
    while isinstance(command, TyperGroup):
        assert words, "a verb is missing"
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        command = command.commands[words.pop(0)]
    if not command.ignore_unknown_options:
        command.make_context(command.name, words)  # parses, and raises UsageError for what does not exist


@pytest.mark.parametrize(("where", "line"), COMMANDS, ids=[f"{where} {line[:40]}" for where, line in COMMANDS])
def test_commands_exist_with_the_options_shown(
    where: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "apple.png").write_bytes(b"")
    words = shlex.split(line, comments=True)
    program = words.pop(0)
    if program == "illustrious" or words[:1] == ["main.py"]:
        words = words[1:] if program == "python" else words
        if not words or words[0].startswith("-"):
            words = ["serve", *words]
        check_against(typer.main.get_group(cli), words)
    elif program == "python":
        assert find_spec(words[1]) if words[0] == "-m" else (ROOT / words[0]).is_file()
    elif program == "pip":
        assert words[0] == "install"
    else:
        assert program in {"git", "cd", "ollama", "npm", "node"}


def test_every_command_is_in_the_table_of_commands() -> None:
    rows = table(ROOT / "CLAUDE.md", "command")
    shown = {re.sub(r"^`python main\.py ?|`$", "", row[0]).split(" ")[0] for row in rows}
    assert shown == {""} | set(typer.main.get_group(cli).commands) - {"serve", "version"}


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        assert file.exists(), f"{document.name} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(file), f"{document.name} links to {target}, a heading that is not there"


def test_what_the_founding_contract_links_to_is_there() -> None:
    """It lay in docs/; it names these files."""
    text = CONTRACT.read_text(encoding="utf-8")
    examples = ("examples/api_examples/test_api.py", "examples/api_examples/batch_generate.py")
    for name in (*examples, "CLAUDE.md", "main.py"):
        assert name.rpartition("/")[2] in text
        assert (ROOT / name).is_file()


def test_the_readme_begins_with_the_quick_start() -> None:
    """Two commands after the clone, within the first twenty lines."""
    first = blocks(ROOT / "README.md", "")[0]
    assert first.line < 20
    assert first.text.splitlines()[-1] == "python main.py"
    assert len(first.text.splitlines()) <= 3


@pytest.mark.parametrize("name", ["README.md", "docs/architecture.md"])
def test_every_file_of_a_tree_exists(name: str) -> None:
    (tree,) = [block for block in blocks(ROOT / name, "") if "\nsrc/illustrious/\n" in block.text]
    folders = {0: ROOT}  # by the indentation of what is in them
    for line in tree.text.splitlines():
        names = re.split(" {3,}", line.strip())[0].split()
        indent = len(line) - len(line.lstrip())
        for word in names:
            path = folders[indent] / word
            assert path.exists(), f"{name} shows {word} in {folders[indent].name}, which is not there"
            if path.is_dir():
                folders[indent + 2] = path


def test_the_architecture_leaves_no_file_out() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "illustrious"
    folders = [package, *(package / name for name in ("api", "chat", "vision", "jobs", "images", "images/diffusion"))]
    files = [file for folder in folders for file in folder.glob("*.py") if not file.name.startswith("__")]
    assert [str(file.relative_to(package)) for file in files if file.name not in text] == []


def test_the_engines_tree_has_each_of_its_files_once() -> None:
    (tree,) = [block for block in blocks(ROOT / "docs" / "engine.md", "") if ".py" in block.text]
    folder = ROOT / tree.text.splitlines()[0]
    files = [file.name for file in folder.glob("*.py") if file.name != "__init__.py"]
    assert sorted(re.findall(r"\w+\.py", tree.text)) == sorted(files)


@pytest.mark.parametrize("document", [*DOCUMENTS, CONTRACT], ids=lambda path: path.name)
def test_documents_are_utf8_with_plain_line_ends(document: Path) -> None:
    data = document.read_bytes()
    data.decode("utf-8")
    assert os.linesep.encode() == b"\r\n" or b"\r" not in data
