"""Nothing secret is written into a run's folder."""

import json

import pytest
import yaml
from omegaconf import OmegaConf

from recipe.critic_r1.redaction import HIDDEN, redact, redacted, redacted_config, secret_name


@pytest.mark.parametrize(
    "name",
    [
        "WANDB_API_KEY",
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "db_password",
        "RAY_AUTH_TOKEN",
        "api-key",
        "S3_KEY",
        "pwd",
        "DB_PASS",
        "cred",
        "credentials",
        "Cookie",
        "X-Api-Key",
        "session_token",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "image_key",
        "reward_fn_key",
        "max_tokens",
        "image_token_id",
        "HF_HOME",
        "author",
        "path",
        "pad_token",
        "key",
        "pass",
        "pass_rate",
        "compass",
    ],
)
def test_names_of_no_secrets(name: str) -> None:
    assert not secret_name(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pw@mirror/x", f"https://{HIDDEN}@mirror/x"),
        ("see s3://token@bucket, then", f"see s3://{HIDDEN}@bucket, then"),
        ("https://h/x?X-Amz-Signature=abc&n=1", f"https://h/x?X-Amz-Signature={HIDDEN}&n=1"),
        ("http://u:p@ss@host/v1", f"http://{HIDDEN}@host/v1"),
        ("bad key Bearer abc.def-ghi", f"bad key Bearer {HIDDEN}"),
        ("bad key: Basic dXNlcjpwYXNz", f"bad key: Basic {HIDDEN}"),
        ("key sk-abc123 refused", f"key {HIDDEN} refused"),
        ("ghp_abcdefghij AKIAABCDEFGHIJ glpat-abcdefgh", f"{HIDDEN} {HIDDEN} {HIDDEN}"),
        ("jwt eyJhbGciOi.eyJzdWIiOi.c2ln", f"jwt {HIDDEN}"),
        ("serve --api-key abc --hf-token=def", f"serve --api-key {HIDDEN} --hf-token={HIDDEN}"),
        ("me:pw@host/v1 is no address", f"{HIDDEN}@host/v1 is no address"),
        ("basic training data, a task-force", "basic training data, a task-force"),
        ("https://h/x@1?n=1", "https://h/x@1?n=1"),
        ("me@host: ok", "me@host: ok"),
        ("/shared/a@b/train.parquet", "/shared/a@b/train.parquet"),
    ],
)
def test_addresses_lose_their_credentials(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_settings_keep_their_numbers() -> None:
    settings = {"api_key": "abc", "tokens_per_point": 2.6, "auth": "", "urls": ["http://u:p@h/v1"], "max_tokens": 9}
    assert redacted(settings) == {**settings, "api_key": HIDDEN, "urls": [f"http://{HIDDEN}@h/v1"]}


def test_what_is_inside_a_secret_is_secret() -> None:
    settings = {
        "api_keys": ["abc"],
        "credentials": {"user": "abc"},
        "headers": {"Authorization": "abc", "Cookie": "abc"},
        "password": 1234,
        "tokens_per_point": {"first": 2.6},
    }
    text = json.dumps(redacted(settings))
    assert "abc" not in text
    assert "1234" not in text
    assert "2.6" in text
    assert redacted_config(OmegaConf.create(settings))["password"] == HIDDEN


def test_a_configuration_is_saved_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_WANDB", "wandb-secret")
    monkeypatch.setenv("FOLDER", "/shared")
    config = OmegaConf.create(
        {
            "env_vars": {"WANDB_API_KEY": "literal-secret", "MODE": "online", "OTHER": "${oc.env:MY_WANDB}"},
            "reference": "${env_vars.OTHER}",
            "nested": ["${env_vars.WANDB_API_KEY}", {"url": "https://u:url-secret@h/x"}],
            "folder": "${oc.env:FOLDER}/runs",
            "size": 8,
            "half": "${size}",
        }
    )
    saved = redacted_config(config)
    text = yaml.safe_dump(saved)
    assert "secret" not in text
    assert (saved["folder"], saved["half"], saved["env_vars"]["MODE"]) == ("${oc.env:FOLDER}/runs", 8, "online")
    assert saved["env_vars"]["OTHER"] == "${oc.env:MY_WANDB}"
