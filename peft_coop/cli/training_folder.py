"""The output folder of `train`: where it works, and what it leaves there."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

WORK = "training"
SETTINGS = "settings.json"
MARK = {"written_by": "peft-coop train"}
CONFIG = "adapter_config.json"


class TrainingFolder:
    """Checkpoints below the output folder, and the adapter in it once it is learned.

    Nothing is removed but what `train` has written, and nothing is written over. Where a training ends before its first
    checkpoint, the place is left as it was.

    Args:
        output: for the adapter.
        settings: what a training that goes on must have in common with the one that was stopped, as JSON.

    Raises:
        ValueError: on entering, if the folder holds anything else, or the checkpoints of another training.
        BusyError: on entering, if another process trains there.
    """

    def __init__(self, output: Path, settings: dict[str, Any]):
        self.output = output
        self.work = output / WORK
        self.settings = settings
        self._open = ExitStack()
        self._made: Path | None = None  # the uppermost folder that was not there

    @property
    def adapter(self) -> Path:
        """Where to save the adapter, before `deliver`; its name is the card's title."""
        return self.work / "finished" / self.output.resolve().name

    def __enter__(self) -> TrainingFolder:
        from ..evaluation.folder_locks import locked

        self.check()
        self._made = next(
            (folder for folder in (*reversed(self.output.parents), self.output) if not folder.exists()), None
        )
        self._open.enter_context(locked(self.work))
        try:
            self._check_settings()
            (self.work / SETTINGS).write_text(json.dumps({**MARK, **self.settings}), encoding="utf-8")
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        nothing_to_keep = not self._checkpoints() and not self.adapter.exists()
        self._open.close()
        if nothing_to_keep:
            self._clean()

    def deliver(self) -> None:
        """Put the adapter into the output folder, and remove the checkpoints.

        Raises:
            ValueError: if one of its files has come to be there meanwhile; the adapter stays where it is.
        """
        files = sorted(self.adapter.iterdir(), key=lambda file: file.name == CONFIG)  # with it, the adapter is there
        for file in files:
            if (self.output / file.name).exists():
                raise ValueError(
                    f"{self.output / file.name} was written by someone else meanwhile and is left as it is; the "
                    f"adapter is in {self.adapter}."
                )
        for file in files:
            file.rename(self.output / file.name)
        for checkpoint in self._checkpoints():
            shutil.rmtree(checkpoint)
        self.adapter.rmdir()
        self.adapter.parent.rmdir()

    def check(self) -> None:
        """Refuse a folder that holds anything but an unfinished training; hidden files are nobody's concern.

        Raises:
            ValueError: names what it holds.
        """
        if not self.output.exists():
            return
        if not self.output.is_dir():
            raise ValueError(f"{self.output} is a file: give a folder as --output.")
        if (self.output / CONFIG).exists():
            raise ValueError(f"{self.output} already holds an adapter: give another --output, or remove it.")
        for entry in sorted(self.output.iterdir()):
            if not entry.name.startswith(".") and not (entry == self.work and self._is_ours()):
                raise ValueError(
                    f"{self.output} holds {entry.name!r}, which is of no unfinished training: give an --output that is "
                    "empty or not there yet."
                )

    def _is_ours(self) -> bool:
        from ..evaluation.folder_locks import LOCK

        if self.work.is_dir() and [entry.name for entry in self.work.iterdir()] == [LOCK]:
            return True  # killed before the settings were written
        try:
            found = json.loads((self.work / SETTINGS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(found, dict) and found.items() >= MARK.items()

    def _check_settings(self) -> None:
        """Refuse checkpoints of another training."""
        if not self._checkpoints():
            return
        found = json.loads((self.work / SETTINGS).read_text(encoding="utf-8"))
        name = next((name for name, value in self.settings.items() if found.get(name) != value), None)
        if name is None:
            return
        what = SAID.get(name, f"--{name.replace('_', '-')} {found.get(name)!r}, asked for is {self.settings[name]!r}")
        raise ValueError(
            f"{self.output} holds an unfinished training with {what}: give another --output, or remove it."
        )

    def _checkpoints(self) -> list[Path]:
        return [path for path in self.work.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]

    def _clean(self) -> None:
        """Remove what was made for the training, where nothing else has come into it."""
        from ..evaluation.folder_locks import LOCK

        for name in (SETTINGS, LOCK):
            (self.work / name).unlink(missing_ok=True)
        for folder in (self.work, *self._new_folders()):
            if any(folder.iterdir()):
                return
            folder.rmdir()

    def _new_folders(self) -> list[Path]:
        if self._made is None:
            return []
        return [folder for folder in (self.output, *self.output.parents) if folder.is_relative_to(self._made)]


# What differs where a setting is not an option, in words.
SAID = {
    "images": "other images or classes, as the data have changed since",
    "weights": "another model of this name, as its files have changed since",
}
