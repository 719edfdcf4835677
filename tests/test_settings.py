"""Settings: four sources, one winner each, and no silence about a wrong name."""

from pathlib import Path

import pytest

from illustrious.errors import CannotStart
from illustrious.settings import Settings, load


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    import os

    for name in [name for name in os.environ if name.upper().startswith("ILLUSTRIOUS_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.setenv("ILLUSTRIOUS_DATA_DIR", str(tmp_path))
    return tmp_path


def test_every_source_beats_the_one_below_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "studio.toml").write_text('port = 1\nhost = "::1"\nthreads = 3\n')
    monkeypatch.setenv("ILLUSTRIOUS_PORT", "2")
    monkeypatch.setenv("ILLUSTRIOUS_HOST", "127.0.0.2")
    effective = load({"port": 4, "fake": None})
    assert (effective.settings.port, effective.origins["port"]) == (4, "command line")
    assert (effective.settings.host, effective.origins["host"]) == ("127.0.0.2", "ILLUSTRIOUS_HOST")
    assert (effective.settings.threads, effective.origins["threads"]) == (3, str(tmp_path / "studio.toml"))
    assert (effective.settings.fake, effective.origins["fake"]) == (False, "default")


def test_lists_are_words_between_commas_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ILLUSTRIOUS_ALLOWED_HOSTS", "studio.example, art.example")
    assert load().settings.allowed_hosts == ("studio.example", "art.example")


def test_ollama_host_is_understood_but_our_own_name_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    assert load().settings.ollama_host == "127.0.0.1:9"
    assert load().origins["ollama_host"] == "OLLAMA_HOST"
    monkeypatch.setenv("ILLUSTRIOUS_OLLAMA_HOST", "http://other:1")
    assert load().settings.ollama_host == "http://other:1"


def test_an_unknown_name_is_refused_with_the_nearest_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ILLUSTRIOUS_PROT", "1")
    with pytest.raises(CannotStart, match=r"'prot'.*ILLUSTRIOUS_PROT.*Did you mean port\?"):
        load()
    monkeypatch.delenv("ILLUSTRIOUS_PROT")
    (tmp_path / "studio.toml").write_text("colour = 'red'")
    with pytest.raises(CannotStart, match=r"studio\.toml"):
        load()


@pytest.mark.parametrize(
    ("content", "words"),
    [("port='many'", "port"), ("port =", "cannot be read"), ("data_dir='/x'", "cannot move it"), ("port=-1", "port")],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "studio.toml").write_text(content)
    with pytest.raises(CannotStart, match=words):
        load()


def test_a_model_path_in_the_file_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes(b"")
    (tmp_path / "studio.toml").write_text('model = "mine.safetensors"')
    assert load().settings.model == str(tmp_path / "mine.safetensors")


def test_the_key_is_not_shown_by_accident() -> None:
    assert "hush" not in repr(load({"api_key": "hush-hush"}).settings)


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_folders_of_models_in_the_file_are_relative_to_the_file_too(tmp_path: Path) -> None:
    (tmp_path / "studio.toml").write_text('models_dirs = ["../webui", "/mnt/comfy"]')
    assert load().settings.models_dirs == (str(tmp_path / "../webui"), str(Path("/mnt/comfy")))
