"""Uploading adapters with their model card."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from peft import PeftModel

from ..models.base_model_names import is_hub_id
from .handler import write_handler
from .model_card import eval_results


def push_adapters(
    model: PeftModel,
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: Sequence[str] | str | None = None,
    metrics: Mapping[str, Any] | None = None,
    dataset: str | None = None,
    handler: bool = False,
) -> CommitInfo:
    """Upload a model's adapters in one commit; the repository's card keeps what others wrote into it.

    Args:
        model: the model with the adapters.
        repo_id: "user/name", or "name" for a repository of one's own; made if it does not exist.
        commit_message: the commit's title.
        commit_description: its text.
        private: whether a new repository is private; None: as the account has it.
        token: the Hub's token; None: the one that `hf auth login` saved.
        revision: the branch to commit to, made if it does not exist; None: the main one.
        create_pr: open a pull request instead of committing.
        tags: more tags for the card.
        metrics: measured results for the card, as `trainer.evaluate()` returns them.
        dataset: what they were measured on.
        handler: also upload `handler.py`, by which an inference endpoint serves the adapter, see `write_handler`.

    Returns:
        The commit, with its `commit_url`.

    Raises:
        ValueError: if a metric is no number, or an endpoint could not serve the adapter.
    """
    eval_results(metrics or {})  # a wrong metric leaves the Hub alone
    api = HfApi(token=token, library_name="peft-coop")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model.save_pretrained(folder)
        forget_base_path(root)
        if handler:
            write_handler(root)

        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/pr") and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        # The card on the Hub is the one that people edit; ours, just saved, only knows this machine.
        (root / "README.md").unlink(missing_ok=True)
        if api.file_exists(repo_id, "README.md", revision=revision):
            shutil.copy(api.hf_hub_download(repo_id, "README.md", revision=revision), root / "README.md")
        model.create_or_update_model_card(root, metrics=metrics, dataset=dataset, repo_id=repo_id, tags=tags)

        files = sorted(path for path in root.rglob("*") if path.is_file())
        return api.create_commit(
            repo_id,
            [CommitOperationAdd(path.relative_to(root).as_posix(), path) for path in files],
            commit_message=commit_message or "Upload adapter",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )


def forget_base_path(root: Path) -> None:
    """Take the base model out of the saved configs where it is a path: it is private, and leads nowhere elsewhere."""
    for path in root.rglob("adapter_config.json"):
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not is_hub_id(settings["base_model_name_or_path"]):
            settings["base_model_name_or_path"] = None
            path.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
