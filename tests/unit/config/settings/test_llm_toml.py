"""What llm.toml may say, how wrong settings are told, and which layer wins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tokenlane.config.exit_codes import USAGE, ConfigError
from tokenlane.config.host.pool_key_files import PoolKey, write_key_file
from tokenlane.config.settings import schema
from tokenlane.config.settings.environment import take_command_line
from tokenlane.config.settings.load import (
    configured_model_servers,
    configured_redis,
    find_pool,
    lane_options,
    lane_settings,
    pool_name,
    pool_settings,
    provider_and_model,
    read,
)
from tokenlane.config.settings.merged import Setting

SEED = """\
[defaults]
provider = "ollama"
model    = "phi3:4b-instruct"
[ollama]
endpoint = "http://localhost:11434"
timeout_ms = 80000
[vllm]
endpoint = "http://localhost:8000"
max_input_tokens = 8192
"""

LANES = """\
[defaults]
provider = "ollama"
model = "phi3"
[redis]
url = "redis://gpu-hub:6379"
pool = "blue"
key_file = "pool.key"
[openai]
endpoint = "https://api.openai.com"
api_key_env = "OPENAI_KEY"
token_timeout_ms = 1500
[lanes.gpu0]
capacity = 4
first_token_timeout_ms = 2000
[lanes.gpu1]
provider = "openai"
models = ["a", "b"]
connect_timeout_ms = 250
[lanes.near]
provider = "openai"
endpoint = "http://gpu7:8000"
"""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder to work in, and an environment that says nothing; changes to it end with the test."""
    for name in os.environ:
        if name.startswith("TOKENLANE_"):
            monkeypatch.delenv(name)
    for name in ("TOKENLANE_CONFIG", "TOKENLANE_LLM"):  # remembered, so that what a test leaves is removed
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setenv("TOKENLANE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "llm.toml") -> Path:
    file = Path(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def test_the_seed_makes_one_lane() -> None:
    """Without [lanes], [defaults] makes one lane, from its provider's section; the rest is default."""
    write(SEED)
    lane = lane_settings()
    assert (lane.provider, lane.models) == ("ollama", ("phi3:4b-instruct",))
    assert (lane.endpoint, lane.total_timeout_s) == ("http://localhost:11434", 80.0)
    assert (lane.capacity, lane.max_input_tokens, lane.first_token_timeout_s) == (None, None, 300.0)
    assert lane.name.endswith("-ollama")


def test_llm_chooses_another_provider_and_model() -> None:
    """`--llm provider=vllm model=phi3:8b` makes the lane one of the other provider, with that provider's section."""
    write(SEED)
    take_command_line(llm=["provider=vllm", "model=phi3:8b"])
    lane = lane_settings()
    assert (lane.provider, lane.models, lane.max_input_tokens) == ("vllm", ("phi3:8b",), 8192)
    assert (lane.endpoint, lane.total_timeout_s) == ("http://localhost:8000", 3600.0)


def test_the_order_of_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option wins over --llm, that over the environment, that over the file, that over the default."""
    write(SEED)
    assert lane_settings().total_timeout_s == 80
    monkeypatch.setenv("TOKENLANE_OLLAMA__TIMEOUT_MS", "70000")
    assert lane_settings().total_timeout_s == 70
    take_command_line(llm=["ollama.timeout_ms=60000"])
    assert lane_settings().total_timeout_s == 60
    take_command_line(llm=["ollama.timeout_ms=60000", "timeout_ms=50000", "endpoint=http://a"])
    assert lane_settings().total_timeout_s == 50
    monkeypatch.setenv("TOKENLANE_ENDPOINT", "http://b")
    assert lane_settings().endpoint == "http://a"
    assert lane_settings(endpoint="http://c").endpoint == "http://c"


def test_where_the_file_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """--config wins over TOKENLANE_CONFIG, that over ./llm.toml, that over the user's own."""
    write('[redis]\npool = "users"', "xdg/tokenlane/llm.toml")
    assert pool_name() == "users"
    write('[redis]\npool = "here"')
    assert pool_name() == "here"
    write('[redis]\npool = "variable"', "v.toml")
    monkeypatch.setenv("TOKENLANE_CONFIG", "v.toml")
    assert pool_name() == "variable"
    write('[redis]\npool = "option"', "o.toml")
    take_command_line(config=Path("o.toml"))
    assert pool_name() == "option"


def test_a_file_that_is_named_must_be_there() -> None:
    """A named file that is not there is wrong configuration, not silence."""
    write(SEED)
    take_command_line(config=Path("nix.toml"))
    with pytest.raises(ConfigError, match=r"nix\.toml"):
        lane_settings()


def test_lanes_of_the_file() -> None:
    """A lane is its own section, then its provider's; the model of [defaults] is for lanes of its provider."""
    write(LANES)
    gpu0 = lane_settings(lane="gpu0")
    assert (gpu0.provider, gpu0.models, gpu0.capacity, gpu0.first_token_timeout_s) == ("ollama", ("phi3",), 4, 2.0)
    near = lane_settings(lane="near")
    assert (near.provider, near.models, near.endpoint, near.token_timeout_s) == ("openai", (), "http://gpu7:8000", 1.5)


def test_a_key_goes_to_its_own_endpoint_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The api_key_env of a provider's section is not used by a lane, or a command line, with another endpoint."""
    write(LANES)
    monkeypatch.setenv("OPENAI_KEY", "sesame")
    own = lane_settings(lane="gpu1").api_key
    assert own is not None
    assert own.get_secret_value() == "sesame"
    assert lane_settings(lane="near").api_key is None
    assert lane_settings(lane="gpu1", endpoint="http://elsewhere").api_key is None
    given = lane_settings(lane="gpu0", provider="openai").api_key
    assert given is not None


HOSTED = """\
[openai]
endpoint = "https://a"
api_key_env = "OPENAI_KEY"
[lanes.own]
provider = "openai"
endpoint = "https://b"
api_key_env = "OWN_KEY"
[lanes.shared]
provider = "openai"
[lanes.half]
provider = "openai"
api_key_env = "HALF_KEY"
"""


@pytest.mark.parametrize(
    ("lane", "section", "key"),
    [
        ("own", "lanes.own", "own"),
        ("shared", "openai", "openai"),
        ("half", "openai", "half"),
        ("half", "lanes.half", "half"),
    ],
)
@pytest.mark.parametrize("by", ["--llm", "variable"])
def test_a_key_does_not_follow_an_endpoint_of_a_stronger_layer(
    monkeypatch: pytest.MonkeyPatch, lane: str, section: str, key: str, by: str
) -> None:
    """A key in the file is for the endpoint in the file; one that is named beside the new endpoint goes there."""
    write(HOSTED)
    for name in ("OPENAI_KEY", "OWN_KEY", "HALF_KEY", "NEW_KEY"):
        monkeypatch.setenv(name, name.removesuffix("_KEY").lower())

    said: list[str] = []

    def say(leaf: str, value: str) -> None:
        if by == "--llm":
            said.append(f"{section}.{leaf}={value}")
            take_command_line(llm=said)
        else:
            monkeypatch.setenv(f"TOKENLANE_{section.replace('.', '__')}__{leaf}".upper(), value)

    def found() -> tuple[str | None, str | None]:
        settings = lane_settings(lane=lane)
        return settings.endpoint, settings.api_key.get_secret_value() if settings.api_key else None

    assert found()[1] == key
    say("endpoint", "https://new")
    assert found() == ("https://new", None)
    say("api_key_env", "NEW_KEY")
    assert found() == ("https://new", "new")


SHORT = {
    "PROVIDER": ("provider", "vllm", ["defaults.provider=lmstudio", "lanes.g.provider=lmstudio"], "lmstudio"),
    "ENDPOINT": ("endpoint", "http://env", ["ollama.endpoint=http://llm", "lanes.g.endpoint=http://llm"], "http://llm"),
    "MODEL": ("models", "env", ["defaults.model=llm", "lanes.g.models=llm"], ["llm"]),
    "CAPACITY": ("capacity", "2", ["lanes.g.capacity=4"], 4),
}


@pytest.mark.parametrize("by", ["--llm", "variable"])
@pytest.mark.parametrize(("name", "section"), [(name, said) for name in SHORT for said in SHORT[name][2]])
@pytest.mark.parametrize("file", [SEED, '[defaults]\nprovider = "ollama"\n[lanes.g]\nendpoint = "http://file"'])
def test_a_short_name_gives_way_to_a_section_and_the_file_to_it(
    monkeypatch: pytest.MonkeyPatch, name: str, section: str, file: str, by: str
) -> None:
    """What --llm, or a variable with a section, says of a lane or its provider wins over the short name."""
    write(file)
    key, short, _, said = SHORT[name]
    monkeypatch.setenv(f"TOKENLANE_{name}", short)

    def found() -> Setting:
        settings = read()
        return settings.lane("g")[key]

    assert found().source == f"TOKENLANE_{name}"
    path, _, value = section.partition("=")
    variable = f"TOKENLANE_{path.replace('.', '__')}".upper()
    if by == "--llm":
        take_command_line(llm=[section])
    else:
        monkeypatch.setenv(variable, value)
    assert found() == Setting(said, "--llm" if by == "--llm" else variable)
    flat = {"models": "model"}.get(key, key)
    take_command_line(llm=[section, f"{flat}={short}"])
    assert found().source == "--llm"
    assert found().value != said


def test_a_short_name_has_no_key_of_a_section(monkeypatch: pytest.MonkeyPatch) -> None:
    """A section's key stays with the section's endpoint, whether a short name or the section says what holds."""
    write(HOSTED)
    for name in ("OPENAI_KEY", "NEW_KEY"):
        monkeypatch.setenv(name, name)
    monkeypatch.setenv("TOKENLANE_ENDPOINT", "https://short")

    def found(*llm: str) -> tuple[str | None, str | None]:
        take_command_line(llm=llm)
        settings = lane_settings(lane="shared")
        return settings.endpoint, settings.api_key_from

    assert found("timeout_ms=1") == ("https://short", None)
    assert found("openai.endpoint=https://new") == ("https://new", None)
    assert found("lanes.shared.endpoint=https://new") == ("https://new", None)
    assert found("openai.endpoint=https://a") == ("https://a", "OPENAI_KEY")
    assert found("openai.endpoint=https://new", "openai.api_key_env=NEW_KEY") == ("https://new", "NEW_KEY")
    assert found("api_key_env=NEW_KEY") == ("https://short", "NEW_KEY")


@pytest.mark.parametrize("by", ["option", "short name", "section", "defaults"])
def test_a_key_does_not_follow_its_lane_to_another_provider(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """A lane's key is for the server of the provider that it has where the key stands."""
    lane = '[lanes.a]\napi_key_env = "KEY"\n'
    lane += "" if by == "defaults" else 'provider = "ollama"\n'
    write(f'[defaults]\nprovider = "ollama"\n[ollama]\nendpoint = "http://x"\n[vllm]\nendpoint = "http://y"\n{lane}')
    monkeypatch.setenv("KEY", "sesame")
    assert lane_settings().api_key is not None
    if by == "short name":
        monkeypatch.setenv("TOKENLANE_PROVIDER", "vllm")
    elif by == "section":
        monkeypatch.setenv("TOKENLANE_LANES__A__PROVIDER", "vllm")
    elif by == "defaults":
        monkeypatch.setenv("TOKENLANE_DEFAULTS__PROVIDER", "vllm")
    found = lane_settings(provider="vllm" if by == "option" else None)
    assert (found.endpoint, found.api_key) == ("http://y", None)


def test_a_key_waits_for_its_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """A section with a key and no endpoint gives it to the one that a stronger layer names there."""
    write('[lanes.a]\nprovider = "openai"\napi_key_env = "OPENAI_KEY"')
    monkeypatch.setenv("OPENAI_KEY", "sesame")
    take_command_line(llm=["lanes.a.endpoint=https://new"])
    assert lane_settings().api_key is not None


def test_one_key_is_for_one_model_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """TOKENLANE_API_KEY goes to the only model server, or to the lane of this process; never to several."""
    monkeypatch.setenv("TOKENLANE_API_KEY", "sesame")

    def keyed() -> dict[str | None, bool]:
        return {fake_server.endpoint: fake_server.api_key is not None for fake_server in configured_model_servers()}

    write('[openai]\nendpoint = "https://a"')
    assert keyed() == {"https://a": True}
    write('[openai]\nendpoint = "https://a"\n[vllm]\nendpoint = "https://b"')
    assert keyed() == {"https://a": False, "https://b": False}
    take_command_line(llm=["provider=vllm"])
    assert keyed() == {"https://a": False, "https://b": True}
    take_command_line(llm=[])
    write('[lanes.a]\nendpoint = "https://a"\n[lanes.b]\nendpoint = "https://b"')
    with pytest.raises(ConfigError, match=r"\ba, b\b.*--lane"):
        configured_model_servers()


def test_a_key_that_is_not_set_is_told() -> None:
    """A lane whose api_key_env names no variable is refused, naming it."""
    write(LANES)
    with pytest.raises(ConfigError, match="OPENAI_KEY"):
        lane_settings(lane="gpu1")


def test_which_lane() -> None:
    """With several lanes one must be named, and it must be there; the only one is the default."""
    write(LANES)
    with pytest.raises(ConfigError, match=r"gpu0, gpu1, near.*--lane"):
        lane_settings()
    with pytest.raises(ConfigError, match=r"gpu0, gpu1, near.*'gpu2'.*'gpu[01]'"):
        lane_settings(lane="gpu2")
    write('[lanes.only]\nprovider = "vllm"')
    assert lane_settings().name == "only"


def test_all_lanes_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host serves all lanes of its file; or the named one; what is said of one lane needs its name."""
    write(LANES)
    monkeypatch.setenv("OPENAI_KEY", "sesame")
    assert [lane.name for lane in pool_settings()] == ["gpu0", "gpu1", "near"]
    assert [lane.name for lane in pool_settings(lane="gpu1")] == ["gpu1"]
    with pytest.raises(ConfigError, match="--lane"):
        pool_settings(endpoint="http://x")
    monkeypatch.setenv("TOKENLANE_API_KEY", "to-one-of-them")
    with pytest.raises(ConfigError, match="--lane"):
        pool_settings()


def test_the_pool_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """[redis] names the pool for all verbs; the key file is looked for beside the file; variables win."""
    write(LANES, "ops/llm.toml")
    write_key_file(Path("ops/pool.key"), [key := PoolKey.new()])
    take_command_line(config=Path("ops/llm.toml"))
    assert find_pool().url == "redis://gpu-hub:6379"
    assert find_pool().keys.ids == (key.id,)
    assert pool_name() == "blue"
    monkeypatch.setenv("TOKENLANE_REDIS_URL", "redis://short")
    assert find_pool().url == "redis://short"
    monkeypatch.setenv("TOKENLANE_REDIS__URL", "redis://long")
    assert find_pool().url == "redis://long"
    assert find_pool("redis://named").url == "redis://named"
    monkeypatch.setenv("TOKENLANE_POOL", "red")
    assert pool_name() == "red"


def test_a_key_file_of_nobody_is_told() -> None:
    """A home directory of a user who is not known here is refused, with the place."""
    write('[redis]\nurl = "redis://h"\nkey_file = "~nosuchuser/pool.key"')
    with pytest.raises(ConfigError, match=r"^llm\.toml:3: redis\.key_file\b"):
        find_pool()


def test_no_redis_is_none() -> None:
    """Where nothing names a Redis there is none, whatever else is set."""
    write(SEED)
    assert configured_redis() is None


WRONG = {
    '[defaults]\nprovder = "x"': (
        ":2: unknown key 'provder' in [defaults]. Did you mean 'provider'?",
        "provider, model",
    ),
    "[olama]\na = 1": (":1: unknown section 'olama'. Did you mean 'ollama'?", "vllm"),
    "[lane.x]\na = 1": (":1: unknown section 'lane'. Did you mean 'lanes'?",),
    '\n[ollama]\ntimeout_ms = "80"': (":3: ollama.timeout_ms must be a whole number of milliseconds",),
    "[ollama]\ntimeout_ms = 0": (":2: ollama.timeout_ms must be a whole number of milliseconds, at least 1 ",),
    "[ollama]\ntimeout_ms = true": (":2: ollama.timeout_ms",),
    '[ollama]\nendpoint = "localhost:1"': (":2: ollama.endpoint ", "http://localhost:1?"),
    '[ollama]\nendpoint = "unix://host/run/s"': (":2: ollama.endpoint must be http", "or unix:///PATH"),
    '[defaults]\nprovider = "olama"': (
        ":2: defaults.provider must be one of builtin, llamacpp, lmstudio, ollama, openai, tgi, vllm.",
        "Did you mean 'ollama'?",
    ),
    '[lanes.g]\nprovider = "hunter2"': (":2: lanes.g.provider must be one of builtin, llamacpp,",),
    "[defaults]\nmodel = 3": (":2: defaults.model must be a",),
    '[roles.a]\nroute = [""]': (":2: roles.a.route.0 must be a",),
    '[roles.a]\nroute = [{ model = "" }]': (":2: roles.a.route.0.model must be a",),
    "[roles.a]\nroute = [{ provider = 1 }]": (":2: roles.a.route.0.provider must be a",),
    '[lanes.g]\nmodels = [""]': (":2: lanes.g.models.0 must be a",),
    "[redis]\nkey_file = 1": (":2: redis.key_file must be a",),
    "[lanes.g]\nprovider = 1": (":2: lanes.g.provider must be one of builtin, llamacpp,",),
    '[openai]\nendpoint = "https://h/?api_key=hunter2"': (":2: openai.endpoint must be http", "api_key_env"),
    '[openai]\nendpoint = "https://h#hunter2"': (":2: openai.endpoint must be http", "without ? and #"),
    '[openai]\nendpoint = "unix:///run/s?token=hunter2"': (":2: openai.endpoint must be http",),
    '[openai]\napi_key = "sk-hunter2"': (":2: 'api_key' in [openai]", "api_key_env"),
    '[openai]\napi_key_env = "sk-hunter2"': (":2: openai.api_key_env must be the name of an environment variable",),
    '[redis]\nurl = "http://me:hunter2@h"': (":2: redis.url must be redis://",),
    '[lanes."a b"]\ncapacity = 1': (":1: [lanes.a b]: the name must be",),
    '[lanes.a]\ncapacity = "many"': (':2: lanes.a.capacity must be "auto" or a whole number',),
    '[lanes.a]\nmodels = "one"': (":2: lanes.a.models must be a list",),
    "lanes = 5": (":1: lanes must be a table",),
    "[roles.a]\nweight = 0": (":2: roles.a.weight must be",),
    '[roles.a]\ncontinue_with = "all"': (":2: roles.a.continue_with must be",),
    '[roles.a.prompt]\nplugin = "sha256:12"': (":2: roles.a.prompt.plugin must be sha256: and 64",),
    '[roles.a.prompt]\non_error = "skip"': ("roles.a.prompt.plugin",),
    '[roles.a]\nroute = [\n  { lan = "x" } ]': (":2: unknown key 'lan' in [roles.a.route.0]. Did you mean 'lane'?",),
    "[roles.a.limits]\ndeep = 1": (":2: unknown key 'deep' in [roles.a.limits]. Did you mean 'depth'?",),
    "[policy]\nlease_ms = 99999999999999999999": (":2: policy.lease_ms must be", "at most 604800000 (a week)"),
    "[roles.a]\nlimits = { depth = 9007199254740993 }": (":2: roles.a.limits.depth must be", "at most 1000000000"),
    "[policy]\nlease_ms = 5": (":2: policy.lease_ms must be a whole number of milliseconds, at least 300 ",),
    "[a]\nb = [1,\n": (":3: ",),
    "[a]\nb = 1 2\nc = 3": (":2: ",),
    "[a]\nb = 1\n[a]": (":3: ",),
    "[ollama]\ntimeout_ms = 0\nendpoint = 1": (":2: ollama.timeout_ms", ":3: ollama.endpoint"),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_told_with_file_line_and_key(text: str) -> None:
    """Each wrong key is named with file and line, and what would do; no value is quoted."""
    write(text)
    with pytest.raises(ConfigError) as wrong:
        read()
    assert wrong.value.exit_code == USAGE
    for part in WRONG[text]:
        assert part in str(wrong.value)
    assert str(wrong.value).startswith("llm.toml:")
    assert "hunter2" not in str(wrong.value)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TOKENLANE_OLAMA__ENDPOINT", "http://h", "OLLAMA"),
        (
            "TOKENLANE_OLAMA__X",
            "hunter2",
            "Did you mean 'OLLAMA'? Allowed: DEFAULTS, REDIS, MODELS, EMBEDDINGS,",
        ),
        ("TOKENLANE_OLLAMA__END_POINT", "http://h", "TOKENLANE_OLLAMA__END_POINT: unknown key 'end_point' in [ollama]"),
        (
            "TOKENLANE_VLLM__TIMEOUT_MS",
            "hunter2",
            "TOKENLANE_VLLM__TIMEOUT_MS: vllm.timeout_ms must be a whole number",
        ),
        ("TOKENLANE_LANES__GPU0__API_KEY", "hunter2", "api_key_env"),
        ("TOKENLANE_CAPACITY", "hunter2", "TOKENLANE_CAPACITY: capacity must be"),
        ("TOKENLANE_ENDPOINT", "http://h:1/?api_key=hunter2", "TOKENLANE_ENDPOINT: endpoint must be http"),
        ("TOKENLANE_DEFAULTS__PROVIDER", "hunter2", "TOKENLANE_DEFAULTS__PROVIDER: defaults.provider must be one of"),
        ("TOKENLANE_LLM", "lanes.g.provider=olama", "--llm: lanes.g.provider must be one of"),
        ("TOKENLANE_LLM", "provider=", "--llm: provider must be a"),
        ("TOKENLANE_LANE", "hunter2 b", "TOKENLANE_LANE: name must be a name of A-Z a-z 0-9 _ . @ -"),
        ("TOKENLANE_REDIS_URL", "http://hunter2", "TOKENLANE_REDIS_URL: redis.url must be"),
        ("TOKENLANE_LLM", "modl=hunter2", "--llm: unknown key 'modl'. Did you mean 'models'?"),
        ("TOKENLANE_LLM", "vllm.end_point=hunter2", "--llm: unknown key 'end_point' in [vllm]. Did you"),
        ("TOKENLANE_LLM", "vllm.endpoint.x=hunter2", "--llm"),
        ("TOKENLANE_LLM", "'", "TOKENLANE_LLM"),
    ],
)
def test_a_wrong_variable_or_override_is_told(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    """What the environment and the command line say is checked as the file is, and its values are not quoted."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as wrong:
        read()
    assert said in str(wrong.value)
    assert "hunter2" not in str(wrong.value)


@pytest.mark.parametrize(
    ("variable", "value", "source"),
    [("TOKENLANE_PROVIDER", "olama", "TOKENLANE_PROVIDER"), ("TOKENLANE_LLM", "provider=olama", "--llm")],
)
def test_a_lane_of_no_provider_is_told(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, source: str) -> None:
    """Outside the sections it is refused where there is a lane; who only asks may name what other hosts have."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=rf"^{source}: provider\b.*\bbuiltin, .*'ollama'"):
        lane_settings()
    assert provider_and_model()[0] == ("olama" if source == "--llm" else None)


def test_an_option_of_no_provider_is_told() -> None:
    """The options of a verb are checked as all else."""
    with pytest.raises(ConfigError, match=r"^--provider: .*\bbuiltin, "):
        lane_settings(provider="hunter2")
    with pytest.raises(ConfigError, match=r"^--lane: "):
        lane_settings(lane="a b")


@pytest.mark.parametrize("name", ["phi3:8b", '"phi3:8b"'])
def test_a_model_is_pinned_by_the_command_line(name: str) -> None:
    """The names of models may hold what other names may not."""
    digest = f"sha256:{'0' * 64}"
    take_command_line(llm=[f"models.{name}.digest={digest}"])
    assert lane_settings().digests == {"phi3:8b": digest}


def test_lists_and_names_in_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable's list has commas, and it may make a lane that no file knows."""
    monkeypatch.setenv("TOKENLANE_LANES__GPU0__MODELS", "a, b")
    monkeypatch.setenv("TOKENLANE_LANES__GPU0__CAPACITY", "auto")
    monkeypatch.setenv("TOKENLANE_ROLES__CODER__ROUTE", "lane:gpu0,vllm/phi3")
    lane = lane_settings()
    assert (lane.name, lane.models, lane.capacity) == ("gpu0", ("a", "b"), None)
    assert read().document.roles["coder"].route == ["lane:gpu0", "vllm/phi3"]


def test_every_value_has_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value of a lane tells whether it comes from an option, --llm, a variable, a line of the file, or nowhere."""
    file = write(SEED)
    monkeypatch.setenv("TOKENLANE_OLLAMA__CONNECT_TIMEOUT_MS", "5")
    take_command_line(llm=["model=m"])
    settings = read(lane_options(capacity=3))
    lane = {key: (setting.value, setting.source) for key, setting in settings.lane(settings.lane_name()).items()}
    assert lane["provider"] == ("ollama", f"{file}:2")
    assert lane["timeout_ms"] == (80_000, f"{file}:6")
    assert lane["connect_timeout_ms"] == (5, "TOKENLANE_OLLAMA__CONNECT_TIMEOUT_MS")
    assert lane["models"] == (["m"], "--llm")
    assert lane["capacity"] == (3, "--capacity")
    assert lane["token_timeout_ms"] == (60_000, "default")


def test_a_registered_provider_has_a_section(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that another distribution registers may have a section like those that come with tokenlane."""
    write('[defaults]\nprovider = "acme"\n[acme]\nendpoint = "http://acme"')
    with pytest.raises(ConfigError, match="acme"):
        lane_settings()
    monkeypatch.setattr(schema, "provider_names", lambda: (*schema.BUILT_IN_PROVIDERS, "acme"))
    schema.document_type.cache_clear()
    try:
        assert lane_settings().endpoint == "http://acme"
        assert lane_settings(provider="acme").endpoint == "http://acme"
        with pytest.raises(ConfigError, match="vllm, acme"):
            lane_settings(provider="hunter2")
    finally:
        schema.document_type.cache_clear()


def test_a_file_as_editors_of_windows_write_it() -> None:
    """A byte order mark and their line ends are no error."""
    Path("llm.toml").write_bytes(b"\xef\xbb\xbf" + b'[defaults]\r\nprovider = "vllm"\r\n')
    assert read().get("defaults", "provider") == Setting("vllm", "llm.toml:2")
