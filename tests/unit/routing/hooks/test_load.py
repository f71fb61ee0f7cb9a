"""A worker imports the hooks that its settings name, or says why it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.repository import ROOT

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.load import hook_settings
from tokenlane.config.settings.values import HookSetting, HookSettings
from tokenlane.routing.hooks.functions import NO_HOOKS
from tokenlane.routing.hooks.load import load_hooks
from tokenlane.routing.watch.doctor import examine_hooks

MODULES = {
    "raising_at_import": "raise KeyError('xyzzy')",
    "exiting_at_import": "raise SystemExit('xyzzy')",
    "wrong_syntax": "def hook(:",
    "needing_another": "import no_such_module_anywhere",
    "classes": "class Hook:\n    @staticmethod\n    def each(delta):\n        return delta",
    "coroutines": "async def hook(delta):\n    return delta",
}


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of a user, and those of docs/examples, that can be imported."""
    for name, code in MODULES.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")


def settings_of(name: str) -> HookSettings:
    return HookSettings(token=HookSetting(name, "llm.toml:7"))


def test_hooks_are_imported() -> None:
    """Also methods of classes. Without settings there are none."""
    both = HookSettings(HookSetting("filters:mask_keys", "a"), HookSetting("filters:add_rules", "b"))
    hooks = load_hooks(both)
    assert hooks.token is not None
    assert hooks.token.__qualname__ == "mask_keys"
    assert hooks.request is not None
    assert load_hooks(settings_of("classes:Hook.each")).token is not None
    assert load_hooks(HookSettings()) == NO_HOOKS
    assert [finding.severity for finding in examine_hooks(both)] == ["ok"]
    assert list(examine_hooks(HookSettings())) == []


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("no_such_module:hook", "PYTHONPATH"),
        ("no_such_module.sub:hook", "PYTHONPATH"),
        ("filters.sub:hook", "filters"),
        ("needing_another:hook", "'no_such_module_anywhere'"),
        ("raising_at_import:hook", "KeyError in line 1 of raising_at_import.py"),
        ("exiting_at_import:hook", "SystemExit"),
        ("wrong_syntax:hook", "SyntaxError"),
        ("filters:no_such_function", "'no_such_function'"),
        ("filters:KEY", "Pattern"),
        ("classes:Hook", "class"),
        ("coroutines:hook", "coroutine"),
    ],
)
def test_a_hook_that_cannot_be_used(name: str, fact: str) -> None:
    """The message names the setting and what is wrong. `doctor` reports it, too."""
    with pytest.raises(ConfigError, match=fact) as raised:
        load_hooks(settings_of(name))
    assert str(raised.value).startswith("llm.toml:7: ")
    assert "xyzzy" not in str(raised.value)
    (finding,) = examine_hooks(settings_of(name))
    assert (finding.code, finding.severity, finding.observed) == ("hooks", "fail", str(raised.value))


@pytest.mark.parametrize("name", ["filters", "filters.mask_keys", "filters:", ":f", "a b:c", "a:b()", "../a:b"])
def test_the_form_of_a_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is checked with the other settings, by every verb."""
    file = tmp_path / "llm.toml"
    file.write_text(f'[advanced]\ntoken_hook = "{name}"\n')
    monkeypatch.setenv("TOKENLANE_CONFIG", str(file))
    with pytest.raises(ConfigError, match=r"advanced\.token_hook"):
        hook_settings()
