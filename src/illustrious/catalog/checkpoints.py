"""Image checkpoints: single ``.safetensors`` files and folders in diffusers layout."""

from pathlib import Path


def checkpoints(folder: Path) -> dict[str, Path]:
    """The checkpoints in the folder and its subfolders by name (relative path, no suffix), in the order of names."""
    if not folder.is_dir():
        return {}
    folders = [index.parent for index in folder.rglob("model_index.json")]
    files = [
        file
        for file in folder.rglob("*.safetensors")
        if file.is_file() and not any(parent in folders for parent in file.parents)
    ]
    found = {path.relative_to(folder).as_posix().removesuffix(".safetensors"): path for path in (*files, *folders)}
    return dict(sorted(found.items()))


def choose(configured: str | None, folder: Path) -> Path | None:
    """The checkpoint to draw with: the configured path or name, else the first one found, else ``None``.

    A configured one that is not there is returned all the same: the engine says what is wrong with it.
    """
    if configured is None:
        return next(iter(checkpoints(folder).values()), None)
    path = Path(configured).expanduser()
    return path if path.exists() else checkpoints(folder).get(configured.removesuffix(".safetensors"), path)
