"""Which battery of sanity checks is about which finding.

1. It has the finding's subject, in the finding's model and task.
2. The task is the same variant: every option of its family is what the finding's setting says, and the family's usual
   one where the setting says nothing. Which examples were drawn, and how many, is free.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

BATTERY = "investigations.battery"
"""The method whose results decide whether a finding may be called supported."""
SETTING = ("model", "task")
"""What a setting must say for a finding to be tested."""

Setting = Mapping[str, Any]
"""Names and numbers by name."""


@runtime_checkable
class Battery(Protocol):
    """What findings read of the result of a battery."""

    subject: str
    model: str
    task: str
    options: Mapping[str, str]
    usual: Mapping[str, str]

    @property
    def failed(self) -> tuple[str, ...]:
        """The checks that did not pass, each in words."""
        ...


def tests(battery: Battery, subject: str, setting: Setting) -> bool:
    """Whether a battery is about this subject in this setting."""
    about = (subject, *(str(setting.get(name)) for name in SETTING))
    same = about == (battery.subject, battery.model, battery.task)
    return same and not other_options(setting, battery.options, battery.usual)


def other_options(setting: Setting, options: Mapping[str, str], usual: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """In which options a task differs from that of a setting, which has the usual ones unless it says others.

    Args:
        setting: Of a finding.
        options: Of the task that is compared, as in `Task.options`.
        usual: Those of its family.

    Returns:
        Name -> what the setting means, what the task has.
    """
    meant = dict(usual) | {name: str(value) for name, value in setting.items()}
    return {name: (meant.get(name, "None"), value) for name, value in options.items() if meant.get(name) != value}
