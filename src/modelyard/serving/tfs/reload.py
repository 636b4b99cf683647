"""ModelServerConfig, as HandleReloadConfigRequest sends it, to version policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelyard.domain.errors import InvalidInput, Rejected
from modelyard.domain.services import VersionPolicy


def policies_of(config: Any, repository: str | None) -> dict[str, VersionPolicy]:
    """The policy of each model of a config. Models that it leaves out are not served any more.

    Clients never choose paths: `base_path` is empty, or where the model is anyway. Raises InvalidInput, Rejected (also
    where the replica has no repository: then clients control no models).
    """
    if repository is None:
        raise Rejected(
            "models are not controlled by clients here",
            why="the replica has no model repository",
            hint="start it with `repository` in its spec",
        )
    if config.WhichOneof("config") != "model_config_list":
        raise InvalidInput(
            "ModelServerConfig must have a model_config_list", hint="custom_model_config is not supported"
        )
    models = config.model_config_list.config
    policies: dict[str, VersionPolicy] = {}
    for model in models:
        if not model.name:
            raise InvalidInput("Illegal setting config.model_config_list: a model has no name")
        if model.name in policies:
            raise InvalidInput(f"Illegal to list model {model.name} multiple times in config list")
        _check_path(model, repository)
        policies[model.name] = _policy(model)
    return policies


def _check_path(model: Any, repository: str) -> None:
    given = model.base_path.rstrip("/")
    if given in ("", repository.rstrip("/"), str(Path(repository) / model.name)):
        return
    raise Rejected(
        f"model {model.name} cannot be loaded from '{model.base_path}'",
        why="clients do not choose paths",
        hint="leave base_path empty; models come from the replica's repository",
    )


def _policy(model: Any) -> VersionPolicy:
    policy = model.model_version_policy
    labels = {name: int(version) for name, version in model.version_labels.items()}
    match policy.WhichOneof("policy_choice"):
        case "all":
            return VersionPolicy(labels=labels)
        case "specific":
            if not policy.specific.versions:
                raise InvalidInput(f"the specific version policy of model {model.name} names no version")
            return VersionPolicy(versions=tuple(policy.specific.versions), labels=labels)
        case _:
            return VersionPolicy(latest=policy.latest.num_versions or 1, labels=labels)
