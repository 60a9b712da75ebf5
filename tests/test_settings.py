"""The settings: a file, variables over it, and one sentence per mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmgine_workers.errors import ConfigurationError
from llmgine_workers.settings import PROVIDER_ROWS, Rate, Settings, load


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "llmgine.toml"


def loaded(file: Path, text: str = "", **environ: str) -> Settings:
    file.write_text(text, "utf-8")
    return load(file, environ)


def refused(file: Path, text: str = "", **environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        loaded(file, text, **environ)
    return str(caught.value)


def test_without_a_file_everything_has_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(None, {})
    assert settings.ledger.url == "postgresql://localhost/llmgine"
    assert (settings.ledger.keep, settings.ledger.keep_payloads) == (2592000, 604800)
    assert (settings.broker.prefix, settings.broker.window) == ("llmgine", 2000)
    assert (settings.worker.slots, settings.worker.grace) == (200, 60)
    assert (settings.steps.timeout, settings.steps.max_attempts) == (300, 5)
    assert settings.steps.max_crashes == 3
    assert settings.gateway.max_queued_per_tenant == 1_000_000
    assert set(settings.providers) == {"openai", "anthropic"}


def test_the_file_in_the_working_directory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("llmgine.toml").write_text("[worker]\nslots = 7\n", "utf-8")
    assert load(None, {}).worker.slots == 7


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("2h", 7200), ("7d", 604800)],
)
def test_durations_are_written_as_people_write_them(
    file: Path, written: str, seconds: float
) -> None:
    assert loaded(file, f'[worker]\ngrace = "{written}"').worker.grace == seconds


def test_sizes_and_rates_are_read(file: Path) -> None:
    settings = loaded(
        file,
        '[gateway]\nmax_body = "512KiB"\n[[limits]]\n'
        'match = "openai/*"\nrequests = "600/1m"\n',
    )
    assert settings.gateway.max_body == 524288
    (limit,) = settings.limits
    assert limit.provider == "openai"
    assert limit.requests == Rate(count=600, window_s=60)


def test_a_budget_is_dollars_in_a_window(file: Path) -> None:
    (limit,) = loaded(
        file, '[[limits]]\nmatch = "*"\nper = "tenant"\nusd = "0.5/1d"\n'
    ).limits
    assert limit.usd is not None
    assert (limit.usd.micro, limit.usd.window_s) == (500_000, 86400)
    assert (limit.provider, limit.per, limit.on_exhausted) == (None, "tenant", "wait")


@pytest.mark.parametrize(
    ("usd", "said"),
    [
        ("much/1d", "money is written like 50/1d"),
        ("50", "usd"),
        ("0/1d", "greater than or equal to 1"),
        ("inf/1d", "money is written like 50/1d"),
        ("1/60d", "less than or equal to"),
    ],
)
def test_a_budget_that_is_none_says_what_is_wrong(
    file: Path, usd: str, said: str
) -> None:
    assert said in refused(file, f'[[limits]]\nmatch = "*"\nusd = "{usd}"\n')


def test_variables_lie_over_the_file(file: Path) -> None:
    settings = loaded(
        file,
        '[broker]\nurl = "amqp://file"\nprefix = "staging"\n',
        LLMGINE_BROKER__URL="amqp://variable",
        LLMGINE_WORKER__SLOTS="12",
        LLMGINE_PROVIDERS__OPENAI__BASE_URL="http://127.0.0.1:1/v1",
        LLMGINE_URL="http://nothing-of-the-settings",
    )
    assert (settings.broker.url, settings.broker.prefix) == ("amqp://variable", "staging")
    assert settings.worker.slots == 12
    assert settings.providers["openai"].base_url == "http://127.0.0.1:1/v1"
    assert settings.providers["openai"].key_env == "OPENAI_API_KEY"


def test_a_secret_may_come_from_a_file(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://user:secret@db/llmgine\n", "utf-8")
    settings = loaded(file, LLMGINE_LEDGER__URL_FILE=str(secret))
    assert settings.ledger.url == "postgresql://user:secret@db/llmgine"
    missing = refused(file, LLMGINE_LEDGER__URL_FILE=str(tmp_path / "nowhere"))
    assert "LLMGINE_LEDGER__URL_FILE" in missing
    assert "No such file" in missing


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[ledgre]\nurl = 'x'", "ledgre"),
        ("[worker]\nslotss = 3", "worker.slotss"),
        ("[worker]\nslots = 0", "worker.slots"),
        ("[worker]\nslots = 10001", "10000"),
        ("[worker]\ngrace = 'soon'", "a duration is written like"),
        ("[worker]\ngrace = 0", "worker.grace"),
        ("[broker]\nprefix = 'Über'", "broker.prefix"),
        ("[broker]\nwindow = 99", "100"),
        ("[gateway]\nmax_body = '1 potato'", "gateway.max_body"),
        ("[providers.Big]\nwire = 'openai'", "providers.Big"),
        ("[providers.tools]\nwire = 'openai'", "providers.tools"),
        ("[providers.dead]\nwire = 'openai'", "providers.dead"),
        ("[providers.mine]\nwire = 'carrier pigeon'", "providers.mine.wire"),
        ("[models]\nfast = []", "models.fast"),
        ("[models]\nfast = ['gpt-5-mini']", "is not provider/model"),
        ("[models]\n'a/b' = ['openai/x']", "an alias has no slash"),
        ("[[limits]]\nmatch = 'nobody/*'\nrequests = '1/1m'", "providers.nobody"),
        ("[[limits]]\nmatch = 'openai/*'\nrequests = 'many'", "a rate is written like"),
        ("[[limits]]\nmatch = 'openai/*'\nrequests = '1/2d'", "86400"),
        ("[[limits]]\nmatch = 'openai'\nrequests = '1/1m'", "limits.0.match"),
        ("[[limits]]\nmatch = 'openai/*'", "names none of requests, tokens"),
        ("[[limits]]\nmatch = '*'\nin_flight = 0", "limits.0.in_flight"),
        ("[[limits]]\nmatch = '*'\nper = 'job'\ntokens = '1/1s'", "limits.0.per"),
        ("[prices.'openai/x']\ninput = -1\noutput = 1", "prices.openai/x.input"),
        ("worker = 3", "worker"),
        ("providers = 3", "providers"),
        ("not toml", "llmgine.toml"),
        ("[worker]\nslots = 1\n[worker]\nslots = 2", "llmgine.toml"),
    ],
)
def test_what_is_wrong_is_named(file: Path, text: str, named: str) -> None:
    assert named in refused(file, text)


def test_all_mistakes_are_told_at_once(file: Path) -> None:
    told = refused(file, "[worker]\nslots = 0\n[broker]\nwindow = 1\nprefx = 'x'\n")
    assert {"worker.slots", "broker.window", "broker.prefx"} <= {
        part.split(":")[0] for part in told.split("; ")
    }


def test_a_mistake_never_shows_a_secret(file: Path) -> None:
    secret = "sk-very-secret"
    told = refused(file, LLMGINE_WORKER__SLOTS=secret, LLMGINE_LEDGER__URLL=secret)
    assert "worker.slots" in told
    assert secret not in told


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml: No such file"):
        load(tmp_path / "nowhere.toml", {})
    (tmp_path / "latin.toml").write_bytes(b"# \xff\xfe")
    with pytest.raises(ConfigurationError, match=r"latin\.toml"):
        load(tmp_path / "latin.toml", {})


def test_a_provider_is_enabled_when_its_key_is_there(file: Path) -> None:
    settings = loaded(file, "[providers.openai]\n[providers.ollama]\n")
    assert set(settings.enabled_providers({})) == {"ollama"}
    assert settings.pools({"OPENAI_API_KEY": "sk"}) == ("openai", "ollama", "tools")
    assert settings.pools({"OPENAI_API_KEY": ""}) == ("ollama", "tools")


def test_known_services_need_nothing_but_their_name(file: Path) -> None:
    settings = loaded(file, "".join(f"[providers.{name}]\n" for name in PROVIDER_ROWS))
    assert set(settings.providers) == set(PROVIDER_ROWS)
    assert "wire" in refused(file, "[providers.unheard-of]\n")
