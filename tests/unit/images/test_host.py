"""The operator's settings on their way into containers."""

from __future__ import annotations

from pathlib import Path

from intermodal.worker.containers.launch import Bind
from intermodal.worker.images.host import HostSettings, host_settings
from intermodal.worker.images.packages import Installer, install_command


def settings(environ: dict[str, str], config: Path | None = None) -> HostSettings:
    found = host_settings({"HOME": "/nonexistent", **environ}, [config] if config else [])
    if not any("CERT" in name or "BUNDLE" in name or "CA" in name for name in environ):
        found.certificates = {}  # what this machine has is not this test's matter
    return found


def test_a_plain_machine_adds_nothing() -> None:
    found = settings({})
    assert found.environment() == {}
    assert found.binds() == []


def test_pip_configuration_becomes_variables_for_pip_and_uv(tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://pip.example/simple\nextra-index-url =\n  https://a.example/s\n"
        "  https://b.example/s\ntimeout = 60\nuser = true\n[install]\ntrusted-host = pip.example\n"
    )
    assert settings({}, config).environment() == {
        "PIP_INDEX_URL": "https://pip.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://a.example/s https://b.example/s",
        "PIP_TIMEOUT": "60",
        "PIP_TRUSTED_HOST": "pip.example",
        "UV_DEFAULT_INDEX": "https://pip.example/simple",
        "UV_INDEX": "https://a.example/s https://b.example/s",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_INSECURE_HOST": "pip.example",
        "UV_HTTP_TIMEOUT": "60",
    }


def test_variables_go_before_files_and_uvs_own_before_pips(tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://file.example/simple\n")
    found = settings({"PIP_INDEX_URL": "https://env.example/s", "UV_DEFAULT_INDEX": "https://uv.example/s"}, config)
    assert found.environment()["PIP_INDEX_URL"] == "https://env.example/s"
    assert found.environment()["UV_DEFAULT_INDEX"] == "https://uv.example/s"


def test_a_broken_configuration_file_is_passed_over(tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("index-url = no section\n")
    assert settings({}, config).environment() == {}


def test_local_indexes_and_wheels_are_bound_at_their_own_path(tmp_path: Path) -> None:
    simple = tmp_path / "mirror/simple"
    wheels = tmp_path / "wheels"
    inner = wheels / "more"
    for path in (simple, inner):
        path.mkdir(parents=True)
    found = settings({"PIP_INDEX_URL": f"file://{simple}", "PIP_FIND_LINKS": f"{wheels} {inner} /nonexistent"})
    assert found.binds() == [Bind(tmp_path / "mirror", str(tmp_path / "mirror")), Bind(wheels, str(wheels))]


def test_certificates_are_bound_where_their_variables_point(tmp_path: Path) -> None:
    bundle, other = tmp_path / "ca.crt", tmp_path / "other.crt"
    bundle.write_text("x")
    other.write_text("y")
    found = settings({"SSL_CERT_FILE": str(bundle), "AWS_CA_BUNDLE": str(other), "CURL_CA_BUNDLE": "/nonexistent"})
    env = found.environment()
    targets = {bind.target: bind.source for bind in found.binds()}
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS"):
        assert targets[env[name]] == bundle
    assert targets[env["AWS_CA_BUNDLE"]] == other
    assert len(targets) == 2


def test_proxies_pass_in_both_spellings() -> None:
    env = settings({"http_proxy": "http://p:1", "HTTPS_PROXY": "http://p:2", "no_proxy": "a"}).environment()
    assert env == {"http_proxy": "http://p:1", "HTTPS_PROXY": "http://p:2", "no_proxy": "a"}


def test_constraints_are_for_what_programs_ask_for(tmp_path: Path) -> None:
    """They go to steps of images as options and variables, and not to the packages that a base has anyway."""
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("six==1.15.0\n")
    found = host_settings({"PIP_CONSTRAINT": str(constraints)}, [])
    asked = install_command({"packages": ["six"]}, Installer("python", "/uv"), found)
    assert asked[asked.index("--constraint") + 1] == str(constraints)
    assert found.environment()["PIP_CONSTRAINT"] == str(constraints)
    assert constraints in found.files
    own = install_command({"packages": ["six==1.17.0"]}, Installer("python", "/uv"), found.without_constraints())
    assert "--constraint" not in own
    assert "PIP_CONSTRAINT" not in found.without_constraints().environment()
