"""The verb `inspect_policies`: which families can be converted, and how."""

from typing import Any

from pydantic import BaseModel

from alibi_cli.models.families import family_policies, policy_names, verified_against
from alibi_cli.models.plugins import load_plugins
from alibi_cli.progress import Watch, notes
from alibi_cli.settings.keywords import takes_settings
from alibi_cli.settings.looking import PoliciesSettings
from alibi_cli.settings.presets import settings_of


class PolicyRow(BaseModel):
    """What a policy does to one module class of a family. policy: the function; origin: where it is written, file:line."""

    family: str
    policy_name: str
    module: str
    policy: str
    origin: str
    verified_against: str


@takes_settings(PoliciesSettings)
def inspect_policies(*, progress: Watch | None = None, **settings: Any) -> list[PolicyRow]:
    """The registered policies, by family.

    Args:
        progress: is called with each `Progress`.
        settings: see `PoliciesSettings`.
    """
    return run_inspect_policies(settings_of(PoliciesSettings, settings), progress)


def run_inspect_policies(settings: PoliciesSettings, progress: Watch | None = None) -> list[PolicyRow]:
    """`inspect_policies`, by settings."""
    load_plugins(settings.plugin, notes(progress))
    found = [
        PolicyRow(
            family=family,
            policy_name=name,
            module=module,
            policy=policy,
            origin=origin,
            verified_against=verified_against(family, name),
        )
        for name in policy_names()
        for family, rows in family_policies(name).items()
        for module, policy, origin in rows
    ]
    return sorted(found, key=lambda row: row.family)
