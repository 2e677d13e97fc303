"""Publishing on the Hub: a model, or a folder that :func:`~convzoo.weights.publish.save_pretrained` wrote."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._checks import check_bool, check_text, did_you_mean, shorten
from ..models import Classifier
from . import client
from .cache import check_revision, is_commit
from .entries import FILE_NAME, OWNER
from .errors import WeightsNotFound
from .files import reading
from .find import CONFIG_NAME, find_path
from .publish import CARD_NAME, LOG_NAME, save_pretrained
from .transfer import user_agent

UPLOADED = [FILE_NAME, CONFIG_NAME, CARD_NAME, LOG_NAME]
LATER = "set HF_ENDPOINT to another server"


def push_to_hub(
    source: Classifier | str | os.PathLike[str],
    repo_id: str | None = None,
    *,
    token: str | bool | None = None,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    **saved: Any,
) -> str:
    """Publish a model, or a folder that :func:`save_pretrained` wrote, on the Hub.

    The repository is made if it is not there. What is there unchanged is not uploaded, and if nothing changed no
    commit is made.

    Args:
        source: the model, or the folder.
        repo_id: ``owner/name``; the one that the folder or ``tag=`` names by default.
        token: of an account that may write there; None or True: the one logged in.
        private: make a new repository private.
        revision: the branch to commit to, made from the main one if it is not there; the main one by default.
        create_pr: propose the commit as a pull request instead; for repositories that others own.
        message: of the commit.
        **saved: for a model, the arguments of :func:`save_pretrained`; none for a folder.

    Returns:
        The hash of the commit that the files are in, to pin.

    Raises:
        TypeError: an unknown argument, or one of another kind.
        WeightsForbidden: no token, or one that may not write there.
        WeightsUnavailable: the Hub cannot be reached.
        WeightsError: the folder is not sound.
        ValueError: a malformed token or branch, or the Hub refuses the model card.

    Example:
        >>> import convzoo
        >>> model = convzoo.create_model("lenet5", pretrained=True)
        >>> convzoo.push_to_hub(model, "you/lenet5.mnist")  # doctest: +SKIP
    """
    _check_saved(source, saved)
    token = client.check_token(token)
    branch = None if revision is None else _check_branch(revision)
    check_bool("private", private)
    check_bool("create_pr", create_pr)
    if repo_id is not None:
        check_text("repo_id", repo_id, empty=False)
    if message is not None:
        check_text("message", message, empty=False)
    if not isinstance(source, Classifier):
        return _push(Path(source), repo_id, token, private, branch, create_pr, message)
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_pretrained(source, Path(temporary) / "model", repo_id=repo_id, **saved)
        return _push(folder, repo_id, token, private, branch, create_pr, message)


def _check_saved(source: object, saved: dict[str, Any]) -> None:
    """Refuse arguments that nothing would read, before anything is written or asked."""
    if not isinstance(source, (Classifier, str, os.PathLike)):
        raise TypeError(f"source must be a model of the zoo or a folder, got {type(source).__name__}; pass one of them")
    own = [name for name in inspect.signature(push_to_hub).parameters if name not in ("source", "saved")]
    described = [name for name in inspect.signature(save_pretrained).parameters if name not in ("model", "folder")]
    for name in saved:
        if name not in described:
            hint = did_you_mean(name, [*own, *described])
            raise TypeError(
                f"push_to_hub has no argument {shorten(name)}; {hint}its arguments are {', '.join(own)}, "
                f"and for a model {', '.join(described)}"
            )
        if not isinstance(source, Classifier):
            raise TypeError(
                f"{name}= describes a model, and a folder is described already; pass it to save_pretrained when the "
                "folder is written"
            )


def _check_branch(revision: str) -> str:
    check_text("revision", revision, empty=False)
    try:
        check_revision(revision)
    except WeightsNotFound as error:
        raise ValueError(f"{error}") from None
    if is_commit(revision):
        raise ValueError("revision must be a branch, got a commit, which cannot change; pass the name of a branch")
    return revision


def _push(
    folder: Path,
    repo_id: str | None,
    token: str | bool | None,
    private: bool,
    branch: str | None,
    create_pr: bool,
    message: str | None,
) -> str:
    from huggingface_hub import HfApi

    info = find_path(folder).info
    if info is None:
        raise WeightsNotFound(f"the folder {folder} has no {CONFIG_NAME}; write it with save_pretrained")
    folder = folder.expanduser()
    for path in (folder / name for name in UPLOADED):
        if path.is_file():
            with reading(path), path.open("rb"):
                pass
    target = repo_id or f"{OWNER}/{info.name}"
    client.check_stored_token(token)
    client.close_in_forks()
    about = user_agent()
    api = HfApi(token=token, **about)

    def upload() -> str:
        api.create_repo(target, exist_ok=True, private=private)
        if branch is not None and not create_pr and not branch.startswith("refs/"):
            api.create_branch(target, branch=branch, exist_ok=True)
        commit = api.upload_folder(
            repo_id=target,
            folder_path=folder,
            allow_patterns=UPLOADED,
            commit_message=message or f"{info.name}, by convzoo {about['library_version']}",
            revision=branch,
            create_pr=create_pr,
        )
        return str(commit.oid)

    return _in_our_words(upload, f"publishing {client.shorten_name(target)}", token)


def _in_our_words(upload: Callable[[], str], what: str, token: str | bool | None) -> str:
    try:
        return upload()
    except Exception as error:  # the client lets errors of its HTTP library through
        problem: Exception = client.translate_error(error, what, token, LATER)
        if type(error) is ValueError:  # the client's word for a model card that the Hub does not take
            problem = ValueError(f"{what}: {client.mask(str(error), client.secret(token))}")
    raise problem
