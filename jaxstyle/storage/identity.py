"""What makes two runs the same: settings, and the digests of every file."""

import dataclasses
from collections.abc import Mapping, Sequence

import tomli_w
from etils import epath

from jaxstyle.config import Config, FileError, flat, to_toml
from jaxstyle.storage.folders import damaged_config, read_config


@dataclasses.dataclass(frozen=True)
class Identity:
    """Everything that determines a run, and the origin of its inputs."""

    config: Config
    sha256: Mapping[str, Sequence[str]]
    """Digests of the files by role: content, style, weights, and init if that is a file."""
    content: str
    styles: Sequence[str]
    forked_from: str | None = None
    content_guide: str | None = None
    style_guides: Sequence[str] = ()

    def to_toml(self) -> str:
        """Return the text of config.toml, which `jaxstyle stylize --config` accepts unchanged."""
        run = {"content": self.content, "style": list(self.styles)}
        optional = {
            "content_guide": self.content_guide,
            "style_guide": list(self.style_guides),
            "forked_from": self.forked_from,
        }
        run |= {name: value for name, value in optional.items() if value}
        sha256 = {role: list(digests) for role, digests in self.sha256.items()}
        origin = tomli_w.dumps({"run": {**run, "sha256": sha256}})
        return f"{to_toml(self.config)}\n{origin}"


def check_same(folder: epath.PathLike, identity: Identity) -> None:
    """Raise `FileError` if the run in `folder` is another one; the message shows the difference."""
    changed = differences(folder, identity)
    if changed:
        raise FileError(
            f"{folder} is another run: {', '.join(changed.values())}; "
            f"name another --workdir, with --fork-from {folder} to start from its state"
        )


def differences(folder: epath.PathLike, identity: Identity) -> dict[str, str]:
    """Describe the differences of `identity` from the run in `folder`, by setting or role.

    Weights whose digest `identity` does not have yet are not compared.

    Raises:
        FileError: `folder` is not a run's, or its config.toml is damaged.
    """
    old = read_config(folder)
    try:
        digests = {role: list(given) for role, given in old.pop("run")["sha256"].items()}
    except (KeyError, TypeError, AttributeError):
        raise damaged_config(folder) from None
    new = flat(identity.config)
    changes = {
        name: f"{name} was {old.get(name, 'not given')}, now {new.get(name, 'not given')}"
        for name in {**old, **new}
        if old.get(name) != new.get(name) and not (name == "init" and "init" in digests)
    }
    unknown = {"weights"} - identity.sha256.keys()
    for role in {**digests, **identity.sha256}:
        if role not in unknown and digests.get(role, []) != list(identity.sha256.get(role, ())):
            changes[role] = f"{role} was another file"
    return changes
