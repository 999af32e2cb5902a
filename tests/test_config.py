"""Settings: environment, flags, and what is said of wrong ones."""

import pytest
from typer.testing import CliRunner

from luna_grpc.cli import app
from luna_grpc.config import ConfigError, Settings, flag, is_loopback, load, variable, warnings


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no setting of the machine through."""
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)


def test_defaults_are_those_that_the_original_promised() -> None:
    """Port 4000, admin, an empty password, 30 seconds."""
    settings = load({})
    assert (settings.port, settings.auth_username, settings.auth_password.get_secret_value()) == (4000, "admin", "")
    assert (settings.host, settings.lease_ttl, settings.effective_warmup) == ("127.0.0.1", 30, 30)


def test_a_flag_counts_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """And an empty variable is none."""
    monkeypatch.setenv("LUNA_PORT", "1")
    monkeypatch.setenv("LUNA_GRPC_PORT", "2")
    monkeypatch.setenv("LUNA_HOST", "")
    settings = load({"port": "3", "grpc_port": None})
    assert (settings.port, settings.grpc_port, settings.host) == (3, 2, "127.0.0.1")


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """By either way."""
    monkeypatch.setenv("LUNA_ALLOWED_HOSTS", "a.example, b.example,")
    settings = load({"cors_origins": "https://a.example"})
    assert (settings.allowed_hosts, settings.cors_origins) == (("a.example", "b.example"), ("https://a.example",))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "x"), ("port", "-1"), ("port", "65536"), ("grpc_port", "1.5"), ("lease_ttl", "0.4"), ("lease_ttl", "abc"),
        ("lease_ttl", "nan"), ("lease_ttl", "inf"), ("lease_slack", "5%"), ("evict_after", "-1"), ("warmup", "soon"),
        ("auth_username", "a:b"), ("insecure", "maybe"), ("log_level", "loud"), ("max_watchers", "0"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """As a flag and as a variable."""
    monkeypatch.setenv(variable(name), value)
    with pytest.raises(ConfigError) as caught:
        load({})
    assert str(caught.value).startswith(f"{flag(name)} / {variable(name)}: {value!r} is wrong: ")
    assert "\n" not in str(caught.value)


def test_a_password_that_is_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are no UTF-8 could never be sent by a client."""
    monkeypatch.setenv("LUNA_AUTH_PASSWORD", "\udcff")
    with pytest.raises(ConfigError, match="LUNA_AUTH_PASSWORD: the value is wrong: it is not text in UTF-8"):
        load({})


def test_a_wrong_password_is_never_shown() -> None:
    """Whatever is wrong with it."""
    with pytest.raises(ConfigError) as caught:
        load({"auth_password": ["secret"]})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
        ("10.0.0.1", False), ("luna.example", False), ("localhost.example", False),
    ],
)  # fmt: skip
def test_an_empty_password_is_for_loopback_only(host: str, loopback: bool) -> None:
    """Unless someone insists."""
    assert is_loopback(host) is loopback
    assert load({"host": host, "auth_password": "x"}).host == host
    assert load({"host": host, "insecure": True}).host == host
    if loopback:
        assert load({"host": host}).host == host
    else:
        with pytest.raises(ConfigError, match="LUNA_AUTH_PASSWORD"):
            load({"host": host})


@pytest.mark.parametrize(
    ("given", "missing", "first"),
    [
        (["tls_cert"], "tls_key", "tls_cert"),
        (["tls_key"], "tls_cert", "tls_key"),
        (["tls_client_ca"], "tls_cert", "tls_client_ca"),
        (["tls_cert", "tls_client_ca"], "tls_key", "tls_cert"),
    ],
)
def test_a_certificate_and_its_key_go_together(given: list[str], missing: str, first: str) -> None:
    """One line says which is missing, and which one asks for it."""
    with pytest.raises(ConfigError) as caught:
        load(dict.fromkeys(given, "x"))
    assert str(caught.value).startswith(f"{flag(missing)} / {variable(missing)} is missing: {variable(first)} is set")
    assert "\n" not in str(caught.value)


def test_a_client_ca_keeps_strangers_out_too() -> None:
    """So a password may be missing then, and is nobody's; a certificate of the server alone keeps nobody out."""
    pair = {"host": "0.0.0.0", "tls_cert": "x", "tls_key": "x"}
    assert not load({**pair, "tls_client_ca": "x"}).open_to_all
    with pytest.raises(ConfigError, match="LUNA_AUTH_PASSWORD"):
        load(pair)


def test_what_kubernetes_sets_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """For Services named luna and luna-grpc; with a word about what was ours."""
    given = {
        "LUNA_PORT": "tcp://10.0.0.1:4000",
        "LUNA_GRPC_PORT": "tcp://10.0.0.2:50051",
        "LUNA_SERVICE_HOST": "10.0.0.1",
        "LUNA_SERVICE_PORT_HTTP": "4000",
        "LUNA_PORT_4000_TCP_ADDR": "10.0.0.1",
        "LUNA_GRPC_SERVICE_PORT": "50051",
        "LUNA_GRPC_PORT_50051_TCP": "tcp://10.0.0.2:50051",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load({})
    assert (settings.port, settings.grpc_port) == (4000, 50051)
    assert [warning.partition("=")[0] for warning in warnings(given)] == ["LUNA_GRPC_PORT", "LUNA_PORT"]


def test_an_unknown_name_is_a_warning_with_the_nearest_one() -> None:
    """Typos must not go unnoticed."""
    assert list(warnings({"LUNA_LEASE_TLL": "5", "LUNA_PORT": "1", "LUNA_REST_URL": "x", "PATH": "x"})) == [
        "LUNA_LEASE_TLL is not a setting; did you mean LUNA_LEASE_TTL?"
    ]
    assert list(warnings({"LUNA_QQQQQQQQ": ""})) == ["LUNA_QQQQQQQQ is not a setting; luna serve --help lists them"]


def test_every_setting_is_a_flag_that_help_explains() -> None:
    """With its variable and its default."""
    result = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "300"})
    assert result.exit_code == 0
    for name, field in Settings.model_fields.items():
        assert flag(name) in result.output
        assert variable(name) in result.output
        assert field.description
        assert field.description[:40] in " ".join(result.output.split())


def test_version() -> None:
    """The command line tells it."""
    assert CliRunner().invoke(app, ["--version"]).output.startswith("luna ")


def test_the_help_is_whole_at_80_columns() -> None:
    """No flag or variable is cut off, and no line is longer."""
    result = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "80"})
    words = result.output.split()
    assert "…" not in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    for name in Settings.model_fields:
        assert flag(name) in words
        assert variable(name) in result.output
